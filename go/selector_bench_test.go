package selector

import (
	"context"
	"testing"
)

func BenchmarkDecision(b *testing.B) {
	ctx := context.Background()
	for _, known := range []struct {
		name  string
		moves int64 // how many payload sizes take turns: beyond the cache's slots every decision is a miss
	}{{"hit", 1}, {"miss", 1 << 40}} {
		b.Run(known.name, func(b *testing.B) {
			selector := New(WithModel(sureOfHDE), WithHistory(NewHistory(Limits{})), WithNodeID("node-1"))
			network, data := wanTransfer()
			b.ReportAllocs()
			for n := 0; n < b.N; n++ {
				data.SizeBytes = 1<<20 + int64(n)%known.moves<<8
				_, _ = selector.SelectCompression(ctx, network, data)
			}
		})
	}
}
