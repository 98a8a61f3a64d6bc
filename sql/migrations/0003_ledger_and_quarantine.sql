-- What became of every row that was read. A window is one UTC day of one region.

CREATE TABLE ingestion_windows (
    day DATE NOT NULL,
    region VARCHAR(50) NOT NULL,  -- '(none)' counts rows whose region is missing or too long to be one
    state TEXT NOT NULL CHECK (state IN ('loaded', 'validated', 'failed')),
    rows_read BIGINT NOT NULL CHECK (rows_read >= 0),
    rows_loaded BIGINT NOT NULL CHECK (rows_loaded >= 0),
    rows_quarantined BIGINT NOT NULL CHECK (rows_quarantined >= 0),
    rows_duplicate BIGINT NOT NULL CHECK (rows_duplicate >= 0),
    oracle_definition VARCHAR(20) NOT NULL,
    ingestion_run_id VARCHAR(100) NOT NULL,
    source TEXT NOT NULL,
    loaded_at TIMESTAMPTZ NOT NULL,
    validation_run_id VARCHAR(100),
    validated_at TIMESTAMPTZ,
    failure TEXT,
    PRIMARY KEY (day, region),
    CONSTRAINT nothing_is_lost CHECK (rows_read = rows_loaded + rows_quarantined + rows_duplicate),
    CONSTRAINT validated_by_someone CHECK (state <> 'validated' OR validation_run_id IS NOT NULL),
    CONSTRAINT failed_for_a_reason CHECK (state <> 'failed' OR failure IS NOT NULL)
);

CREATE TABLE quarantined_transfers (
    id BIGSERIAL PRIMARY KEY,
    ingestion_run_id VARCHAR(100) NOT NULL,
    day DATE NOT NULL,  -- the day that was read: the row's own time may be what is wrong with it
    region VARCHAR(50) NOT NULL,
    reason TEXT NOT NULL,
    transfer_id TEXT,
    source TEXT NOT NULL,
    raw JSONB NOT NULL  -- the row as it was read; NaN and infinities are strings
);

CREATE INDEX idx_quarantine_window ON quarantined_transfers(day, region);

-- Rows that lost to an earlier row of the same transfer_id. They are kept, because a reload may take the winner away.
CREATE TABLE duplicate_transfers (LIKE compression_training_data);
ALTER TABLE duplicate_transfers DROP COLUMN id;

CREATE INDEX idx_duplicate_transfer ON duplicate_transfers(transfer_id);
CREATE INDEX idx_duplicate_timestamp ON duplicate_transfers(timestamp);
