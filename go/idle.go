package selector

import (
	"os"
	"runtime"
	"strconv"
	"strings"
	"time"
)

// idleWindow is how long the machine is watched: twenty ticks of /proc/stat a core.
const idleWindow = 200 * time.Millisecond

// coreIsIdle watches the machine for a moment and says whether at least one core's worth of
// time went unused. Where /proc/stat cannot be read it says yes: a node elsewhere
// gives its own answer.
func coreIsIdle() bool {
	idleBefore, allBefore, known := coreTicks()
	if !known {
		return true
	}
	time.Sleep(idleWindow)
	idle, all, known := coreTicks()
	if !known || all == allBefore {
		return true
	}
	return float64(idle-idleBefore)*float64(runtime.NumCPU()) >= 0.9*float64(all-allBefore)
}

// coreTicks reads the first line of /proc/stat (proc_stat(5)): cpu user nice system idle iowait …
func coreTicks() (idle, all int64, known bool) {
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
	return idle, all, true
}
