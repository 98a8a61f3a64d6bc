"""How much the labels are worth: near ties, other definitions, and what a perfect predictor would score.

The ceiling is found in the rows themselves. A payload that one node measured twice, with one plan of streams, gives two
independent measurements of the same times; the differences of their logarithms are the noise. A perfect predictor
knows the time without it. Its score is estimated by noise put upon measured times: noise of one measurement for a
perfect predictor against a label, noise of two for one label against another. Ratios of whole recordings, such as the
library's manifest has, may be handed in beside.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pyarrow as pa

from dwcp.oracle import best_choice, transfer_costs_ms
from dwcp.release import metrics
from dwcp.release.ladder.found import Ceiling
from dwcp.release.ladder.rows import Rows
from dwcp.release.ladder.score import SIZES
from dwcp.release.metrics import Floats

FEWEST_PAIRS = 100
"""Fewer repeated measurements than this say nothing of noise."""
_TIMES = {
    engine: (f"{engine}_compression_time_ms", f"{engine}_decompression_time_ms")
    for engine in ("hde", "amst", "baseline")
}


def ceilings_of(measured: Mapping[str, object]) -> tuple[Ceiling, ...]:
    """The ceilings that a JSON document states: a library's manifest, or its ``repeatability`` alone.

    Each entry has ``label_agreement`` and, where known, ``mean_regret``. Raises ``ValueError`` if none has.
    """
    entries = measured.get("repeatability", measured)
    found = []
    for name, entry in entries.items() if isinstance(entries, dict) else ():
        if isinstance(entry, dict) and "label_agreement" in entry:
            regret = entry.get("mean_regret")
            agreement = float(entry["label_agreement"])
            found.append(Ceiling(name.replace("_", " "), agreement, None if regret is None else float(regret)))
    if not found:
        raise ValueError("the ceilings hold no entry with a label_agreement: give a library's manifest.json")
    return tuple(found)


def ceilings_in(rows: Rows, definition: str, seed: int) -> tuple[Ceiling, ...]:
    """What repeated measurements among the rows say; nothing if there are fewer than ``FEWEST_PAIRS``."""
    noise, bin_of_pair = _noise(rows)
    if len(noise) < FEWEST_PAIRS:
        return ()
    rng = np.random.default_rng(seed)
    bins = _size_bin(rows.dataset.size_bytes)
    drawn = np.empty((rows.dataset.rows, noise.shape[1]))
    for number in range(len(SIZES)):
        here, there = np.flatnonzero(bins == number), np.flatnonzero(bin_of_pair == number)
        pool = there if len(there) >= FEWEST_PAIRS else np.arange(len(noise))
        drawn[here] = noise[rng.choice(pool, len(here))]
    drawn *= rng.choice([-1.0, 1.0], len(drawn))[:, None]
    source = f"{len(noise):,} repeated measurements among the rows"
    return (
        _ceiling(f"a perfect predictor, by {source}", rows, drawn / np.sqrt(2), definition),
        _ceiling(f"two measurements of one transfer, by {source}", rows, drawn, definition),
    )


def _ceiling(source: str, rows: Rows, log_noise: Floats, definition: str) -> Ceiling:
    """Take the rows' labels for what is known, and costs with noise upon them for what is measured."""
    table = rows.table
    for column, names in enumerate(_TIMES.values()):
        for name in names:
            values = rows.numbers(name) * np.exp(log_noise[:, column])
            table = table.set_column(table.schema.get_field_index(name), name, pa.array(values))
    costs = transfer_costs_ms(table, definition)
    known, _ = best_choice(transfer_costs_ms(rows.table, definition))
    measured, _ = best_choice(costs)
    return Ceiling(source, float((known == measured).mean()), float(metrics.regret(costs, known).mean()))


def _noise(rows: Rows) -> tuple[Floats, np.ndarray[tuple[int], np.dtype[np.int64]]]:
    """Differences of log times (pairs, engines) between a payload's measurements on one node, and their sizes' bins."""
    key = np.array(
        [
            f"{node}\n{digest}\n{streams}"
            for node, digest, streams in zip(
                rows.table["node_id"].to_pylist(),
                rows.dataset.payload_digest.tolist(),
                rows.table["amst_streams"].to_pylist(),
                strict=True,
            )
        ]
    )
    order = np.argsort(key, kind="stable")
    same = key[order][1:] == key[order][:-1]
    first, second = order[:-1][same], order[1:][same]
    times = np.column_stack([sum(rows.numbers(name) for name in names) for names in _TIMES.values()])
    sound = (times[first] > 0).all(axis=1) & (times[second] > 0).all(axis=1)
    first, second = first[sound], second[sound]
    return np.log(times[second] / times[first]), _size_bin(rows.dataset.size_bytes[first])


def _size_bin(size_bytes: np.ndarray[tuple[int], np.dtype[np.int64]]) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    return np.digitize(size_bytes, [low for low, _ in SIZES.values()][1:])
