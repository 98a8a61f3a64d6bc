package selector

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"dwcp.internal/selector/internal/procfs"
)

// scriptedEngines take the times that they are told, and halve payloads on paper.
type scriptedEngines struct {
	calls  atomic.Int64
	takes  time.Duration
	fails  error
	panics bool
	wrong  bool
}

func (e *scriptedEngines) LightBytes(block []byte) (int, error) { return len(block), nil }
func (e *scriptedEngines) HeavyBytes(block []byte) (int, error) { return len(block), nil }

func (e *scriptedEngines) Compress(dst []byte, engine Choice, payload []byte, options EngineOptions) (EngineRun, error) {
	call := e.calls.Add(1)
	if e.panics {
		panic("a bug in an engine")
	}
	streams := 1
	if engine == AMST {
		streams = options.Streams
	}
	// The first run of each is twice as slow as the rest: the least is to be kept.
	takes := e.takes * time.Duration(1+engine)
	if call <= 3 {
		takes *= 2
	}
	return EngineRun{append(dst, payload...), takes * time.Duration(streams), takes, 0.75}, e.fails
}

func (e *scriptedEngines) Decompress(dst []byte, _ Choice, data []byte, _ EngineOptions) (EngineRun, error) {
	if e.wrong {
		data = data[1:]
	}
	return EngineRun{Data: append(dst, data...), CPUTime: e.takes, Makespan: e.takes}, nil
}

func startMeasuring(t *testing.T, influx *fakeInflux, change func(*FullMeasurementConfig)) (*FullMeasurement, *MetricsLogger) {
	t.Helper()
	logger := startLogger(t, loggerConfig(influx.URL, t.TempDir()))
	config := FullMeasurementConfig{
		Engines: &scriptedEngines{takes: time.Millisecond}, Logger: logger,
		MinShare: 1, MaxShare: 1, IsIdle: func() bool { return true },
	}
	change(&config)
	measurement, err := NewFullMeasurement(config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = measurement.Close(context.Background()) })
	return measurement, logger
}

func TestFullMeasurementMeasuresEveryEngine(t *testing.T) {
	influx := newFakeInflux(t)
	history := NewHistory(Limits{})
	measurement, _ := startMeasuring(t, influx, func(c *FullMeasurementConfig) { c.History, c.MaxRuns = history, 3 })
	record := exampleRecord(New(WithModel(sureOfHDE)), 1)
	payload := bytes.Repeat([]byte("dwcp"), 16<<10)
	released := make(chan struct{})
	measurement.Finish(record, payload, nil, func() { close(released) })
	<-released
	if record.Runs != 3 || !record.FullyMeasured || record.Propensity != 1 {
		t.Errorf("%d runs, fully measured %v, propensity %v", record.Runs, record.FullyMeasured, record.Propensity)
	}
	size := int64(len(payload))
	expected := Measurements{
		HDE: Measured{size, 1, 1}, AMST: Measured{size, 2, 1}, Zstd: Measured{size, 4, 1},
		HDEHitRate: 0.75, AMSTStreams: 4, AMSTCPUMs: 8, AMSTDecompressionCPUMs: 1,
	}
	if record.Measured != expected {
		t.Errorf("%+v, expected %+v", record.Measured, expected)
	}
	eventually(t, "it is logged", func() bool { return influx.distinct() == 1 })
	for _, part := range []string{`measured_candidates="hde,amst,none,zstd"`, "measured_runs=3i", "measurement_propensity=1,", "amst_streams=4i"} {
		if !strings.Contains(influx.lines[0], part) {
			t.Errorf("%s\nlacks %s", influx.lines[0], part)
		}
	}
	var features Features
	network, data := wanTransfer()
	if err := (&FeatureExtractor{History: history}).Extract(network, data, &features); err != nil || features[FeatureHistorySource] != ownPast {
		t.Errorf("history has not seen it: %v, %v", features[FeatureHistorySource], err)
	}
}

func TestWhatCannotBeMeasuredIsLoggedAllTheSame(t *testing.T) {
	for name, known := range map[string]struct {
		change     func(*FullMeasurementConfig)
		payload    string
		counted    func(FullMeasurementCounters) uint64
		propensity float64
	}{
		"an engine fails": {func(c *FullMeasurementConfig) { c.Engines = &scriptedEngines{fails: errors.New("no")} },
			"payload", func(c FullMeasurementCounters) uint64 { return c.Failed }, 1},
		"an engine panics": {func(c *FullMeasurementConfig) { c.Engines = &scriptedEngines{panics: true} },
			"payload", func(c FullMeasurementCounters) uint64 { return c.Failed }, 1},
		"an engine gives back something else": {func(c *FullMeasurementConfig) { c.Engines = &scriptedEngines{wrong: true} },
			"payload", func(c FullMeasurementCounters) uint64 { return c.Failed }, 1},
		"no core falls idle": {func(c *FullMeasurementConfig) {
			c.IsIdle, c.MaxWait = func() bool { return false }, time.Millisecond
		}, "payload", func(c FullMeasurementCounters) uint64 { return c.Abandoned }, 1},
		"the payload is too large": {func(c *FullMeasurementConfig) { c.QueueBytes = 3 },
			"payload", func(c FullMeasurementCounters) uint64 { return c.NoRoom }, leastPropensity},
		"there is no payload": {func(*FullMeasurementConfig) {},
			"", func(c FullMeasurementCounters) uint64 { return c.NoRoom }, leastPropensity},
	} {
		t.Run(name, func(t *testing.T) {
			influx := newFakeInflux(t)
			measurement, _ := startMeasuring(t, influx, known.change)
			record := exampleRecord(New(WithModel(sureOfHDE)), 1)
			before := record.Measured
			released := make(chan struct{})
			measurement.Finish(record, []byte(known.payload), nil, func() { close(released) })
			<-released
			eventually(t, "it is logged", func() bool { return influx.distinct() == 1 })
			if record.FullyMeasured || record.Measured != before || record.Propensity != known.propensity {
				t.Errorf("fully measured %v, %+v, propensity %v", record.FullyMeasured, record.Measured, record.Propensity)
			}
			if counters := measurement.Counters(); known.counted(counters) != 1 {
				t.Errorf("%+v", counters)
			}
		})
	}
}

func TestTheShareKeepsTheBudget(t *testing.T) {
	influx := newFakeInflux(t)
	for name, known := range map[string]struct {
		takes    time.Duration // of an engine, forth; back the same
		low, top float64       // of the share in the end
	}{
		// A transfer takes 710 ms, a measurement 10 × takes in one run (its streams included), 2 runs: budget 2 %.
		"cheap":     {100 * time.Microsecond, 0.5, 0.5},
		"in budget": {10 * time.Millisecond, 0.01, 0.08},
		"dear":      {10 * time.Second, 0.001, 0.001},
	} {
		measurement, _ := startMeasuring(t, influx, func(c *FullMeasurementConfig) {
			c.Engines, c.Budget, c.MinShare, c.MaxShare, c.MaxRuns = &scriptedEngines{takes: known.takes}, 0.02, 0.001, 0.5, 2
			c.MaxCPU = time.Hour
		})
		measurement.random.Seed(1)
		selector := New(WithModel(sureOfHDE))
		record := exampleRecord(selector, 0)
		for n := 0; n < 20_000 && measurement.Counters().Measured < 20; n++ {
			one := *record
			released := make(chan struct{})
			measurement.Finish(&one, []byte("payload"), nil, func() { close(released) })
			<-released
		}
		counters := measurement.Counters()
		if counters.Measured == 0 || counters.Share < known.low || counters.Share > known.top {
			t.Errorf("%s: %+v", name, counters)
		}
		if name == "in budget" && (counters.Overhead < 0.019 || counters.Overhead > 0.021) {
			t.Errorf("%s: overhead %v", name, counters.Overhead)
		}
	}
}

func TestTheShareIsThePropensity(t *testing.T) {
	influx := newFakeInflux(t)
	measurement, _ := startMeasuring(t, influx, func(c *FullMeasurementConfig) { c.MinShare, c.MaxShare = 0.1, 0.1 })
	measurement.random.Seed(2)
	record := exampleRecord(New(WithModel(sureOfHDE)), 0)
	const transfers = 5_000
	for n := 0; n < transfers; n++ {
		one := *record
		released := make(chan struct{})
		measurement.Finish(&one, []byte("payload"), nil, func() { close(released) })
		<-released
		if one.Propensity != 0.1 {
			t.Fatalf("propensity %v", one.Propensity)
		}
	}
	// Five standard deviations of a binomial.
	if share := float64(measurement.Counters().Chosen) / transfers; share < 0.079 || share > 0.121 {
		t.Errorf("%v of transfers were chosen, at a propensity of 0.1", share)
	}
}

func TestClosingLogsWhatWaits(t *testing.T) {
	influx := newFakeInflux(t)
	busy := atomic.Bool{}
	busy.Store(true)
	measurement, logger := startMeasuring(t, influx, func(c *FullMeasurementConfig) {
		c.IsIdle = func() bool { return !busy.Load() }
	})
	selector := New(WithModel(sureOfHDE))
	released := atomic.Int64{}
	for n := 0; n < 5; n++ {
		measurement.Finish(exampleRecord(selector, n), []byte("payload"), nil, func() { released.Add(1) })
	}
	if err := measurement.Close(context.Background()); err != nil {
		t.Fatal(err)
	}
	measurement.Finish(exampleRecord(selector, 5), []byte("payload"), nil, func() { released.Add(1) })
	if err := logger.Close(context.Background()); err != nil {
		t.Fatal(err)
	}
	if counters := measurement.Counters(); influx.distinct() != 6 || released.Load() != 6 || counters.Abandoned != 5 || counters.NoRoom != 1 {
		t.Errorf("%d logged, %d released, %+v", influx.distinct(), released.Load(), counters)
	}
}

func TestAShareOfNothingIsRefused(t *testing.T) {
	logger := startLogger(t, loggerConfig("http://localhost:1", t.TempDir()))
	good := FullMeasurementConfig{Engines: &scriptedEngines{}, Logger: logger}
	for name, spoil := range map[string]func(*FullMeasurementConfig){
		"no engines": func(c *FullMeasurementConfig) { c.Engines = nil },
		"no logger":  func(c *FullMeasurementConfig) { c.Logger = nil },
		"negative":   func(c *FullMeasurementConfig) { c.MinShare = -1 },
		"above 1":    func(c *FullMeasurementConfig) { c.MaxShare = 1.5 },
		"reversed":   func(c *FullMeasurementConfig) { c.MinShare, c.MaxShare = 0.5, 0.1 },
	} {
		config := good
		spoil(&config)
		if _, err := NewFullMeasurement(config); err == nil {
			t.Errorf("%s is accepted", name)
		}
	}
}

func TestIdlenessIsRead(t *testing.T) {
	idle, all, known := procfs.CoreTicks()
	if !known {
		t.Skip("there is no /proc/stat here")
	}
	if idle < 0 || all <= 0 || idle > all {
		t.Errorf("%d idle of %d ticks", idle, all)
	}
	coreIsIdle() // true or false, by what else runs here; it returns
}
