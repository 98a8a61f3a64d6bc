package selector

import (
	"fmt"
	"math"
	"sync"
	"sync/atomic"
)

// Limits bound what a History keeps; a value of zero or less stands for the default.
// An object takes about 340 bytes with a name of 20 characters (BenchmarkHistoryMemory).
type Limits struct {
	Objects int // default 65,536
	Peers   int // default 4,096
}

// History is what one node remembers of its own past transfers: exponential moving
// averages by object, by data type and by peer, as the pipeline's features/history.py
// defines them. It is bounded: what was not used for longest goes first. It is safe
// for concurrent use, and reading it allocates nothing.
type History struct {
	objects   *table[object]
	peers     *table[link]
	typesLock sync.Mutex
	types     []atomic.Pointer[outcomes] // by DataType; never nil, replaced as a whole
}

// object is what is remembered of one object; a probe of no block is none.
type object struct {
	averages outcomes
	probe    Probe
}

// outcomes are averages of what rememberedNames names; NaN where nothing was observed.
type outcomes [rememberedCount]float64

// link holds averages of what a peer's link showed; NaN before the first transfer.
type link [linkCount]float64

const (
	linkBandwidthMbps = iota
	linkJitterMs
	linkCount
)

const maxNameBytes = 1_024

var (
	noOutcomes = newNoOutcomes()
	noObject   = object{averages: noOutcomes}
	noLink     = link{math.NaN(), math.NaN()}
)

func newNoOutcomes() (none outcomes) {
	for place := range none {
		none[place] = math.NaN()
	}
	return none
}

// NewHistory is the memory of a node that has sent nothing yet.
func NewHistory(limits Limits) *History {
	if limits.Objects <= 0 {
		limits.Objects = 65_536
	}
	if limits.Peers <= 0 {
		limits.Peers = 4_096
	}
	history := &History{
		objects: newTable[object](limits.Objects),
		peers:   newTable[link](limits.Peers),
		types:   make([]atomic.Pointer[outcomes], len(datatypeNames)),
	}
	for kind := range history.types {
		history.types[kind].Store(&noOutcomes)
	}
	return history
}

// Measured is what one engine gave and took on one payload. Times are those that a
// transfer waits for, AMST's the busiest thread's. With no bytes it was not measured.
type Measured struct {
	CompressedBytes int64
	CompressionMs   float64
	DecompressionMs float64
}

// Outcome is what came of a transfer: measurements of the engine that ran, and of all
// of them after a full measurement.
type Outcome struct {
	HDE, AMST, Zstd Measured
	HDEHitRate      float64 // share of the payload's bytes that HDE replaced by references
	FullyMeasured   bool    // all engines ran on an idle core; only then do times count
}

// Observe remembers a transfer, once, with the state and the characteristics that its
// decision was made by. Transfers under way at the same time do not see one another.
// A transfer's first observation starts an average and each later one moves it.
//
// It returns an *InputError, and remembers nothing, if a figure is not finite or
// impossible.
func (h *History) Observe(network *NetworkState, data *DataCharacteristics, outcome *Outcome) error {
	var features Features
	if err := describe(&features, network, data); err != nil {
		return err
	}
	for _, name := range []struct{ what, text string }{{"peer_id", network.PeerID}, {"object_id", data.ObjectID}} {
		if len(name.text) > maxNameBytes {
			return &InputError{name.what, float64(len(name.text)), fmt.Sprintf("bytes long; at most %d are kept", maxNameBytes)}
		}
	}
	observed, err := outcome.observed(&features, data)
	if err != nil {
		return err
	}
	if data.ObjectID != "" {
		h.objects.update(data.ObjectID, &noObject, &object{averages: observed}, moveObject)
	}
	h.observeType(data.DataType, &observed)
	if network.PeerID != "" {
		seen := link{
			linkBandwidthMbps: clamp(FeatureBandwidthMbps, network.BandwidthMbps),
			linkJitterMs:      clamp(FeatureJitterMs, network.JitterMs),
		}
		h.peers.update(network.PeerID, &noLink, &seen, moveLink)
	}
	return nil
}

func (h *History) observeType(kind DataType, observed *outcomes) {
	h.typesLock.Lock()
	defer h.typesLock.Unlock()
	kept := &h.types[h.typePlace(kind)]
	averages := *kept.Load()
	move(averages[:], observed[:], historyTypeAlpha)
	kept.Store(&averages)
}

// typePlace is where a type's averages are. All types that the contract does not know
// share one.
func (h *History) typePlace(kind DataType) int {
	if int(kind) < len(h.types) {
		return int(kind)
	}
	return int(DataTypeUnknown)
}

// LastProbe is the probe of an object that was kept last. It took no time of its own.
func (h *History) LastProbe(objectID string) (probe Probe, found bool) {
	kept := noObject
	h.objects.get(objectID, &kept)
	return kept.probe, kept.probe.Blocks > 0
}

// KeepProbe remembers a probe of an object: the first one, and one taken where no
// transfer waits for it, as after a full measurement. A probe that is not Complete is
// not kept, nor is any under "".
func (h *History) KeepProbe(objectID string, probe Probe) {
	if objectID == "" || len(objectID) > maxNameBytes || probe.Blocks < 1 || !probe.Complete {
		return
	}
	probe.CPUTime = 0
	h.objects.update(objectID, &noObject, &object{probe: probe}, keepProbe)
}

func keepProbe(kept, given *object) { kept.probe = given.probe }

func moveObject(kept, observed *object) { move(kept.averages[:], observed.averages[:], historyAlpha) }

func moveLink(averages, observed *link) { move(averages[:], observed[:], historyAlpha) }

// move moves averages by what was observed; NaN was not.
func move(averages, observed []float64, alpha float64) {
	for place, now := range observed {
		switch last := averages[place]; {
		case now != now:
		case last != last:
			averages[place] = now
		default:
			averages[place] = last + float64(alpha*(now-last)) // no fused multiply-add: the bits are Python's
		}
	}
}

// recall fills values with what is remembered of an object or, quantity by quantity
// while there is none, of its data type, within the contract's limits, defaults at
// cold start. source is the feature history_source.
func (h *History) recall(data *DataCharacteristics, values *outcomes) (source float64) {
	ofType := h.types[h.typePlace(data.DataType)].Load()
	kept := noObject
	h.objects.get(data.ObjectID, &kept)
	*values = kept.averages
	own := hasTimes(values)
	for place, value := range values {
		if value != value {
			values[place] = ofType[place]
		}
	}
	switch {
	case own:
		source = 2
	case hasTimes(values):
		source = 1
	}
	for place, value := range values {
		bounds := &rememberedBounds[place]
		if value != value {
			value = bounds[0]
		}
		values[place] = min(max(value, bounds[1]), bounds[2])
	}
	return source
}

func hasTimes(values *outcomes) bool {
	sum := values[rememberedRecentHDEMsPerMB] + values[rememberedRecentAMSTMsPerMB] + values[rememberedRecentZstdMsPerMB]
	return sum == sum
}

// recallLink is the features that come from the past of a link, defaults at cold start.
func (h *History) recallLink(network *NetworkState) (bandwidthRatio, jitterAverageMs float64) {
	past := noLink
	h.peers.get(network.PeerID, &past)
	bandwidthRatio = clamp(FeatureBandwidthMbps, network.BandwidthMbps) / past[linkBandwidthMbps]
	if bandwidthRatio != bandwidthRatio {
		bandwidthRatio = FeatureSpecs[FeatureBandwidthRatio].Default
	}
	jitterAverageMs = past[linkJitterMs]
	if jitterAverageMs != jitterAverageMs {
		jitterAverageMs = FeatureSpecs[FeatureJitterAverageMs].Default
	}
	return bandwidthRatio, jitterAverageMs
}

// observed is what a transfer adds to memory, see rememberedNames; NaN where nothing
// was measured. Outcomes are held against the probe as it was served. It follows the
// pipeline's features/recompute.py, operation by operation.
func (o *Outcome) observed(served *Features, data *DataCharacteristics) (outcomes, error) {
	unknown := math.NaN()
	size := max(float64(data.SizeBytes), 1)
	hdeRatio, hdeTime := o.HDE.per(size, size, o.FullyMeasured)
	amstRatio, amstTime := o.AMST.per(size, busiestBytes(data.SizeBytes, int64(served[FeatureAMSTStreams])), o.FullyMeasured)
	zstdRatio, zstdTime := o.Zstd.per(size, size, o.FullyMeasured)
	look := estimate(
		clamp(FeatureCompressibilityScore, data.Probe.served(FeatureCompressibilityScore)),
		float64(served[FeatureProbeZstdShare]),
		o.HDEHitRate,
	)
	delta := unknown // without a version at the peer HDE is zstd, and says nothing of deltas
	if served[FeaturePeerHasVersion] > 0.5 {
		delta = 1
	}
	observed := outcomes{
		rememberedRecentHDERatio:      hdeRatio,
		rememberedRecentAMSTRatio:     amstRatio,
		rememberedBaselineRatio:       zstdRatio,
		rememberedRecentHDEMsPerMB:    hdeTime,
		rememberedRecentAMSTMsPerMB:   amstTime,
		rememberedRecentZstdMsPerMB:   zstdTime,
		rememberedHDEPastSizeQuotient: delta * zstdRatio / (hdeRatio * look.literal),
		rememberedHDEPastTimeQuotient: delta * hdeTime / look.deltaMsPerMB,
		rememberedHDESizeQuotient:     delta / (hdeRatio * look.hdeSize),
		rememberedAMSTSizeQuotient:    1 / (amstRatio * look.amstSize),
		rememberedZstdSizeQuotient:    1 / (zstdRatio * look.zstdSize),
		rememberedAMSTTimeQuotient:    amstTime / float64(served[FeatureProbeLZ4MsPerMB]),
		rememberedZstdTimeQuotient:    zstdTime / float64(served[FeatureProbeZstdMsPerMB]),
	}
	return observed, o.check(data, &observed)
}

// per is size over compressed size, and on full measurements time per MB of work; NaN
// where nothing was measured.
func (m *Measured) per(size, work float64, full bool) (ratio, msPerMB float64) {
	if m.CompressedBytes == 0 {
		return math.NaN(), math.NaN()
	}
	ratio, msPerMB = size/float64(m.CompressedBytes), math.NaN()
	if full {
		msPerMB = (m.CompressionMs + m.DecompressionMs) * 1e6 / (work + callBytes)
	}
	return ratio, msPerMB
}

// check refuses outcomes that no transfer has.
func (o *Outcome) check(data *DataCharacteristics, observed *outcomes) error {
	for _, engine := range []struct {
		name     string
		measured *Measured
	}{{"hde", &o.HDE}, {"amst", &o.AMST}, {"zstd", &o.Zstd}} {
		if engine.measured.CompressedBytes < 0 {
			return &InputError{engine.name + "_compressed_size_bytes", float64(engine.measured.CompressedBytes), "a size is positive"}
		}
		for _, time := range []struct {
			name string
			ms   float64
		}{
			{"_compression_time_ms", engine.measured.CompressionMs},
			{"_decompression_time_ms", engine.measured.DecompressionMs},
		} {
			if !(time.ms >= 0) || math.IsInf(time.ms, 0) {
				return &InputError{engine.name + time.name, time.ms, "a time is finite and not negative"}
			}
		}
	}
	if !(o.HDEHitRate >= 0 && o.HDEHitRate <= 1) {
		return &InputError{"hde_delta_hit_rate", o.HDEHitRate, "a share lies between 0 and 1"}
	}
	if data.SizeBytes < 1 {
		return &InputError{"data_size_bytes", float64(data.SizeBytes), "a transfer has at least one byte"}
	}
	for place, value := range observed {
		if math.IsInf(value, 0) {
			return &InputError{rememberedNames[place], value, "the times measured are beyond all reason"}
		}
	}
	return nil
}
