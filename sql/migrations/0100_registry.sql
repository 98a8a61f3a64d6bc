-- The registry: which models exist, what the gate said of them, and what was released where.
-- The channel document that nodes poll is derived from these tables and nothing else.

CREATE TABLE model_versions (
    version             VARCHAR(64) PRIMARY KEY,
    registered_at       TIMESTAMPTZ NOT NULL DEFAULT now(),
    evaluated_at        TIMESTAMPTZ NOT NULL DEFAULT now(),
    run_id              VARCHAR(250) NOT NULL,
    window_start        TIMESTAMPTZ NOT NULL,
    window_end          TIMESTAMPTZ NOT NULL,
    dataset_digest      VARCHAR(64) NOT NULL,
    code_digest         VARCHAR(64) NOT NULL,
    lock_digest         VARCHAR(64) NOT NULL,
    settings_digest     VARCHAR(64) NOT NULL,
    weights_digest      VARCHAR(64) NOT NULL,
    feature_set_digest  VARCHAR(64) NOT NULL,
    parent_champion     VARCHAR(64) REFERENCES model_versions (version),
    artifacts           JSONB NOT NULL,
    metrics             JSONB NOT NULL,
    -- Of the held-out split, for the watch to compare the field with.
    accuracy            FLOAT,
    throughput_mbps     FLOAT,
    verdict             VARCHAR(20) NOT NULL CHECK (verdict IN ('PASS', 'FAIL', 'INCONCLUSIVE')),
    reasons             JSONB NOT NULL DEFAULT '[]',
    training_profile    JSONB NOT NULL,
    bundle_digest       VARCHAR(64) CHECK (bundle_digest ~ '^[0-9a-f]{64}$'),
    CHECK (window_start < window_end)
);

-- One row a serial, one serial a change of the channel. Never changed, never deleted.
CREATE TABLE releases (
    serial         BIGINT PRIMARY KEY CHECK (serial > 0),
    released_at    TIMESTAMPTZ NOT NULL DEFAULT clock_timestamp(),
    action         VARCHAR(20) NOT NULL CHECK (action IN ('publish', 'rollback')),
    released_by    VARCHAR(250) NOT NULL CHECK (released_by <> ''),
    reason         TEXT NOT NULL CHECK (reason <> ''),
    -- The measured window that asked for this release; NULL when a person did.
    evidence_start TIMESTAMPTZ,
    evidence_end   TIMESTAMPTZ,
    CHECK ((evidence_start IS NULL) = (evidence_end IS NULL))
);

-- What a serial changed: the region's whole state from then on. A NULL champion means that the rules decide.
CREATE TABLE release_regions (
    serial            BIGINT NOT NULL REFERENCES releases (serial),
    region            VARCHAR(50) NOT NULL CHECK (region <> ''),
    champion          VARCHAR(64) REFERENCES model_versions (version),
    challenger        VARCHAR(64) REFERENCES model_versions (version),
    -- How many of the 10,000 rollout buckets the challenger decides for; 0 with a challenger is shadow.
    share_buckets     INT NOT NULL DEFAULT 0 CHECK (share_buckets BETWEEN 0 AND 10000),
    previous_champion VARCHAR(64) REFERENCES model_versions (version),
    PRIMARY KEY (serial, region),
    CHECK (challenger IS NOT NULL OR share_buckets = 0),
    CHECK (challenger IS DISTINCT FROM champion OR challenger IS NULL)
);
CREATE INDEX idx_release_regions_region ON release_regions (region, serial DESC);

CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% is append-only: % is refused; a release is undone by a later one', TG_TABLE_NAME, TG_OP;
END $$;
CREATE TRIGGER releases_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON releases
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
CREATE TRIGGER release_regions_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON release_regions
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();

-- The bundle that was released stays the version's bundle, and its recorded figures are what the watch compares with.
CREATE FUNCTION refuse_change_of_released() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF OLD.bundle_digest IS NOT NULL THEN
        RAISE EXCEPTION 'model version % was released: its record is frozen', OLD.version;
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER model_versions_frozen BEFORE UPDATE ON model_versions
    FOR EACH ROW EXECUTE FUNCTION refuse_change_of_released();

-- What serves where, now.
CREATE VIEW channel_state AS
SELECT DISTINCT ON (region) region, champion, challenger, share_buckets, serial
FROM release_regions
ORDER BY region, serial DESC;

-- Versions taken back in a region, and not brought back there since.
CREATE VIEW withdrawn_versions AS
SELECT region, version
FROM (
    SELECT rr.region, v.version, v.version = rr.previous_champion AS taken_back,
           row_number() OVER (PARTITION BY rr.region, v.version ORDER BY rr.serial DESC) AS age
    FROM release_regions AS rr
    JOIN releases AS r USING (serial)
    CROSS JOIN LATERAL (VALUES (rr.champion), (CASE WHEN r.action = 'rollback' THEN rr.previous_champion END)) AS v (version)
    WHERE v.version IS NOT NULL AND rr.champion IS DISTINCT FROM rr.previous_champion
) AS changes
WHERE age = 1 AND taken_back;

-- A version's state follows from the log; it is stored nowhere, so that it cannot contradict it.
CREATE VIEW model_registry AS
SELECT m.*,
       CASE
           WHEN EXISTS (SELECT FROM channel_state AS c WHERE c.champion = m.version) THEN 'champion'
           WHEN EXISTS (SELECT FROM channel_state AS c WHERE c.challenger = m.version) THEN 'challenger'
           WHEN EXISTS (SELECT FROM withdrawn_versions AS w WHERE w.version = m.version) THEN 'withdrawn'
           WHEN m.bundle_digest IS NOT NULL THEN 'retired'
           ELSE 'registered'
       END AS state
FROM model_versions AS m;

-- What the watch measured and decided, one row a champion and window.
CREATE TABLE watch_observations (
    id               BIGSERIAL PRIMARY KEY,
    observed_at      TIMESTAMPTZ NOT NULL DEFAULT now(),
    window_start     TIMESTAMPTZ NOT NULL,
    window_end       TIMESTAMPTZ NOT NULL,
    version          VARCHAR(64) NOT NULL REFERENCES model_versions (version),
    regions          VARCHAR(50)[] NOT NULL CHECK (cardinality(regions) > 0),
    measurement      JSONB NOT NULL,
    action           VARCHAR(20) NOT NULL CHECK (action IN ('rollback', 'retrain', 'flag', 'none')),
    reasons          JSONB NOT NULL,
    -- The release that the observation led to.
    serial           BIGINT REFERENCES releases (serial),
    CHECK (window_start < window_end),
    UNIQUE (window_start, window_end, version, regions)
);
CREATE INDEX idx_watch_observations_window ON watch_observations (window_end DESC, version);

GRANT SELECT ON model_versions, releases, release_regions, channel_state, withdrawn_versions, model_registry,
    watch_observations TO dwcp_reader, dwcp_registry;
GRANT INSERT, UPDATE ON model_versions TO dwcp_registry;
GRANT INSERT ON releases, release_regions TO dwcp_registry;
GRANT INSERT, UPDATE ON watch_observations TO dwcp_registry;
GRANT USAGE ON SEQUENCE watch_observations_id_seq TO dwcp_registry;
