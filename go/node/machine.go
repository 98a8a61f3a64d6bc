package node

import (
	"os"
	"runtime"
	"strconv"
	"strings"

	selector "dwcp.internal/selector"
	"dwcp.internal/selector/internal/procfs"
)

// Machine tells how busy this machine is. Where there is no /proc it says the contract's
// default. The zero value is ready; it is for one goroutine.
type Machine struct {
	idle, all int64
	usage     float64
}

// Look reads the clocks: from now on usage is that since the last look, at first since the
// machine started.
func (m *Machine) Look() {
	idle, all, found := procfs.CoreTicks()
	switch {
	case !found:
		m.usage = selector.FeatureSpecs[selector.FeatureCPUUsage].Default
	case all > m.all:
		m.usage = min(max(1-float64(idle-m.idle)/float64(all-m.all), 0), 1)
	}
	m.idle, m.all = idle, all
}

// Usage is the share of all cores in use.
func (m *Machine) Usage() float64 { return m.usage }

// IdleCores is how many cores are not in use.
func (m *Machine) IdleCores() float64 { return float64(runtime.NumCPU()) * (1 - m.usage) }

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
