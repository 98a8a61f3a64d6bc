-- The watch, hour by hour: every figure with its interval and verdict, and what kept its hand still between two acts.

ALTER TABLE watch_observations DROP CONSTRAINT watch_observations_action_check;
UPDATE watch_observations SET action = 'alert' WHERE action = 'flag';
ALTER TABLE watch_observations ADD CONSTRAINT watch_observations_action_check
    CHECK (action IN ('rollback', 'retrain', 'alert', 'none'));
ALTER TABLE watch_observations
    ADD COLUMN verdict VARCHAR(20) CHECK (verdict IN ('PASS', 'FAIL', 'INCONCLUSIVE')),
    -- What stands since when, and when it was last acted on: {quantity: {since, acted}}.
    ADD COLUMN standing JSONB NOT NULL DEFAULT '{}';

-- One row a region, version, hour and quantity; looking again at an hour replaces its rows.
CREATE TABLE field_figures (
    region         VARCHAR(50) NOT NULL CHECK (region <> ''),
    version        VARCHAR(64) NOT NULL REFERENCES model_versions (version),
    hour           TIMESTAMPTZ NOT NULL,
    quantity       VARCHAR(50) NOT NULL,
    window_start   TIMESTAMPTZ NOT NULL,
    role           VARCHAR(20) NOT NULL CHECK (role IN ('shadow', 'canary', 'champion')),
    value          FLOAT,
    -- The interval that holds at every look at once.
    lower          FLOAT,
    upper          FLOAT,
    rows           BIGINT NOT NULL CHECK (rows >= 0),
    effective_rows FLOAT NOT NULL,
    threshold      FLOAT,
    -- NULL where no rule of the policy judges the quantity.
    verdict        VARCHAR(20) CHECK (verdict IN ('PASS', 'FAIL', 'INCONCLUSIVE')),
    note           TEXT NOT NULL DEFAULT '',
    detail         JSONB NOT NULL DEFAULT '{}',
    PRIMARY KEY (region, version, hour, quantity),
    CHECK (window_start < hour)
);
CREATE INDEX idx_field_figures_hour ON field_figures (hour DESC, region);
CREATE INDEX idx_field_figures_quantity ON field_figures (quantity, region, hour);

CREATE VIEW field_verdicts AS
SELECT region, version, role, window_start, hour AS window_end, tstzrange(window_start, hour) AS "window", quantity,
       value, lower, upper, rows, effective_rows, threshold, verdict, note, detail
FROM field_figures;

-- The newest look at each version in each region.
CREATE VIEW field_now AS
SELECT DISTINCT ON (region, version, quantity) *
FROM field_verdicts
ORDER BY region, version, quantity, window_end DESC;

GRANT SELECT ON field_figures, field_verdicts, field_now TO dwcp_reader, dwcp_registry;
GRANT INSERT, UPDATE, DELETE ON field_figures TO dwcp_registry;
