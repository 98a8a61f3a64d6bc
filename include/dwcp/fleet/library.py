"""The recorded profile library: what every engine made of every version of every object, and how long it took."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from dwcp.fleet.engines import STREAM_COUNTS

PROFILE_NAME = "profiles.parquet"
MANIFEST_NAME = "manifest.json"
RECORDED = Path(__file__).with_name("library")
"""The library that lies in the repository."""

FORMAT = 2
"""Of the manifest's ``format``: a library of another one is refused."""

TIMES = (
    "zstd_ms",
    "zstd_back_ms",
    "hde_ms",
    "hde_back_ms",
    "amst_cpu_ms",
    "amst_back_cpu_ms",
    *(f"amst_{streams}{back}_ms" for streams in STREAM_COUNTS for back in ("", "_back")),
)
SETS = ("a", "b")
LOOKS = (
    "entropy",
    "compressibility_score",
    "delta_potential",
    "zero_share",
    "probe_zstd_share",
    "probe_zstd_ms_per_mb",
    "probe_lz4_ms_per_mb",
    "probe_time_ms",
    "hash_ms",
)
"""What a node may know before it chooses (``features.probe``); ``hash_ms`` is hashing all blocks."""
_AMST1_TIMES = tuple(name.replace("amst_", "amst1_") for name in TIMES if name.startswith("amst_"))


def _schema(time_type: pa.DataType) -> pa.Schema:
    return pa.schema(
        [
            pa.field("object_id", pa.string()),
            pa.field("data_type", pa.string()),
            pa.field("kind", pa.string()),
            pa.field("version", pa.int64()),
            pa.field("size_bytes", pa.int64()),
            pa.field("payload_digest", pa.string()),
            pa.field("reference_ratio", pa.float32()),
            *(pa.field(name, pa.float32()) for name in LOOKS),
            *(pa.field(f"{engine}_bytes", pa.int64()) for engine in ("zstd", "hde", "amst", "amst1")),
            pa.field("hde_hit_rate", pa.float64()),
            *(pa.field(f"{name}_{measured}", time_type) for measured in SETS for name in TIMES),
            *(pa.field(name, pa.float32()) for name in _AMST1_TIMES),
        ]
    )


LIBRARY_SCHEMA = _schema(pa.float32())
"""One row a payload; ``_a`` and ``_b`` are two independent measurements, times in ms of CPU, the least of all runs.

``amst1_*`` is AMST with zstd level 1, measured once and shown beside the others.
"""
RUNS_SCHEMA = _schema(pa.list_(pa.float32()))
"""The same with the times of all runs. ``reference_ratio`` is the reference kernel's ms here, as long as the best is
not known."""
_TYPICAL_MBPS = (10_000.0, 1_000.0, 100.0)
_NEAR_TIES = (0.01, 0.05)
_RUN_COUNTS = (1, 3, 5)


class LibraryError(RuntimeError):
    """The library is missing, was changed after its recording, or is of another format or other codecs."""


@dataclass(frozen=True)
class Profiles:
    """A library's rows, sorted by object and version."""

    table: pa.Table

    def column(self, name: str) -> NDArray[Any]:
        """One column as numpy; figures are kept in 4 bytes and computed with in 8."""
        values: NDArray[Any] = self.table[name].to_numpy()
        return values.astype(np.float64) if values.dtype == np.float32 else values

    @cached_property
    def object_of_row(self) -> NDArray[np.int64]:
        """Position of each row's object in ``objects``."""
        codes = self.table["object_id"].combine_chunks().dictionary_encode().indices.to_numpy(zero_copy_only=False)
        return np.asarray(codes, dtype=np.int64)

    @cached_property
    def first_row(self) -> NDArray[np.int64]:
        """Row of version 0 of each object; rows of one object lie together."""
        return np.flatnonzero(np.diff(self.object_of_row, prepend=-1))

    @cached_property
    def versions(self) -> NDArray[np.int64]:
        """Number of versions of each object."""
        return np.diff(np.append(self.first_row, self.table.num_rows))

    def costs(self, measured: str, bandwidth_mbps: float, streams: int) -> NDArray[np.float64]:
        """Cost of hde, amst and none by §3.1 on one loss-free link, in ms; shape (rows, 3)."""
        per_byte = 1 / (bandwidth_mbps * 125)
        hde = self.column(f"hde_ms_{measured}") + self.column(f"hde_back_ms_{measured}")
        amst = self.column(f"amst_{streams}_ms_{measured}") + self.column(f"amst_{streams}_back_ms_{measured}")
        return np.column_stack(
            [
                self.column("hde_bytes") * per_byte + hde,
                self.column("amst_bytes") * per_byte + amst,
                self.column("size_bytes") * per_byte,
            ]
        )


def label_repeatability(one: Profiles, one_set: str, other: Profiles, other_set: str) -> dict[str, Any]:
    """How far two measurements of the same payloads agree: share of equal labels, mean regret, time ratios.

    Labels are those of three typical loss-free links (10 Gbit/s, 1 Gbit/s, 100 Mbit/s) and four AMST streams.
    """
    agree, regret = [], []
    for mbps in _TYPICAL_MBPS:
        costs, others = one.costs(one_set, mbps, 4), other.costs(other_set, mbps, 4)
        best, guess = costs.argmin(axis=1), others.argmin(axis=1)
        agree.append(best == guess)
        rows = np.arange(len(costs))
        regret.append((costs[rows, guess] - costs[rows, best]).sum() / costs[rows, best].sum())
    ratios = [
        other.column(f"{name}_{other_set}") / one.column(f"{name}_{one_set}")
        for name in ("hde_ms", "amst_4_ms", "zstd_ms")
    ]
    spread = np.abs(np.log(np.concatenate(ratios)))
    return {
        "label_agreement": round(float(np.mean(agree)), 5),
        "label_agreement_by_mbps": {
            str(int(m)): round(float(np.mean(a)), 5) for m, a in zip(_TYPICAL_MBPS, agree, strict=True)
        },
        "mean_regret": round(float(np.mean(regret)), 6),
        "time_ratio_median_difference": round(float(np.median(spread)), 5),
        "time_ratio_p95_difference": round(float(np.quantile(spread, 0.95)), 5),
        "payloads": len(one.table),
    }


def least_of_runs(recorded: pa.Table, runs: int | None = None) -> pa.Table:
    """A table of ``RUNS_SCHEMA`` as one of ``LIBRARY_SCHEMA``: the least of the first ``runs`` runs (None: of all)."""
    columns = []
    for field in LIBRARY_SCHEMA:
        column = recorded[field.name]
        if pa.types.is_list(recorded.schema.field(field.name).type):
            times = column.combine_chunks().flatten().to_numpy().reshape(recorded.num_rows, -1)
            column = pa.array(times[:, :runs].min(axis=1))
        columns.append(column)
    return pa.table(columns, schema=LIBRARY_SCHEMA)


def repeatability_by_runs(recorded: pa.Table, runs: int) -> dict[str, dict[str, Any]]:
    """The labels' ceiling for nodes that measure with 1, 3 and 5 runs, as far as ``runs`` were recorded.

    ``recorded`` is of ``RUNS_SCHEMA``; sets a and b are compared, each the least of its first runs.
    """
    ceilings = {}
    for count in _RUN_COUNTS:
        if count <= runs:
            profiles = Profiles(least_of_runs(recorded, count))
            ceilings[str(count)] = label_repeatability(profiles, "a", profiles, "b")
    return ceilings


def near_ties(profiles: Profiles) -> dict[str, float]:
    """Share of payloads and typical links whose second-best choice costs at most 1 % or 5 % more than the best."""
    gaps = []
    for mbps in _TYPICAL_MBPS:
        costs = np.sort(profiles.costs("a", mbps, 4), axis=1)
        gaps.append(costs[:, 1] / costs[:, 0] - 1)
    return {f"within_{near:.0%}": round(float((np.concatenate(gaps) <= near).mean()), 5) for near in _NEAR_TIES}


def table_bytes(table: pa.Table) -> bytes:
    """A library's table as Parquet: the bytes of floats split by place, which compresses them best."""
    floats = [field.name for field in table.schema if pa.types.is_floating(field.type)]
    texts = [field.name for field in table.schema if pa.types.is_string(field.type)]
    buffer = pa.BufferOutputStream()
    pq.write_table(
        table,
        buffer,
        compression="zstd",
        compression_level=19,
        use_dictionary=texts,
        use_byte_stream_split=floats,
        write_statistics=False,
    )
    return bytes(buffer.getvalue().to_pybytes())


def ratio_summary(profiles: Profiles) -> dict[str, dict[str, float]]:
    """Compression ratios of each engine over payloads that have a previous version: 10 %, 50 % and 90 % quantiles.

    Empty if no payload has one.
    """
    later = profiles.column("version") > 0
    if not later.any():
        return {}
    size = profiles.column("size_bytes")[later]
    summary = {}
    for engine in ("hde", "amst", "amst1", "zstd"):
        p10, median, p90 = np.quantile(size / profiles.column(f"{engine}_bytes")[later], (0.1, 0.5, 0.9))
        summary[engine] = {"p10": round(float(p10), 3), "median": round(float(median), 3), "p90": round(float(p90), 3)}
    return summary


def load_library(directory: Path = RECORDED) -> tuple[Profiles, dict[str, Any]]:
    """Profiles and manifest of a library. Raises ``LibraryError`` if it is missing, changed, old or of other codecs."""
    from dwcp.fleet.measure import codec_versions

    try:
        manifest = json.loads((directory / MANIFEST_NAME).read_text())
        data = (directory / PROFILE_NAME).read_bytes()
    except (OSError, ValueError) as error:
        raise LibraryError(
            f"no library in {directory} ({error}): record one with `dwcp fleet measure {directory}`"
        ) from None
    if manifest.get("format") != FORMAT:
        raise LibraryError(
            f"the library in {directory} is of format {manifest.get('format', 1)}, but format {FORMAT} is read here: "
            "record again with `dwcp fleet measure`"
        )
    if hashlib.sha256(data).hexdigest() != manifest.get("sha256"):
        raise LibraryError(f"{directory / PROFILE_NAME} was changed after its recording: its digest is another")
    if manifest.get("codecs") != codec_versions():
        raise LibraryError(
            f"the library in {directory} was recorded with {manifest.get('codecs')}, but {codec_versions()} are "
            "installed: install those, or record again with `dwcp fleet measure`"
        )
    return Profiles(pq.read_table(pa.BufferReader(data))), manifest
