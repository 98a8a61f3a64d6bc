-- The training table and its three indexes, exactly as the design's section 6.1 states them.
CREATE TABLE compression_training_data (
    -- Metadata
    id BIGSERIAL PRIMARY KEY,
    timestamp TIMESTAMPTZ NOT NULL,
    region VARCHAR(50),
    availability_zone VARCHAR(50),

    -- Network Characteristics
    link_type VARCHAR(20),  -- dc, metro, wan
    node_id VARCHAR(100),
    peer_id VARCHAR(100),
    rtt_ms FLOAT,
    jitter_ms FLOAT,
    available_bandwidth_mbps FLOAT,
    packet_loss_rate FLOAT,

    -- Data Characteristics
    data_size_bytes BIGINT,
    data_type VARCHAR(50),  -- vm_memory, vm_disk, database, etc.
    entropy FLOAT,
    compressibility_score FLOAT,

    -- System State
    cpu_usage FLOAT,
    memory_available_mb BIGINT,
    active_transfers INT,

    -- HDE Metrics
    hde_compression_ratio FLOAT,
    hde_delta_hit_rate FLOAT,
    hde_compression_time_ms FLOAT,
    hde_compressed_size_bytes BIGINT,
    hde_throughput_mbps FLOAT,

    -- AMST Metrics
    amst_streams INT,
    amst_transfer_rate_mbps FLOAT,
    amst_compression_time_ms FLOAT,
    amst_compressed_size_bytes BIGINT,

    -- Baseline Metrics
    baseline_compression_ratio FLOAT,
    baseline_compression_time_ms FLOAT,
    baseline_compressed_size_bytes BIGINT,

    -- Ground Truth
    current_compression VARCHAR(20),  -- Algorithm actually used
    optimal_compression VARCHAR(20),  -- Oracle-computed optimal

    -- Performance Outcomes
    actual_transfer_time_ms FLOAT,
    actual_throughput_mbps FLOAT,
    total_cpu_overhead_ms FLOAT
);

CREATE INDEX idx_timestamp ON compression_training_data(timestamp);
CREATE INDEX idx_link_type ON compression_training_data(link_type);
CREATE INDEX idx_optimal ON compression_training_data(optimal_compression);
