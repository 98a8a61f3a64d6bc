package selector

import (
	"math"
	"testing"
)

// withCosts are features of a node that knows these cost ratios, of HDE, AMST and zstd,
// by the object's past, and others by the probe.
func withCosts(source float32, hde, amst, zstd float32) Features {
	var features Features
	features[FeatureHistorySource] = source
	places := [3]int{FeatureProbeHDECostRatio, FeatureProbeAMSTCostRatio, FeatureProbeZstdCostRatio}
	if source >= ownPast {
		places = [3]int{FeatureHDECostRatio, FeatureAMSTCostRatio, FeatureZstdCostRatio}
	}
	features[places[0]], features[places[1]], features[places[2]] = hde, amst, zstd
	return features
}

func TestRuleDecide(t *testing.T) {
	rule := Rule{0.6, [3]float64{0.5, 0.2, 0}}
	e := float32(math.E)
	for name, wanted := range map[string]struct {
		features   Features
		argmax     Choice
		confidence float32
		choice     Choice
		reason     Reason
	}{
		"a gain by the object's past":    {withCosts(2, 0.5, 1, 0.6), HDE, 0.9, HDE, ReasonModel},
		"a gain though unsure":           {withCosts(2, 0.5, 1, 0.6), HDE, 0.4, HDE, ReasonModel},
		"no gain":                        {withCosts(2, 0.6, 1, 0.6), HDE, 0.9, Zstd, ReasonNotWorthIt},
		"no gain and unsure":             {withCosts(2, 0.6, 1, 0.6), HDE, 0.5, Zstd, ReasonLowConfidence},
		"a gain within the margin":       {withCosts(1, 0.5, 1, 0.6), HDE, 0.9, Zstd, ReasonNotWorthIt},
		"a gain beyond it":               {withCosts(1, 0.4, 1, 0.6), HDE, 0.9, HDE, ReasonModel},
		"a larger margin without past":   {withCosts(0, 0.4, 1, 0.6), HDE, 0.9, Zstd, ReasonNotWorthIt},
		"AMST":                           {withCosts(2, 1, 0.5, 0.6), AMST, 0.9, AMST, ReasonModel},
		"none is the unit of costs":      {withCosts(2, 9, 9, e), None, 0.9, None, ReasonModel},
		"none beyond zstd":               {withCosts(2, 9, 9, 1/e), None, 0.9, Zstd, ReasonNotWorthIt},
		"costs of zero":                  {withCosts(2, 0, 0, 0), HDE, 0.9, Zstd, ReasonNotWorthIt},
		"a confidence of the fallback's": {withCosts(2, 0.6, 1, 0.6), HDE, float32(0.6), Zstd, ReasonNotWorthIt},
		"a cost that is not a number":    {withCosts(2, float32(math.NaN()), 1, 0.6), HDE, 0.9, Zstd, ReasonNotWorthIt},
		"a source beyond the known":      {withCosts(7, 0.5, 1, 0.6), HDE, 0.9, HDE, ReasonModel},
		"a source below zero":            {withCosts(-1, 0.3, 1, 0.6), HDE, 0.9, HDE, ReasonModel},
	} {
		t.Run(name, func(t *testing.T) {
			choice, reason := rule.Decide(&wanted.features, wanted.argmax, wanted.confidence)
			if choice != wanted.choice || reason != wanted.reason {
				t.Errorf("%v because %v, not %v because %v", choice, reason, wanted.choice, wanted.reason)
			}
		})
	}
}

func TestAMarginThatNothingReaches(t *testing.T) {
	rule := Rule{0.6, [3]float64{1e9, 1e9, 1e9}}
	features := withCosts(2, 0, 1, math.MaxFloat32)
	if choice, _ := rule.Decide(&features, HDE, 1); choice != Zstd {
		t.Errorf("%v runs", choice)
	}
}
