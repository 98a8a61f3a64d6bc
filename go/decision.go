package selector

import "math"

// historySources is how many kinds of past a rule tells apart: none, the data
// type's, the object's own.
const (
	historySources = 3
	ownPast        = 2
)

// leastCostRatio keeps logarithms finite.
const leastCostRatio = 1e-6

// Rule says when the model's choice runs: only where, by what the node knows, it is
// better than zstd by so much that the estimate seldom errs; elsewhere zstd runs. It
// is published with the model and the same as dwcp.decision in the pipeline.
type Rule struct {
	// FallbackConfidence is the probability under which the model counts as unsure.
	FallbackConfidence float64
	// GainMargins are, by the history_source feature, what the estimated logarithm
	// of zstd's cost over the choice's must exceed.
	GainMargins [historySources]float64
}

// Decide returns what runs for the model's argmax, a candidate, and why.
func (rule *Rule) Decide(features *Features, argmax Choice, confidence float32) (Choice, Reason) {
	if features.EstimatedGain(argmax) > rule.GainMargins[historySource(features)] {
		return argmax, ReasonModel
	}
	if confidence >= float32(rule.FallbackConfidence) {
		return Baseline, ReasonNotWorthIt
	}
	return Baseline, ReasonLowConfidence
}

// EstimatedGain is the logarithm of zstd's cost over that of choice by what the
// node knows: by the object's own past where the node has one, else by the probe.
func (features *Features) EstimatedGain(choice Choice) float64 {
	return estimatedLogCost(features, Baseline) - estimatedLogCost(features, choice)
}

// estimatedLogCost is the logarithm of a choice's cost over that of sending uncompressed.
func estimatedLogCost(features *Features, choice Choice) float64 {
	byPast, byProbe := 0, 0
	switch choice {
	case HDE:
		byPast, byProbe = FeatureHDECostRatio, FeatureProbeHDECostRatio
	case AMST:
		byPast, byProbe = FeatureAMSTCostRatio, FeatureProbeAMSTCostRatio
	case Zstd:
		byPast, byProbe = FeatureZstdCostRatio, FeatureProbeZstdCostRatio
	default:
		return 0
	}
	ratio := features[byProbe]
	if features[FeatureHistorySource] >= ownPast {
		ratio = features[byPast]
	}
	return math.Log(math.Max(float64(ratio), leastCostRatio))
}

func historySource(features *Features) int {
	switch source := features[FeatureHistorySource]; {
	case source >= ownPast:
		return ownPast
	case source >= 1:
		return 1
	default:
		return 0
	}
}
