package selector

import (
	"context"
	"fmt"
	"io"
	"runtime"
	"sync"
	"time"

	"dwcp.internal/selector/internal/cputime"
)

// Memory is a payload in memory, or a file mapped into it. It is looked at in place.
type Memory []byte

// ReadAt implements io.ReaderAt.
func (m Memory) ReadAt(into []byte, offset int64) (int, error) {
	if offset < 0 || offset >= int64(len(m)) {
		return 0, io.EOF
	}
	read := copy(into, m[offset:])
	if read < len(into) {
		return read, io.EOF
	}
	return read, nil
}

// Prober looks at payloads before a choice. It is safe for concurrent use.
type Prober struct {
	engines Engines
	rounds  sync.Pool // of *probeRound
}

// NewProber is a prober that runs blocks through the node's own engines.
func NewProber(engines Engines) *Prober {
	return &Prober{engines: engines, rounds: sync.Pool{New: func() any { return new(probeRound) }}}
}

// probeRoundBlocks is how many blocks are read before the codecs run on them: enough
// for the clock to cost nothing beside the work, few enough to stop in time.
const probeRoundBlocks = 16

// probeRound is some of the blocks that a probe looks at.
type probeRound struct {
	blocks [probeRoundBlocks][]byte
	buffer [probeRoundBlocks * ProbeBlockBytes]byte // unused where the payload is memory
}

// probeSums is what was found so far.
type probeSums struct {
	blocks                       int
	raw, known, light            int // bytes
	heavyRaw, heavy              int // bytes
	entropy                      float64
	lightTime, heavyTime, allCPU time.Duration
}

// Probe looks at 64 to 256 blocks of 4 KiB, evenly spread over a payload of sizeBytes,
// or at all of a small one. known is the index of the version that the peer holds, nil
// without one. Memory is read in place; of any other payload one block at a time.
//
// The deadline of ctx is a budget: blocks are visited in rounds of 16, each spread over
// the payload, and no block is read once it has passed. What was seen until then is
// returned as a probe that is not Complete; with the codecs' work on blocks already
// read, that is at most one round late. An error that wraps ctx's says that not even
// one block was seen in time. A look keeps its OS thread, whose CPU time it reads.
//
// An *InputError says that the payload is empty. What ReadAt or the engines return is
// wrapped. With any error the Probe is empty, and can be served: the defaults stand in.
func (p *Prober) Probe(ctx context.Context, payload io.ReaderAt, sizeBytes int64, known *BlockIndex) (Probe, error) {
	if sizeBytes < 1 {
		return Probe{}, &InputError{"data_size_bytes", float64(sizeBytes), "an empty payload has nothing to look at"}
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	began := cputime.Thread()
	round := p.rounds.Get().(*probeRound)
	defer p.rounds.Put(round)

	count := (sizeBytes + ProbeBlockBytes - 1) / ProbeBlockBytes
	planned := probeBlocks(count)
	rounds := (planned + probeRoundBlocks - 1) / probeRoundBlocks
	var sums probeSums
	late := false
	for first := 0; first < rounds && !late; first++ {
		blocks := round.blocks[:0]
		for n := first; n < planned; n += rounds {
			if late = isLate(ctx); late {
				break
			}
			buffer := round.buffer[len(blocks)*ProbeBlockBytes:][:ProbeBlockBytes]
			block, err := readBlock(payload, sizeBytes, probePosition(n, planned, count), buffer)
			if err != nil {
				return Probe{}, err
			}
			blocks = append(blocks, block)
		}
		every := 1
		if planned > probeZstdAllOf {
			every = probeZstdEvery
		}
		if err := p.look(&sums, blocks, heavyOnes{first, rounds, every}, known); err != nil {
			return Probe{}, err
		}
	}
	if sums.blocks == 0 {
		return Probe{}, fmt.Errorf("no block was looked at in time: %w", lateness(ctx))
	}
	sums.allCPU = cputime.Thread() - began
	return sums.probe(planned), nil
}

// ProbeOnce is the last probe of an object that history keeps, and of an object without
// one a fresh Probe, which is then kept: a look takes longer than many a transfer, and
// what it tells changes little from version to version. A full measurement, for which no
// transfer waits, should end with a fresh Probe and KeepProbe.
func (p *Prober) ProbeOnce(
	ctx context.Context, history *History, objectID string, payload io.ReaderAt, sizeBytes int64, known *BlockIndex,
) (Probe, error) {
	if kept, found := history.LastProbe(objectID); found {
		return kept, nil
	}
	probe, err := p.Probe(ctx, payload, sizeBytes, known)
	if err == nil {
		history.KeepProbe(objectID, probe)
	}
	return probe, err
}

// heavyOnes says which blocks of a round the heavy codec runs on: the k-th is the
// (first+k·step)-th of all, of which it runs on one in every.
type heavyOnes struct{ first, step, every int }

func (ones heavyOnes) has(k int) bool { return (ones.first+k*ones.step)%ones.every == 0 }

// look adds a round's blocks to sums.
func (p *Prober) look(sums *probeSums, blocks [][]byte, ones heavyOnes, known *BlockIndex) error {
	for _, block := range blocks {
		sums.blocks++
		sums.raw += len(block)
		sums.entropy += blockEntropy(block)
		if known != nil && known.Has(HashBlock(block)) {
			sums.known += len(block)
		}
	}
	began := cputime.Thread()
	for _, block := range blocks {
		light, err := p.engines.LightBytes(block)
		if err != nil {
			return fmt.Errorf("the light codec failed on a probed block: %w", err)
		}
		sums.light += min(light, len(block))
	}
	between := cputime.Thread()
	for k, block := range blocks {
		if !ones.has(k) {
			continue
		}
		heavy, err := p.engines.HeavyBytes(block)
		if err != nil {
			return fmt.Errorf("the heavy codec failed on a probed block: %w", err)
		}
		sums.heavyRaw += len(block)
		sums.heavy += min(heavy, len(block))
	}
	sums.lightTime += between - began
	sums.heavyTime += cputime.Thread() - between
	return nil
}

func (s *probeSums) probe(planned int) Probe {
	raw, heavyRaw := float64(s.raw), float64(s.heavyRaw)
	return Probe{
		Blocks:               s.blocks,
		Complete:             s.blocks == planned,
		Entropy:              s.entropy / float64(s.blocks),
		CompressibilityScore: 1 - float64(s.light)/raw,
		DeltaPotential:       float64(s.known) / raw,
		ZstdShare:            float64(s.heavy) / heavyRaw,
		ZstdMsPerMB:          float64(s.heavyTime) / heavyRaw, // ns per byte are ms per 10^6 bytes
		LZ4MsPerMB:           float64(s.lightTime) / raw,
		CPUTime:              s.allCPU,
	}
}

// Scan is what all of a payload's blocks tell.
type Scan struct {
	KnownShare float64       // share of its bytes in whole blocks that the peer's version has
	ZeroShare  float64       // share of its bytes in blocks of nothing but zeros
	Blocks     *BlockIndex   // of this payload: keep it for the next version
	CPUTime    time.Duration // what scanning cost: part of what is logged as probe_time_ms
}

// ScanShares hashes every block of a payload: the exact KnownShare, ZeroShare, and the
// index to keep. known is the index of the version that the peer holds, nil without one.
//
// The shares are exact or there are none: if ctx ends first, its error is returned, and
// Probe.DeltaPotential may stand in for KnownShare. A node whose hypervisor keeps a
// dirty log knows KnownShare for nothing, and needs ScanZeros alone.
func ScanShares(ctx context.Context, payload io.ReaderAt, sizeBytes int64, known *BlockIndex) (Scan, error) {
	index := &BlockIndex{positions: make(map[BlockHash]int, sizeBytes/ProbeBlockBytes)}
	hits := 0
	scan, err := scanBlocks(ctx, payload, sizeBytes, func(position int, block []byte) {
		hash := HashBlock(block)
		if _, found := known.Position(hash); found {
			hits++
		}
		if len(block) < ProbeBlockBytes {
			index.tail, index.hasTail = hash, true
		} else if _, found := index.positions[hash]; !found {
			index.positions[hash] = position
		}
	})
	if err != nil {
		return Scan{}, err
	}
	scan.KnownShare = min(1, float64(hits*ProbeBlockBytes)/float64(max(1, sizeBytes)))
	scan.Blocks = index
	return scan, nil
}

// ScanZeros is ScanShares without hashing: KnownShare is 0 and Blocks nil.
func ScanZeros(ctx context.Context, payload io.ReaderAt, sizeBytes int64) (Scan, error) {
	return scanBlocks(ctx, payload, sizeBytes, func(int, []byte) {})
}

// scanBlocks shows every block of a payload to visit, and counts zeros.
func scanBlocks(
	ctx context.Context, payload io.ReaderAt, sizeBytes int64, visit func(position int, block []byte),
) (Scan, error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	began := cputime.Thread()
	buffer := make([]byte, ProbeBlockBytes)
	var zeros int64
	for position := int64(0); position*ProbeBlockBytes < sizeBytes; position++ {
		if isLate(ctx) {
			return Scan{}, fmt.Errorf("the payload was not scanned in time: %w", lateness(ctx))
		}
		block, err := readBlock(payload, sizeBytes, position, buffer)
		if err != nil {
			return Scan{}, err
		}
		if isZero(block) {
			zeros += int64(len(block))
		}
		visit(int(position), block)
	}
	return Scan{
		ZeroShare: float64(zeros) / float64(max(1, sizeBytes)),
		CPUTime:   cputime.Thread() - began,
	}, nil
}

// readBlock is a block of a payload: a part of it where it is memory, else read into
// buffer.
func readBlock(payload io.ReaderAt, sizeBytes, position int64, buffer []byte) ([]byte, error) {
	start := position * ProbeBlockBytes
	end := min(start+ProbeBlockBytes, sizeBytes)
	if memory, ok := payload.(Memory); ok {
		if end > int64(len(memory)) {
			return nil, fmt.Errorf("the payload ends at byte %d, before its size of %d: %w", len(memory), sizeBytes, io.ErrUnexpectedEOF)
		}
		return memory[start:end], nil
	}
	block := buffer[:end-start]
	read, err := payload.ReadAt(block, start)
	if read == len(block) { // ReadAt may answer io.EOF beside the last byte
		return block, nil
	}
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return nil, fmt.Errorf("block %d of a payload of %d bytes cannot be read: %w", position, sizeBytes, err)
}

// isLate says whether ctx has ended. Its deadline is compared with the clock, as ctx's
// own timer may fire late while all threads are at work.
func isLate(ctx context.Context) bool {
	if deadline, ok := ctx.Deadline(); ok && !time.Now().Before(deadline) {
		return true
	}
	return ctx.Err() != nil
}

// lateness is why ctx has ended.
func lateness(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	return context.DeadlineExceeded
}
