package selector

import (
	"math"
	"testing"
)

func TestChooseByRules(t *testing.T) {
	// An ordinary transfer: 1 MB that compresses, 500 Mbit/s, nothing known to the peer.
	var ordinary Features
	for place, spec := range FeatureSpecs {
		ordinary[place] = float32(spec.Default)
	}
	ordinary[FeatureSizeBytes], ordinary[FeatureBandwidthMbps] = 1e6, 500
	ordinary[FeatureRecentHDERatio], ordinary[FeatureRecentAMSTRatio] = 3, 2
	with := func(values map[int]float64) Features {
		features := ordinary
		for place, value := range values {
			features[place] = float32(value)
		}
		return features
	}
	for name, wanted := range map[string]struct {
		features Features
		choice   Choice
	}{
		"fast, parallel, low CPU":    {ordinary, AMST},
		"small":                      {with(map[int]float64{FeatureSizeBytes: 1023}), None},
		"not small":                  {with(map[int]float64{FeatureSizeBytes: 1024}), AMST},
		"incompressible":             {with(map[int]float64{FeatureCompressibilityScore: 0.04}), None},
		"incompressible but known":   {with(map[int]float64{FeatureCompressibilityScore: 0.04, FeatureDeltaPotential: 0.6}), HDE},
		"a wire that outruns codecs": {with(map[int]float64{FeatureBandwidthMbps: 10_000}), None},
		"the same after loss":        {with(map[int]float64{FeatureBandwidthMbps: 10_000, FeaturePacketLossRate: 0.01}), AMST},
		"half of it known":           {with(map[int]float64{FeatureDeltaPotential: 0.5}), HDE},
		"known but a fast wire":      {with(map[int]float64{FeatureDeltaPotential: 0.5, FeatureBandwidthMbps: 1_000}), AMST},
		"HDE saved twice as much":    {with(map[int]float64{FeatureRecentHDERatio: 4}), HDE},
		"a slow wire":                {with(map[int]float64{FeatureBandwidthMbps: 199}), HDE},
		"nothing is a number":        {with(map[int]float64{FeatureBandwidthMbps: math.NaN(), FeatureSizeBytes: math.NaN()}), AMST},
	} {
		t.Run(name, func(t *testing.T) {
			if choice := ChooseByRules(&wanted.features); choice != wanted.choice {
				t.Errorf("%v, not %v", choice, wanted.choice)
			}
		})
	}
}
