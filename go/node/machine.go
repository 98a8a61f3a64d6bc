package node

import (
	"os"
	"runtime"
	"strconv"
	"strings"

	selector "dwcp.internal/selector"
)

// Machine tells how busy this machine is. Where there is no /proc it says the contract's
// default. The zero value is ready; it is for one goroutine.
type Machine struct {
	idle, all float64
	usage     float64
}

// Look reads the clocks: from now on usage is that since the last look, at first since the
// machine started.
func (m *Machine) Look() {
	idle, all, found := cpuTicks()
	switch {
	case !found:
		m.usage = selector.FeatureSpecs[selector.FeatureCPUUsage].Default
	case all > m.all:
		m.usage = min(max(1-(idle-m.idle)/(all-m.all), 0), 1)
	}
	m.idle, m.all = idle, all
}

// Usage is the share of all cores in use.
func (m *Machine) Usage() float64 { return m.usage }

// IdleCores is how many cores are not in use.
func (m *Machine) IdleCores() float64 { return float64(runtime.NumCPU()) * (1 - m.usage) }

// cpuTicks reads the first line of /proc/stat (proc_stat(5)): cpu user nice system idle iowait …
func cpuTicks() (idle, all float64, found bool) {
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
		ticks, err := strconv.ParseFloat(field, 64)
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

// memoryAvailableMB reads MemAvailable of /proc/meminfo.
func memoryAvailableMB() int64 {
	text, err := os.ReadFile("/proc/meminfo")
	if err == nil {
		_, after, _ := strings.Cut(string(text), "MemAvailable:")
		fields := strings.Fields(after)
		if len(fields) > 0 {
			if kilobytes, err := strconv.ParseInt(fields[0], 10, 64); err == nil {
				return kilobytes * 1_024 / 1_000_000
			}
		}
	}
	return int64(selector.FeatureSpecs[selector.FeatureMemoryAvailable].Default)
}
