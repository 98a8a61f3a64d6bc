package selector

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// fakeInflux collects lines, or answers as it is told.
type fakeInflux struct {
	*httptest.Server
	mutex    sync.Mutex
	lines    []string
	requests int
	answer   func(w http.ResponseWriter, r *http.Request) (handled bool)
}

func newFakeInflux(t *testing.T) *fakeInflux {
	t.Helper()
	influx := &fakeInflux{}
	influx.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		influx.mutex.Lock()
		influx.requests++
		answer := influx.answer
		influx.mutex.Unlock()
		if r.URL.Path != "/api/v2/write" || r.URL.Query().Get("bucket") != DefaultBucket ||
			r.URL.Query().Get("precision") != "ns" || r.Header.Get("Authorization") != "Token secret" {
			t.Errorf("asked for %v with %v", r.URL, r.Header)
		}
		if answer != nil && answer(w, r) {
			return
		}
		influx.mutex.Lock()
		influx.lines = append(influx.lines, strings.Split(strings.TrimSuffix(string(body), "\n"), "\n")...)
		influx.mutex.Unlock()
		w.WriteHeader(http.StatusNoContent)
	}))
	t.Cleanup(influx.Close)
	return influx
}

func (influx *fakeInflux) set(answer func(w http.ResponseWriter, r *http.Request) bool) {
	influx.mutex.Lock()
	defer influx.mutex.Unlock()
	influx.answer = answer
}

// distinct is how many different points arrived.
func (influx *fakeInflux) distinct() int {
	influx.mutex.Lock()
	defer influx.mutex.Unlock()
	seen := map[string]bool{}
	for _, line := range influx.lines {
		seen[line] = true
	}
	return len(seen)
}

func answerWith(status int) func(http.ResponseWriter, *http.Request) bool {
	return func(w http.ResponseWriter, _ *http.Request) bool {
		w.WriteHeader(status)
		return true
	}
}

func loggerConfig(url, dir string) LoggerConfig {
	return LoggerConfig{
		URL: url, Org: "dwcp", Token: "secret", NodeID: "node-1", Zone: "us-east-1a", SpillDir: dir,
		FlushEvery: 5 * time.Millisecond, Timeout: 200 * time.Millisecond,
		BackoffMin: 5 * time.Millisecond, BackoffMax: 20 * time.Millisecond,
	}
}

func startLogger(t *testing.T, config LoggerConfig) *MetricsLogger {
	t.Helper()
	logger, err := NewMetricsLogger(config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = logger.Close(context.Background()) })
	return logger
}

// exampleRecord is a whole, plausible transfer with the executed engine measured.
func exampleRecord(selector *CompressionSelectorML, number int) *Record {
	network, data := wanTransfer()
	network.Region = RegionUSEast
	decision, _ := selector.SelectCompression(context.Background(), network, data)
	return &Record{
		Network: *network, Data: *data, Decision: decision,
		TransferID: fmt.Sprintf("transfer-%d", number), ObjectVersion: 3, PayloadDigest: strings.Repeat("ab", 16),
		TransferMs: 550, SentBytes: 6_710_886, Propensity: 0.02,
		Measured: Measurements{
			HDE:        Measured{CompressedBytes: 6_710_886, CompressionMs: 120, DecompressionMs: 40},
			HDEHitRate: float64(float32(data.KnownShare)),
		},
	}
}

func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !holds(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain until %s", what)
		}
	}
}

func TestALineOfTheLog(t *testing.T) {
	record := exampleRecord(New(WithModel(sureOfHDE)), 1)
	record.Network.PeerID = `peer "1"\`
	record.Decision.DecisionTime = 1500 * time.Nanosecond
	line, err := record.appendLine(nil, "node 1,a=b", "us-east-1a")
	if err != nil {
		t.Fatal(err)
	}
	text := string(line)
	for _, part := range []string{
		`compression_metrics,region=us-east,availability_zone=us-east-1a,link_type=wan,node_id=node\ 1\,a\=b,` +
			`data_type=vm_disk,current_compression=hde peer_id="peer \"1\"\\",rtt_ms=40,`,
		",data_size_bytes=67108864i,", ",hde_compression_time_ms=120,", ",measured_candidates=\"hde\",",
		",served_link_type=3,", ",served_known_share=0.9,", ",decision_time_us=1.5,", ",probe_time_ms=3,",
		",actual_throughput_mbps=756.1", // 64 MiB in 550 + 160 ms
		" 1780324200000000000\n",
	} {
		if !strings.Contains(text, part) {
			t.Errorf("%s\nlacks %s", text, part)
		}
	}
	for _, absent := range []string{"amst_compression_time_ms", "baseline_compression_ratio", "NaN", "Inf"} {
		if strings.Contains(text, absent) {
			t.Errorf("%s\nholds %s", text, absent)
		}
	}
}

func TestRowsThatTheContractRefuses(t *testing.T) {
	selector := New(WithModel(sureOfHDE))
	for column, spoil := range map[string]func(*Record){
		"peer_id":                 func(r *Record) { r.Network.PeerID = "" },
		"transfer_id":             func(r *Record) { r.TransferID = strings.Repeat("x", 101) },
		"object_id":               func(r *Record) { r.Data.ObjectID = "a\x00b" },
		"payload_digest":          func(r *Record) { r.PayloadDigest = "\xff" },
		"rtt_ms":                  func(r *Record) { r.Network.RTTMs = math.NaN() },
		"jitter_ms":               func(r *Record) { r.Network.JitterMs = math.Inf(1) },
		"packet_loss_rate":        func(r *Record) { r.Network.PacketLossRate = 1 },
		"data_size_bytes":         func(r *Record) { r.Data.SizeBytes = 0 },
		"hde_compression_ratio":   func(r *Record) { r.Measured.HDE.CompressedBytes = 0 },
		"link_type":               func(r *Record) { r.Network.LinkType = LinkTypeUnknown },
		"region":                  func(r *Record) { r.Network.Region = RegionUnknown },
		"data_type":               func(r *Record) { r.Data.DataType = DataTypeUnknown },
		"measurement_propensity":  func(r *Record) { r.Propensity = 0 },
		"actual_transfer_time_ms": func(r *Record) { r.TransferMs = -1 },
		"timestamp_ns":            func(r *Record) { r.Decision.TimestampNs = 0 },
		"served_packet_loss_rate": func(r *Record) { r.Decision.Features[FeaturePacketLossRate] = 2 },
		"served_compressibility_score": func(r *Record) {
			r.Decision.Features[FeatureCompressibilityScore] = float32(math.NaN())
		},
	} {
		record := exampleRecord(selector, 1)
		spoil(record)
		_, err := record.appendLine(nil, "node-1", "zone")
		var invalid *InvalidRowError
		if !errors.As(err, &invalid) {
			t.Errorf("%s: %v", column, err)
		} else if invalid.Column != column && !(column == "hde_compression_ratio" && invalid.Column == "hde_compressed_size_bytes") {
			t.Errorf("%s is spoiled, %s is blamed: %v", column, invalid.Column, err)
		}
	}
	record := exampleRecord(selector, 1)
	if _, err := record.appendLine(nil, "node\n1", "zone"); err == nil {
		t.Error("a tag with a line break was taken")
	}
}

func TestServedFeaturesStayWithinDecimalLimits(t *testing.T) {
	record := exampleRecord(New(WithModel(sureOfHDE)), 1)
	record.Decision.Features[FeaturePacketLossRate] = float32(0.99) // as a float64 beyond 0.99
	line, err := record.appendLine(nil, "node-1", "zone")
	if err != nil || !strings.Contains(string(line), ",served_packet_loss_rate=0.99,") {
		t.Errorf("%v", err)
	}
}

func TestTheLoggerSendsBatches(t *testing.T) {
	influx, selector := newFakeInflux(t), New(WithModel(sureOfHDE))
	config := loggerConfig(influx.URL, t.TempDir())
	config.BatchRows, config.FlushEvery = 10, time.Hour
	logger := startLogger(t, config)
	for n := 0; n < 25; n++ {
		if err := logger.Log(exampleRecord(selector, n)); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "two batches came", func() bool { return influx.distinct() == 20 })
	if err := logger.Close(context.Background()); err != nil {
		t.Fatal(err)
	}
	if counters := logger.Counters(); influx.distinct() != 25 || influx.requests != 3 || counters.Sent != 25 || counters.Logged != 25 {
		t.Errorf("%d points in %d requests, %+v", influx.distinct(), influx.requests, counters)
	}
	if err := logger.Log(exampleRecord(selector, 99)); !errors.Is(err, ErrLoggerClosed) {
		t.Errorf("after Close: %v", err)
	}
	if err := logger.Close(context.Background()); err != nil {
		t.Errorf("closed twice: %v", err)
	}
}

func TestTroublesOfTheServerLoseNothing(t *testing.T) {
	for name, trouble := range map[string]func(http.ResponseWriter, *http.Request) bool{
		"500": answerWith(500), "503": answerWith(503), "429": answerWith(429), "401": answerWith(401), "404": answerWith(404),
		"slow": func(_ http.ResponseWriter, r *http.Request) bool { <-r.Context().Done(); return true },
		"hangs up": func(w http.ResponseWriter, _ *http.Request) bool {
			connection, _, _ := w.(http.Hijacker).Hijack()
			_ = connection.Close()
			return true
		},
		"retry after": func(w http.ResponseWriter, _ *http.Request) bool {
			w.Header().Set("Retry-After", "3600") // bounded by BackoffMax
			w.WriteHeader(503)
			return true
		},
	} {
		t.Run(name, func(t *testing.T) {
			influx, selector := newFakeInflux(t), New(WithModel(sureOfHDE))
			influx.set(trouble)
			logger := startLogger(t, loggerConfig(influx.URL, t.TempDir()))
			for n := 0; n < 20; n++ {
				if err := logger.Log(exampleRecord(selector, n)); err != nil {
					t.Fatal(err)
				}
			}
			eventually(t, "a request failed and all is spilled", func() bool {
				return logger.Counters().Retries > 0 && logger.Counters().Spilled == 20
			})
			if logger.LastError() == "" {
				t.Error("no error is reported")
			}
			influx.set(nil)
			eventually(t, "all came", func() bool { return influx.distinct() == 20 })
			eventually(t, "all is counted", func() bool { return logger.Counters().Sent == 20 })
			if counters := logger.Counters(); counters.Lost+counters.Dropped+counters.Refused != 0 {
				t.Errorf("%+v", counters)
			}
		})
	}
}

func TestRetryAfterIsHonoured(t *testing.T) {
	influx, selector := newFakeInflux(t), New(WithModel(sureOfHDE))
	influx.set(func(w http.ResponseWriter, _ *http.Request) bool {
		w.Header().Set("Retry-After", "1")
		w.WriteHeader(429)
		return true
	})
	config := loggerConfig(influx.URL, t.TempDir())
	config.BackoffMax = time.Minute
	logger := startLogger(t, config)
	_ = logger.Log(exampleRecord(selector, 1))
	eventually(t, "it was told to wait", func() bool { return logger.Counters().Retries == 1 })
	began := time.Now()
	influx.set(nil)
	eventually(t, "all came", func() bool { return influx.distinct() == 1 })
	if waited := time.Since(began); waited < 700*time.Millisecond {
		t.Errorf("waited %v, not a second", waited)
	}
	now := time.Date(2026, 6, 1, 0, 0, 0, 0, time.UTC)
	for value, expected := range map[string]time.Duration{
		"": 0, "rubbish": 0, "-5": 0, "7": 7 * time.Second, "99999999": time.Minute,
		now.Add(9 * time.Second).Format(http.TimeFormat): 9 * time.Second,
	} {
		if found := retryAfter(value, now, time.Minute); found != expected {
			t.Errorf("%q: %v", value, found)
		}
	}
}

func TestWhatAnOutageSpilledIsSentByTheNextProcess(t *testing.T) {
	influx, selector, dir := newFakeInflux(t), New(WithModel(sureOfHDE)), t.TempDir()
	influx.set(answerWith(500))
	logger := startLogger(t, loggerConfig(influx.URL, dir))
	for n := 0; n < 7; n++ {
		_ = logger.Log(exampleRecord(selector, n))
	}
	if err := logger.Close(context.Background()); err != nil {
		t.Fatal(err)
	}
	influx.set(nil)
	startLogger(t, loggerConfig(influx.URL, dir))
	eventually(t, "all came", func() bool { return influx.distinct() == 7 })
	eventually(t, "the spill is empty", func() bool {
		entries, err := os.ReadDir(dir)
		return err == nil && len(entries) == 0
	})
}

func TestCloseDoesNotWaitForASlowServer(t *testing.T) {
	influx, selector, dir := newFakeInflux(t), New(WithModel(sureOfHDE)), t.TempDir()
	influx.set(func(_ http.ResponseWriter, r *http.Request) bool { <-r.Context().Done(); return true })
	config := loggerConfig(influx.URL, dir)
	config.Timeout = time.Hour
	logger := startLogger(t, config)
	_ = logger.Log(exampleRecord(selector, 1))
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	began := time.Now()
	if err := logger.Close(ctx); err != nil || time.Since(began) > 5*time.Second {
		t.Errorf("closed after %v: %v", time.Since(began), err)
	}
	if counters := logger.Counters(); counters.Spilled != 1 {
		t.Errorf("%+v", counters)
	}
}

func TestAFullQueueDropsAndCounts(t *testing.T) {
	influx, selector := newFakeInflux(t), New(WithModel(sureOfHDE))
	hold := make(chan struct{})
	influx.set(func(http.ResponseWriter, *http.Request) bool { <-hold; return false })
	config := loggerConfig(influx.URL, t.TempDir())
	config.QueueRows, config.Timeout = 8, time.Minute
	logger := startLogger(t, config)
	dropped := 0
	for n := 0; n < 100; n++ {
		if err := logger.Log(exampleRecord(selector, n)); errors.Is(err, ErrQueueFull) {
			dropped++
		}
		if n == 0 { // the one that holds the sender up
			eventually(t, "a request is under way", func() bool {
				influx.mutex.Lock()
				defer influx.mutex.Unlock()
				return influx.requests == 1
			})
		}
	}
	close(hold)
	if err := logger.Close(context.Background()); err != nil {
		t.Fatal(err)
	}
	if counters := logger.Counters(); dropped != 100-9 || counters.Dropped != uint64(dropped) || counters.Sent != 9 {
		t.Errorf("%d dropped, %+v", dropped, counters)
	}
}

func TestMalformedRowsDoNotHoldUpTheRest(t *testing.T) {
	influx, selector := newFakeInflux(t), New(WithModel(sureOfHDE))
	influx.set(answerWith(400))
	logger := startLogger(t, loggerConfig(influx.URL, t.TempDir()))
	_ = logger.Log(exampleRecord(selector, 1))
	eventually(t, "it is refused", func() bool { return logger.Counters().Refused == 1 })
	influx.set(nil)
	_ = logger.Log(exampleRecord(selector, 2))
	eventually(t, "the next one came", func() bool { return influx.distinct() == 1 })
}

func TestABatchTooLargeIsHalved(t *testing.T) {
	influx, selector := newFakeInflux(t), New(WithModel(sureOfHDE))
	influx.set(func(w http.ResponseWriter, r *http.Request) bool {
		if r.ContentLength > 6_000 { // two rows fit
			w.WriteHeader(http.StatusRequestEntityTooLarge)
			return true
		}
		return false
	})
	logger := startLogger(t, loggerConfig(influx.URL, t.TempDir()))
	for n := 0; n < 9; n++ {
		_ = logger.Log(exampleRecord(selector, n))
	}
	eventually(t, "all came", func() bool { return influx.distinct() == 9 })
}

func TestTheSpillIsBounded(t *testing.T) {
	dir := t.TempDir()
	s, err := openSpill(dir, 100)
	if err != nil {
		t.Fatal(err)
	}
	for n := 0; n < 10; n++ {
		lost, err := s.put([]byte(strings.Repeat("x", 30)), 2)
		if expected := map[bool]int{true: 2, false: 0}[n >= 3]; lost != expected || err != nil {
			t.Errorf("batch %d: %d rows lost, %v", n, lost, err)
		}
	}
	if lost, err := s.put(make([]byte, 101), 5); lost != 5 || err == nil {
		t.Errorf("too large a batch: %d rows lost, %v", lost, err)
	}
	if err := os.WriteFile(filepath.Join(dir, "notes.txt"), []byte("not ours"), 0o644); err != nil {
		t.Fatal(err)
	}
	again, err := openSpill(dir, 100)
	if err != nil || len(again.files) != 3 || again.bytes != 90 || again.next != 10 {
		t.Errorf("%v, %+v", err, again)
	}
	if _, rows, err := again.oldest(); rows != 2 || err != nil || !strings.HasPrefix(again.files[0].name, "0000000000000000007-") {
		t.Errorf("the oldest is %+v, %v", again.files[0], err)
	}
}

func TestALoggerNeedsAnAddressAndASpill(t *testing.T) {
	for name, spoil := range map[string]func(*LoggerConfig){
		"no address": func(c *LoggerConfig) { c.URL = "influx:8086" },
		"no spill":   func(c *LoggerConfig) { c.SpillDir = "" },
		"no node":    func(c *LoggerConfig) { c.NodeID = "" },
		"no disk":    func(c *LoggerConfig) { c.SpillDir = "/dev/null/spill" },
	} {
		config := loggerConfig("http://localhost:1", t.TempDir())
		spoil(&config)
		if logger, err := NewMetricsLogger(config); err == nil {
			t.Errorf("%s is accepted", name)
			_ = logger.Close(context.Background())
		}
	}
}

func BenchmarkLog(b *testing.B) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		w.WriteHeader(http.StatusNoContent)
	}))
	defer server.Close()
	config := loggerConfig(server.URL, b.TempDir())
	config.QueueRows, config.Timeout = 65_536, time.Minute
	logger, err := NewMetricsLogger(config)
	if err != nil {
		b.Fatal(err)
	}
	record := exampleRecord(New(WithModel(sureOfHDE)), 1)
	b.ReportAllocs()
	b.ResetTimer()
	for n := 0; n < b.N; n++ {
		record.Decision.TimestampNs++
		_ = logger.Log(record)
	}
	b.StopTimer()
	_ = logger.Close(context.Background())
}

// BenchmarkRecordLine is what a transfer pays for its log where it is made; the rest is
// another goroutine's.
func BenchmarkRecordLine(b *testing.B) {
	record := exampleRecord(New(WithModel(sureOfHDE)), 1)
	line := make([]byte, 0, lineBytes)
	b.ReportAllocs()
	for n := 0; n < b.N; n++ {
		if _, err := record.appendLine(line[:0], "node-1", "us-east-1a"); err != nil {
			b.Fatal(err)
		}
	}
}
