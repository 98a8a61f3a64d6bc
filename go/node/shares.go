package node

import (
	"bytes"

	selector "dwcp.internal/selector"
)

const blockBytes = selector.ProbeBlockBytes

var zeros [blockBytes]byte

// Of blocks that are not known by their place one in hashEvery is hashed before a choice:
// hashing all of a payload takes as long as sending it over a fast link.
const (
	hashEvery   = 16
	leastHashed = 8
	mostHashed  = 64
)

// shares are selector.ScanShares' of a payload at a fraction of its cost. A block that
// equals the previous version's at its place is known: a hypervisor's dirty log would tell
// as much, a node without one compares at memory speed. Of the others some are hashed,
// evenly spread, and stand for the rest.
func shares(payload []byte, previous *selector.Version) (knownShare, zeroShare float64) {
	var moved []int // where blocks start that are not known by their place
	known, zero := 0, 0
	for start := 0; start < len(payload); start += blockBytes {
		block := payload[start:min(start+blockBytes, len(payload))]
		if bytes.Equal(block, zeros[:len(block)]) {
			zero += len(block)
		}
		if previous == nil || len(block) < blockBytes { // only whole blocks are referred to
			continue
		}
		if end := start + blockBytes; end <= len(previous.Payload) && bytes.Equal(block, previous.Payload[start:end]) {
			known++
		} else {
			moved = append(moved, start)
		}
	}
	size := float64(len(payload))
	return min(1, (float64(known)+movedBlocks(payload, moved, previous))*blockBytes/size), float64(zero) / size
}

// movedBlocks is how many of the blocks that start there the previous version has elsewhere.
func movedBlocks(payload []byte, starts []int, previous *selector.Version) float64 {
	hashed := min(len(starts), max(leastHashed, min(mostHashed, len(starts)/hashEvery)))
	found := 0
	for n := 0; n < hashed; n++ {
		start := starts[n*len(starts)/hashed]
		if _, has := previous.Blocks.Position(selector.HashBlock(payload[start : start+blockBytes])); has {
			found++
		}
	}
	return float64(found) / float64(max(hashed, 1)) * float64(len(starts))
}
