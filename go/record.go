package selector

// Record is a finished transfer as it is logged: what was known, what was decided,
// and what came of it.
type Record struct {
	Network  NetworkState        // as the decision had it
	Data     DataCharacteristics // as the decision had it
	Decision Decision

	TransferID    string // unique
	ObjectVersion int64  // counting from 0
	PayloadDigest string // of the payload's bytes, at most 64 characters

	TransferMs float64 // time on the wire of what was sent
	SentBytes  int64   // what was sent: compressed, or the payload itself

	Measured      Measurements
	Runs          int     // behind each time; the least is kept. 0 counts as 1
	Propensity    float64 // probability that this transfer was to be fully measured, see FullMeasurement
	FullyMeasured bool    // every engine was measured; else only the executed one was
}

// Measurements are what the engines gave and took on one payload. Those that did not run are zero.
type Measurements struct {
	HDE, AMST, Zstd        Measured
	HDEHitRate             float64 // share of the payload's bytes replaced by references
	AMSTStreams            int
	AMSTCPUMs              float64 // compression, all threads
	AMSTDecompressionCPUMs float64 // decompression, all threads
}

// Outcome is what History.Observe takes of the record.
func (record *Record) Outcome() *Outcome {
	measured := &record.Measured
	return &Outcome{
		HDE: measured.HDE, AMST: measured.AMST, Zstd: measured.Zstd,
		HDEHitRate: measured.HDEHitRate, FullyMeasured: record.FullyMeasured,
	}
}

// tookMs is how long the transfer took: compressing, sending, decompressing.
func (record *Record) tookMs() float64 {
	measured := &record.Measured
	engine := [AlgorithmCount]Measured{HDE: measured.HDE, AMST: measured.AMST, Zstd: measured.Zstd}[record.Decision.Choice]
	return engine.CompressionMs + record.TransferMs + engine.DecompressionMs
}

// appendLine adds the record as a line of line protocol. It returns an
// *InvalidRowError if the contract would refuse it.
func (record *Record) appendLine(line []byte, nodeID, zone string) ([]byte, error) {
	r := newRow()
	defer rows.Put(r)
	network, data, decision := &record.Network, &record.Data, &record.Decision
	r.code("region", uint8(network.Region), network.Region.String())
	r.text("availability_zone", zone)
	r.code("link_type", uint8(network.LinkType), network.LinkType.String())
	r.text("node_id", nodeID)
	r.code("data_type", uint8(data.DataType), data.DataType.String())
	r.text("current_compression", decision.Choice.String())

	r.text("peer_id", network.PeerID)
	r.float("rtt_ms", network.RTTMs)
	r.float("jitter_ms", network.JitterMs)
	r.float("available_bandwidth_mbps", network.BandwidthMbps)
	r.float("packet_loss_rate", network.PacketLossRate)
	r.integer("data_size_bytes", data.SizeBytes)
	r.float("entropy", data.Probe.served(FeatureEntropy))
	r.float("compressibility_score", data.Probe.served(FeatureCompressibilityScore))
	r.float("cpu_usage", network.CPUUsage)
	r.integer("memory_available_mb", network.MemoryAvailableMB)
	r.integer("active_transfers", int64(network.ActiveTransfers))
	r.text("transfer_id", record.TransferID)
	r.text("object_id", data.ObjectID)
	r.integer("object_version", record.ObjectVersion)
	r.text("payload_digest", record.PayloadDigest)

	record.addDecision(r)
	record.addMeasurements(r)
	return r.appendLine(line, decision.TimestampNs)
}

func (record *Record) addDecision(r *row) {
	decision := &record.Decision
	if decision.ModelVersion != "" {
		r.text("predicted_compression", decision.Argmax.String())
		r.float("confidence", min(float64(decision.Confidence), 1)) // a float32 sum may exceed it by a rounding
		r.text("model_version", decision.ModelVersion)
	}
	r.text("reason_code", decision.Reason.String())
	r.float("decision_time_us", float64(decision.DecisionTime.Nanoseconds())/1e3)
	r.float("probe_time_ms", float64(decision.ProbeTime.Nanoseconds())/1e6)
	r.integer("rollout_bucket", int64(decision.Bucket))
	r.text("rollout_arm", decision.Arm.String())
	r.text("feature_set_digest", decision.FeatureSetDigest)
	r.served(&decision.Features)
}

func (record *Record) addMeasurements(r *row) {
	executed := record.Decision.Choice
	r.text("measured_candidates", record.measuredCandidates())
	r.integer("measured_runs", int64(max(record.Runs, 1)))
	r.float("measurement_propensity", record.Propensity)

	var cpuMs float64
	measured, size := &record.Measured, float64(record.Data.SizeBytes)
	for _, engine := range [...]struct {
		*Measured
		choice Choice
		prefix string
	}{{&measured.HDE, HDE, "hde"}, {&measured.AMST, AMST, "amst"}, {&measured.Zstd, Zstd, "baseline"}} {
		if engine.choice == executed {
			cpuMs = engine.CompressionMs + engine.DecompressionMs
		}
		if engine.choice != executed && !record.FullyMeasured {
			continue
		}
		r.float(engine.prefix+"_compression_time_ms", engine.CompressionMs)
		r.float(engine.prefix+"_decompression_time_ms", engine.DecompressionMs)
		r.integer(engine.prefix+"_compressed_size_bytes", engine.CompressedBytes)
		if engine.choice != AMST { // the contract has no ratio of AMST's
			r.float(engine.prefix+"_compression_ratio", size/float64(engine.CompressedBytes))
		}
	}
	if executed == HDE || record.FullyMeasured {
		r.float("hde_delta_hit_rate", measured.HDEHitRate)
		r.float("hde_throughput_mbps", throughputMbps(size, measured.HDE.CompressionMs))
	}
	if executed == AMST || record.FullyMeasured {
		r.integer("amst_streams", int64(max(measured.AMSTStreams, 1)))
		r.float("amst_transfer_rate_mbps", throughputMbps(float64(record.SentBytes), record.TransferMs))
		r.float("amst_cpu_time_ms", measured.AMSTCPUMs)
	}
	if executed == AMST {
		cpuMs = measured.AMSTCPUMs + measured.AMSTDecompressionCPUMs
	}
	r.float("actual_transfer_time_ms", record.TransferMs)
	r.float("actual_throughput_mbps", throughputMbps(size, record.tookMs()))
	r.float("total_cpu_overhead_ms", cpuMs)
}

// measuredCandidates lists what was measured in the contract's order.
func (record *Record) measuredCandidates() string {
	if record.FullyMeasured {
		return FullyMeasured
	}
	return record.Decision.Choice.String()
}

// throughputMbps is the rate of a payload in a time; within the contract's limit where
// the clock was too coarse to see any time pass.
func throughputMbps(sizeBytes, timeMs float64) float64 {
	return min(sizeBytes/(max(timeMs, 1e-6)*bytesPerMsAt1Mbps), 1e8)
}
