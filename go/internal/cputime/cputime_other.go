//go:build !linux

// Package cputime stands in for the CPU time of the calling OS thread where the
// standard library cannot ask for it: time on the wall, which is no less.
package cputime

import "time"

var start = time.Now()

// Thread is the time since the program began.
func Thread() time.Duration { return time.Since(start) }
