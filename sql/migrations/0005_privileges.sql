-- Least privilege. The roles themselves are made once per server by sql/bootstrap/roles.sql.
DO $$
BEGIN
    IF (SELECT count(*) FROM pg_roles WHERE rolname IN ('dwcp_loader', 'dwcp_reader', 'dwcp_registry')) < 3 THEN
        RAISE EXCEPTION 'roles are missing: let a superuser run sql/bootstrap/roles.sql on this server, then migrate again';
    END IF;
END
$$;

REVOKE ALL ON SCHEMA public FROM PUBLIC;
GRANT USAGE ON SCHEMA public TO dwcp_loader, dwcp_reader, dwcp_registry;

GRANT SELECT, INSERT, UPDATE, DELETE
ON compression_training_data, ingestion_windows, quarantined_transfers, duplicate_transfers
TO dwcp_loader;
GRANT USAGE ON SEQUENCE compression_training_data_id_seq, quarantined_transfers_id_seq TO dwcp_loader;

GRANT SELECT
ON validated_training_data, transfers, label_balance_by_week, regret_by_data_type, quarantine_by_reason,
ingestion_by_day, ingestion_windows, quarantined_transfers
TO dwcp_reader, dwcp_loader, dwcp_registry;
-- The watch must see harm in the field even in windows that the quality gate holds back.
GRANT SELECT ON compression_training_data TO dwcp_registry;

-- The quality gate makes one view per run here and drops it at the end; nothing else lives in this schema.
CREATE SCHEMA quality_runs;
GRANT USAGE, CREATE ON SCHEMA quality_runs TO dwcp_loader;
