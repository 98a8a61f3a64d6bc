"""The hourly watch on an emulated fleet: harm is rolled back, harmless drift is said, too little data does nothing."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from dwcp.fleet.simulate import WORLD_START
from dwcp.fleet.write import write_to_archive
from dwcp.pipeline.ingest import load_day
from dwcp.pipeline.watch import act_in_region, look_at_region, plan_look, plan_retraining, refresh_rows
from dwcp.release.publish import publish
from dwcp.release.registry import champions, connect, read_log
from dwcp.settings import Settings
from fields import CostPolicy, training_profile, week
from releases import ready, settings_for

HERE = "eu-west"
END = WORLD_START + timedelta(weeks=5)
SERVED = ("eu-west", "us-east")
ASKED = {"who": "test", "reason": "a test"}


@pytest.fixture
def settings(tmp_path: Path, fresh_warehouse) -> Settings:
    made = settings_for(tmp_path, fresh_warehouse)
    for version in ("v1", "v2"):
        ready(made, version, training_profile=training_profile(), accuracy=0.975)
        publish(made, version, regions=SERVED, **ASKED)
    return made


def serve(settings: Settings, policy: CostPolicy, *, transfers: int = 12_000, change: Callable | None = None) -> None:
    """A week decided by ``policy``, archived as its nodes logged it, and all but its last day loaded."""
    table = week(policy, transfers=transfers)
    write_to_archive(settings.archive_dir, [change(table) if change else table])
    for days in range(2, 8):
        load_day(settings, run_id="before", day=(END - timedelta(days=days)).date().isoformat())


def watch(settings: Settings, until: datetime, region: str = HERE) -> dict[str, Any]:
    """One hourly run for one region; what was looked at and what was done."""
    plan = plan_look(settings, until=until.isoformat())
    refreshed = refresh_rows(settings, run_id="watch", until=plan["until"])
    assert refreshed["fresh"], refreshed
    looked = look_at_region(settings, region=region, refreshed=refreshed)
    return {"looked": looked, "acted": act_in_region(settings, looked=looked)}


def harmless(table: pa.Table) -> pa.Table:
    """Nodes of one region get eight times their memory: nothing that a choice depends on."""
    here = np.asarray(pc.equal(table["region"], HERE))
    for name in ("memory_available_mb", "served_memory_available"):
        values = np.asarray(table[name])
        index = table.schema.get_field_index(name)
        changed = np.where(here, values * 8, values)
        table = table.set_column(index, name, pa.array(changed, table.schema.field(name).type))
    return table


def test_a_harmful_model_is_rolled_back_once_where_it_was_seen(settings: Settings):
    serve(settings, CostPolicy("v2", harm=0.5))
    actions = []
    for hours in (6, 5, 0):
        done = watch(settings, END - timedelta(hours=hours))
        actions.append(done["looked"]["actions"])
        # A task that runs twice does it once.
        act_in_region(settings, looked=done["looked"])
    assert actions == [["rollback"], ["none"], ["none"]]
    assert champions(settings) == dict.fromkeys(SERVED, "v2") | {HERE: "v1"}
    newest = read_log(settings)[0]
    assert (newest.serial, newest.region, newest.released_by) == (3, HERE, "watch")
    assert newest.reason.startswith("accuracy ")


def test_the_same_fleet_under_a_good_model_is_left_alone(settings: Settings):
    serve(settings, CostPolicy("v2"))
    done = watch(settings, END)
    assert done["looked"]["verdicts"] == {"v2": "PASS"}
    assert "rollback" not in done["looked"]["actions"]
    with connect(settings, "reader") as db, db.cursor() as cursor:
        cursor.execute(
            """
            SELECT quantity, verdict FROM field_now
            WHERE quantity IN ('accuracy', 'feature_psi', 'feature_distance', 'label_drift', 'prediction_drift',
                               'quarantine_rise', 'missing_predictions') AND verdict = 'FAIL'
            """
        )
        assert cursor.fetchall() == []


def test_harmless_drift_is_said_and_nothing_is_changed(settings: Settings):
    serve(settings, CostPolicy("v2"), change=harmless)
    done = watch(settings, END)
    assert done["looked"]["actions"] == ["alert"]
    assert any("memory_available@" in reason for reason in done["looked"]["reasons"])
    [notice] = done["acted"]["notices"]
    assert "→ nothing was changed; look at field_verdicts, v2" in notice
    assert champions(settings) == dict.fromkeys(SERVED, "v2")
    elsewhere = watch(settings, END, region="us-east")["looked"]
    assert not any("memory_available" in reason for reason in elsewhere["reasons"])


def test_too_little_data_says_so_and_does_nothing(settings: Settings):
    serve(settings, CostPolicy("v2", harm=1.0), transfers=1_500)
    done = watch(settings, END)
    assert done["looked"]["verdicts"] == {"v2": "INCONCLUSIVE"}
    assert "rollback" not in done["looked"]["actions"]
    assert any(reason.startswith("too little data to judge accuracy: ") for reason in done["looked"]["reasons"])
    assert champions(settings) == dict.fromkeys(SERVED, "v2")


def test_labels_of_another_oracle_than_the_sites_are_no_evidence(settings: Settings):
    """After the definition was changed, and before the old days were relabelled, nothing is judged by them."""
    serve(settings, CostPolicy("v2", harm=0.5))
    other = settings.model_copy(update={"oracle": "seed_3_2"})
    looks = [look_at_region(site, region=HERE, refreshed={"until": END.isoformat()}) for site in (other, settings)]
    assert "rollback" not in looks[0]["actions"]
    assert any(reason.startswith("too little data to judge accuracy: 0 rows") for reason in looks[0]["reasons"])
    assert looks[1]["actions"] == ["rollback"]


def test_thirty_hours_of_the_same_say_it_once_a_day(settings: Settings):
    """Drift that stays: hour after hour the same figures, and a person is told at the first, and a day later."""
    serve(settings, CostPolicy("v2"), change=harmless)
    refresh_rows(settings, run_id="watch", until=END.isoformat())
    said, acted = [], []
    for hour in range(-29, 1):
        looked = look_at_region(settings, region=HERE, refreshed={"until": (END + timedelta(hours=hour)).isoformat()})
        [number] = looked["observations"]
        acted.append(looked["actions"][0])
        if act_in_region(settings, looked=looked)["notices"]:
            said.append(hour)
        standing = _standing(settings, number)
    assert said == [-29, -5]
    assert acted.count("alert") == 2
    assert set(acted) == {"alert", "none"}
    assert datetime.fromisoformat(standing["feature_psi"]["since"]) == END - timedelta(hours=29)
    assert {entry.serial for entry in read_log(settings)} == {1, 2}


def _standing(settings: Settings, number: int) -> dict[str, Any]:
    with connect(settings, "reader") as db, db.cursor() as cursor:
        cursor.execute("SELECT standing FROM watch_observations WHERE id = %s", (number,))
        return cursor.fetchone()[0]


def test_when_influxdb_is_down_it_says_so_and_does_nothing(settings: Settings):
    down = settings.model_copy(update={"source": "influxdb", "influx_url": "http://127.0.0.1:9", "influx_retries": 0})
    refreshed = refresh_rows(down, run_id="watch", until=END.isoformat())
    assert refreshed["fresh"] is False
    assert refreshed["reason"].startswith("the watch is blind for the hour to 2026-09-07 00:00 UTC: the source cannot")
    assert refreshed["notices"] == [refreshed["reason"]]


def test_an_hour_without_a_row_is_no_hour_without_harm(settings: Settings):
    serve(settings, CostPolicy("v2"), transfers=1_500)
    refreshed = refresh_rows(settings, run_id="watch", until=(END + timedelta(hours=3)).isoformat())
    assert refreshed["fresh"] is False
    assert "no row of this hour has arrived" in refreshed["reason"]


def test_a_validated_day_is_complete_and_left_alone(settings: Settings, fresh_warehouse):
    serve(settings, CostPolicy("v2"), transfers=1_500)
    day = (END - timedelta(days=2)).date()
    fresh_warehouse.validate(day)
    before = fresh_warehouse.query("SELECT * FROM ingestion_windows WHERE day = %s ORDER BY region", (day,))
    assert refresh_rows(settings, run_id="watch", until=(END - timedelta(days=1, hours=3)).isoformat())["fresh"]
    assert fresh_warehouse.query("SELECT * FROM ingestion_windows WHERE day = %s ORDER BY region", (day,)) == before


def test_a_look_is_planned_for_the_last_full_hour_and_what_serves(settings: Settings):
    assert plan_look(settings, until="2026-08-10T06:45")["until"] == "2026-08-10T06:00:00+00:00"
    assert plan_look(settings, until="2026-08-10T06:45")["regions"] == sorted(SERVED)
    assert datetime.fromisoformat(plan_look(settings, until=None)["until"]).minute == 0
    with pytest.raises(ValueError, match="lies in the future"):
        plan_look(settings, until="2999-01-01")
    with pytest.raises(ValueError, match="is no date or time"):
        plan_look(settings, until="soon")


def test_retraining_is_asked_for_once_a_week_however_many_regions_ask(settings: Settings):
    monday = plan_retraining(settings, until="2026-08-10T06:00:00+00:00", acted=[{"retrain": True}])
    assert monday == {"run_id": "watch__2026-W33", "start": "2026-08-03", "end": "2026-08-10"}
    sunday = plan_retraining(settings, until="2026-08-16T23:00:00+00:00", acted=[{"retrain": True}])
    assert sunday["run_id"] == monday["run_id"]
