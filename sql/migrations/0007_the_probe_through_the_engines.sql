-- What nodes learn from a probe through their own engines, and what looking cost them. Rows of before carry the
-- contract's cold-start defaults, as in 0006; a load must say what was served, so the defaults do not stay.
DO $$
DECLARE
    target TEXT;
    added RECORD;
BEGIN
    FOREACH target IN ARRAY ARRAY['compression_training_data', 'duplicate_transfers']
    LOOP
        FOR added IN SELECT * FROM (VALUES
            ('probe_time_ms', '0'),
            ('served_zero_share', '0'),
            ('served_probe_zstd_share', '0.5'),
            ('served_probe_zstd_ms_per_mb', '8'),
            ('served_probe_lz4_ms_per_mb', '2.5'),
            ('served_zstd_cost_ratio', '1'),
            ('served_probe_zstd_cost_ratio', '1')
        ) AS columns (name, of_before)
        LOOP
            EXECUTE format('ALTER TABLE %I ADD COLUMN %I FLOAT NOT NULL DEFAULT %s', target, added.name, added.of_before);
            EXECUTE format('ALTER TABLE %I ALTER COLUMN %I DROP DEFAULT', target, added.name);
        END LOOP;
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
