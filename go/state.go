package selector

import (
	"fmt"
	"time"
)

// NetworkState is what a node knows of the link to a peer, and of itself, before
// it chooses. Start from NewNetworkState and set what was measured: a field left at
// zero is taken for a measured zero.
type NetworkState struct {
	PeerID            string    // names the receiving node; none is remembered under ""
	Region            Region    // of the sending node
	LinkType          LinkType  // kind of link
	RTTMs             float64   // round-trip time to the peer
	JitterMs          float64   // jitter of the round-trip time
	BandwidthMbps     float64   // available to the peer
	PacketLossRate    float64   // share of packets lost
	CPUUsage          float64   // share in use on the sending node
	MemoryAvailableMB int64     // free on the sending node
	ActiveTransfers   int       // in flight on the sending node
	At                time.Time // when the node decides, zero: now; its UTC hour is a feature
}

// NewNetworkState is the state of a link of which nothing was measured yet: the
// contract's cold-start defaults, now.
func NewNetworkState(peerID string) *NetworkState {
	return &NetworkState{
		PeerID:            peerID,
		RTTMs:             FeatureSpecs[FeatureRTTMs].Default,
		JitterMs:          FeatureSpecs[FeatureJitterMs].Default,
		BandwidthMbps:     FeatureSpecs[FeatureBandwidthMbps].Default,
		PacketLossRate:    FeatureSpecs[FeaturePacketLossRate].Default,
		CPUUsage:          FeatureSpecs[FeatureCPUUsage].Default,
		MemoryAvailableMB: int64(FeatureSpecs[FeatureMemoryAvailable].Default),
		ActiveTransfers:   int(FeatureSpecs[FeatureActiveTransfers].Default),
		At:                time.Now(),
	}
}

// DataCharacteristics is what a node knows of a payload before it chooses. Its zero
// value is an object that is new to the peer and was not looked at.
type DataCharacteristics struct {
	ObjectID       string   // the object whose version this is; none is remembered under ""
	DataType       DataType // kind of payload
	SizeBytes      int64    // before compression
	PeerHasVersion bool     // the peer holds an earlier version of the object
	AMSTStreams    int      // streams that AMST would cut the payload into, see PlanStreams
	KnownShare     float64  // share of the payload's bytes in blocks that the peer has, see ScanShares
	ZeroShare      float64  // share of its bytes in blocks of nothing but zeros, see ScanShares
	Probe          Probe    // what a Prober found, in this version or an earlier one
}

// Probe is what a node learns of a payload from single blocks spread over it. Shares
// are fractions of the probed bytes, times are CPU time per 10^6 bytes. With no block
// looked at nothing was learned, and the contract's defaults are served instead.
type Probe struct {
	Blocks               int           // blocks looked at
	Complete             bool          // false if time ran out before all planned blocks were
	Entropy              float64       // mean Shannon entropy of a block, over 8 bits
	CompressibilityScore float64       // share that the light codec saves, block by block
	DeltaPotential       float64       // share that the peer's version has, at any block position
	ZstdShare            float64       // share that zstd leaves of one block in four
	ZstdMsPerMB          float64       // zstd's time on those
	LZ4MsPerMB           float64       // the light codec's time
	CPUTime              time.Duration // what looking cost in all
}

// MaxStreams is the most streams that AMST cuts a payload into.
const MaxStreams = 8

// PlanStreams is how many streams AMST cuts a payload into: the largest power of two
// that neither the idle cores of the less idle side nor the payload's chunks fall
// short of, 1 to MaxStreams. Nodes with another plan put its number into AMSTStreams.
func PlanStreams(sizeBytes int64, idleCores float64) int {
	chunks := (sizeBytes + AMSTChunkBytes - 1) / AMSTChunkBytes
	streams := 1
	for streams < MaxStreams && float64(2*streams) <= idleCores && int64(2*streams) <= chunks {
		streams *= 2
	}
	return streams
}

// InputError says that a caller's figure cannot be used. Nothing was changed.
type InputError struct {
	Name    string // the figure, as the contract calls it
	Value   float64
	Problem string // what is wrong with it, and what is expected
}

// Error names the figure, its value and what is expected of it.
func (err *InputError) Error() string {
	return fmt.Sprintf("%s is %v: %s", err.Name, err.Value, err.Problem)
}
