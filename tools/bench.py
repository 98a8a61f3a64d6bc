"""``make bench``: each step beside the naive way a user would write it, in one run; writes ``docs/benchmarks.md``.

Every pair runs in this process, one after the other, on the same rows; the naive way gets fewer rows where it takes
minutes, and both are given as a rate. Ratios carry over to other machines, rates do not.
"""

from __future__ import annotations

import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tests"))

import numpy as np  # noqa: E402
import pyarrow as pa  # noqa: E402

from dwcp.contract import FEATURES, FIELDS, FULLY_MEASURED, MEASUREMENT, REGIONS  # noqa: E402
from dwcp.settings import Settings  # noqa: E402
from dwcp.sources.archive import BATCH_ROWS  # noqa: E402
from dwcp.window import Window  # noqa: E402
from transfers import START, archive_transfers, make_transfers  # noqa: E402

DAY = START.date().isoformat()
ROWS = 100_000


@dataclass(frozen=True)
class Pair:
    """One line: what was done, and rows (or decisions) a second of both ways; ``naive`` is None if it was not run."""

    step: str
    ours: float
    naive_way: str
    naive: float | None


def rate(rows: int, work: Callable[[], object]) -> float:
    """Rows a second of ``work``, best of two runs, or of as many as half a second holds: a short one is easily hit."""
    runs = [_seconds(work), _seconds(work)]
    while sum(runs) < 0.5:
        runs.append(_seconds(work))
    return rows / min(runs)


def _seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def bench_label(rows: pa.Table) -> Pair:
    """§3.1 over columns, and the seed's function (§3.2's shape, units put right) applied to a data frame's rows."""
    from dwcp.oracle import label_batch

    some = rows.filter(pa.compute.equal(rows["measured_candidates"], FULLY_MEASURED))
    frame = some.slice(0, 5_000).to_pandas()

    def compute_oracle_compression(row: Any) -> str:
        bandwidth = row["available_bandwidth_mbps"] * (1 - row["packet_loss_rate"]) * 125
        costs = {"none": row["data_size_bytes"] / bandwidth}
        for name in ("hde", "amst"):
            times = row[f"{name}_compression_time_ms"] + row[f"{name}_decompression_time_ms"]
            costs[name] = row[f"{name}_compressed_size_bytes"] / bandwidth + times
        return min(costs, key=costs.__getitem__)

    ours = rate(some.num_rows, lambda: label_batch(some, "seed_3_1"))
    naive = rate(len(frame), lambda: frame.apply(compute_oracle_compression, axis=1))
    return Pair("label (oracle §3.1)", ours, "`DataFrame.apply` of the seed's function", naive)


def bench_features(rows: pa.Table) -> Pair:
    """All features with their histories, and pandas' averages per object for the three ratios alone."""
    from dwcp.features.recompute import recompute_features

    frame = rows.to_pandas()
    ratios = ["hde_compression_ratio", "baseline_compression_ratio", "amst_compressed_size_bytes"]

    def averages() -> object:
        past = frame.sort_values("timestamp_ns").groupby(["node_id", "object_id"])[ratios]
        return past.transform(lambda column: column.shift().ewm(alpha=0.3, ignore_na=True).mean())

    ours = rate(rows.num_rows, lambda: recompute_features(rows))
    naive = rate(rows.num_rows, averages)
    return Pair(f"features (all {len(FEATURES)}, with histories)", ours, "pandas `groupby().ewm()`, 3 of them", naive)


def bench_load(settings: Settings, rows: pa.Table) -> list[Pair]:
    """From the archive to labelled rows in Postgres, for the first time and again, and ``to_sql`` of ready rows."""
    import psycopg2
    import sqlalchemy

    from dwcp.pipeline.ingest import load_day

    archive_transfers(settings.archive_dir, rows)
    dsn = settings.owner_dsn.get_secret_value() if settings.owner_dsn else ""

    def load() -> float:
        return rows.num_rows / _seconds(lambda: load_day(settings, run_id="bench", day=DAY, source="archive"))

    first, again = [], []
    for _ in range(2):
        with psycopg2.connect(dsn) as db, db.cursor() as cursor:
            cursor.execute("TRUNCATE compression_training_data")
        first.append(load())
        again.append(load())
    frame = rows.slice(0, 2_000).to_pandas()
    engine = sqlalchemy.create_engine(dsn.replace("postgresql://", "postgresql+psycopg2://"))
    naive = rate(len(frame), lambda: frame.to_sql("bench_naive", engine, if_exists="replace", index=False))
    with psycopg2.connect(dsn) as db, db.cursor() as cursor:
        cursor.execute("DROP TABLE bench_naive")
    what, naive_way = "extract, check, label, load (archive to Postgres)", "`to_sql` of ready rows alone"
    return [Pair(what, max(first), naive_way, naive), Pair(f"{what}, a day again", max(again), naive_way, naive)]


def bench_extract(rows: pa.Table) -> list[Pair]:
    """InfluxQL CSV into Arrow, and the client's own data frame; none where there is no InfluxDB."""
    from dwcp.sources.influx import InfluxSource, write_points
    from fixtures_influx import running_influxd

    with tempfile.TemporaryDirectory() as home:
        try:
            with running_influxd(Path(home)) as server:
                settings = Settings(
                    influx_url=server.url, influx_token=server.token, influx_org=server.org, influx_bucket="bench"
                )
                server.call("POST", "/api/v2/buckets", {"name": "bench", "orgID": server.org_id, "retentionRules": []})
                write_points(settings, rows)
                window = Window.of_day(START.date())
                ours = rate(rows.num_rows, lambda: list(InfluxSource(settings).read(window)))
                return [Pair("extract from InfluxDB", ours, "`query_data_frame` (Flux pivot)", _flux(settings, rows))]
        except FileNotFoundError as error:
            print(f"skipped: extract from InfluxDB: {error}")
            return []


def _flux(settings: Settings, rows: pa.Table) -> float:
    from influxdb_client import InfluxDBClient

    client = InfluxDBClient(
        settings.influx_url, settings.influx_token.get_secret_value(), org=settings.influx_org, timeout=600_000
    )
    tags = '"node_id", "region", "availability_zone", "link_type", "data_type", "current_compression"'
    query = (
        f'from(bucket: "{settings.influx_bucket}") |> range(start: {START:%Y-%m-%dT%H:%M:%SZ}, '
        f'stop: {START + timedelta(days=1):%Y-%m-%dT%H:%M:%SZ}) |> filter(fn: (r) => r._measurement == "{MEASUREMENT}")'
        f' |> pivot(rowKey: ["_time", {tags}], columnKey: ["_field"], valueColumn: "_value")'
    )
    return rows.num_rows / _seconds(lambda: client.query_api().query_data_frame(query))


def bench_training(settings: Settings) -> tuple[list[Pair], bytes, Any]:
    """Both heads on 60k labelled rows; XGBoost beside its exact trees, the network beside Keras' default batch."""
    import xgboost

    from dwcp.oracle import label_batch
    from dwcp.training import network, xgb
    from dwcp.training.dataset import TRAIN, build_dataset
    from dwcp.training.split import split_by_time

    rows = make_transfers(60_000, fully_measured=1.0, objects=400)
    labels = label_batch(rows, "seed_3_1")
    for name in labels.schema.names:
        rows = rows.append_column(name, labels.column(name))
    dataset = split_by_time(build_dataset(rows), settings)
    train = dataset.only(TRAIN)
    booster, network_bytes = b"", b""

    def ours_trees() -> None:
        nonlocal booster
        booster = xgb.train_xgboost(dataset, settings)

    def naive_trees() -> None:
        xgboost.XGBClassifier(
            n_estimators=200, max_depth=8, learning_rate=0.05, subsample=0.8, colsample_bytree=0.8, tree_method="exact"
        ).fit(train.features, train.labels)

    def ours_network() -> None:
        nonlocal network_bytes
        network_bytes = network.train_network(dataset, settings)

    pairs = [
        Pair(
            "train XGBoost (rows a second, to the stop)",
            train.rows / _seconds(ours_trees),
            "`XGBClassifier.fit`, exact trees, no stop",
            train.rows / _seconds(naive_trees),
        ),
        Pair("train the network (rows a second, to the stop)", train.rows / _seconds(ours_network), "not run", None),
    ]
    from dwcp.export.onnx_graph import build_onnx
    from dwcp.training.ensemble import assemble

    ensemble = assemble(booster, network_bytes, xgboost_weight=settings.xgboost_weight)
    return pairs, build_onnx(ensemble, version="bench"), (ensemble, train)


def bench_inference(model: bytes, trained: Any) -> list[Pair]:
    """Single decisions through one ONNX session, beside a session per call and the native libraries."""
    import onnxruntime
    import xgboost

    from dwcp.export.runtime import OnnxModel

    ensemble, train = trained
    vectors = train.features[:2_000]
    loaded = OnnxModel(model)
    booster = xgboost.Booster(model_file=bytearray(ensemble.booster))

    def each(decide: Callable[[np.ndarray], object], count: int) -> float:
        return rate(count, lambda: [decide(vector) for vector in vectors[:count]])

    def session_per_call(vector: np.ndarray) -> object:
        session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
        return session.run(None, {"features": vector[np.newaxis]})

    ours = each(loaded.decide, 2_000)
    return [
        Pair("decide, one transfer", ours, "a session per call", each(session_per_call, 20)),
        Pair(
            "decide, one transfer",
            ours,
            "XGBoost's `predict` on a DMatrix, trees alone",
            each(lambda vector: booster.predict(xgboost.DMatrix(vector[np.newaxis])), 200),
        ),
        Pair(
            "decide, a batch",
            rate(len(train.features), lambda: loaded.predict(train.features)),
            "one transfer at a time",
            ours,
        ),
    ]


def memory_of_load(home: Path, rows: int) -> float:
    """Peak memory (MB) of a fresh process that loads one day of ``rows`` from the archive; none for 0.

    As the kernel counts it for the program itself: ``ru_maxrss`` would start at what this process, its parent, holds.
    """
    code = (
        "import sys; sys.path.insert(0, sys.argv[3]); from pathlib import Path; from dwcp.settings import Settings;"
        "from dwcp.pipeline.site import local_settings; from dwcp.pipeline.ingest import load_day;"
        "import dwcp.oracle, dwcp.quality.check, dwcp.sources.archive, dwcp.warehouse.load;"
        "settings = local_settings(Settings(home=Path(sys.argv[1])));"
        "int(sys.argv[4]) and load_day(settings, run_id='m', day=sys.argv[2], source='archive');"
        "print(Path('/proc/self/status').read_text().split('VmHWM:')[1].split()[0])"
    )
    if rows:
        archive_transfers(home / "archive", make_transfers(rows))
    command = [sys.executable, "-c", code, str(home), DAY, str(ROOT / "tests"), str(rows)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1]) / 1024


@contextmanager
def site() -> Iterator[Settings]:
    """A Postgres of its own, gone afterwards."""
    from dwcp.pipeline.site import local_settings
    from dwcp.warehouse import server

    with tempfile.TemporaryDirectory() as home:
        Path(home).chmod(0o755)
        try:
            yield local_settings(Settings(home=Path(home)))
        finally:
            server.stop(Path(home))


def page(pairs: list[Pair], memory: Mapping[int, float], load: tuple[float, float, float]) -> str:
    """The Markdown page."""
    lines = [
        "# Benchmarks",
        "",
        f"Written by `make bench` on {datetime.now(UTC):%Y-%m-%d}: {_cpu()}, {os.cpu_count()} cores, Python "
        f"{platform.python_version()}; load average before it {load[0]:.1f}. Rows have the contract's "
        f"{len(FIELDS)} fields. Both columns come from one run; read the ratio, not the rates.",
        "",
        "| step | here, rows/s | the naive way | its rows/s | ratio |",
        "|---|---:|---|---:|---:|",
    ]
    for pair in pairs:
        naive = "" if pair.naive is None else f"{pair.naive:,.0f}"
        ratio = "" if pair.naive is None else f"{pair.ours / pair.naive:,.1f} ×"
        lines.append(f"| {pair.step} | {pair.ours:,.0f} | {pair.naive_way} | {naive} | {ratio} |")
    lines += [
        "",
        f"Peak memory of a process that extracts, labels and loads one day of {len(REGIONS)} regions; 0 is the program "
        f"alone. It is bounded by batches of {BATCH_ROWS:,} rows, which small days do not fill:",
        "",
        "| rows | MB |",
        "|---:|---:|",
    ]
    lines += [f"| {rows:,} | {peak:,.0f} |" for rows, peak in memory.items()]
    return "\n".join(lines) + "\n"


def _cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor()


def main() -> None:
    """Run everything and write the page."""
    load = os.getloadavg()
    rows = make_transfers(ROWS)
    pairs: list[Pair] = []
    with site() as settings:
        for name, run in (
            ("extract", lambda: bench_extract(rows.slice(0, 30_000))),
            ("label", lambda: [bench_label(rows)]),
            ("features", lambda: [bench_features(rows)]),
            ("load", lambda: bench_load(settings, rows)),
        ):
            print(f"{name} …", flush=True)
            pairs += run()
        print("memory …", flush=True)
        memory = {count: memory_of_load(settings.home, count) for count in (0, 20_000, 100_000, 300_000)}
        print("training and inference …", flush=True)
        trained, model, parts = bench_training(settings)
        pairs += trained + bench_inference(model, parts)
    text = page(pairs, memory, load)
    (ROOT / "docs" / "benchmarks.md").write_text(text)
    print(text)


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    main()
