package node

import (
	"bytes"

	selector "dwcp.internal/selector"
)

const blockBytes = selector.ProbeBlockBytes

var zeros [blockBytes]byte

// shares are selector.ScanShares' of a payload, found without hashing what did not
// change: a block that equals the previous version's at its place is known. A hypervisor's
// dirty log would tell as much; a node without one compares at memory speed.
func shares(payload []byte, previous *selector.Version) (knownShare, zeroShare float64) {
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
		} else if _, found := previous.Blocks.Position(selector.HashBlock(block)); found {
			known++
		}
	}
	size := float64(len(payload))
	return min(1, float64(known*blockBytes)/size), float64(zero) / size
}
