package selector

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"
)

func TestAnObjectsAveragesMoveByAlphaAndItsTypesBySlower(t *testing.T) {
	history := NewHistory(Limits{})
	network, data := someNetwork(), someData()
	ratios := []float64{4, 8, 2}
	expected, ofType := ratios[0], ratios[0]
	for n, ratio := range ratios {
		outcome := &Outcome{Zstd: Measured{CompressedBytes: int64(float64(data.SizeBytes) / ratio)}}
		mustObserve(t, history, network, data, outcome)
		if n > 0 {
			expected += 0.3 * (ratio - expected)
			ofType += 0.05 * (ratio - ofType)
		}
	}
	features := mustExtract(t, history, network, data)
	if got := features[FeatureBaselineRatio]; got != float32(expected) {
		t.Errorf("the object's average is %v, not %v", got, expected)
	}
	other := *data
	other.ObjectID = "new"
	features = mustExtract(t, history, network, &other)
	if got := features[FeatureBaselineRatio]; got != float32(ofType) {
		t.Errorf("the type's average is %v, not %v", got, ofType)
	}
	if got := features[FeatureRecentHDERatio]; got != float32(FeatureSpecs[FeatureRecentHDERatio].Default) {
		t.Errorf("HDE was never measured, but its ratio is %v", got)
	}
}

func TestTimesCountOnlyWhereAllWasMeasured(t *testing.T) {
	history, network, data := NewHistory(Limits{}), someNetwork(), someData()
	outcome := someOutcome()
	outcome.FullyMeasured = false
	mustObserve(t, history, network, data, outcome)
	features := mustExtract(t, history, network, data)
	if features[FeatureRecentHDEMsPerMB] != float32(FeatureSpecs[FeatureRecentHDEMsPerMB].Default) || features[FeatureHistorySource] != 0 {
		t.Error("times of a transfer beside other work were remembered")
	}
	mustObserve(t, history, network, data, someOutcome())
	other := *data
	other.ObjectID = "new"
	own, ofType := mustExtract(t, history, network, data), mustExtract(t, history, network, &other)
	if own[FeatureHistorySource] != 2 || ofType[FeatureHistorySource] != 1 {
		t.Errorf("history comes from %v and %v, not 2 and 1", own[FeatureHistorySource], ofType[FeatureHistorySource])
	}
}

func TestALinkIsRememberedByItsPeer(t *testing.T) {
	history, network, data := NewHistory(Limits{}), someNetwork(), someData()
	mustObserve(t, history, network, data, someOutcome())
	network.BandwidthMbps *= 2
	features := mustExtract(t, history, network, data)
	if features[FeatureBandwidthRatio] != 2 || features[FeatureJitterAverageMs] != float32(network.JitterMs) {
		t.Errorf("ratio %v, jitter %v", features[FeatureBandwidthRatio], features[FeatureJitterAverageMs])
	}
	network.PeerID = "another"
	if features = mustExtract(t, history, network, data); features[FeatureBandwidthRatio] != 1 {
		t.Errorf("a new peer has ratio %v", features[FeatureBandwidthRatio])
	}
}

func TestNamelessObjectsAndPeersAreNotRemembered(t *testing.T) {
	history, network, data := NewHistory(Limits{}), someNetwork(), someData()
	network.PeerID, data.ObjectID = "", ""
	mustObserve(t, history, network, data, someOutcome())
	if kept := history.objects.len() + history.peers.len(); kept != 0 {
		t.Errorf("%d names are kept", kept)
	}
	if features := mustExtract(t, history, network, data); features[FeatureHistorySource] != 1 {
		t.Error("their data type was forgotten too")
	}
}

func TestImpossibleOutcomesAreRefused(t *testing.T) {
	for name, spoil := range map[string]func(*DataCharacteristics, *Outcome){
		"hde_compressed_size_bytes":  func(_ *DataCharacteristics, o *Outcome) { o.HDE.CompressedBytes = -1 },
		"amst_compression_time_ms":   func(_ *DataCharacteristics, o *Outcome) { o.AMST.CompressionMs = -1 },
		"zstd_decompression_time_ms": func(_ *DataCharacteristics, o *Outcome) { o.Zstd.DecompressionMs = math.NaN() },
		"hde_delta_hit_rate":         func(_ *DataCharacteristics, o *Outcome) { o.HDEHitRate = 1.1 },
		"data_size_bytes":            func(d *DataCharacteristics, _ *Outcome) { d.SizeBytes = 0 },
		"recent_hde_ms_per_mb":       func(_ *DataCharacteristics, o *Outcome) { o.HDE.CompressionMs = 1e308 },
		"object_id":                  func(d *DataCharacteristics, _ *Outcome) { d.ObjectID = strings.Repeat("x", maxNameBytes+1) },
		"zstd_compression_time_ms":   func(_ *DataCharacteristics, o *Outcome) { o.Zstd.CompressionMs = math.Inf(1) },
		"amst_compressed_size_bytes": func(_ *DataCharacteristics, o *Outcome) { o.AMST.CompressedBytes = math.MinInt64 },
		"hde_decompression_time_ms":  func(_ *DataCharacteristics, o *Outcome) { o.HDE.DecompressionMs = -0.5 },
	} {
		history, data, outcome := NewHistory(Limits{}), someData(), someOutcome()
		spoil(data, outcome)
		var input *InputError
		if err := history.Observe(someNetwork(), data, outcome); !errors.As(err, &input) || input.Name != name {
			t.Errorf("%s: observe answers %v", name, err)
		}
		if history.objects.len() != 0 || !math.IsNaN(history.types[data.DataType].Load()[rememberedBaselineRatio]) {
			t.Errorf("%s: something was remembered", name)
		}
	}
}

func TestAProbeIsKeptUntilTheNext(t *testing.T) {
	history := NewHistory(Limits{})
	probe := someData().Probe
	probe.CPUTime = time.Second
	history.KeepProbe("disk-7", probe)
	probe.CPUTime = 0
	mustObserve(t, history, someNetwork(), someData(), someOutcome())
	if kept, found := history.LastProbe("disk-7"); !found || kept != probe {
		t.Errorf("kept is %+v", kept)
	}
	partial := probe
	partial.Complete, partial.Entropy = false, 0.9
	history.KeepProbe("disk-7", partial)
	history.KeepProbe("disk-7", Probe{})
	if kept, _ := history.LastProbe("disk-7"); kept != probe {
		t.Errorf("half a probe took its place: %+v", kept)
	}
	partial.Complete = true
	history.KeepProbe("disk-7", partial)
	if kept, _ := history.LastProbe("disk-7"); kept != partial {
		t.Errorf("a later probe was not kept: %+v", kept)
	}
	history.KeepProbe("", probe)
	for _, name := range []string{"", "disk-8"} {
		if kept, found := history.LastProbe(name); found {
			t.Errorf("%q has a probe: %+v", name, kept)
		}
	}
	if source := mustExtract(t, history, someNetwork(), someData())[FeatureHistorySource]; source != 2 {
		t.Errorf("probes disturbed the averages: history_source is %v", source)
	}
	if !math.IsNaN(NewHistory(Limits{}).types[1].Load()[0]) || !math.IsNaN(noObject.averages[0]) {
		t.Error("what stands for nothing was written to")
	}
}

func TestTheStoreIsBoundedAndKeepsWhatIsUsed(t *testing.T) {
	const limit = 1_000
	names := newTable[link](limit)
	value := link{1, 1}
	set := func(kept, given *link) { *kept = *given }
	for n := 0; n < 100*limit; n++ {
		names.update(fmt.Sprint("object-", n), &noLink, &value, set)
		if n%10 == 0 {
			names.update("favourite", &noLink, &value, set)
		}
		if n%10 == 5 {
			var kept link
			if !names.get("favourite", &kept) {
				t.Fatalf("what is asked for all the time was forgotten after %d others", n)
			}
		}
	}
	if kept := names.len(); kept > limit || kept < limit/2 {
		t.Errorf("%d names are kept, the limit is %d", kept, limit)
	}
	inPlaces := 0
	for n := range names.shards {
		inPlaces += len(names.shards[n].places)
	}
	if inPlaces != names.len() {
		t.Errorf("%d names are found, %d are kept", inPlaces, names.len())
	}
}

func TestASmallLimitHolds(t *testing.T) {
	history := NewHistory(Limits{Objects: 3, Peers: 1})
	network, data := someNetwork(), someData()
	for n := 0; n < 50; n++ {
		network.PeerID, data.ObjectID = fmt.Sprint("peer-", n), fmt.Sprint("object-", n)
		mustObserve(t, history, network, data, someOutcome())
	}
	if history.objects.len() != 3 || history.peers.len() != 1 {
		t.Errorf("%d objects and %d peers are kept", history.objects.len(), history.peers.len())
	}
}

// TestManyAtOnce is for the race detector; its sums must be whole all the same.
func TestManyAtOnce(t *testing.T) {
	history := NewHistory(Limits{Objects: 64, Peers: 8})
	var all sync.WaitGroup
	for worker := 0; worker < 8; worker++ {
		all.Add(1)
		go func(worker int) {
			defer all.Done()
			extractor := FeatureExtractor{history}
			network, data := someNetwork(), someData()
			for n := 0; n < 300; n++ {
				network.PeerID, data.ObjectID = fmt.Sprint("peer-", n%12), fmt.Sprint("object-", (worker+n)%100)
				var features Features
				if err := extractor.Extract(network, data, &features); err != nil {
					t.Error(err)
				}
				if source := features[FeatureHistorySource]; source > 0 && features[FeatureBaselineRatio] != 3_000_000/900_000.0 {
					t.Errorf("half an average: %v", features[FeatureBaselineRatio])
				}
				if err := history.Observe(network, data, someOutcome()); err != nil {
					t.Error(err)
				}
				if n%100 == 0 {
					if err := history.Save(new(bytes.Buffer)); err != nil {
						t.Error(err)
					}
				}
			}
		}(worker)
	}
	all.Wait()
}

func fullHistory(t testing.TB, objects int) *History {
	t.Helper()
	history := NewHistory(Limits{})
	network, data, outcome := someNetwork(), someData(), someOutcome()
	for n := 0; n < objects; n++ {
		network.PeerID, data.ObjectID = fmt.Sprint("peer-", n%40), fmt.Sprint("object-", n)
		data.DataType = DataType(n % len(datatypeNames))
		outcome.Zstd.CompressedBytes = int64(10_000 + n)
		outcome.FullyMeasured = n%2 == 0
		mustObserve(t, history, network, data, outcome)
		if n%3 == 0 {
			history.KeepProbe(data.ObjectID, Probe{n + 1, true, 0.1, 0.2, 0.3, 0.4, float64(n), 6, 0})
		}
	}
	return history
}

func TestAHistoryOutlivesItsNode(t *testing.T) {
	history := fullHistory(t, 500)
	path := filepath.Join(t.TempDir(), "history")
	if err := history.SaveFile(path); err != nil {
		t.Fatal(err)
	}
	if err := history.SaveFile(path); err != nil { // over an older one
		t.Fatal(err)
	}
	loaded, err := OpenHistory(path, Limits{})
	if err != nil {
		t.Fatal(err)
	}
	network, data := someNetwork(), someData()
	for n := 0; n < 510; n++ {
		network.PeerID, data.ObjectID = fmt.Sprint("peer-", n%50), fmt.Sprint("object-", n)
		data.DataType = DataType(n % len(datatypeNames))
		if before, after := mustExtract(t, history, network, data), mustExtract(t, loaded, network, data); before != after {
			t.Fatalf("object %d: %v before, %v after", n, before, after)
		}
		before, kept := history.LastProbe(data.ObjectID)
		if after, found := loaded.LastProbe(data.ObjectID); found != kept || before != after {
			t.Fatalf("object %d: %+v before, %+v after", n, before, after)
		}
	}
	if left, err := filepath.Glob(path + "*"); err != nil || len(left) != 1 {
		t.Errorf("beside the history lie %v (%v)", left, err)
	}
	smaller, err := OpenHistory(path, Limits{Objects: 10, Peers: 10})
	if err != nil || smaller.objects.len() != 10 {
		t.Errorf("into less room come %d objects (%v)", smaller.objects.len(), err)
	}
}

func TestAMissingHistoryIsANewNodes(t *testing.T) {
	history, err := OpenHistory(filepath.Join(t.TempDir(), "none"), Limits{})
	if err != nil || history == nil {
		t.Errorf("got %v, %v", history, err)
	}
}

func TestAnUnwritableFileIsAnErrorAndLeavesNothing(t *testing.T) {
	if err := NewHistory(Limits{}).SaveFile(filepath.Join(t.TempDir(), "no", "folder")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v", err)
	}
}

func TestADamagedHistoryIsAColdStart(t *testing.T) {
	var saved bytes.Buffer
	if err := fullHistory(t, 30).Save(&saved); err != nil {
		t.Fatal(err)
	}
	whole := saved.Bytes()
	try := func(what string, data []byte, expected ...error) {
		t.Helper()
		history, err := LoadHistory(bytes.NewReader(data), Limits{})
		matches := false
		for _, one := range expected {
			matches = matches || errors.Is(err, one)
		}
		if !matches {
			t.Errorf("%s: %v", what, err)
		}
		if history.objects.len() != 0 || !math.IsNaN(history.types[1].Load()[0]) {
			t.Errorf("%s: something was remembered", what)
		}
		mustObserve(t, history, someNetwork(), someData(), someOutcome())
	}
	for cut := 0; cut < len(whole); cut += 13 {
		try(fmt.Sprintf("cut after %d bytes", cut), whole[:cut], ErrHistoryDamaged)
	}
	for at := 0; at < len(whole); at += 7 {
		spoiled := bytes.Clone(whole)
		spoiled[at] ^= 1 << (at % 8)
		try(fmt.Sprintf("byte %d changed", at), spoiled, ErrHistoryDamaged, ErrHistoryOutdated)
	}
	meaning := bytes.Clone(whole)
	meaning[12] ^= 1
	try("another meaning", meaning, ErrHistoryOutdated)
}

// FuzzLoadHistory: a hostile file is an error, also where its checksum holds, and what
// comes of it can be used.
func FuzzLoadHistory(f *testing.F) {
	var saved bytes.Buffer
	if err := fullHistory(f, 3).Save(&saved); err != nil {
		f.Fatal(err)
	}
	f.Add(saved.Bytes())
	f.Add(saved.Bytes()[:60])
	unset := bytes.Clone(saved.Bytes())
	for at := len(unset) - 100; at < len(unset)-50; at++ {
		unset[at] = 0xff // NaN
	}
	f.Add(unset)
	f.Fuzz(func(t *testing.T, data []byte) {
		sealed := bytes.Clone(data)
		if body := len(sealed) - sha256.Size; body >= 0 {
			sum := sha256.Sum256(sealed[:body])
			copy(sealed[body:], sum[:])
		}
		for _, file := range [][]byte{data, sealed} {
			history, err := LoadHistory(bytes.NewReader(file), Limits{Objects: 8, Peers: 8})
			if err != nil && !errors.Is(err, ErrHistoryDamaged) && !errors.Is(err, ErrHistoryOutdated) {
				t.Fatalf("an untyped error: %v", err)
			}
			for _, peer := range []string{"peer-0", "peer-1", "peer-2"} {
				network, known := someNetwork(), someData()
				network.PeerID, known.ObjectID = peer, "object"+peer[4:]
				features := mustExtract(t, history, network, known)
				mustLieWithinTheContract(t, &features)
			}
		}
	})
}

func BenchmarkObserve(b *testing.B) {
	history, network, data, outcome := NewHistory(Limits{}), someNetwork(), someData(), someOutcome()
	b.ReportAllocs()
	for n := 0; n < b.N; n++ {
		mustObserve(b, history, network, data, outcome)
	}
}

// BenchmarkHistoryFull is of extracting among as many objects as are kept.
func BenchmarkHistoryFull(b *testing.B) {
	history := fullHistory(b, 65_536)
	extractor, network, data := FeatureExtractor{history}, someNetwork(), someData()
	names := make([]string, 4_096)
	for n := range names {
		names[n] = fmt.Sprint("object-", n*7_919%65_536)
	}
	var features Features
	b.ResetTimer()
	b.ReportAllocs()
	for n := 0; n < b.N; n++ {
		data.ObjectID = names[n%len(names)]
		if err := extractor.Extract(network, data, &features); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkHistoryMemory is of a full history: bytes that each object takes, with a name
// of 20 characters, in memory and in its file.
func BenchmarkHistoryMemory(b *testing.B) {
	const objects = 65_536
	for n := 0; n < b.N; n++ {
		var before, after runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&before)
		history := NewHistory(Limits{Objects: 2 * objects}) // no shard is full
		network, data := someNetwork(), someData()
		for object := 0; object < objects; object++ {
			data.ObjectID = fmt.Sprintf("object-%013d", object)
			mustObserve(b, history, network, data, someOutcome())
		}
		runtime.GC()
		runtime.ReadMemStats(&after)
		var saved bytes.Buffer
		began := time.Now()
		if err := history.Save(&saved); err != nil {
			b.Fatal(err)
		}
		between := time.Now()
		size := saved.Len()
		if _, err := LoadHistory(&saved, Limits{Objects: 2 * objects}); err != nil {
			b.Fatal(err)
		}
		b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/objects, "B/object")
		b.ReportMetric(float64(size)/objects, "B/object-saved")
		b.ReportMetric(float64(between.Sub(began))/1e6, "save-ms")
		b.ReportMetric(float64(time.Since(between))/1e6, "load-ms")
		runtime.KeepAlive(history)
	}
}
