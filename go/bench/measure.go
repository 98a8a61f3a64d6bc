package main

import (
	"context"
	"fmt"
	"runtime"
	"slices"
	"time"

	"dwcp.internal/selector"
	"dwcp.internal/selector/internal/cputime"
	"dwcp.internal/selector/internal/procfs"
)

// percentiles are of the time that passed in a call, in µs. CPU is the p99 of the thread's CPU
// time, which other programs on the machine do not lengthen.
type percentiles struct {
	P50  float64 `json:"p50_us"`
	P99  float64 `json:"p99_us"`
	P999 float64 `json:"p999_us"`
	CPU  float64 `json:"cpu_p99_us"`
}

type report struct {
	Model       *percentiles `json:"model,omitempty"`
	Hit         *percentiles `json:"hit,omitempty"`  // whole decisions, answered from the cache
	Miss        *percentiles `json:"miss,omitempty"` // whole decisions, each of another vector
	Rules       *percentiles `json:"rules,omitempty"`
	Allocations float64      `json:"allocations"` // a call, made by Go
	LoadMs      float64      `json:"load_ms"`     // the shared library included
	MemoryBytes int64        `json:"peak_memory_bytes"`
}

func measure(form, path, library string, rows []selector.Features, calls int, decide bool) (report, error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	began := time.Now()
	model, err := open(form, path, library)
	if err != nil {
		return report{}, err
	}
	found := report{LoadMs: float64(time.Since(began)) / float64(time.Millisecond)}
	if decide {
		err = measureDecisions(&found, model, calls)
	} else {
		err = measureModel(&found, model, rows, calls)
	}
	if err != nil {
		return report{}, err
	}
	found.MemoryBytes, err = procfs.PeakMemoryBytes()
	return found, err
}

func measureModel(found *report, model selector.Predictor, rows []selector.Features, calls int) error {
	var probabilities [selector.CandidateCount]float32
	times, allocations, err := timed(calls, func(number int) error {
		return model.Predict(&rows[number%len(rows)], &probabilities)
	})
	found.Model, found.Allocations = times, allocations
	return err
}

// measureDecisions times SelectCompression with history, bucket, cache, rule and counters.
func measureDecisions(found *report, model selector.Predictor, calls int) error {
	ctx := context.Background()
	network := selector.NewNetworkState("node-8")
	network.LinkType, network.RTTMs, network.BandwidthMbps = selector.LinkTypeWAN, 40, 100
	for _, way := range []struct {
		times *(*percentiles)
		model selector.Predictor
		miss  bool
	}{{&found.Hit, model, false}, {&found.Miss, model, true}, {&found.Rules, nil, false}} {
		node := selector.New(selector.WithNodeID("node-7"), selector.WithModel(way.model),
			selector.WithHistory(selector.NewHistory(selector.Limits{})))
		data := &selector.DataCharacteristics{
			ObjectID: "disk-1", DataType: selector.DataTypeVMDisk, SizeBytes: 64 << 20, AMSTStreams: 4,
			Probe: selector.Probe{Blocks: 64, Complete: true, Entropy: 0.6, ZstdShare: 0.4, ZstdMsPerMB: 5, LZ4MsPerMB: 2},
		}
		times, allocations, err := timed(calls, func(number int) error {
			if way.miss { // the next float32 of the link's rate is another vector
				network.BandwidthMbps = 100 + float64(number)/1024
			}
			decision, err := node.SelectCompression(ctx, network, data)
			if way.model == nil && decision.Reason == selector.ReasonModelMissing {
				return nil // rules decide, as they are meant to
			}
			return err
		})
		if err != nil {
			return err
		}
		*way.times = times
		if way.model == nil {
			continue // the error that says so is made anew each time
		}
		found.Allocations = max(found.Allocations, allocations)
		counters := node.Counters()
		if way.miss != (counters.CacheHits == 0) {
			return fmt.Errorf("of %d decisions %d were answered from the cache", counters.Decisions, counters.CacheHits)
		}
	}
	return nil
}

// timed calls once more than calls for practice, then each call three times over: for the time that
// passes, for CPU time, whose clock takes as long as a fast call, and for allocations.
func timed(calls int, call func(number int) error) (*percentiles, float64, error) {
	number := 0
	next := func() error {
		number++
		return call(number)
	}
	passed, used := make([]time.Duration, calls), make([]time.Duration, calls)
	for range passed[:min(calls, 500)] {
		if err := next(); err != nil {
			return nil, 0, err
		}
	}
	for at := range passed {
		began := time.Now()
		if err := next(); err != nil {
			return nil, 0, err
		}
		passed[at] = time.Since(began)
	}
	for at := range used {
		began := cputime.Thread()
		if err := next(); err != nil {
			return nil, 0, err
		}
		used[at] = cputime.Thread() - began
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for range passed {
		if err := next(); err != nil {
			return nil, 0, err
		}
	}
	runtime.ReadMemStats(&after)
	slices.Sort(passed)
	slices.Sort(used)
	at := func(times []time.Duration, share float64) float64 {
		return float64(times[int(share*float64(len(times)-1))]) / float64(time.Microsecond)
	}
	return &percentiles{at(passed, 0.5), at(passed, 0.99), at(passed, 0.999), at(used, 0.99)},
		float64(after.Mallocs-before.Mallocs) / float64(calls), nil
}

// burn keeps one core busy, without asking anything of memory.
func burn() {
	for n := uint64(1); n != 0; {
		n = n*6364136223846793005 + 1442695040888963407 | 1
	}
}
