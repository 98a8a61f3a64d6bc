package selector

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"io"
	"math"
	"math/rand"
	"testing"
	"time"
)

// fakeEngines make of a block as many bytes as it has runs of equal bytes; delay is what
// a call takes.
type fakeEngines struct {
	Engines
	delay        time.Duration
	light, heavy int // calls
	err          error
}

func (e *fakeEngines) LightBytes(block []byte) (int, error) {
	e.light++
	time.Sleep(e.delay)
	return runs(block), e.err
}

func (e *fakeEngines) HeavyBytes(block []byte) (int, error) {
	e.heavy++
	time.Sleep(e.delay)
	return runs(block), e.err
}

func runs(block []byte) int {
	count := 1
	for at := 1; at < len(block); at++ {
		if block[at] != block[at-1] {
			count++
		}
	}
	return count
}

func noise(size int, seed int64) []byte {
	payload := make([]byte, size)
	rand.New(rand.NewSource(seed)).Read(payload)
	return payload
}

func indexOfPayload(t testing.TB, payload []byte) *BlockIndex {
	t.Helper()
	scan, err := ScanShares(context.Background(), Memory(payload), int64(len(payload)), nil)
	if err != nil {
		t.Fatal(err)
	}
	return scan.Blocks
}

func TestAProbeOfKnownPayloads(t *testing.T) {
	const blocks = 40
	ascending := make([]byte, blocks*ProbeBlockBytes)
	for at := range ascending {
		ascending[at] = byte(at)
	}
	for name, c := range map[string]struct {
		payload, previous     []byte
		entropy, saved, known float64
		knownShare, zeroShare float64
	}{
		"zeros":         {payload: make([]byte, 3*ProbeBlockBytes+1), entropy: 0, saved: 1 - 4/float64(3*ProbeBlockBytes+1), zeroShare: 1},
		"all symbols":   {payload: ascending, entropy: 1, saved: 0},
		"all known":     {payload: ascending, previous: ascending, entropy: 1, saved: 0, known: 1, knownShare: 1},
		"moved by one":  {payload: ascending, previous: append([]byte{9}, ascending...), entropy: 1},
		"a single byte": {payload: []byte{7}, entropy: 0, saved: 0},
	} {
		size := int64(len(c.payload))
		var known *BlockIndex
		if c.previous != nil {
			known = indexOfPayload(t, c.previous)
		}
		probe, err := NewProber(&fakeEngines{}).Probe(context.Background(), Memory(c.payload), size, known)
		if err != nil {
			t.Fatal(err)
		}
		scan, err := ScanShares(context.Background(), Memory(c.payload), size, known)
		if err != nil {
			t.Fatal(err)
		}
		if !probe.Complete || probe.Entropy != c.entropy || probe.CompressibilityScore != c.saved || probe.DeltaPotential != c.known {
			t.Errorf("%s: %+v", name, probe)
		}
		if scan.KnownShare != c.knownShare || scan.ZeroShare != c.zeroShare {
			t.Errorf("%s: %+v", name, scan)
		}
		if zeros, err := ScanZeros(context.Background(), Memory(c.payload), size); err != nil || zeros.ZeroShare != c.zeroShare {
			t.Errorf("%s: %+v, %v", name, zeros, err)
		}
	}
}

func TestOnlySomeBlocksAreLookedAt(t *testing.T) {
	for _, c := range []struct{ blocks, looked, heavy int }{
		{1, 1, 1}, {16, 16, 16}, {17, 17, 5}, {64, 64, 16}, {1_000, 64, 16}, {2_000, 125, 32}, {5_000, 256, 64},
	} {
		engines := &fakeEngines{}
		size := int64(c.blocks * ProbeBlockBytes)
		probe, err := NewProber(engines).Probe(context.Background(), zeros{}, size, nil)
		if err != nil {
			t.Fatal(err)
		}
		if probe.Blocks != c.looked || engines.light != c.looked || engines.heavy != c.heavy {
			t.Errorf("%d blocks: %d are looked at, %d by the light codec, %d by the heavy", c.blocks, probe.Blocks, engines.light, engines.heavy)
		}
	}
}

// zeros is an endless payload of zeros; delay is what reading a block takes.
type zeros struct{ delay time.Duration }

func (z zeros) ReadAt(into []byte, _ int64) (int, error) {
	time.Sleep(z.delay)
	clear(into)
	return len(into), nil
}

func TestAProbeEndsInTime(t *testing.T) {
	const budget, step = 30 * time.Millisecond, 2 * time.Millisecond
	for name, prober := range map[string]struct {
		payload io.ReaderAt
		engines *fakeEngines
		late    time.Duration // one round's codec work
	}{
		"slow disk":   {zeros{step}, &fakeEngines{}, 0},
		"slow codecs": {zeros{}, &fakeEngines{delay: step}, 2 * probeRoundBlocks * step},
	} {
		ctx, cancel := context.WithTimeout(context.Background(), budget)
		began := time.Now()
		probe, err := NewProber(prober.engines).Probe(ctx, prober.payload, 1<<30, nil)
		took := time.Since(began)
		cancel()
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if probe.Complete || probe.Blocks == 0 || probe.Blocks > 200 {
			t.Errorf("%s: %+v", name, probe)
		}
		if slack := 40 * time.Millisecond; took > budget+step+prober.late+slack {
			t.Errorf("%s: a budget of %v took %v", name, budget, took)
		}
		if probe.ZstdShare == 0 || math.IsNaN(probe.ZstdMsPerMB) {
			t.Errorf("%s: the first round has no block for zstd: %+v", name, probe)
		}
	}
}

func TestAnObjectIsProbedOnce(t *testing.T) {
	engines, history, ctx := &fakeEngines{}, NewHistory(Limits{}), context.Background()
	prober := NewProber(engines)
	first, err := prober.ProbeOnce(ctx, history, "disk-7", zeros{}, 1<<20, nil)
	if err != nil {
		t.Fatal(err)
	}
	calls := engines.light
	second, err := prober.ProbeOnce(ctx, history, "disk-7", Memory("another version"), 15, nil)
	if err != nil || engines.light != calls || second.Entropy != first.Entropy || second.CPUTime != 0 {
		t.Errorf("the second probe is %+v (%v) after %d calls more", second, err, engines.light-calls)
	}
	if _, err = prober.ProbeOnce(ctx, history, "disk-8", zeros{}, 1<<20, nil); err != nil || engines.light == calls {
		t.Errorf("another object was not probed (%v)", err)
	}
}

func TestNoTimeAtAllIsAnErrorAndServesDefaults(t *testing.T) {
	past, cancel := context.WithDeadline(context.Background(), time.Now().Add(-time.Second))
	defer cancel()
	gone, stop := context.WithCancel(context.Background())
	stop()
	for _, c := range []struct {
		ctx      context.Context
		expected error
	}{{past, context.DeadlineExceeded}, {gone, context.Canceled}} {
		probe, err := NewProber(&fakeEngines{}).Probe(c.ctx, zeros{}, 1<<20, nil)
		if !errors.Is(err, c.expected) || probe != (Probe{}) {
			t.Errorf("got %+v, %v", probe, err)
		}
		if _, err := ScanShares(c.ctx, zeros{}, 1<<20, nil); !errors.Is(err, c.expected) {
			t.Errorf("a scan answers %v", err)
		}
	}
	data := someData()
	data.Probe = Probe{}
	if features := mustExtract(t, nil, someNetwork(), data); features[FeatureEntropy] != 0.5 {
		t.Errorf("entropy %v", features[FeatureEntropy])
	}
}

func TestWhatAProbeCannotReadIsAnError(t *testing.T) {
	broken := errors.New("broken")
	for name, c := range map[string]struct {
		payload  io.ReaderAt
		size     int64
		engines  *fakeEngines
		expected error
	}{
		"memory too short": {Memory("short"), 6, &fakeEngines{}, io.ErrUnexpectedEOF},
		"reader too short": {bytes.NewReader([]byte("short")), 6, &fakeEngines{}, io.ErrUnexpectedEOF},
		"no codec":         {Memory("payload"), 7, &fakeEngines{err: broken}, broken},
	} {
		if _, err := NewProber(c.engines).Probe(context.Background(), c.payload, c.size, nil); !errors.Is(err, c.expected) {
			t.Errorf("%s: %v", name, err)
		}
	}
	var input *InputError
	for _, size := range []int64{0, -1} {
		if _, err := NewProber(&fakeEngines{}).Probe(context.Background(), Memory(nil), size, nil); !errors.As(err, &input) {
			t.Errorf("size %d: %v", size, err)
		}
	}
}

func TestMemoryReadsLikeAFile(t *testing.T) {
	payload := []byte("payload")
	for offset := int64(-1); offset < 9; offset++ {
		for length := 0; length < 9; length++ {
			got, expected := make([]byte, length), make([]byte, length)
			n, err := Memory(payload).ReadAt(got, offset)
			m, want := bytes.NewReader(payload).ReadAt(expected, offset)
			if n != m || !bytes.Equal(got, expected) || (err == nil) != (want == nil) {
				t.Errorf("%d bytes at %d: %d, %v; a bytes.Reader: %d, %v", length, offset, n, err, m, want)
			}
		}
	}
}

func TestProbingMemoryAllocatesNothing(t *testing.T) {
	payload := noise(1<<20, 2)
	known := indexOfPayload(t, payload[:1<<19])
	prober, ctx := NewProber(&fakeEngines{}), context.Background()
	memory := io.ReaderAt(Memory(payload))
	if allocs := testing.AllocsPerRun(20, func() { _, _ = prober.Probe(ctx, memory, 1<<20, known) }); allocs >= 1 {
		t.Errorf("%v allocations a probe", allocs)
	}
}

func TestABlocksNameIsBLAKE2b128(t *testing.T) {
	// From Python's hashlib.blake2b(data, digest_size=16).
	for text, expected := range map[string]string{
		"":    "cae66941d9efbd404e4d88758ea67670",
		"abc": "cf4ab791c62b8d2b2109c90275287816",
	} {
		if got := HashBlock([]byte(text)); hex.EncodeToString(got[:]) != expected {
			t.Errorf("%q: %x", text, got)
		}
	}
}

func TestAnIndexKnowsWhereABlockIsFirst(t *testing.T) {
	one, two, tail := noise(ProbeBlockBytes, 1), noise(ProbeBlockBytes, 2), []byte("tail")
	index := indexOfPayload(t, bytes.Join([][]byte{one, two, one, tail}, nil))
	for _, c := range []struct {
		block    []byte
		position int
		whole    bool
		has      bool
	}{{one, 0, true, true}, {two, 1, true, true}, {tail, 0, false, true}, {[]byte("other"), 0, false, false}} {
		hash := HashBlock(c.block)
		position, whole := index.Position(hash)
		if position != c.position || whole != c.whole || index.Has(hash) != c.has {
			t.Errorf("%.8x: position %d, %t; has %t", hash, position, whole, index.Has(hash))
		}
	}
	if (*BlockIndex)(nil).Has(HashBlock(one)) {
		t.Error("no index has a block")
	}
}

func BenchmarkHashBlock(b *testing.B) {
	block := noise(ProbeBlockBytes, 1)
	b.SetBytes(ProbeBlockBytes)
	for n := 0; n < b.N; n++ {
		HashBlock(block)
	}
}

func BenchmarkBlockEntropy(b *testing.B) {
	block := noise(ProbeBlockBytes, 1)
	b.SetBytes(ProbeBlockBytes)
	for n := 0; n < b.N; n++ {
		blockEntropy(block)
	}
}

// nothing are engines that take no time: what is measured is the probe's own work.
type nothing struct{ Engines }

func (nothing) LightBytes(block []byte) (int, error) { return len(block), nil }
func (nothing) HeavyBytes(block []byte) (int, error) { return len(block), nil }

// BenchmarkProbe is of 64 blocks that are held against a known version.
func BenchmarkProbe(b *testing.B) {
	payload := noise(4<<20, 1)
	known := indexOfPayload(b, payload)
	prober, memory := NewProber(nothing{}), io.ReaderAt(Memory(payload))
	for name, reader := range map[string]io.ReaderAt{"memory": memory, "reader": bytes.NewReader(payload)} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			b.ResetTimer()
			for n := 0; n < b.N; n++ {
				if _, err := prober.Probe(context.Background(), reader, int64(len(payload)), known); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkScanShares(b *testing.B) {
	payload := noise(4<<20, 1)
	known := indexOfPayload(b, payload)
	b.SetBytes(int64(len(payload)))
	b.ReportAllocs()
	b.ResetTimer()
	for n := 0; n < b.N; n++ {
		if _, err := ScanShares(context.Background(), Memory(payload), int64(len(payload)), known); err != nil {
			b.Fatal(err)
		}
	}
}
