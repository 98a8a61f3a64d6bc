package selector

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand"
	"runtime"
	"sync"
	"time"
)

// leastPropensity is the contract's least: of a transfer that could not be measured
// whatever was drawn.
const leastPropensity = 1e-6

const dayMs = 86_400_000

// FullMeasurementConfig says how much a node spends on measuring what it did not
// choose. What is zero has the default named.
type FullMeasurementConfig struct {
	Engines Engines        // what is measured
	Logger  *MetricsLogger // where finished transfers go
	History *History       // observes finished transfers; nil: none does

	Budget   float64 // CPU time of measuring over time of all transfers, default 0.01
	MinShare float64 // of transfers measured whatever it costs, default 0.001; never zero
	MaxShare float64 // default 0.2

	MaxRuns    int           // of every engine on one payload, default 5; the least time is kept
	MaxCPU     time.Duration // for one payload; after the run that exceeds it there is no other, default 5 s
	QueueBytes int64         // of payloads kept, default 256 MiB; a larger one is never measured
	MaxWait    time.Duration // for an idle core, default 10 min
	IsIdle     func() bool   // whether a core is idle now; default: by /proc/stat, and always where there is none
}

// FullMeasurement measures a share of transfers with every engine, after they are
// done, while a core is idle: without that no model could learn what the other
// choices would have cost. The share follows the budget from what measuring and
// transferring took so far, so each transfer's probability depends on the past alone.
type FullMeasurement struct {
	config  FullMeasurementConfig
	context context.Context
	stop    context.CancelFunc
	stopped chan struct{}
	wake    chan struct{}

	mutex      sync.Mutex
	random     *rand.Rand
	closed     bool
	waiting    []finished
	keptBytes  int64
	transferMs average // what a transfer takes
	measureMs  average // what measuring one takes
	counters   FullMeasurementCounters
}

// FullMeasurementCounters count finished transfers.
type FullMeasurementCounters struct {
	Finished   uint64  `json:"finished"`
	Chosen     uint64  `json:"chosen"`
	Measured   uint64  `json:"measured"`
	NoRoom     uint64  `json:"no_room"`   // could not be queued, whatever was drawn
	Abandoned  uint64  `json:"abandoned"` // no core was idle in time, or the node stopped
	Failed     uint64  `json:"failed"`    // an engine failed, or did not give the payload back
	Unobserved uint64  `json:"unobserved"`
	Share      float64 `json:"share"` // of the next transfer
	Overhead   float64 `json:"overhead"`
	LastError  string  `json:"last_error"`
}

// average is a mean that forgets: of about the last hundred values.
type average struct {
	value float64
	count int
}

func (a *average) add(value float64) {
	a.count = min(a.count+1, 100)
	a.value += (value - a.value) / float64(a.count)
}

type finished struct {
	record   *Record
	payload  []byte
	previous *Version
	release  func()
	since    time.Time
}

// NewFullMeasurement starts a worker on an OS thread of its own. Close stops it.
func NewFullMeasurement(config FullMeasurementConfig) (*FullMeasurement, error) {
	if config.Engines == nil || config.Logger == nil {
		return nil, errors.New("full measurement needs engines and a logger")
	}
	orDefault(&config.Budget, 0.01)
	orDefault(&config.MinShare, 0.001)
	orDefault(&config.MaxShare, 0.2)
	orDefault(&config.MaxRuns, 5)
	orDefault(&config.MaxCPU, 5*time.Second)
	orDefault(&config.QueueBytes, 256<<20)
	orDefault(&config.MaxWait, 10*time.Minute)
	if config.IsIdle == nil {
		config.IsIdle = coreIsIdle
	}
	if config.Budget < 0 || config.MaxRuns < 1 || !(config.MinShare >= leastPropensity && config.MinShare <= config.MaxShare && config.MaxShare <= 1) {
		return nil, fmt.Errorf("a budget of %g, %d runs and a share of %g to %g cannot be kept: the share lies between %g and 1",
			config.Budget, config.MaxRuns, config.MinShare, config.MaxShare, leastPropensity)
	}
	f := &FullMeasurement{
		config:  config,
		stopped: make(chan struct{}),
		wake:    make(chan struct{}, 1),
		random:  rand.New(rand.NewSource(rand.Int63())),
	}
	f.context, f.stop = context.WithCancel(context.Background())
	go f.run()
	return f, nil
}

// Finish takes a transfer that is done: it draws whether to measure it, sets its
// propensity, and has it observed and logged, now or once it is measured. record,
// payload and previous belong to the measurement until release is called, which is
// once and may be at once; release may be nil.
func (f *FullMeasurement) Finish(record *Record, payload []byte, previous *Version, release func()) {
	if release == nil {
		release = func() {}
	}
	if f.enqueue(finished{record, payload, previous, release, time.Now()}) {
		select {
		case f.wake <- struct{}{}:
		default:
		}
		return
	}
	f.log(record)
	release()
}

// enqueue draws. It is false if the record is to be logged as it is.
func (f *FullMeasurement) enqueue(transfer finished) bool {
	f.mutex.Lock()
	defer f.mutex.Unlock()
	f.counters.Finished++
	share := f.share()
	if took := transfer.record.tookMs(); took >= 0 && took < dayMs { // the logger refuses others
		f.transferMs.add(took)
	}
	if f.closed || f.keptBytes+int64(len(transfer.payload)) > f.config.QueueBytes || len(transfer.payload) == 0 {
		f.counters.NoRoom++
		transfer.record.Propensity = leastPropensity
		return false
	}
	transfer.record.Propensity = share
	if f.random.Float64() >= share {
		return false
	}
	f.counters.Chosen++
	f.waiting = append(f.waiting, transfer)
	f.keptBytes += int64(len(transfer.payload))
	return true
}

// share is the next transfer's probability: what the budget allows by what was seen.
// Until a first one is measured it is the least.
func (f *FullMeasurement) share() float64 {
	share := 0.0
	if f.measureMs.count > 0 {
		share = f.config.Budget * f.transferMs.value / max(f.measureMs.value, 1e-6)
	}
	return min(max(share, f.config.MinShare), f.config.MaxShare)
}

// Counters returns a snapshot.
func (f *FullMeasurement) Counters() FullMeasurementCounters {
	f.mutex.Lock()
	defer f.mutex.Unlock()
	snapshot := f.counters
	snapshot.Share = f.share()
	if f.transferMs.value > 0 {
		snapshot.Overhead = snapshot.Share * f.measureMs.value / f.transferMs.value
	}
	return snapshot
}

// Close stops measuring; what waits is logged as it is. It does not close the logger.
// It waits for the engine that is running, or until ctx is done.
func (f *FullMeasurement) Close(ctx context.Context) error {
	f.mutex.Lock()
	f.closed = true
	f.mutex.Unlock()
	f.stop()
	select {
	case <-f.stopped:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("an engine is still running: %w", ctx.Err())
	}
}

func (f *FullMeasurement) run() {
	defer close(f.stopped)
	runtime.LockOSThread() // engines read the CPU time of the thread that they run on
	defer runtime.UnlockOSThread()
	for {
		transfer, found := f.next()
		if !found {
			select {
			case <-f.context.Done():
				if transfer, found = f.next(); !found { // one may have come meanwhile
					return
				}
			case <-f.wake:
				continue
			}
		}
		f.finish(transfer)
	}
}

func (f *FullMeasurement) next() (transfer finished, found bool) {
	f.mutex.Lock()
	defer f.mutex.Unlock()
	if len(f.waiting) == 0 {
		return finished{}, false
	}
	transfer = f.waiting[0]
	f.waiting = append(f.waiting[:0], f.waiting[1:]...)
	return transfer, true
}

// finish measures a transfer if a core falls idle in time, and logs it either way.
func (f *FullMeasurement) finish(transfer finished) {
	var err error
	var spent time.Duration
	idle := f.awaitIdleCore(transfer.since.Add(f.config.MaxWait))
	if idle {
		spent, err = f.measure(&transfer)
	}
	f.mutex.Lock()
	f.keptBytes -= int64(len(transfer.payload))
	switch {
	case !idle:
		f.counters.Abandoned++
	case err != nil:
		f.counters.Failed++
		f.counters.LastError = err.Error()
	default:
		f.counters.Measured++
	}
	if idle {
		f.measureMs.add(milliseconds(spent))
	}
	f.mutex.Unlock()
	f.log(transfer.record)
	transfer.release()
}

func (f *FullMeasurement) awaitIdleCore(until time.Time) bool {
	for f.context.Err() == nil && time.Now().Before(until) {
		if f.config.IsIdle() {
			return f.context.Err() == nil
		}
		select {
		case <-f.context.Done():
		case <-time.After(100 * time.Millisecond):
		}
	}
	return false
}

// measure runs every engine both ways, run by run so that each has as many runs, and
// puts the least times into the record. Without success the record stays as it is.
func (f *FullMeasurement) measure(transfer *finished) (spent time.Duration, err error) {
	defer func() {
		if problem := recover(); problem != nil {
			err = fmt.Errorf("an engine panicked: %v", problem)
		}
	}()
	var found Measurements
	options := EngineOptions{Previous: transfer.previous, Streams: max(transfer.record.Data.AMSTStreams, 1)}
	found.AMSTStreams = options.Streams
	runs := 0
	var packed, unpacked []byte
	for runs < f.config.MaxRuns && (runs == 0 || spent < f.config.MaxCPU && f.context.Err() == nil) {
		for _, engine := range [...]struct {
			choice   Choice
			measured *Measured
		}{{HDE, &found.HDE}, {AMST, &found.AMST}, {Zstd, &found.Zstd}} {
			forth, err := f.config.Engines.Compress(packed[:0], engine.choice, transfer.payload, options)
			if err != nil {
				return spent, fmt.Errorf("%v fails to compress: %w", engine.choice, err)
			}
			back, err := f.config.Engines.Decompress(unpacked[:0], engine.choice, forth.Data, options)
			if err != nil {
				return spent, fmt.Errorf("%v fails to decompress: %w", engine.choice, err)
			}
			if !bytes.Equal(back.Data, transfer.payload) {
				return spent, fmt.Errorf("%v does not give back what it was given", engine.choice)
			}
			packed, unpacked = forth.Data, back.Data
			spent += forth.CPUTime + back.CPUTime
			keepLeast(&engine.measured.CompressionMs, milliseconds(forth.Makespan), runs)
			keepLeast(&engine.measured.DecompressionMs, milliseconds(back.Makespan), runs)
			engine.measured.CompressedBytes = int64(len(forth.Data))
			switch engine.choice {
			case HDE:
				found.HDEHitRate = forth.KnownShare
			case AMST:
				keepLeast(&found.AMSTCPUMs, milliseconds(forth.CPUTime), runs)
				keepLeast(&found.AMSTDecompressionCPUMs, milliseconds(back.CPUTime), runs)
			}
		}
		runs++
	}
	transfer.record.Measured, transfer.record.Runs, transfer.record.FullyMeasured = found, runs, true
	return spent, nil
}

func (f *FullMeasurement) log(record *Record) {
	if f.config.History != nil {
		if err := f.config.History.Observe(&record.Network, &record.Data, record.Outcome()); err != nil {
			f.mutex.Lock()
			f.counters.Unobserved++
			f.counters.LastError = err.Error()
			f.mutex.Unlock()
		}
	}
	_ = f.config.Logger.Log(record) // the logger counts what it cannot take
}

func keepLeast(kept *float64, value float64, runsBefore int) {
	if runsBefore == 0 || value < *kept {
		*kept = value
	}
}

func milliseconds(duration time.Duration) float64 { return float64(duration.Nanoseconds()) / 1e6 }
