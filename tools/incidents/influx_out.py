"""2. InfluxDB is out for three hours; meanwhile somebody has to roll back."""

from __future__ import annotations

import dataclasses
import socket
import time

from dwcp.fleet.write import write_to_influx
from dwcp.pipeline.rollout import plan_rollback, roll_back
from fixtures_influx import influxd_process, set_up
from incidents.field import HOUR, fleet_week, watch, within
from incidents.report import Incident, Span
from incidents.site import END, HERE, Site

OUT_FROM, OUT_HOURS = 6, 3
ELSEWHERE = "us-west"


def run(site: Site) -> Incident:
    """Nodes write hour by hour; the server stops, and starts again on the same data; nodes send what they kept."""
    home = site.settings.home / "influxd"
    home.mkdir()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    table, cause = fleet_week(site), END + OUT_FROM * HOUR
    with influxd_process(home, port) as url:
        server = set_up(url)
        site = dataclasses.replace(
            site,
            settings=site.settings.model_copy(
                update={
                    **{"source": "influxdb", "influx_url": url, "influx_token": _secret(server.token)},
                    **{"influx_org": server.org, "influx_retries": 2},
                }
            ),
        )
        before = []
        for hour in range(1, OUT_FROM + 1):
            write_to_influx(site.settings, [within(table, END + (hour - 1) * HOUR, END + hour * HOUR)])
            before.append(watch(site, END + hour * HOUR))
    blind = [watch(site, cause + hour * HOUR) for hour in range(1, OUT_HOURS + 1)]
    pressed = time.monotonic()
    plan = plan_rollback(site.settings, region=ELSEWHERE, to="last-good", reason="slow, and InfluxDB is down")
    roll_back(site.settings, who="on call", plan=plan)
    told_s = site.nodes.serve(ELSEWHERE, None) + time.monotonic() - pressed
    back = cause + OUT_HOURS * HOUR
    with influxd_process(home, port):
        kept = within(table, cause, back)
        write_to_influx(site.settings, [kept, within(table, back, back + HOUR)])
        after = watch(site, back + HOUR)
    (found,) = site.rows(
        "SELECT count(*) FROM compression_training_data WHERE region = %s AND timestamp >= %s AND timestamp < %s",
        (HERE, cause, back),
    )[0]
    first = next((look for look in blind if not look.fresh), None)
    return Incident(
        number=2,
        name="InfluxDB out for three hours",
        cause=f"influxd is stopped for {OUT_HOURS} h; nodes keep what they cannot send, as the Go node's spill does.",
        detected=Span((first.until - cause).total_seconds(), "field", "the next hourly look") if first else None,
        recovered=Span((after.until - first.until).total_seconds(), "field", "the outage, and the first hour after it")
        if first and after.fresh and found == kept.num_rows
        else None,
        said=site.said,
        did=(
            f"{sum(not look.fresh for look in blind)} of {OUT_HOURS} looks in the outage were blind and changed "
            f"nothing ({sum(look.fresh for look in before)} of {OUT_FROM} before it saw)",
            f"a rollback of {ELSEWHERE} in the outage reached the region's node {told_s:.1f} s after the press",
            f"of {kept.num_rows} rows kept by the nodes {found} were in Postgres after the next look: a load replaces "
            "the day, so nothing had to be asked for",
        ),
        on_call="bring InfluxDB back; what a node had to keep beyond its spill is lost, and nothing else",
        nodes=site.nodes.total(),
    )


def _secret(text: str) -> object:
    from pydantic import SecretStr

    return SecretStr(text)
