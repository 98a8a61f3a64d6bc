"""Every threshold and connection in one place; the seed's numbers are the defaults, named after its sections.

Each setting is read from ``DWCP_<NAME>`` in the environment. Airflow tasks replace the connections by those of Airflow
(``dags/connections.py``); the command line uses the embedded Postgres under ``DWCP_HOME`` when no DSN is given.
"""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from dwcp.contract import BUCKET

SPLITS = ("time", "random")
"""How the training window is cut. The gate looks at the time split; a random one, with its own model, stands beside."""


class Settings(BaseSettings):
    """Immutable settings of one process. Secrets print as asterisks."""

    model_config = SettingsConfigDict(env_prefix="DWCP_", frozen=True, extra="ignore")

    # -- where things are --
    home: Path = Field(Path(".dwcp"), description="state of this installation: Postgres, archive, store, channel, keys")
    owner_dsn: SecretStr | None = Field(None, description="Postgres owner: migrations only")
    loader_dsn: SecretStr | None = Field(None, description="Postgres role that loads and quarantines")
    reader_dsn: SecretStr | None = Field(None, description="Postgres role that reads validated windows")
    registry_dsn: SecretStr | None = Field(None, description="Postgres role that writes registry and channel")
    influx_url: str = Field("http://127.0.0.1:8086", description="InfluxDB to read transfers from")
    influx_token: SecretStr = SecretStr("")
    influx_org: str = "dwcp"
    influx_bucket: str = BUCKET
    influx_timeout_s: float = Field(60.0, gt=0)
    influx_retries: int = Field(5, ge=0, description="retries with back-off on 429, 5xx and broken connections")
    source: Literal["archive", "influxdb"] = Field("archive", description="where a run reads transfers")
    signing_key: Path | None = Field(None, description="Ed25519 private key (PEM); never in a bundle")
    max_clock_ahead: timedelta = Field(
        timedelta(minutes=10), ge=timedelta(0), description="a later timestamp goes to quarantine"
    )

    # -- oracle and training (seed §3, §4, §5.2) --
    oracle: Literal["seed_3_1", "seed_3_2", "stream_aware"] = "seed_3_1"
    training_weeks: int = Field(8, ge=1)
    seed: int = 20_261_101
    train_share: float = Field(0.70, gt=0, lt=1)
    validation_share: float = Field(0.15, gt=0, lt=1)
    xgboost_weight: float = Field(0.7, ge=0, le=1, description="seed §4.1.3; the network gets the rest")
    training_threads: int = Field(
        1,
        ge=1,
        description="of each of the models that train side by side; pinned, so that one can be rebuilt bit for bit",
    )

    # -- hyperparameters (seed §4.1; `dwcp tune` searches them) --
    xgboost_rounds: int = Field(200, ge=1, description="at most; early stopping ends sooner")
    xgboost_max_depth: int = Field(8, ge=1, le=8, description="trees are exported as complete tables of 8 levels")
    xgboost_learning_rate: float = Field(0.05, gt=0, le=1)
    xgboost_subsample: float = Field(0.8, gt=0, le=1)
    xgboost_colsample: float = Field(0.8, gt=0, le=1, description="share of the features that a tree sees")
    xgboost_min_child_weight: float = Field(1.0, ge=0)
    xgboost_lambda: float = Field(1.0, ge=0, description="L2 penalty on leaves")
    network_epochs: int = Field(60, ge=1, description="at most; early stopping ends sooner")
    network_learning_rate: float = Field(2e-3, gt=0, le=1, description="Adam's")
    network_dropout: float = Field(0.3, ge=0, lt=1)
    network_batch_rows: int = Field(512, ge=1)

    # -- gate (seed §8.1, §8.2) --
    gate_accuracy: float = Field(0.98, ge=0, le=1)
    gate_accuracy_half_width: float = Field(0.005, ge=0, le=1, description="a wider interval is INCONCLUSIVE")
    gate_label_ceilings: dict[int, float] = Field(
        {1: 0.982, 3: 0.989, 5: 0.990},
        description="agreement of labels of so many runs, by `dwcp fleet measure`; below a threshold nobody can tell",
    )
    gate_precision: float = Field(0.95, ge=0, le=1)
    gate_recall: float = Field(0.95, ge=0, le=1)
    gate_f1: float = Field(0.96, ge=0, le=1)
    gate_regret: float = Field(0.001, description="mean cost regret, as a share of the oracle's cost")
    gate_throughput_gain: float = 0.10
    gate_slower_slices: int = Field(0, ge=0, description="kinds of transfer that may be slower than always zstd")
    gate_latency_p99_ms: float = 10.0
    gate_size_bytes: int = 50_000_000
    gate_memory_bytes: int = 100_000_000
    gate_champion_tolerance: float = Field(0.002, description="accuracy that a challenger may lose to the champion")
    gate_min_rows: int = Field(2_000, ge=0, description="fewer test rows are INCONCLUSIVE")
    bootstrap_rounds: int = Field(1_000, ge=1)

    # -- watch (seed §8.3, §9.2) --
    watch_rollback_accuracy: float = Field(0.95, ge=0, le=1)
    watch_rollback_throughput_drop: float = Field(0.05, gt=0, le=1)
    watch_retrain_accuracy_drop: float = Field(0.03, ge=0, le=1)
    watch_suboptimal: float = Field(0.05, ge=0, le=1, description="§8.3's false positives: choices that lost over 1 %")
    watch_overhead: float = Field(0.02, ge=0, le=1, description="looking and deciding, as a share of time, and of CPU")
    watch_latency_p99_ms: float = Field(15.0, gt=0)
    watch_drift_psi: float = Field(0.25, description="population stability index from which a feature has drifted")
    watch_drift_distance: float = Field(0.1, description="Wasserstein's or Jensen and Shannon's, 0 to 1")
    watch_quality_drop: float = Field(0.05, ge=0, le=1, description="rows that went bad, or without a prediction")
    watch_min_rows: int = Field(500, ge=0, description="fewer fully measured rows: say so and do nothing")
    watch_min_arm_rows: int = Field(200, ge=0, description="fewer canary or control rows cannot be compared")
    watch_alpha: float = Field(
        0.01, gt=0, lt=1, description="chance that one rule ever acts wrongly on a version in a region"
    )
    watch_evidence: timedelta = Field(timedelta(days=14), gt=timedelta(0), description="how far back evidence reaches")
    watch_max_rows: int = Field(
        250_000, gt=0, description="of a region's evidence; a busier region's reaches back fewer whole days"
    )
    watch_recent: timedelta = Field(timedelta(days=3), gt=timedelta(0), description="what is looked at for drift")
    watch_drift_persists: timedelta = Field(
        timedelta(days=7), gt=timedelta(0), description="drift that stays so long asks for retraining"
    )
    watch_cooldown: timedelta = Field(
        timedelta(hours=24), ge=timedelta(0), description="between two acts of one kind in a region; no flapping"
    )
    watch_retrain_cooldown: timedelta = Field(timedelta(days=7), ge=timedelta(0))
    watch_stale_after: timedelta = Field(
        timedelta(hours=36), gt=timedelta(0), description="an older look is no verdict for the rollout"
    )
    watch_cron: str = Field("10 * * * *", description="ten minutes past the hour, so that its last rows have arrived")
    notify_webhook: SecretStr | None = Field(None, description="where one line goes when something was done")
    notify_routing_key: SecretStr | None = Field(None, description="PagerDuty's, if the webhook is PagerDuty's")

    # -- rollout (seed §9.1) --
    rollout_immediate: bool = Field(
        False, description="a model that passes the gate serves every region at once: where nothing is to be protected"
    )
    rollout_shadow_soak: timedelta = Field(timedelta(days=14), ge=timedelta(0), description="weeks 1 and 2")
    rollout_canary_soak: timedelta = Field(timedelta(days=14), ge=timedelta(0), description="weeks 3 and 4, at 5 %")
    rollout_25_soak: timedelta = Field(timedelta(days=7), ge=timedelta(0), description="week 5")
    rollout_50_soak: timedelta = Field(timedelta(days=7), ge=timedelta(0), description="week 6")
    rollout_75_soak: timedelta = Field(timedelta(days=7), ge=timedelta(0), description="week 7; full from week 8")
    rollout_next_shadow_soak: timedelta = Field(
        timedelta(days=1), ge=timedelta(0), description="of later versions, once one was full in the region"
    )
    rollout_next_canary_soak: timedelta = Field(
        timedelta(days=3), ge=timedelta(0), description="of later versions; with the shadow less than a week"
    )
    rollout_approve_canary: bool = Field(False, description="a person approves the step from shadow to canary")
    rollout_approve_full: bool = Field(False, description="a person approves the step to 100 %")
    rollout_approval_wait: timedelta = Field(
        timedelta(hours=20), gt=timedelta(0), description="unanswered for so long, a question lapses and is asked anew"
    )
    rollout_cron: str = Field("0 9 * * *", description="daily 09:00 UTC, when somebody is awake")
    rollout_repeat_within: timedelta = Field(
        timedelta(minutes=10),
        ge=timedelta(0),
        description="a region that was rolled back so recently is left alone by the form's 'last good'",
    )

    # -- weekly run and backfill --
    weekly_cron: str = Field("0 3 * * 1", description="Monday 03:00 UTC")
    backfill_max_days: int = Field(92, ge=1)
    fallback_confidence: float = Field(0.6, ge=0, le=1, description="seed §7.2: below it, the baseline")

    @property
    def archive_dir(self) -> Path:
        """Parquet archive, partitioned by day and region."""
        return self.home / "archive"

    @property
    def store_dir(self) -> Path:
        """Content-addressed artifacts."""
        return self.home / "store"

    @property
    def bundle_dir(self) -> Path:
        """Published bundles, one directory a version."""
        return self.home / "bundles"

    @property
    def channel_path(self) -> Path:
        """The signed channel document that nodes poll."""
        return self.home / "channel" / "channel.json"

    @property
    def reports_dir(self) -> Path:
        """HTML reports of runs."""
        return self.home / "reports"
