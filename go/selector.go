package selector

import (
	"context"
	"fmt"
	"hash/maphash"
	"math"
	"sync"
	"sync/atomic"
	"time"
)

// CompressionSelectorML decides how a node sends its next transfer (seed §7.1). It is
// safe for concurrent use; one serves a whole node. The zero value is not usable: New
// makes one.
type CompressionSelectorML struct {
	nodeID      string
	maxModelAge time.Duration
	extractor   FeatureExtractor
	release     atomic.Pointer[release] // never nil
	cache       *cache
	lastGood    *lastGood
	lastStampNs atomic.Int64
	models      atomic.Uint64 // how many were loaded, to number them
	tally       tally
}

// New makes a selector. Without a model or an updater the rules decide.
func New(options ...Option) *CompressionSelectorML {
	selector := &CompressionSelectorML{
		maxModelAge: DefaultMaxModelAge,
		cache:       newCache(DefaultCacheEntries),
		lastGood:    newLastGood(lastGoodEntries),
	}
	selector.release.Store(&release{fault: ErrModelMissing})
	for _, option := range options {
		option(selector)
	}
	return selector
}

// Transfer is a payload that is about to go over a link.
type Transfer struct {
	Network *NetworkState
	Data    *DataCharacteristics
}

// SelectCompression decides one transfer. The decision can always be used: where the
// model cannot decide, rules do, or the last good choice or zstd once ctx is done. The
// error says why the model's word was not had; it is nil if the model spoke, or if
// the rules decide because they are meant to. It allocates nothing as long as there
// is no error, and never panics.
func (selector *CompressionSelectorML) SelectCompression(
	ctx context.Context, network *NetworkState, data *DataCharacteristics,
) (Decision, error) {
	var decision Decision
	err := selector.decide(ctx, selector.release.Load(), network, data, &decision)
	return decision, err
}

// SelectBatch decides the next transfers, all by the same release: decisions[n] is for
// transfers[n]. Every decision can be used; the error is that of the first transfer
// that has one. A transfer decided ahead is answered from the cache when its turn
// comes and its features are the same. It panics if decisions is shorter than transfers.
func (selector *CompressionSelectorML) SelectBatch(
	ctx context.Context, transfers []Transfer, decisions []Decision,
) error {
	var first error
	decisions = decisions[:len(transfers)]
	serving := selector.release.Load()
	for index := range transfers {
		err := selector.decide(ctx, serving, transfers[index].Network, transfers[index].Data, &decisions[index])
		if err != nil && first == nil {
			first = fmt.Errorf("transfer %d: %w", index, err)
		}
	}
	return first
}

// decide fills decision whatever happens.
func (selector *CompressionSelectorML) decide(
	ctx context.Context, serving *release, network *NetworkState, data *DataCharacteristics, decision *Decision,
) (err error) {
	began := time.Now()
	defer func() {
		if problem := recover(); problem != nil {
			decision.Choice, decision.Reason = Baseline, ReasonInferenceError
			err = fmt.Errorf("%w: the selector panicked: %v", ErrInference, problem)
		}
		decision.DecisionTime = time.Since(began)
		selector.tally.count(decision)
	}()
	*decision = Decision{FeatureSetDigest: FeatureSetDigest}
	return selector.choose(ctx, serving, network, data, began, decision)
}

func (selector *CompressionSelectorML) choose(
	ctx context.Context, serving *release, network *NetworkState, data *DataCharacteristics, began time.Time,
	decision *Decision,
) error {
	var fault error
	if network == nil || data == nil {
		fault = ErrNoState
		network, data = orDefaults(network, data)
	}
	if network.At.IsZero() {
		now := *network
		now.At = began
		network = &now
	}
	decision.TimestampNs = selector.stamp(network.At)
	decision.ProbeTime = data.Probe.CPUTime
	decision.Bucket = RolloutBucket(selector.nodeID, data.ObjectID)
	model, arm, acts := serving.route(decision.Bucket)
	decision.Arm = arm

	peer := maphash.String(selector.lastGood.seed, network.PeerID)
	pair := pairOf(peer, maphash.String(selector.lastGood.seed, data.ObjectID))
	selector.cache.observe(peer, network.LinkType)

	// What an interface's method or an error may keep lives on the heap: from a pool it costs nothing.
	question := questions.Get().(*question)
	defer questions.Put(question)
	if err := selector.extract(network, data, &question.features); err != nil && fault == nil {
		fault = err
	}
	decision.Features = question.features
	if err := ctx.Err(); err != nil {
		decision.Choice, decision.Reason = Baseline, ReasonDeadlinePassed
		if last, found := selector.lastGood.get(pair, network.LinkType); found {
			decision.Choice = last
		}
		return err
	}
	switch {
	case fault != nil:
	case model == nil:
		fault = serving.fault
	case serving.expiresAtNs != 0 && began.UnixNano() >= serving.expiresAtNs:
		fault = ErrModelStale
	default:
		fault = selector.ask(model, question, decision)
	}
	switch {
	case !acts:
		if fault != nil {
			selector.tally.shadowFaults.Add(1)
		}
		fault = nil
		decision.Choice, decision.Reason = ChooseByRules(&decision.Features), ReasonRules
	case fault != nil:
		decision.Choice, decision.Reason = ChooseByRules(&decision.Features), reasonOf(fault)
		return fault
	case model == nil:
		decision.Choice, decision.Reason = ChooseByRules(&decision.Features), ReasonRules
	}
	selector.lastGood.put(pair, network.LinkType, decision.Choice)
	return nil
}

// ask lets a model speak and its rule say what runs of that.
func (selector *CompressionSelectorML) ask(model *servedModel, question *question, decision *Decision) error {
	if selector.cache.get(model.number, &question.features, &question.probabilities) {
		selector.tally.hits.Add(1)
	} else {
		selector.tally.misses.Add(1)
		if err := predictSafely(model.Predictor, &question.features, &question.probabilities); err != nil {
			return err
		}
		selector.cache.put(model.number, &question.features, &question.probabilities)
	}
	decision.Argmax, decision.Confidence = Argmax(&question.probabilities)
	decision.ModelVersion = model.version
	decision.Choice, decision.Reason = model.rule.Decide(&question.features, decision.Argmax, decision.Confidence)
	return nil
}

// question is a feature vector on its way to a model, and the answer.
type question struct {
	features      Features
	probabilities [CandidateCount]float32
}

var questions = sync.Pool{New: func() any { return new(question) }}

// extract fills features; a figure that is not finite is an error, and its default is
// served instead.
func (selector *CompressionSelectorML) extract(
	network *NetworkState, data *DataCharacteristics, features *Features,
) error {
	err := selector.extractor.Extract(network, data, features)
	if err == nil {
		return nil
	}
	finiteNetwork, finiteData := withoutNonFinite(*network, *data)
	if second := selector.extractor.Extract(&finiteNetwork, &finiteData, features); second != nil {
		*features = defaultFeatures
	}
	return err
}

// stamp is at, or the next nanosecond that no decision has: InfluxDB lays points of one
// node and time over one another.
func (selector *CompressionSelectorML) stamp(at time.Time) int64 {
	for {
		last := selector.lastStampNs.Load()
		next := max(at.UnixNano(), last+1)
		if selector.lastStampNs.CompareAndSwap(last, next) {
			return next
		}
	}
}

// served numbers a loaded model.
func (selector *CompressionSelectorML) served(model Predictor) *servedModel {
	return &servedModel{model, model.Version(), model.Rule(), selector.models.Add(1)}
}

// install lets a release serve from the next decision on.
func (selector *CompressionSelectorML) install(next *release) {
	selector.release.Store(next)
	selector.tally.releases.Add(1)
}

var defaultFeatures = func() (features Features) {
	for index := range FeatureSpecs {
		features[index] = float32(FeatureSpecs[index].Default)
	}
	return features
}()

func orDefaults(network *NetworkState, data *DataCharacteristics) (*NetworkState, *DataCharacteristics) {
	if network == nil {
		network = NewNetworkState("")
	}
	if data == nil {
		data = &DataCharacteristics{}
	}
	return network, data
}

func withoutNonFinite(network NetworkState, data DataCharacteristics) (NetworkState, DataCharacteristics) {
	for _, figure := range []struct {
		value   *float64
		feature int
	}{
		{&network.RTTMs, FeatureRTTMs},
		{&network.JitterMs, FeatureJitterMs},
		{&network.BandwidthMbps, FeatureBandwidthMbps},
		{&network.PacketLossRate, FeaturePacketLossRate},
		{&network.CPUUsage, FeatureCPUUsage},
		{&data.KnownShare, FeatureKnownShare},
		{&data.ZeroShare, FeatureZeroShare},
		{&data.Probe.Entropy, FeatureEntropy},
		{&data.Probe.CompressibilityScore, FeatureCompressibilityScore},
		{&data.Probe.DeltaPotential, FeatureDeltaPotential},
		{&data.Probe.ZstdShare, FeatureProbeZstdShare},
		{&data.Probe.ZstdMsPerMB, FeatureProbeZstdMsPerMB},
		{&data.Probe.LZ4MsPerMB, FeatureProbeLZ4MsPerMB},
	} {
		if math.IsNaN(*figure.value) || math.IsInf(*figure.value, 0) {
			*figure.value = FeatureSpecs[figure.feature].Default
		}
	}
	return network, data
}
