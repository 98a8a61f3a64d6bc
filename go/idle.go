package selector

import (
	"runtime"
	"time"

	"dwcp.internal/selector/internal/procfs"
)

// idleWindow is how long the machine is watched: twenty ticks of /proc/stat a core.
const idleWindow = 200 * time.Millisecond

// coreIsIdle watches the machine for a moment and says whether at least one core's worth of
// time went unused. Where /proc/stat cannot be read it says yes: a node elsewhere
// gives its own answer.
func coreIsIdle() bool {
	idleBefore, allBefore, known := procfs.CoreTicks()
	if !known {
		return true
	}
	time.Sleep(idleWindow)
	idle, all, known := procfs.CoreTicks()
	if !known || all == allBefore {
		return true
	}
	return float64(idle-idleBefore)*float64(runtime.NumCPU()) >= 0.9*float64(all-allBefore)
}
