package selector

import (
	"context"
	"math"
	"os"
	"slices"
	"testing"
)

// benchModel is the small model of the tests, or the one that DWCP_BENCH_MODEL names.
func benchModel(b *testing.B) *Model {
	b.Helper()
	path := os.Getenv("DWCP_BENCH_MODEL")
	if path == "" {
		path = "testdata/model.dwcp"
	}
	model, err := LoadBundleFile(path)
	if err != nil {
		b.Fatal(err)
	}
	return model
}

// BenchmarkDecision is a whole decision without probing: features with history, bucket, cache,
// model, rule, counters. Beside the mean it reports percentiles of DecisionTime.
func BenchmarkDecision(b *testing.B) {
	ctx := context.Background()
	model := benchModel(b)
	for _, known := range []struct {
		name string
		miss bool
	}{{"hit", false}, {"miss", true}} {
		b.Run(known.name, func(b *testing.B) {
			selector := New(WithModel(model), WithHistory(NewHistory(Limits{})), WithNodeID("node-1"))
			network, data := wanTransfer()
			times := make([]int64, b.N)
			b.ReportAllocs()
			b.ResetTimer()
			for n := 0; n < b.N; n++ {
				if known.miss { // of float32, the next entropy is always another
					data.Probe.Entropy = float64(math.Float32frombits(0x3f000000 + uint32(n)%0x7fffff))
				}
				decision, _ := selector.SelectCompression(ctx, network, data)
				times[n] = decision.DecisionTime.Nanoseconds()
			}
			b.StopTimer()
			slices.Sort(times)
			for _, percentile := range []struct {
				unit  string
				share float64
			}{{"p50-ns", 0.5}, {"p99-ns", 0.99}, {"p999-ns", 0.999}} {
				b.ReportMetric(float64(times[int(percentile.share*float64(b.N-1))]), percentile.unit)
			}
			if hits := selector.Counters().CacheHits; known.miss && hits > 0 || !known.miss && hits != uint64(b.N-1) {
				b.Errorf("%d of %d decisions were answered from the cache", hits, b.N)
			}
		})
	}
}

func BenchmarkDecisionByRules(b *testing.B) {
	selector := New(WithNodeID("node-1"))
	selector.install(&release{})
	network, data := wanTransfer()
	b.ReportAllocs()
	for n := 0; n < b.N; n++ {
		_, _ = selector.SelectCompression(context.Background(), network, data)
	}
}

// BenchmarkDecisionParallel shows what contention on counters and cache costs.
func BenchmarkDecisionParallel(b *testing.B) {
	selector := New(WithModel(benchModel(b)), WithHistory(NewHistory(Limits{})), WithNodeID("node-1"))
	b.ReportAllocs()
	b.RunParallel(func(loop *testing.PB) {
		network, data := wanTransfer()
		for loop.Next() {
			_, _ = selector.SelectCompression(context.Background(), network, data)
		}
	})
}
