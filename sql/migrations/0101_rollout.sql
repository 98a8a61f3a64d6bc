-- The rollout: how far each version has come in each region. One append-only log of transitions is the state; what
-- serves (channel_state), the release log's regions and every model's state are views of it and cannot contradict it.
-- The two tables of what is legal repeat include/dwcp/release/states.py; a test compares them.

CREATE TABLE rollout_states (
    state         VARCHAR(20) PRIMARY KEY,
    role          VARCHAR(20) NOT NULL CHECK (role IN ('none', 'challenger', 'champion')),
    -- Of the 10,000 rollout buckets; a champion has what the challenger leaves.
    share_buckets INT NOT NULL CHECK (share_buckets BETWEEN 0 AND 10000)
);
INSERT INTO rollout_states (state, role, share_buckets) VALUES
    ('none', 'none', 0), ('registered', 'none', 0),
    ('shadow', 'challenger', 0), ('canary', 'challenger', 500), ('share_25', 'challenger', 2500),
    ('share_50', 'challenger', 5000), ('share_75', 'challenger', 7500), ('full', 'champion', 10000),
    ('retired', 'none', 0), ('rolled_back', 'none', 0);

CREATE TABLE rollout_moves (
    move       VARCHAR(20) NOT NULL,
    from_state VARCHAR(20) NOT NULL REFERENCES rollout_states (state),
    to_state   VARCHAR(20) NOT NULL REFERENCES rollout_states (state),
    -- first: only where no version was full yet; next: only where one was.
    ladder     VARCHAR(20) NOT NULL CHECK (ladder IN ('first', 'next', 'any')),
    -- Gives a version more say, so a paused region refuses it.
    forward    BOOLEAN NOT NULL,
    PRIMARY KEY (move, from_state, to_state)
);
INSERT INTO rollout_moves (move, from_state, to_state, ladder, forward) VALUES
    ('register', 'none', 'registered', 'any', FALSE),
    ('start', 'registered', 'shadow', 'any', TRUE),
    ('advance', 'shadow', 'canary', 'any', TRUE),
    ('advance', 'canary', 'share_25', 'first', TRUE),
    ('advance', 'share_25', 'share_50', 'first', TRUE),
    ('advance', 'share_50', 'share_75', 'first', TRUE),
    ('advance', 'share_75', 'full', 'first', TRUE),
    ('advance', 'canary', 'full', 'next', TRUE),
    ('publish', 'registered', 'full', 'any', TRUE),
    ('replace', 'registered', 'retired', 'any', FALSE),
    ('replace', 'shadow', 'retired', 'any', FALSE),
    ('retire', 'full', 'retired', 'any', FALSE),
    ('revert', 'shadow', 'rolled_back', 'any', FALSE),
    ('revert', 'canary', 'rolled_back', 'any', FALSE),
    ('revert', 'share_25', 'rolled_back', 'any', FALSE),
    ('revert', 'share_50', 'rolled_back', 'any', FALSE),
    ('revert', 'share_75', 'rolled_back', 'any', FALSE),
    ('roll_back', 'full', 'rolled_back', 'any', FALSE),
    ('recall', 'none', 'full', 'any', FALSE),
    ('recall', 'registered', 'full', 'any', FALSE),
    ('recall', 'shadow', 'full', 'any', FALSE),
    ('recall', 'canary', 'full', 'any', FALSE),
    ('recall', 'share_25', 'full', 'any', FALSE),
    ('recall', 'share_50', 'full', 'any', FALSE),
    ('recall', 'share_75', 'full', 'any', FALSE),
    ('recall', 'retired', 'full', 'any', FALSE),
    ('recall', 'rolled_back', 'full', 'any', FALSE);

-- Never changed, never deleted. A region's rows are numbered without a gap, so that two who decided on the same past
-- cannot both write, at whatever isolation.
CREATE TABLE rollout_transitions (
    region          VARCHAR(50) NOT NULL CHECK (region <> ''),
    number          INT NOT NULL CHECK (number > 0),
    version         VARCHAR(64) NOT NULL REFERENCES model_versions (version),
    move            VARCHAR(20) NOT NULL,
    from_state      VARCHAR(20) NOT NULL,
    to_state        VARCHAR(20) NOT NULL,
    share_buckets   INT NOT NULL,
    at              TIMESTAMPTZ NOT NULL DEFAULT clock_timestamp(),
    -- From when on the soak of to_state counts: a version that replaces another in shadow takes over its time there.
    soak_since      TIMESTAMPTZ NOT NULL,
    who             VARCHAR(250) NOT NULL CHECK (who <> ''),
    reason          TEXT NOT NULL CHECK (reason <> ''),
    evidence_digest VARCHAR(64) CHECK (evidence_digest ~ '^[0-9a-f]{64}$'),
    -- The release that made it known; NULL where nothing that nodes see changed.
    serial          BIGINT REFERENCES releases (serial),
    PRIMARY KEY (region, number),
    FOREIGN KEY (move, from_state, to_state) REFERENCES rollout_moves (move, from_state, to_state)
);
CREATE INDEX idx_rollout_transitions_version ON rollout_transitions (region, version, number DESC);
CREATE INDEX idx_rollout_transitions_serial ON rollout_transitions (serial);
CREATE INDEX idx_rollout_transitions_at ON rollout_transitions (at DESC);

CREATE TABLE rollout_pauses (
    id     BIGSERIAL PRIMARY KEY,
    region VARCHAR(50) NOT NULL CHECK (region <> ''),
    paused BOOLEAN NOT NULL,
    at     TIMESTAMPTZ NOT NULL DEFAULT clock_timestamp(),
    who    VARCHAR(250) NOT NULL CHECK (who <> ''),
    reason TEXT NOT NULL CHECK (reason <> '')
);
CREATE INDEX idx_rollout_pauses_region ON rollout_pauses (region, id DESC);

-- Each version's newest transition in each region: where it is now.
CREATE VIEW rollout_now AS
SELECT DISTINCT ON (t.region, t.version)
       t.region, t.version, t.to_state AS state, s.role, t.share_buckets, t.at AS since, t.soak_since, t.move, t.who,
       t.reason, t.evidence_digest, t.serial, t.number
FROM rollout_transitions AS t
JOIN rollout_states AS s ON s.state = t.to_state
ORDER BY t.region, t.version, t.number DESC;

-- Regions that are paused now.
CREATE VIEW rollout_paused AS
SELECT region, at, who, reason
FROM (SELECT DISTINCT ON (region) * FROM rollout_pauses ORDER BY region, id DESC) AS newest
WHERE paused;

CREATE FUNCTION check_transition() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    rule    rollout_moves;
    target  rollout_states;
    origin  rollout_states;
    current VARCHAR;
    other   VARCHAR;
    mature  BOOLEAN;
BEGIN
    -- The key of dwcp.release.transitions.LOCK_KEY: one writer at a time, whoever writes.
    PERFORM pg_advisory_xact_lock(110463932170496);
    SELECT * INTO rule FROM rollout_moves
    WHERE move = NEW.move AND from_state = NEW.from_state AND to_state = NEW.to_state;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'no legal move: % from % to %', NEW.move, NEW.from_state, NEW.to_state;
    END IF;
    SELECT * INTO origin FROM rollout_states WHERE state = NEW.from_state;
    SELECT * INTO target FROM rollout_states WHERE state = NEW.to_state;
    SELECT state INTO current FROM rollout_now WHERE region = NEW.region AND version = NEW.version;
    IF coalesce(current, 'none') <> NEW.from_state THEN
        RAISE EXCEPTION '% in % is %, not %', NEW.version, NEW.region, coalesce(current, 'none'), NEW.from_state;
    END IF;
    IF rule.forward AND EXISTS (SELECT FROM rollout_paused WHERE region = NEW.region) THEN
        RAISE EXCEPTION '% is paused: nothing moves forward until it is resumed', NEW.region;
    END IF;
    mature := EXISTS (SELECT FROM rollout_transitions WHERE region = NEW.region AND to_state = 'full');
    IF rule.ladder = 'first' AND mature OR rule.ladder = 'next' AND NOT mature THEN
        RAISE EXCEPTION 'from % to % is not the way in %: the region follows the % ladder',
            NEW.from_state, NEW.to_state, NEW.region, CASE WHEN mature THEN 'next' ELSE 'first' END;
    END IF;
    SELECT version INTO other FROM rollout_now
    WHERE region = NEW.region AND role = target.role AND role <> 'none' AND version <> NEW.version;
    IF FOUND THEN
        RAISE EXCEPTION '% has a % already: %', NEW.region, target.role, other;
    END IF;
    IF NEW.move = 'register' AND NOT EXISTS (
        SELECT FROM model_versions WHERE version = NEW.version AND verdict = 'PASS' AND bundle_digest IS NOT NULL
    ) THEN
        RAISE EXCEPTION '% did not pass the gate or has no bundle', NEW.version;
    END IF;
    IF NEW.move = 'recall' AND NOT EXISTS (
        SELECT FROM rollout_transitions WHERE version = NEW.version AND to_state = 'full'
    ) THEN
        RAISE EXCEPTION '% was never published in full: it cannot be recalled', NEW.version;
    END IF;
    IF (NEW.serial IS NULL) <> (origin.role = 'none' AND target.role = 'none') THEN
        RAISE EXCEPTION 'a serial belongs to what nodes see, and to nothing else: % to %', NEW.from_state, NEW.to_state;
    END IF;
    NEW.number := 1 + coalesce((SELECT max(number) FROM rollout_transitions WHERE region = NEW.region), 0);
    NEW.share_buckets := target.share_buckets;
    NEW.soak_since := least(coalesce(NEW.soak_since, NEW.at), NEW.at);
    RETURN NEW;
END $$;
CREATE TRIGGER rollout_transitions_legal BEFORE INSERT ON rollout_transitions
    FOR EACH ROW EXECUTE FUNCTION check_transition();

-- What is released now has more reasons than two.
ALTER TABLE releases DROP CONSTRAINT releases_action_check;
ALTER TABLE releases ADD CONSTRAINT releases_action_check
    CHECK (action IN ('publish', 'advance', 'revert', 'rollback'));

-- Releases from before the rollout become transitions; then the table that held them gives way to a view of them.
DO $$
DECLARE
    r RECORD;
    arriving VARCHAR;
BEGIN
    IF EXISTS (SELECT FROM release_regions WHERE challenger IS NOT NULL) THEN
        RAISE EXCEPTION 'release_regions names challengers, which no release before this one could write';
    END IF;
    FOR r IN
        SELECT rr.*, l.action, l.released_at, l.released_by, l.reason
        FROM release_regions AS rr JOIN releases AS l USING (serial)
        WHERE rr.champion IS DISTINCT FROM rr.previous_champion ORDER BY serial, region
    LOOP
        IF r.previous_champion IS NOT NULL THEN
            INSERT INTO rollout_transitions (region, version, move, from_state, to_state, at, who, reason, serial)
            VALUES (r.region, r.previous_champion,
                    CASE WHEN r.action = 'rollback' THEN 'roll_back' ELSE 'retire' END, 'full',
                    CASE WHEN r.action = 'rollback' THEN 'rolled_back' ELSE 'retired' END,
                    r.released_at, r.released_by, r.reason, r.serial);
        END IF;
        CONTINUE WHEN r.champion IS NULL;
        SELECT state INTO arriving FROM rollout_now WHERE region = r.region AND version = r.champion;
        IF r.action = 'publish' AND arriving IS NULL THEN
            INSERT INTO rollout_transitions (region, version, move, from_state, to_state, at, who, reason)
            VALUES (r.region, r.champion, 'register', 'none', 'registered', r.released_at, r.released_by, r.reason);
            arriving := 'registered';
        END IF;
        INSERT INTO rollout_transitions (region, version, move, from_state, to_state, at, who, reason, serial)
        VALUES (r.region, r.champion, CASE WHEN arriving = 'registered' THEN 'publish' ELSE 'recall' END,
                coalesce(arriving, 'none'), 'full', r.released_at, r.released_by, r.reason, r.serial);
    END LOOP;
END $$;

CREATE TRIGGER rollout_transitions_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON rollout_transitions
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
CREATE TRIGGER rollout_pauses_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON rollout_pauses
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();

DROP VIEW model_registry, withdrawn_versions, channel_state;
DROP TABLE release_regions;

-- What serves where, now: what the signed document is derived from.
CREATE VIEW channel_state AS
SELECT region,
       max(version) FILTER (WHERE role = 'champion')::VARCHAR(64) AS champion,
       max(version) FILTER (WHERE role = 'challenger')::VARCHAR(64) AS challenger,
       coalesce(max(share_buckets) FILTER (WHERE role = 'challenger'), 0) AS share_buckets,
       max(serial) AS serial
FROM rollout_now
GROUP BY region
HAVING max(serial) IS NOT NULL;

-- What each serial left in each region that it changed, for the release log.
CREATE VIEW release_regions AS
WITH marks AS (
    SELECT region, number, serial, version,
           max(number) FILTER (WHERE to_state = 'full') OVER past AS champion_came,
           max(number) FILTER (WHERE from_state = 'full') OVER past AS champion_left,
           max(number) FILTER (WHERE challenges) OVER past AS challenger_came,
           max(number) FILTER (WHERE challenged AND NOT challenges) OVER past AS challenger_left
    FROM (
        SELECT t.*, target.role = 'challenger' AS challenges, origin.role = 'challenger' AS challenged
        FROM rollout_transitions AS t
        JOIN rollout_states AS target ON target.state = t.to_state
        JOIN rollout_states AS origin ON origin.state = t.from_state
    ) AS t
    WINDOW past AS (PARTITION BY region ORDER BY number)
), lasts AS (
    SELECT DISTINCT ON (region, serial) *,
           CASE WHEN champion_came > coalesce(champion_left, 0) THEN champion_came END AS champion_number,
           CASE WHEN challenger_came > coalesce(challenger_left, 0) THEN challenger_came END AS challenger_number
    FROM marks WHERE serial IS NOT NULL
    ORDER BY region, serial, number DESC
), named AS (
    SELECT l.serial, l.region, champion.version AS champion, challenger.version AS challenger,
           coalesce(challenger.share_buckets, 0) AS share_buckets
    FROM lasts AS l
    LEFT JOIN rollout_transitions AS champion ON (champion.region, champion.number) = (l.region, l.champion_number)
    LEFT JOIN rollout_transitions AS challenger
        ON (challenger.region, challenger.number) = (l.region, l.challenger_number)
)
SELECT *, lag(champion) OVER (PARTITION BY region ORDER BY serial) AS previous_champion
FROM named;

-- A line a region for the console: who serves, who challenges, who waits, and whether it is paused.
CREATE VIEW rollout_regions AS
SELECT n.region,
       max(n.version) FILTER (WHERE n.role = 'champion') AS champion,
       max(n.version) FILTER (WHERE n.role = 'challenger') AS challenger,
       max(n.state) FILTER (WHERE n.role = 'challenger') AS challenger_state,
       coalesce(max(n.share_buckets) FILTER (WHERE n.role = 'challenger'), 0) AS share_buckets,
       max(n.soak_since) FILTER (WHERE n.role = 'challenger') AS soak_since,
       max(n.version) FILTER (WHERE n.state = 'registered') AS waiting,
       CASE WHEN EXISTS (SELECT FROM rollout_transitions AS t WHERE t.region = n.region AND t.to_state = 'full')
            THEN 'next' ELSE 'first' END AS ladder,
       EXISTS (SELECT FROM rollout_paused AS p WHERE p.region = n.region) AS paused
FROM rollout_now AS n
GROUP BY n.region;

-- A version's state over all regions: the farthest it has come.
CREATE VIEW model_registry AS
SELECT m.*,
       CASE
           WHEN bool_or(n.role = 'champion') THEN 'champion'
           WHEN bool_or(n.role = 'challenger') THEN 'challenger'
           WHEN bool_or(n.state = 'rolled_back') THEN 'rolled_back'
           WHEN bool_or(n.state = 'retired') THEN 'retired'
           ELSE 'registered'
       END AS state
FROM model_versions AS m
LEFT JOIN rollout_now AS n USING (version)
GROUP BY m.version;

GRANT SELECT ON rollout_states, rollout_moves, rollout_transitions, rollout_pauses, rollout_now, rollout_paused,
    channel_state, release_regions, rollout_regions, model_registry TO dwcp_reader, dwcp_registry;
-- Number, share and time are the database's to give.
GRANT INSERT (region, version, move, from_state, to_state, soak_since, who, reason, evidence_digest, serial)
    ON rollout_transitions TO dwcp_registry;
GRANT INSERT (region, paused, who, reason) ON rollout_pauses TO dwcp_registry;
GRANT USAGE ON SEQUENCE rollout_pauses_id_seq TO dwcp_registry;
