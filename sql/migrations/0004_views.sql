-- What the data team and the trainer read. All but quarantine_by_reason and ingestion_by_day see validated windows only.

CREATE VIEW validated_training_data AS
SELECT t.*
FROM compression_training_data AS t
INNER JOIN ingestion_windows AS w
    ON w.day = (t.timestamp AT TIME ZONE 'UTC')::DATE AND w.region = t.region
WHERE w.state = 'validated';
COMMENT ON VIEW validated_training_data IS
'compression_training_data of validated windows, every column of the contract';

CREATE VIEW transfers AS
SELECT
    transfer_id,
    timestamp AS decided_at,
    region,
    link_type,
    node_id,
    peer_id,
    data_type,
    object_id,
    object_version,
    round((data_size_bytes / 1e6)::NUMERIC, 3) AS size_megabytes,
    round(rtt_ms::NUMERIC, 2) AS rtt_ms,
    round(available_bandwidth_mbps::NUMERIC, 2) AS bandwidth_megabit_per_s,
    round((100 * packet_loss_rate)::NUMERIC, 3) AS packet_loss_percent,
    round((100 * cpu_usage)::NUMERIC, 1) AS cpu_percent,
    predicted_compression AS predicted,
    current_compression AS executed,
    optimal_compression AS optimal,
    reason_code AS reason,
    rollout_arm,
    model_version,
    round(confidence::NUMERIC, 3) AS confidence,
    round(decision_time_us::NUMERIC, 1) AS decision_time_us,
    round((actual_transfer_time_ms / 1e3)::NUMERIC, 4) AS wire_seconds,
    round((total_cpu_overhead_ms / 1e3)::NUMERIC, 4) AS cpu_seconds,
    round(actual_throughput_mbps::NUMERIC, 2) AS throughput_megabit_per_s,
    round(hde_compression_ratio::NUMERIC, 2) AS hde_ratio,
    round((data_size_bytes / amst_compressed_size_bytes::FLOAT)::NUMERIC, 2) AS amst_ratio,
    round(baseline_compression_ratio::NUMERIC, 2) AS zstd_ratio
FROM validated_training_data;
COMMENT ON VIEW transfers IS 'one row a transfer, in units that people read';

CREATE VIEW label_balance_by_week AS
SELECT
    date_trunc('week', timestamp AT TIME ZONE 'UTC')::DATE AS week,  -- its Monday
    optimal_compression AS label,
    count(*) AS transfers,
    round(100 * count(*) / sum(count(*)) OVER (PARTITION BY date_trunc('week', timestamp AT TIME ZONE 'UTC')::DATE), 2)
        AS percent
FROM validated_training_data
WHERE optimal_compression IS NOT NULL
GROUP BY 1, 2;
COMMENT ON VIEW label_balance_by_week IS 'how often each choice was the best, per week, over fully measured transfers';

CREATE VIEW regret_by_data_type AS
WITH priced AS (
    SELECT
        data_type,
        least(cost_hde_ms, cost_amst_ms, cost_none_ms) AS best_ms,
        CASE current_compression
            WHEN 'hde' THEN cost_hde_ms
            WHEN 'amst' THEN cost_amst_ms
            WHEN 'none' THEN cost_none_ms
            WHEN 'zstd' THEN cost_zstd_ms
        END AS executed_ms
    FROM validated_training_data
    WHERE optimal_compression IS NOT NULL
)

SELECT
    data_type,
    count(*) AS transfers,
    round(avg(executed_ms - best_ms)::NUMERIC, 3) AS mean_regret_ms,
    -- zstd is no candidate and may beat them all: its regret is then negative.
    round((100 * sum(executed_ms - best_ms) / nullif(sum(best_ms), 0))::NUMERIC, 3) AS regret_percent,
    round((percentile_cont(0.95) WITHIN GROUP (ORDER BY executed_ms - best_ms))::NUMERIC, 3) AS p95_regret_ms
FROM priced
GROUP BY 1;
COMMENT ON VIEW regret_by_data_type IS
'cost of what was executed less the best candidate''s, over fully measured transfers';

CREATE VIEW quarantine_by_reason AS
SELECT
    -- A row may have several reasons, each "<column> <rule>: <value, limit>"; without the value they can be counted.
    split_part(one, ':', 1) AS reason,
    source,
    count(*) AS rows,
    min(day) AS first_day,
    max(day) AS last_day,
    min(transfer_id) AS example_transfer_id
FROM quarantined_transfers CROSS JOIN LATERAL regexp_split_to_table(quarantined_transfers.reason, '; ') AS one
GROUP BY 1, 2;
COMMENT ON VIEW quarantine_by_reason IS 'rows that broke the contract, of all windows';

CREATE VIEW ingestion_by_day AS
SELECT
    day,
    count(*) AS regions,
    count(*) FILTER (WHERE state = 'validated') AS regions_validated,
    count(*) FILTER (WHERE state = 'failed') AS regions_failed,
    sum(rows_read)::BIGINT AS rows_read,
    sum(rows_loaded)::BIGINT AS rows_loaded,
    sum(rows_quarantined)::BIGINT AS rows_quarantined,
    sum(rows_duplicate)::BIGINT AS rows_duplicate,
    round(100 * sum(rows_quarantined) / nullif(sum(rows_read), 0), 3) AS quarantined_percent,
    max(loaded_at) AS last_loaded_at
FROM ingestion_windows
GROUP BY day;
COMMENT ON VIEW ingestion_by_day IS
'what became of every row read, one line a UTC day; table ingestion_windows has it by region';
