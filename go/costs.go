package selector

// The cost structure of the pipeline's features/costs.py, operation by operation: what
// each choice would cost by what the node knows, over sending the payload as it is.
//
// A product that is added to something is converted to float64 first. That forbids the
// compiler to fuse the two (as it may on arm64), so that the bits are the same
// everywhere and Python's.

// busiestBytes is what AMST's busiest thread gets of a payload: chunk i runs on thread i
// modulo streams, and the last chunk is shorter.
func busiestBytes(sizeBytes, streams int64) float64 {
	if sizeBytes < 1 {
		sizeBytes = 1
	}
	chunks := (sizeBytes + AMSTChunkBytes - 1) / AMSTChunkBytes
	busiest := (chunks + streams - 1) / streams * AMSTChunkBytes
	if (chunks-1)%streams == 0 {
		busiest -= chunks*AMSTChunkBytes - sizeBytes
	}
	return float64(busiest)
}

// look is the probe's own estimate of each engine: the share it leaves of a payload.
type look struct {
	literal      float64 // share of the payload that a delta compresses, never 0
	deltaMsPerMB float64 // what a delta takes
	hdeSize      float64
	amstSize     float64
	zstdSize     float64
}

func estimate(compressibilityScore, zstdShare, knownShare float64) look {
	unknown := 1 - knownShare
	seen := look{
		literal:      unknown + leastShare,
		deltaMsPerMB: deltaMsPerMB + float64(newMsPerMB*unknown),
		amstSize:     1 - compressibilityScore + leastShare,
		zstdSize:     zstdShare + leastShare,
	}
	seen.hdeSize = seen.literal * seen.zstdSize
	return seen
}

// putCosts computes the cost ratios from the other features, as the model sees them, and
// from the quotients that are remembered.
func putCosts(features *Features, past *outcomes) {
	at := func(place int) float64 { return float64(features[place]) }
	quotient := func(place int) float64 { return float64(float32(past[place])) }
	put := func(place int, value float64) {
		features[place] = float32(clamp(place, value))
	}
	size := max(at(FeatureSizeBytes), 1)
	noneMs := size / (at(FeatureBandwidthMbps) * (1 - at(FeaturePacketLossRate)) * bytesPerMsAt1Mbps)
	whole := (size + callBytes) / 1e6 / noneMs
	thread := (busiestBytes(int64(size), int64(features[FeatureAMSTStreams])) + callBytes) / 1e6 / noneMs
	delta := features[FeaturePeerHasVersion] > 0.5
	seen := estimate(at(FeatureCompressibilityScore), at(FeatureProbeZstdShare), at(FeatureKnownShare))

	zstdSize := 1 / at(FeatureBaselineRatio)
	zstd := zstdSize + float64(at(FeatureRecentZstdMsPerMB)*whole)
	probeZstd := float64(seen.zstdSize*quotient(rememberedZstdSizeQuotient)) +
		float64(at(FeatureProbeZstdMsPerMB)*quotient(rememberedZstdTimeQuotient)*whole)
	hde, probeHDE := zstd, probeZstd
	if delta {
		deltaTime := seen.deltaMsPerMB * quotient(rememberedHDEPastTimeQuotient) * whole
		hde = float64(zstdSize*(seen.literal*quotient(rememberedHDEPastSizeQuotient))) + deltaTime
		probeHDE = float64(seen.hdeSize*quotient(rememberedHDESizeQuotient)) + deltaTime
	}
	amst := 1/at(FeatureRecentAMSTRatio) + float64(at(FeatureRecentAMSTMsPerMB)*thread)
	probeAMST := float64(seen.amstSize*quotient(rememberedAMSTSizeQuotient)) +
		float64(at(FeatureProbeLZ4MsPerMB)*quotient(rememberedAMSTTimeQuotient)*thread)

	put(FeatureHDECostRatio, hde)
	put(FeatureAMSTCostRatio, amst)
	put(FeatureZstdCostRatio, zstd)
	put(FeatureHDEAMSTCostRatio, hde/amst)
	put(FeatureProbeHDECostRatio, probeHDE)
	put(FeatureProbeAMSTCostRatio, probeAMST)
	put(FeatureProbeZstdCostRatio, probeZstd)
}
