package selector

import (
	"errors"
	"math"
	"testing"
	"time"
)

func someNetwork() *NetworkState {
	return &NetworkState{
		PeerID: "peer-1", Region: RegionEUWest, LinkType: LinkTypeMetro, RTTMs: 4.2, JitterMs: 0.3,
		BandwidthMbps: 940, PacketLossRate: 0.0001, CPUUsage: 0.4, MemoryAvailableMB: 16_000, ActiveTransfers: 3,
		At: time.Date(2026, 8, 3, 17, 59, 0, 0, time.UTC),
	}
}

func someData() *DataCharacteristics {
	return &DataCharacteristics{
		ObjectID: "disk-7", DataType: DataTypeVMDisk, SizeBytes: 3_000_000, PeerHasVersion: true, AMSTStreams: 4,
		KnownShare: 0.8, ZeroShare: 0.1,
		Probe: Probe{
			Blocks: 64, Complete: true, Entropy: 0.6, CompressibilityScore: 0.55, DeltaPotential: 0.79,
			ZstdShare: 0.31, ZstdMsPerMB: 9, LZ4MsPerMB: 2,
		},
	}
}

func someOutcome() *Outcome {
	return &Outcome{
		HDE: Measured{120_000, 8, 2}, AMST: Measured{1_500_000, 1.5, 0.5}, Zstd: Measured{900_000, 12, 4},
		HDEHitRate: 0.8, FullyMeasured: true,
	}
}

func mustExtract(t testing.TB, history *History, network *NetworkState, data *DataCharacteristics) (features Features) {
	t.Helper()
	if err := (&FeatureExtractor{history}).Extract(network, data, &features); err != nil {
		t.Fatal(err)
	}
	return features
}

func mustObserve(t testing.TB, history *History, network *NetworkState, data *DataCharacteristics, outcome *Outcome) {
	t.Helper()
	if err := history.Observe(network, data, outcome); err != nil {
		t.Fatal(err)
	}
}

func mustLieWithinTheContract(t *testing.T, features *Features) {
	t.Helper()
	for place, spec := range FeatureSpecs {
		// Written so that NaN fails.
		if !(features[place] >= float32(spec.Minimum) && features[place] <= float32(spec.Maximum)) {
			t.Errorf("%s is %v, beyond %v to %v", spec.Name, features[place], spec.Minimum, spec.Maximum)
		}
	}
}

func TestColdStartServesTheContractsDefaults(t *testing.T) {
	for name, history := range map[string]*History{"no": nil, "an empty": NewHistory(Limits{})} {
		network := NewNetworkState("peer")
		network.At = time.Date(2026, 8, 3, 12, 0, 0, 0, time.UTC)
		features := mustExtract(t, history, network, &DataCharacteristics{})
		for place, spec := range FeatureSpecs {
			follows := place == FeatureRTTBin || place == FeatureSizeCategory || place >= FeatureHDECostRatio
			if !follows && features[place] != float32(spec.Default) {
				t.Errorf("with %s history %s is %v at cold start, not %v", name, spec.Name, features[place], spec.Default)
			}
		}
	}
}

func TestFiguresBeyondTheContractAreServedAsItsLimit(t *testing.T) {
	network, data := someNetwork(), someData()
	network.RTTMs, network.BandwidthMbps, network.PacketLossRate, network.MemoryAvailableMB = -1, 0, 1, -5
	network.Region, network.LinkType = 200, 99
	data.SizeBytes, data.AMSTStreams, data.DataType, data.KnownShare = math.MinInt64, 0, 250, 1.5
	features := mustExtract(t, NewHistory(Limits{}), network, data)
	for place, expected := range map[int]float32{
		FeatureRTTMs: 0, FeatureBandwidthMbps: 0.01, FeaturePacketLossRate: 0.99, FeatureMemoryAvailable: 0,
		FeatureRegion: 0, FeatureLinkType: 0, FeatureDataType: 0, FeatureSizeBytes: 0, FeatureAMSTStreams: 1,
		FeatureKnownShare: 1, FeatureRTTBin: 1, FeatureSizeCategory: 1,
	} {
		if features[place] != expected {
			t.Errorf("%s is %v, not %v", FeatureSpecs[place].Name, features[place], expected)
		}
	}
	mustLieWithinTheContract(t, &features)
}

func TestNoFigureMayBeNaNOrInfinite(t *testing.T) {
	type figure = func(*NetworkState, *DataCharacteristics) *float64
	for name, of := range map[string]figure{
		"rtt_ms":                func(n *NetworkState, _ *DataCharacteristics) *float64 { return &n.RTTMs },
		"jitter_ms":             func(n *NetworkState, _ *DataCharacteristics) *float64 { return &n.JitterMs },
		"bandwidth_mbps":        func(n *NetworkState, _ *DataCharacteristics) *float64 { return &n.BandwidthMbps },
		"packet_loss_rate":      func(n *NetworkState, _ *DataCharacteristics) *float64 { return &n.PacketLossRate },
		"cpu_usage":             func(n *NetworkState, _ *DataCharacteristics) *float64 { return &n.CPUUsage },
		"known_share":           func(_ *NetworkState, d *DataCharacteristics) *float64 { return &d.KnownShare },
		"zero_share":            func(_ *NetworkState, d *DataCharacteristics) *float64 { return &d.ZeroShare },
		"entropy":               func(_ *NetworkState, d *DataCharacteristics) *float64 { return &d.Probe.Entropy },
		"compressibility_score": func(_ *NetworkState, d *DataCharacteristics) *float64 { return &d.Probe.CompressibilityScore },
		"delta_potential":       func(_ *NetworkState, d *DataCharacteristics) *float64 { return &d.Probe.DeltaPotential },
		"probe_zstd_share":      func(_ *NetworkState, d *DataCharacteristics) *float64 { return &d.Probe.ZstdShare },
		"probe_zstd_ms_per_mb":  func(_ *NetworkState, d *DataCharacteristics) *float64 { return &d.Probe.ZstdMsPerMB },
		"probe_lz4_ms_per_mb":   func(_ *NetworkState, d *DataCharacteristics) *float64 { return &d.Probe.LZ4MsPerMB },
	} {
		for _, bad := range []float64{math.NaN(), math.Inf(1), math.Inf(-1)} {
			network, data, history := someNetwork(), someData(), NewHistory(Limits{})
			extractor := FeatureExtractor{history}
			*of(network, data) = bad
			var input *InputError
			if err := extractor.Extract(network, data, new(Features)); !errors.As(err, &input) || input.Name != name {
				t.Errorf("%s = %v: extract answers %v", name, bad, err)
			}
			batch := []DataCharacteristics{*data}
			if err := extractor.ExtractBatch(network, batch, make([]Features, 1)); !errors.As(err, &input) {
				t.Errorf("%s = %v: a batch answers %v", name, bad, err)
			}
			if err := history.Observe(network, data, someOutcome()); !errors.As(err, &input) {
				t.Errorf("%s = %v: observe answers %v", name, bad, err)
			}
			if history.objects.len()+history.peers.len() != 0 {
				t.Errorf("%s = %v was remembered", name, bad)
			}
		}
	}
}

func TestABatchEqualsItsTransfersOneByOne(t *testing.T) {
	extractor := FeatureExtractor{NewHistory(Limits{})}
	network := someNetwork()
	data := make([]DataCharacteristics, 5)
	for n := range data {
		data[n] = *someData()
		data[n].SizeBytes <<= n
		data[n].ObjectID += string(rune('a' + n%2))
		data[n].PeerHasVersion = n%2 == 0
		mustObserve(t, extractor.History, network, &data[n], someOutcome())
	}
	network.BandwidthMbps = 300
	batch := make([]Features, len(data))
	if err := extractor.ExtractBatch(network, data, batch); err != nil {
		t.Fatal(err)
	}
	for n := range data {
		if one := mustExtract(t, extractor.History, network, &data[n]); one != batch[n] {
			t.Errorf("transfer %d: %v alone, %v in a batch", n, one, batch[n])
		}
	}
}

func TestExtractingAllocatesNothing(t *testing.T) {
	extractor := FeatureExtractor{NewHistory(Limits{})}
	network, data := someNetwork(), someData()
	mustObserve(t, extractor.History, network, data, someOutcome())
	var features Features
	if allocs := testing.AllocsPerRun(100, func() { _ = extractor.Extract(network, data, &features) }); allocs != 0 {
		t.Errorf("%v allocations per extraction", allocs)
	}
}

func TestAMSTsBusiestThread(t *testing.T) {
	for size := int64(1); size < 9*AMSTChunkBytes; size += AMSTChunkBytes / 3 {
		for streams := int64(1); streams <= MaxStreams; streams++ {
			threads := make([]int64, streams)
			for at := int64(0); at < size; at += AMSTChunkBytes {
				threads[at/AMSTChunkBytes%streams] += min(AMSTChunkBytes, size-at)
			}
			busiest := int64(0)
			for _, bytes := range threads {
				busiest = max(busiest, bytes)
			}
			if got := busiestBytes(size, streams); got != float64(busiest) {
				t.Errorf("%d bytes in %d streams: %v, not %d", size, streams, got, busiest)
			}
		}
	}
}

// FuzzExtract: whatever a caller measured, before and after a transfer was observed,
// features lie within the contract or there is a typed error. Nothing panics.
func FuzzExtract(f *testing.F) {
	f.Add("peer", "object", uint8(3), uint8(1), uint8(1), 4.0, 0.2, 1e3, 0.01, 0.5, int64(8_192), int64(1e6), 4, 0.5, 2.0, int64(1e5), 3.0)
	f.Add("", "", uint8(255), uint8(255), uint8(255), -1.0, 1e308, 0.0, 1.0, 2.0, int64(-1), int64(-1), -1, -1.0, 0.0, int64(-1), -1.0)
	f.Add("p", "o", uint8(0), uint8(0), uint8(0), math.NaN(), math.Inf(1), math.Inf(-1), 5e-324, 1e-300, int64(math.MaxInt64), int64(math.MaxInt64), math.MaxInt, 1.0, 5e-324, int64(math.MaxInt64), 1e308)
	f.Add("p", "o", uint8(1), uint8(2), uint8(3), 1.0, 0.0, 0.01, 0.99, 0.0, int64(0), int64(0), 0, 0.0, 1e-6, int64(1), 0.0)
	f.Add("p", "o", uint8(4), uint8(2), uint8(3), 1.0, 0.0, 0.01, 0.99, 0.0, int64(0), int64(1), 1, 1.0, 1e-6, int64(math.MaxInt64), 8e307)
	f.Fuzz(func(t *testing.T, peer, object string, kind, region, linkType uint8, rtt, jitter, bandwidth, loss, cpu float64,
		memory, size int64, streams int, share, msPerMB float64, compressed int64, ms float64) {
		network := &NetworkState{
			peer, Region(region), LinkType(linkType), rtt, jitter, bandwidth, loss, cpu, memory, streams, time.Unix(0, memory),
		}
		data := &DataCharacteristics{
			object, DataType(kind), size, size%2 == 0, streams, share, share,
			Probe{streams, true, share, share, share, share, msPerMB, msPerMB, 0},
		}
		measured := Measured{compressed, ms, ms}
		outcome := &Outcome{measured, measured, measured, share, size%3 != 0}
		extractor := FeatureExtractor{NewHistory(Limits{Objects: 4, Peers: 4})}
		for n := 0; n < 3; n++ {
			var features Features
			var input *InputError
			if err := extractor.Extract(network, data, &features); err == nil {
				mustLieWithinTheContract(t, &features)
			} else if !errors.As(err, &input) {
				t.Fatalf("an untyped error: %v", err)
			}
			if err := extractor.History.Observe(network, data, outcome); err != nil && !errors.As(err, &input) {
				t.Fatalf("an untyped error: %v", err)
			}
		}
	})
}

func BenchmarkExtract(b *testing.B) {
	extractor := FeatureExtractor{NewHistory(Limits{})}
	network, data := someNetwork(), someData()
	mustObserve(b, extractor.History, network, data, someOutcome())
	var features Features
	b.ReportAllocs()
	for n := 0; n < b.N; n++ {
		if err := extractor.Extract(network, data, &features); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkExtractBatch is of one transfer among 64 to one peer.
func BenchmarkExtractBatch(b *testing.B) {
	extractor := FeatureExtractor{NewHistory(Limits{})}
	network, data, features := someNetwork(), make([]DataCharacteristics, 64), make([]Features, 64)
	for n := range data {
		data[n] = *someData()
	}
	mustObserve(b, extractor.History, network, &data[0], someOutcome())
	b.ResetTimer()
	b.ReportAllocs()
	for n := 0; n < b.N; n += len(data) {
		if err := extractor.ExtractBatch(network, data, features); err != nil {
			b.Fatal(err)
		}
	}
}
