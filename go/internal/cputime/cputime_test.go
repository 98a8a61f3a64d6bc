package cputime

import (
	"runtime"
	"testing"
	"time"
)

func TestThreadCountsWorkAndNotSleep(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("elsewhere the wall clock stands in")
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	began := Thread()
	time.Sleep(50 * time.Millisecond)
	slept := Thread() - began
	if slept > 20*time.Millisecond {
		t.Errorf("sleeping 50 ms took %v of CPU time", slept)
	}
	began, until := Thread(), time.Now().Add(time.Second)
	for Thread()-began < 5*time.Millisecond && time.Now().Before(until) {
	}
	if worked := Thread() - began; worked < 5*time.Millisecond {
		t.Errorf("a second of work took %v of CPU time", worked)
	}
}

func BenchmarkThread(b *testing.B) {
	for n := 0; n < b.N; n++ {
		Thread()
	}
}
