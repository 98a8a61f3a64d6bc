package selector

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

var (
	// ErrLoggerClosed says that a record came after Close.
	ErrLoggerClosed = errors.New("the metrics logger is closed")
	// ErrQueueFull says that a record was dropped because records come faster than they go.
	ErrQueueFull = errors.New("the metrics queue is full")
)

// LoggerConfig says where metrics go. What is zero has the default named.
type LoggerConfig struct {
	URL   string // of InfluxDB, such as http://influx.example:8086
	Org   string
	Token string
	// Bucket has DefaultBucket as its default.
	Bucket string

	NodeID string
	Zone   string // availability zone

	SpillDir      string        // of this logger alone: keeps what cannot be sent
	SpillMaxBytes int64         // default 64 MiB; beyond it the oldest batches are given up
	QueueRows     int           // default 4,096, about 10 MB; beyond it records are dropped
	BatchRows     int           // default 500
	FlushEvery    time.Duration // default 1 s
	Timeout       time.Duration // of one request, default 10 s
	BackoffMin    time.Duration // after a first failure, default 1 s; doubled at each further one
	BackoffMax    time.Duration // default 1 min
	Client        *http.Client  // default: one of its own
}

// LoggerCounters count rows. Every row logged ends as one of sent, dropped, invalid,
// refused or lost, or still waits in the queue or the spill.
type LoggerCounters struct {
	Logged  uint64 `json:"logged"`
	Sent    uint64 `json:"sent"`
	Invalid uint64 `json:"invalid"` // the contract would refuse it
	Dropped uint64 `json:"dropped"` // the queue was full
	Spilled uint64 `json:"spilled"` // written to disk, to be sent later
	Refused uint64 `json:"refused"` // InfluxDB called it malformed
	Lost    uint64 `json:"lost"`    // the spill was full or could not be written
	Retries uint64 `json:"retries"` // requests that failed and will be made again
}

// MetricsLogger sends records to InfluxDB from a goroutine of its own: batched, again
// and again with growing waits while the server fails, by way of the disk meanwhile.
// Logging never waits for the network or the disk.
type MetricsLogger struct {
	config   LoggerConfig
	endpoint string
	queue    chan []byte
	spill    *spill

	closing   chan struct{}
	closeOnce sync.Once
	stopped   chan struct{}
	gate      sync.RWMutex // held for writing while closed is set: no record slips in behind
	closed    bool
	requests  context.Context // of every request; done when Close may wait no longer
	hurry     context.CancelFunc

	logged, sent, invalid, dropped, spilled, refusedRows, lost, retries atomic.Uint64
	lastError                                                           atomic.Pointer[string]
}

// NewMetricsLogger starts a logger, and sends what a predecessor left in SpillDir. Close stops it.
func NewMetricsLogger(config LoggerConfig) (*MetricsLogger, error) {
	base, err := url.Parse(config.URL)
	if err != nil || (base.Scheme != "http" && base.Scheme != "https") || base.Host == "" {
		return nil, fmt.Errorf("%q is no address of an InfluxDB: give http(s)://host:port", config.URL)
	}
	if config.SpillDir == "" || config.NodeID == "" || config.Zone == "" {
		return nil, errors.New("a metrics logger needs a node id, a zone and a directory to spill to")
	}
	orDefault(&config.Bucket, DefaultBucket)
	orDefault(&config.SpillMaxBytes, 64<<20)
	orDefault(&config.QueueRows, 4_096)
	orDefault(&config.BatchRows, 500)
	orDefault(&config.FlushEvery, time.Second)
	orDefault(&config.Timeout, 10*time.Second)
	orDefault(&config.BackoffMin, time.Second)
	orDefault(&config.BackoffMax, time.Minute)
	orDefault(&config.Client, &http.Client{})
	kept, err := openSpill(config.SpillDir, config.SpillMaxBytes)
	if err != nil {
		return nil, err
	}
	parameters := url.Values{"org": {config.Org}, "bucket": {config.Bucket}, "precision": {"ns"}}
	logger := &MetricsLogger{
		config:   config,
		endpoint: strings.TrimSuffix(config.URL, "/") + "/api/v2/write?" + parameters.Encode(),
		queue:    make(chan []byte, config.QueueRows),
		spill:    kept,
		closing:  make(chan struct{}),
		stopped:  make(chan struct{}),
	}
	logger.requests, logger.hurry = context.WithCancel(context.Background())
	go logger.run()
	return logger, nil
}

// Log queues a record. It returns an *InvalidRowError for one that the contract
// refuses, ErrQueueFull or ErrLoggerClosed; each is counted, so a caller may ignore it.
func (l *MetricsLogger) Log(record *Record) error {
	l.logged.Add(1)
	line, err := record.appendLine(make([]byte, 0, lineBytes), l.config.NodeID, l.config.Zone)
	if err != nil {
		l.invalid.Add(1)
		return err
	}
	l.gate.RLock()
	defer l.gate.RUnlock()
	if l.closed {
		l.dropped.Add(1)
		return ErrLoggerClosed
	}
	select {
	case l.queue <- line:
		return nil
	default:
		l.dropped.Add(1)
		return ErrQueueFull
	}
}

// lineBytes is the usual length of a line, and a little more.
const lineBytes = 2_560

// Close sends what is queued, spills what cannot be sent until ctx is done, and
// stops. It returns an error if rows were lost that were still waiting.
func (l *MetricsLogger) Close(ctx context.Context) error {
	before := l.lost.Load()
	l.closeOnce.Do(func() {
		l.gate.Lock()
		l.closed = true
		l.gate.Unlock()
		close(l.closing)
	})
	stopHurrying := context.AfterFunc(ctx, l.hurry)
	<-l.stopped
	stopHurrying()
	l.hurry()
	if lost := l.lost.Load() - before; lost > 0 {
		return fmt.Errorf("%d rows of metrics were lost on closing: %s", lost, l.LastError())
	}
	return nil
}

// Counters returns a snapshot.
func (l *MetricsLogger) Counters() LoggerCounters {
	return LoggerCounters{
		Logged: l.logged.Load(), Sent: l.sent.Load(), Invalid: l.invalid.Load(), Dropped: l.dropped.Load(),
		Spilled: l.spilled.Load(), Refused: l.refusedRows.Load(), Lost: l.lost.Load(), Retries: l.retries.Load(),
	}
}

// LastError is what last went wrong with sending or spilling; empty if nothing did.
func (l *MetricsLogger) LastError() string {
	if text := l.lastError.Load(); text != nil {
		return *text
	}
	return ""
}

// batch is what one request sends.
type batch struct {
	data []byte
	rows int
}

// run is the only goroutine that sends and spills.
func (l *MetricsLogger) run() {
	defer close(l.stopped)
	var (
		pending batch
		retryAt time.Time // zero: the server is well
		waits   = l.config.BackoffMin
	)
	failed := func(after time.Duration) {
		l.retries.Add(1)
		retryAt = time.Now().Add(max(after, time.Duration((0.5+rand.Float64()/2)*float64(waits))))
		waits = min(2*waits, l.config.BackoffMax)
	}
	ticker := time.NewTicker(l.config.FlushEvery)
	defer ticker.Stop()
	for {
		flush := false
		select {
		case line := <-l.queue:
			pending.data = append(pending.data, line...)
			pending.rows++
			flush = pending.rows >= l.config.BatchRows
		case <-ticker.C:
			flush = true
		case <-l.closing:
			l.drain(pending)
			return
		}
		if !flush {
			continue
		}
		well := !time.Now().Before(retryAt)
		switch {
		case pending.rows == 0:
		case !well:
			l.keep(pending)
			pending = batch{pending.data[:0], 0}
		default:
			done, after := l.send(pending)
			if !done {
				l.keep(pending)
				failed(after)
				well = false
			}
			pending = batch{pending.data[:0], 0}
		}
		for well && !l.spill.empty() && !l.isBusy() {
			done, after := l.replay()
			if !done {
				failed(after)
				well = false
			}
		}
		if well {
			retryAt, waits = time.Time{}, l.config.BackoffMin
		}
	}
}

// isBusy says whether what comes must not wait for what is on disk.
func (l *MetricsLogger) isBusy() bool {
	select {
	case <-l.closing:
		return true
	default:
		return len(l.queue) > cap(l.queue)/2
	}
}

// drain sends what is left, in batches, and spills from the first failure on.
func (l *MetricsLogger) drain(pending batch) {
	well := true
	put := func() {
		if pending.rows == 0 {
			return
		}
		if well {
			well, _ = l.send(pending)
		}
		if !well {
			l.keep(pending)
		}
		pending = batch{pending.data[:0], 0}
	}
	for {
		select {
		case line := <-l.queue:
			pending.data = append(pending.data, line...)
			if pending.rows++; pending.rows >= l.config.BatchRows {
				put()
			}
		default:
			put()
			return
		}
	}
}

// send makes one request. done is false if the batch should be sent again, at the
// earliest after the time that the server asks for.
func (l *MetricsLogger) send(part batch) (done bool, after time.Duration) {
	ctx, cancel := context.WithTimeout(l.requests, l.config.Timeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, l.endpoint, bytes.NewReader(part.data))
	if err != nil { // only if the endpoint is no address, which New has checked
		l.report(err.Error())
		return false, 0
	}
	request.Header.Set("Authorization", "Token "+l.config.Token)
	request.Header.Set("Content-Type", "text/plain; charset=utf-8")
	response, err := l.config.Client.Do(request)
	if err != nil {
		l.report(err.Error())
		return false, 0
	}
	defer func() { _ = response.Body.Close() }()
	answer, _ := io.ReadAll(io.LimitReader(response.Body, 1_024)) // read to its end, a connection serves again
	switch {
	case response.StatusCode/100 == 2:
		l.sent.Add(uint64(part.rows))
		return true, 0
	case response.StatusCode == http.StatusRequestEntityTooLarge && part.rows > 1:
		return l.sendHalves(part)
	case isMalformed(response.StatusCode):
		// Sent again it would fail again, and hold up all that follows.
		l.refusedRows.Add(uint64(part.rows))
		l.report(fmt.Sprintf("InfluxDB refuses %d rows with %s: %s", part.rows, response.Status, answer))
		return true, 0
	default:
		l.report(fmt.Sprintf("InfluxDB answers %s: %s", response.Status, answer))
		return false, retryAfter(response.Header.Get("Retry-After"), time.Now(), l.config.BackoffMax)
	}
}

// sendHalves sends a batch that is too large for the server. A half that was sent when
// the other one fails is sent again with it, which changes nothing in InfluxDB.
func (l *MetricsLogger) sendHalves(part batch) (done bool, after time.Duration) {
	lines := bytes.SplitAfter(part.data, []byte("\n"))
	middle := part.rows / 2
	for _, half := range []batch{
		{bytes.Join(lines[:middle], nil), middle},
		{bytes.Join(lines[middle:], nil), part.rows - middle},
	} {
		if done, after = l.send(half); !done {
			return false, after
		}
	}
	return true, 0
}

// replay sends the batch that has waited longest on disk.
func (l *MetricsLogger) replay() (done bool, after time.Duration) {
	data, rows, err := l.spill.oldest()
	if err == nil {
		if done, after = l.send(batch{data, rows}); !done {
			return false, after
		}
	} else {
		l.lost.Add(uint64(rows))
		l.report(err.Error())
	}
	if err := l.spill.remove(); err != nil {
		l.report(err.Error())
	}
	return true, 0
}

// keep spills a batch.
func (l *MetricsLogger) keep(part batch) {
	lost, err := l.spill.put(part.data, part.rows)
	l.lost.Add(uint64(lost))
	if err != nil {
		l.report(err.Error())
		return
	}
	l.spilled.Add(uint64(part.rows))
}

func (l *MetricsLogger) report(problem string) { l.lastError.Store(&problem) }

// isMalformed tells what is wrong with the rows from what is wrong with the server or
// its settings: a missing bucket or an expired token can be mended.
func isMalformed(status int) bool {
	return status == http.StatusBadRequest || status == http.StatusUnprocessableEntity ||
		status == http.StatusRequestEntityTooLarge
}

// retryAfter reads the header in seconds or as a date; no more than most.
func retryAfter(value string, now time.Time, most time.Duration) time.Duration {
	wait := time.Duration(0)
	if seconds, err := strconv.Atoi(value); err == nil {
		wait = time.Duration(min(max(seconds, 0), 86_400)) * time.Second
	} else if date, err := http.ParseTime(value); err == nil {
		wait = date.Sub(now)
	}
	return min(max(wait, 0), most)
}

func orDefault[T comparable](value *T, otherwise T) {
	var zero T
	if *value == zero {
		*value = otherwise
	}
}
