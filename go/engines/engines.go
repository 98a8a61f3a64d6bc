// Package engines is the selector's Engines over libzstd 1.5.7 and liblz4 1.9.4: the
// releases that the pipeline measures with, and the same bytes. What the emulated fleet
// compresses (include/dwcp/fleet/engines.py), a node here decompresses, and the reverse.
//
//   - HDE (delta and dictionary): 4 KiB blocks that the peer's version has, at any block
//     position, become references (BLAKE2b-128); the rest is zstd level 3 in frames of at
//     most 512 KiB, each with a dictionary cut from the previous version around the places
//     that changed.
//   - AMST (multi-stream): lz4 over 256 KiB chunks, dealt in turn to threads; a chunk that
//     lz4 cannot shrink is stored raw.
//   - Zstd, the baseline: level 3, one frame.
//
// Payloads are shorter than 4 GiB: lengths take four bytes.
package engines

import (
	"errors"
	"fmt"
	"math"
	"runtime"
	"slices"
	"sync"

	selector "dwcp.internal/selector"
	"dwcp.internal/selector/engines/internal/lz4"
	"dwcp.internal/selector/engines/internal/zstd"
	"dwcp.internal/selector/internal/cputime"
)

const level = 3

var (
	// ErrDamaged says that compressed bytes are damaged, or were made against another
	// previous version.
	ErrDamaged = errors.New("the compressed payload is damaged, or was made against another previous version")
	// ErrTooLarge says that a payload is longer than its lengths can say, or than allowed.
	ErrTooLarge = errors.New("the payload is too large")
	// ErrNoEngine says that a choice has nothing to run.
	ErrNoEngine = errors.New("no engine")
)

// Engines are the codecs. The zero value is ready, and safe for concurrent use.
type Engines struct {
	// MaxPayloadBytes bounds what Decompress makes of bytes that a peer sent; 0 is the
	// format's own bound.
	MaxPayloadBytes int64
}

var _ selector.Engines = (*Engines)(nil)

// Versions are those of the libraries, to be logged.
func Versions() (libzstd, liblz4 string) {
	number := zstd.Version()
	return fmt.Sprintf("%d.%d.%d", number/10_000, number/100%100, number%100), lz4.Version()
}

// scratch are buffers that calls pass on to one another.
var scratch = sync.Pool{New: func() any { return new([]byte) }}

// withScratch lends work a buffer of at least size bytes.
func withScratch[T any](size int, work func(buffer []byte) (T, error)) (T, error) {
	kept := scratch.Get().(*[]byte)
	defer scratch.Put(kept)
	if cap(*kept) < size {
		*kept = make([]byte, size)
	}
	return work((*kept)[:cap(*kept)])
}

// LightBytes implements selector.Engines: the block as one lz4 block, without its size.
func (e *Engines) LightBytes(block []byte) (int, error) {
	return withScratch(lz4.Bound(len(block)), func(buffer []byte) (int, error) { return lz4.Pack(buffer, block) })
}

// HeavyBytes implements selector.Engines: the block as one zstd frame of level 3.
func (e *Engines) HeavyBytes(block []byte) (int, error) {
	return withScratch(zstd.Bound(len(block)), func(buffer []byte) (int, error) { return zstd.Compress(buffer, block, level) })
}

// Compress implements selector.Engines. It returns ErrTooLarge or ErrNoEngine, wrapped;
// dst is then as it was.
func (e *Engines) Compress(
	dst []byte, engine selector.Choice, payload []byte, options selector.EngineOptions,
) (selector.EngineRun, error) {
	if len(payload) > math.MaxUint32 {
		return selector.EngineRun{}, fmt.Errorf("%w: %d bytes, lengths of four bytes", ErrTooLarge, len(payload))
	}
	switch engine {
	case selector.HDE:
		return inThread(func(run *selector.EngineRun) (err error) {
			run.Data, run.KnownShare, err = hdeCompress(dst, payload, options.Previous)
			return err
		})
	case selector.AMST:
		return amstCompress(dst, payload, options.Streams)
	case selector.Zstd:
		return inThread(func(run *selector.EngineRun) (err error) {
			run.Data, err = appendZstd(dst, payload)
			return err
		})
	}
	return selector.EngineRun{}, fmt.Errorf("%w runs for %v", ErrNoEngine, engine)
}

// Decompress implements selector.Engines. Any data is safe to pass: it returns ErrDamaged,
// ErrTooLarge or ErrNoEngine, wrapped.
func (e *Engines) Decompress(
	dst []byte, engine selector.Choice, data []byte, options selector.EngineOptions,
) (selector.EngineRun, error) {
	most := e.MaxPayloadBytes
	if most <= 0 || most > math.MaxUint32 {
		most = math.MaxUint32
	}
	switch engine {
	case selector.HDE:
		return inThread(func(run *selector.EngineRun) (err error) {
			run.Data, err = hdeDecompress(dst, data, options.Previous, most)
			return err
		})
	case selector.AMST:
		return amstDecompress(dst, data, options.Streams, most)
	case selector.Zstd:
		return inThread(func(run *selector.EngineRun) (err error) {
			run.Data, err = appendUnzstd(dst, data, most)
			return err
		})
	}
	return selector.EngineRun{}, fmt.Errorf("%w runs for %v", ErrNoEngine, engine)
}

// inThread runs work on one OS thread and puts its CPU time into the run.
func inThread(work func(run *selector.EngineRun) error) (run selector.EngineRun, err error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	began := cputime.Thread()
	if err := work(&run); err != nil {
		return selector.EngineRun{}, err
	}
	run.CPUTime = cputime.Thread() - began
	run.Makespan = run.CPUTime
	return run, nil
}

// appendZstd adds payload as one frame.
func appendZstd(dst, payload []byte) ([]byte, error) {
	dst = slices.Grow(dst, zstd.Bound(len(payload)))
	written, err := zstd.Compress(dst[len(dst):cap(dst)], payload, level)
	if err != nil {
		return nil, err
	}
	return dst[:len(dst)+written], nil
}

// appendUnzstd adds the content of a frame of at most so many bytes.
func appendUnzstd(dst, frame []byte, most int64) ([]byte, error) {
	size, err := zstd.ContentBytes(frame)
	if err != nil {
		return nil, damaged(err)
	}
	if size > most {
		return nil, tooLarge(size, most)
	}
	dst = slices.Grow(dst, int(size))
	content := dst[len(dst):][:size]
	if written, err := zstd.Decompress(content, frame, nil); err != nil || int64(written) != size {
		return nil, damaged(err)
	}
	return dst[:len(dst)+int(size)], nil
}

func damaged(problem any) error { return fmt.Errorf("%w: %v", ErrDamaged, problem) }

func tooLarge(size, most int64) error {
	return fmt.Errorf("%w: it says that it has %d bytes, %d are allowed", ErrTooLarge, size, most)
}
