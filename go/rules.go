package selector

// ChooseByRules is the rule-based selector: what decides without a model. It is
// the same as dwcp.rules in the pipeline, which says where the rules come from and
// evaluates them in every report. The first rule that applies decides:
//
//  1. Small or incompressible: None. Below 1 KiB, or if neither a light codec nor
//     the peer's version of the object saves at least 5 %.
//  2. The wire outruns every codec: None. 10 Gbit/s or more after loss.
//  3. Repetitive data on a wire slow enough to wait for a dictionary: HDE. Under
//     1 Gbit/s, and half of the probed blocks are known to the peer or HDE has
//     recently saved twice what AMST did.
//  4. A slow wire: HDE. Under 200 Mbit/s the smallest output wins.
//  5. Else AMST: fast, parallel, low CPU.
//
// Every vector gets a choice: a feature that is not finite fails its comparisons,
// because a fallback must not fail.
func ChooseByRules(features *Features) Choice {
	at := func(place int) float64 { return float64(features[place]) }
	effectiveMbps := at(FeatureBandwidthMbps) * (1 - at(FeaturePacketLossRate))
	knownBlocks := at(FeatureDeltaPotential)
	savesNothing := at(FeatureCompressibilityScore) < ruleMinimalSaving && knownBlocks < ruleMinimalSaving
	hdePays := at(FeatureRecentHDERatio) >= ruleHDEAdvantage*at(FeatureRecentAMSTRatio)
	switch {
	case at(FeatureSizeBytes) < sizeSmallBelowBytes || savesNothing:
		return None
	case effectiveMbps >= ruleWireOutrunsCodecsMbps:
		return None
	case effectiveMbps < ruleWireWaitsForDictionaryMbps && (knownBlocks >= ruleKnownBlocks || hdePays):
		return HDE
	case effectiveMbps < ruleSlowWireMbps:
		return HDE
	default:
		return AMST
	}
}
