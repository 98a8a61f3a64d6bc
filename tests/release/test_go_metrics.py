"""What a Go node logs, through a real InfluxDB, is what the pipeline takes."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pyarrow.compute as pc

from dwcp.contract import ALGORITHMS, FULLY_MEASURED
from dwcp.quality.check import check_batch
from dwcp.sources.influx import InfluxSource
from dwcp.window import Window
from fixtures_influx import InfluxBucket
from go_module import run_go_test


def test_every_row_of_a_go_node_satisfies_the_contract(influx_bucket: InfluxBucket):
    printed = run_go_test(
        "TestPipelineMetrics",
        DWCP_TEST_INFLUX_URL=influx_bucket.url,
        DWCP_TEST_INFLUX_TOKEN=influx_bucket.token,
        DWCP_TEST_INFLUX_ORG=influx_bucket.org,
        DWCP_TEST_INFLUX_BUCKET=influx_bucket.bucket,
    )
    (line,) = [line for line in printed.splitlines() if line.startswith("{")]
    counted = json.loads(line)

    today = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    window = Window(today - timedelta(days=1), today + timedelta(days=1))
    batches = list(InfluxSource(influx_bucket.settings).read(window))
    checked = [check_batch(batch, window=window, now_ns=time.time_ns(), max_clock_ahead_ns=10**9) for batch in batches]
    bad = [reason for part in checked for reason in part.bad["reason"].to_pylist()]
    assert bad == []
    rows = pa.Table.from_batches([part.good for part in checked])
    assert rows.num_rows == counted["sent"] == 400

    assert set(rows["current_compression"].to_pylist()) == set(ALGORITHMS)
    assert set(rows["rollout_arm"].to_pylist()) == {"rules", "shadow", "champion"}
    assert {"model", "rules", "model_missing", "inference_error", "non_finite_input", "deadline_passed"} <= set(
        rows["reason_code"].to_pylist()
    )
    assert set(rows["node_id"].to_pylist()) == {"node 1,=é"}
    assert set(rows["object_id"].to_pylist()) == {f'object "{n}" \\ é' for n in range(400)}
    full = pc.equal(rows["measured_candidates"], FULLY_MEASURED)
    assert pc.sum(full).as_py() == counted["measured"] > 100
    assert set(rows.filter(full)["measured_runs"].to_pylist()) == {5}
    assert set(rows["measurement_propensity"].to_pylist()) == {0.5}
    # The propensity of the float32 that the contract's limit is no float32 of.
    assert set(rows["served_packet_loss_rate"].to_pylist()) == {0.99}
