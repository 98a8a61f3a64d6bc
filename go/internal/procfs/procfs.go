// Package procfs reads what Linux says of the machine and of this process under /proc. Elsewhere
// its functions say that they know nothing.
package procfs

import (
	"errors"
	"os"
	"regexp"
	"strconv"
	"strings"
)

// CoreTicks is the time that all cores spent idle, and in all, since the machine started, in ticks:
// the first line of /proc/stat (proc_stat(5)), cpu user nice system idle iowait …
func CoreTicks() (idle, all int64, known bool) {
	text, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0, 0, false
	}
	line, _, _ := strings.Cut(string(text), "\n")
	fields := strings.Fields(line)
	if len(fields) < 9 || fields[0] != "cpu" {
		return 0, 0, false
	}
	for place, field := range fields[1:9] { // guest time, which follows, is part of user time
		ticks, err := strconv.ParseInt(field, 10, 64)
		if err != nil {
			return 0, 0, false
		}
		all += ticks
		if place == 3 || place == 4 { // idle, iowait
			idle += ticks
		}
	}
	return idle, all, all > 0
}

// PeakMemoryBytes is the peak resident memory of this process.
func PeakMemoryBytes() (int64, error) {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0, err
	}
	match := regexp.MustCompile(`VmHWM:\s+(\d+) kB`).FindSubmatch(status)
	if match == nil {
		return 0, errors.New("/proc/self/status has no VmHWM")
	}
	kilobytes, err := strconv.ParseInt(string(match[1]), 10, 64)
	return kilobytes * 1024, err
}
