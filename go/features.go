package selector

import "time"

// FeatureExtractor turns what a node knows into what the model takes, as the
// pipeline's features/recompute.py does, to the last bit. It is safe for concurrent
// use and allocates nothing. Without a History every transfer is the first one.
type FeatureExtractor struct {
	History *History
}

// Extract fills features in the contract's order. Figures beyond the contract's limits
// are served as the limit; an enum's value that the contract does not know has code 0.
// Every feature is finite. It returns an *InputError, and leaves features undefined, if
// a figure is NaN or infinite.
func (e *FeatureExtractor) Extract(network *NetworkState, data *DataCharacteristics, features *Features) error {
	if err := describe(features, network, data); err != nil {
		return err
	}
	e.remember(network, data, features)
	return nil
}

// ExtractBatch is Extract for the next transfers to one peer: what does not depend on
// the payload is made once. It fills features[n] for data[n] and fails at the first
// figure that cannot be used. It panics if features is shorter than data.
func (e *FeatureExtractor) ExtractBatch(network *NetworkState, data []DataCharacteristics, features []Features) error {
	var ofLink Features
	if err := describeNetwork(&ofLink, network); err != nil {
		return err
	}
	e.rememberLink(network, &ofLink)
	for n := range data {
		features[n] = ofLink
		if err := describeData(&features[n], &data[n]); err != nil {
			return err
		}
		e.rememberData(&data[n], &features[n])
	}
	return nil
}

// describe fills the features that come from the transfer itself.
func describe(features *Features, network *NetworkState, data *DataCharacteristics) error {
	if err := describeNetwork(features, network); err != nil {
		return err
	}
	return describeData(features, data)
}

func describeNetwork(features *Features, network *NetworkState) error {
	into := intoFeatures{features: features}
	into.put(FeatureRTTMs, network.RTTMs)
	into.put(FeatureJitterMs, network.JitterMs)
	into.put(FeatureBandwidthMbps, network.BandwidthMbps)
	into.put(FeaturePacketLossRate, network.PacketLossRate)
	into.putCode(FeatureLinkType, uint8(network.LinkType))
	into.putCode(FeatureRegion, uint8(network.Region))
	into.put(FeatureCPUUsage, network.CPUUsage)
	into.put(FeatureMemoryAvailable, float64(network.MemoryAvailableMB))
	into.put(FeatureActiveTransfers, float64(network.ActiveTransfers))
	at := network.At
	if at.IsZero() {
		at = time.Now()
	}
	features[FeatureTimeOfDay] = float32(at.UTC().Hour())
	features[FeatureRTTBin] = rttBin(network.RTTMs)
	return into.err
}

func describeData(features *Features, data *DataCharacteristics) error {
	into := intoFeatures{features: features}
	into.put(FeatureSizeBytes, float64(data.SizeBytes))
	into.putCode(FeatureDataType, uint8(data.DataType))
	for _, place := range probeFeatures {
		into.put(place, data.Probe.served(place))
	}
	into.put(FeatureKnownShare, data.KnownShare)
	into.put(FeatureZeroShare, data.ZeroShare)
	into.put(FeatureAMSTStreams, float64(data.AMSTStreams))
	features[FeaturePeerHasVersion] = 0
	if data.PeerHasVersion {
		features[FeaturePeerHasVersion] = 1
	}
	features[FeatureSizeCategory] = sizeCategory(data.SizeBytes)
	return into.err
}

var probeFeatures = [...]int{
	FeatureEntropy,
	FeatureCompressibilityScore,
	FeatureDeltaPotential,
	FeatureProbeZstdShare,
	FeatureProbeZstdMsPerMB,
	FeatureProbeLZ4MsPerMB,
}

// served is a feature that comes from the probe; its default if nothing was probed.
func (p *Probe) served(place int) float64 {
	if p.Blocks == 0 {
		return FeatureSpecs[place].Default
	}
	switch place {
	case FeatureEntropy:
		return p.Entropy
	case FeatureCompressibilityScore:
		return p.CompressibilityScore
	case FeatureDeltaPotential:
		return p.DeltaPotential
	case FeatureProbeZstdShare:
		return p.ZstdShare
	case FeatureProbeZstdMsPerMB:
		return p.ZstdMsPerMB
	default:
		return p.LZ4MsPerMB
	}
}

// intoFeatures puts values where they belong and keeps the first that cannot be used.
type intoFeatures struct {
	features *Features
	err      error
}

func (into *intoFeatures) put(place int, value float64) {
	if value-value != 0 { // NaN or infinite
		if into.err == nil {
			into.err = &InputError{FeatureSpecs[place].Name, value, "a feature is finite"}
		}
		return
	}
	into.features[place] = float32(clamp(place, value))
}

// putCode puts an enum's code, or that of unknown values if the contract ends before it.
func (into *intoFeatures) putCode(place int, code uint8) {
	if float64(code) > FeatureSpecs[place].Maximum {
		code = 0
	}
	into.features[place] = float32(code)
}

// clamp moves value to the nearest that the contract allows.
func clamp(place int, value float64) float64 {
	spec := &FeatureSpecs[place]
	return min(max(value, spec.Minimum), spec.Maximum)
}

// rttBin is 1 in the datacenter, 2 in the metro, 3 beyond it (seed §4.2.1).
func rttBin(rttMs float64) float32 {
	switch {
	case rttMs > rttMetroUpToMs:
		return 3
	case rttMs >= rttDatacenterBelowMs:
		return 2
	default:
		return 1
	}
}

// sizeCategory is 1 for small payloads, 2 for medium, 3 for large ones (seed §4.2.2).
func sizeCategory(sizeBytes int64) float32 {
	switch {
	case sizeBytes > sizeMediumUpToBytes:
		return 3
	case sizeBytes >= sizeSmallBelowBytes:
		return 2
	default:
		return 1
	}
}

// remember adds the features that come from the past, and the costs that follow.
func (e *FeatureExtractor) remember(network *NetworkState, data *DataCharacteristics, features *Features) {
	e.rememberLink(network, features)
	e.rememberData(data, features)
}

func (e *FeatureExtractor) rememberLink(network *NetworkState, features *Features) {
	ratio := FeatureSpecs[FeatureBandwidthRatio].Default
	jitterMs := FeatureSpecs[FeatureJitterAverageMs].Default
	if e.History != nil {
		ratio, jitterMs = e.History.recallLink(network)
	}
	features[FeatureBandwidthRatio] = float32(clamp(FeatureBandwidthRatio, ratio))
	features[FeatureJitterAverageMs] = float32(clamp(FeatureJitterAverageMs, jitterMs))
}

func (e *FeatureExtractor) rememberData(data *DataCharacteristics, features *Features) {
	var past outcomes
	var source float64
	if e.History != nil {
		source = e.History.recall(data, &past)
	} else {
		for place := range past {
			past[place] = rememberedBounds[place][0]
		}
	}
	features[FeatureRecentHDERatio] = float32(past[rememberedRecentHDERatio])
	features[FeatureRecentAMSTRatio] = float32(past[rememberedRecentAMSTRatio])
	features[FeatureBaselineRatio] = float32(past[rememberedBaselineRatio])
	features[FeatureRecentHDEMsPerMB] = float32(past[rememberedRecentHDEMsPerMB])
	features[FeatureRecentAMSTMsPerMB] = float32(past[rememberedRecentAMSTMsPerMB])
	features[FeatureRecentZstdMsPerMB] = float32(past[rememberedRecentZstdMsPerMB])
	features[FeatureHistorySource] = float32(source)
	putCosts(features, &past)
}
