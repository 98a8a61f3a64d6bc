package engines

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand"
	"sync"
	"testing"

	selector "dwcp.internal/selector"
)

// What the pipeline makes of the same bytes is held against these in tests/fleet/test_go_engines.py.

var all = []selector.Choice{selector.HDE, selector.AMST, selector.Zstd}

func text(size int, seed int64) []byte {
	random := rand.New(rand.NewSource(seed))
	var out bytes.Buffer
	for out.Len() < size {
		fmt.Fprintf(&out, "%d ", random.Intn(300))
	}
	return out.Bytes()[:size]
}

func versionOf(tb testing.TB, payload []byte) *selector.Version {
	tb.Helper()
	scan, err := selector.ScanShares(context.Background(), selector.Memory(payload), int64(len(payload)), nil)
	if err != nil {
		tb.Fatal(err)
	}
	return &selector.Version{Payload: payload, Blocks: scan.Blocks}
}

func TestRoundTripsSideBySideAppendToWhatThereIs(t *testing.T) {
	var codecs Engines
	previous := versionOf(t, text(700_000, 1))
	payload := append(text(5_000, 2), previous.Payload...)
	options := selector.EngineOptions{Previous: previous, Streams: 4}
	var workers sync.WaitGroup
	for worker := 0; worker < 6; worker++ {
		workers.Add(1)
		go func(engine selector.Choice) {
			defer workers.Done()
			for round := 0; round < 5; round++ {
				packed, err := codecs.Compress([]byte("before"), engine, payload, options)
				if err != nil || !bytes.HasPrefix(packed.Data, []byte("before")) {
					t.Errorf("%v: %v", engine, err)
					return
				}
				back, err := codecs.Decompress([]byte("before"), engine, packed.Data[6:], options)
				if err != nil || string(back.Data) != "before"+string(payload) {
					t.Errorf("%v does not give back what it was given: %v", engine, err)
					return
				}
			}
		}(all[worker%len(all)])
	}
	workers.Wait()
}

func TestAPeerCannotMakeANodeTakeMoreThanItAllows(t *testing.T) {
	var sender Engines
	receiver := Engines{MaxPayloadBytes: 1 << 20}
	options := selector.EngineOptions{Previous: versionOf(t, text(4_096, 1))}
	for _, engine := range all {
		packed, err := sender.Compress(nil, engine, make([]byte, 1<<20+1), options)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := receiver.Decompress(nil, engine, packed.Data, options); !errors.Is(err, ErrTooLarge) {
			t.Errorf("%v: %v", engine, err)
		}
	}
}

func TestNoneHasNoEngine(t *testing.T) {
	var codecs Engines
	if _, err := codecs.Compress(nil, selector.None, []byte("x"), selector.EngineOptions{}); !errors.Is(err, ErrNoEngine) {
		t.Error(err)
	}
	if _, err := codecs.Decompress(nil, selector.None, []byte("x"), selector.EngineOptions{}); !errors.Is(err, ErrNoEngine) {
		t.Error(err)
	}
}

// FuzzDecompress feeds bytes of a peer that may be anything.
func FuzzDecompress(f *testing.F) {
	codecs := Engines{MaxPayloadBytes: 1 << 20}
	previous := versionOf(f, text(30_000, 1))
	options := selector.EngineOptions{Previous: previous, Streams: 2}
	for _, engine := range all {
		packed, err := codecs.Compress(nil, engine, append(text(9_000, 2), previous.Payload...), options)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(uint8(engine), packed.Data)
	}
	f.Fuzz(func(t *testing.T, engine uint8, data []byte) {
		run, err := codecs.Decompress(nil, selector.Choice(engine%selector.AlgorithmCount), data, options)
		if err == nil && len(run.Data) > 1<<20 {
			t.Errorf("%d bytes", len(run.Data))
		}
		if err != nil && !errors.Is(err, ErrDamaged) && !errors.Is(err, ErrTooLarge) && !errors.Is(err, ErrNoEngine) {
			t.Errorf("an error without a kind: %v", err)
		}
	})
}

func BenchmarkCompress(b *testing.B) {
	var codecs Engines
	previous := versionOf(b, text(8<<20, 1))
	payload := append([]byte(nil), previous.Payload...)
	copy(payload[1<<20:], text(400_000, 3))
	options := selector.EngineOptions{Previous: previous}
	for _, engine := range all {
		b.Run(engine.String(), func(b *testing.B) {
			b.SetBytes(int64(len(payload)))
			var into []byte
			for i := 0; i < b.N; i++ {
				run, err := codecs.Compress(into[:0], engine, payload, options)
				if err != nil {
					b.Fatal(err)
				}
				into = run.Data
			}
		})
	}
}
