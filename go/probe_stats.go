package selector

import (
	"bytes"
	"math"
)

// The figures of a look at a payload, as the pipeline's features/probe.py defines them.

// probeBlocks is how many of count blocks are looked at: 64, or a sixteenth of more
// than 1,024, at most 256. More blocks tell more, but only a large payload takes long
// enough for the longer look to be worth its time.
func probeBlocks(count int64) int {
	return int(min(count, max(probeFewestBlocks, min(probeMostBlocks, count/probeBlocksPerLook))))
}

// probeZstdAllOf is up to how many blocks zstd runs on all of them.
const probeZstdAllOf = probeMostBlocks / probeBlocksPerLook

// probePosition is the n-th of planned positions spread evenly over count blocks, both
// ends included, rounded half to even.
func probePosition(n, planned int, count int64) int64 {
	switch {
	case n == 0:
		return 0
	case n == planned-1:
		return count - 1
	}
	step := float64(count-1) / float64(planned-1)
	return int64(math.RoundToEven(float64(n) * step))
}

// nLog2N holds n·log2(n) for every number of times that a byte can occur in a block.
var nLog2N = newNLog2N()

func newNLog2N() (table [ProbeBlockBytes + 1]float64) {
	for n := 2; n < len(table); n++ {
		table[n] = float64(n) * math.Log2(float64(n))
	}
	return table
}

// blockEntropy is the Shannon entropy of a block's bytes over 8 bits, 0 to 1. A block is
// neither empty nor longer than ProbeBlockBytes.
func blockEntropy(block []byte) float64 {
	// Four counters a byte: equal neighbours do not wait for one another.
	var counts [4][256]uint16
	rest := block
	for ; len(rest) >= 4; rest = rest[4:] {
		counts[0][rest[0]]++
		counts[1][rest[1]]++
		counts[2][rest[2]]++
		counts[3][rest[3]]++
	}
	for _, symbol := range rest {
		counts[0][symbol]++
	}
	var sum float64
	for symbol := range counts[0] {
		sum += nLog2N[counts[0][symbol]+counts[1][symbol]+counts[2][symbol]+counts[3][symbol]]
	}
	// Σ p·log2(1/p), with p = n/length
	bits := (nLog2N[len(block)] - sum) / float64(len(block))
	return min(max(bits/8, 0), 1)
}

var zeroBlock [ProbeBlockBytes]byte

// isZero says whether a block holds nothing but zeros.
func isZero(block []byte) bool { return bytes.Equal(block, zeroBlock[:len(block)]) }

// BlockHash names a block's bytes: BLAKE2b-128.
type BlockHash [ProbeHashBytes]byte

// HashBlock is the name of a block.
func HashBlock(block []byte) BlockHash { return blake2b128(block) }

// BlockIndex is which blocks a version of an object has. A node keeps it from when it
// sent that version to a peer. It is safe for concurrent use while nothing is added.
type BlockIndex struct {
	positions map[BlockHash]int // the first block that has these bytes
	tail      BlockHash         // of a last block that is shorter, if hasTail
	hasTail   bool
}

// Has says whether the version has the block, at any position.
func (x *BlockIndex) Has(hash BlockHash) bool {
	if x == nil {
		return false
	}
	_, found := x.positions[hash]
	return found || x.hasTail && x.tail == hash
}

// Position is the first whole block of the version with these bytes, counting from 0.
func (x *BlockIndex) Position(hash BlockHash) (position int, found bool) {
	if x == nil {
		return 0, false
	}
	position, found = x.positions[hash]
	return position, found
}
