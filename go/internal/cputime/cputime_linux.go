// Package cputime reads the CPU time of the calling OS thread. A goroutine that
// measures must stay on its thread meanwhile: runtime.LockOSThread.
package cputime

import (
	"syscall"
	"time"
	"unsafe"
)

const clockThreadCPUTime = 3 // CLOCK_THREAD_CPUTIME_ID, include/uapi/linux/time.h

// Thread is the CPU time that the calling OS thread has used so far.
func Thread() time.Duration {
	var now syscall.Timespec
	// The clock exists since Linux 2.6.12 and the pointer is good: the call cannot fail.
	syscall.RawSyscall(syscall.SYS_CLOCK_GETTIME, clockThreadCPUTime, uintptr(unsafe.Pointer(&now)), 0)
	return time.Duration(now.Nano())
}
