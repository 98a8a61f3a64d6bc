-- Features that nodes serve from here on. Rows of before carry the contract's cold-start defaults: their
-- feature_set_digest says that they follow an older definition, and training recomputes what follows from raw columns.
-- A default of the table is only for them: a load must say what was served.
ALTER TABLE compression_training_data
    ADD COLUMN served_known_share FLOAT NOT NULL DEFAULT 0,
    ADD COLUMN served_peer_has_version FLOAT NOT NULL DEFAULT 0,
    ADD COLUMN served_amst_streams FLOAT NOT NULL DEFAULT 1,
    ADD COLUMN served_recent_hde_ms_per_mb FLOAT NOT NULL DEFAULT 8,
    ADD COLUMN served_recent_amst_ms_per_mb FLOAT NOT NULL DEFAULT 1,
    ADD COLUMN served_recent_zstd_ms_per_mb FLOAT NOT NULL DEFAULT 3,
    ADD COLUMN served_history_source FLOAT NOT NULL DEFAULT 0,
    ADD COLUMN served_hde_cost_ratio FLOAT NOT NULL DEFAULT 1,
    ADD COLUMN served_amst_cost_ratio FLOAT NOT NULL DEFAULT 1,
    ADD COLUMN served_hde_amst_cost_ratio FLOAT NOT NULL DEFAULT 1,
    ADD COLUMN served_probe_hde_cost_ratio FLOAT NOT NULL DEFAULT 1,
    ADD COLUMN served_probe_amst_cost_ratio FLOAT NOT NULL DEFAULT 1;
ALTER TABLE duplicate_transfers
    ADD COLUMN served_known_share FLOAT NOT NULL DEFAULT 0,
    ADD COLUMN served_peer_has_version FLOAT NOT NULL DEFAULT 0,
    ADD COLUMN served_amst_streams FLOAT NOT NULL DEFAULT 1,
    ADD COLUMN served_recent_hde_ms_per_mb FLOAT NOT NULL DEFAULT 8,
    ADD COLUMN served_recent_amst_ms_per_mb FLOAT NOT NULL DEFAULT 1,
    ADD COLUMN served_recent_zstd_ms_per_mb FLOAT NOT NULL DEFAULT 3,
    ADD COLUMN served_history_source FLOAT NOT NULL DEFAULT 0,
    ADD COLUMN served_hde_cost_ratio FLOAT NOT NULL DEFAULT 1,
    ADD COLUMN served_amst_cost_ratio FLOAT NOT NULL DEFAULT 1,
    ADD COLUMN served_hde_amst_cost_ratio FLOAT NOT NULL DEFAULT 1,
    ADD COLUMN served_probe_hde_cost_ratio FLOAT NOT NULL DEFAULT 1,
    ADD COLUMN served_probe_amst_cost_ratio FLOAT NOT NULL DEFAULT 1;

DO $$
DECLARE
    added RECORD;
BEGIN
    FOR added IN
        SELECT table_name, column_name FROM information_schema.columns
        WHERE table_schema = 'public' AND table_name IN ('compression_training_data', 'duplicate_transfers')
            AND column_name LIKE 'served\_%' AND column_default IS NOT NULL
    LOOP
        EXECUTE format('ALTER TABLE %I ALTER COLUMN %I DROP DEFAULT', added.table_name, added.column_name);
    END LOOP;
END
$$;

-- A view's * is what the table had when the view was made.
CREATE OR REPLACE VIEW validated_training_data AS
SELECT t.*
FROM compression_training_data AS t
INNER JOIN ingestion_windows AS w
    ON w.day = (t.timestamp AT TIME ZONE 'UTC')::DATE AND w.region = t.region
WHERE w.state = 'validated';
