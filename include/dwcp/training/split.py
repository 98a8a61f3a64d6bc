"""Which transfers teach, which stop the teaching, and which judge (seed §5.2: 70 / 15 / 15)."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dwcp.settings import Settings
from dwcp.training.dataset import TEST, TRAIN, VALIDATION, Dataset, DatasetError


@dataclass(frozen=True, slots=True)
class Parts:
    """Where each row of a dataset goes, (rows,): its ``split``, and whether it is ``kept`` there."""

    split: NDArray[np.int8]
    kept: NDArray[np.bool_]


def split_by_time(dataset: Dataset, settings: Settings) -> Dataset:
    """The oldest ``train_share`` of the rows, then the ``validation_share``, then the rest: what the gate looks at.

    A model must not be judged on bytes that it has seen: a payload version that was transferred on both sides of a
    boundary (same object and version, or same payload digest) is dropped from the later side and counted in
    ``dropped``. Raises ``DatasetError`` if that leaves a split without rows.
    """
    return divide(dataset, parts_by_time(dataset, settings))


def split_at_random(dataset: Dataset, settings: Settings) -> Dataset:
    """The same shares drawn by chance, reported beside the time split: what it lacks is the passing of time.

    All transfers of one payload fall together, so this split does not reward memory either. Raises ``DatasetError`` if
    a split has no rows.
    """
    return divide(dataset, parts_at_random(dataset, settings))


def split_by_object(dataset: Dataset, settings: Settings) -> Dataset:
    """Whole objects drawn by chance, the same shares of them: how the choice carries over to objects never seen.

    Bytes that two objects share are dropped from the later side, as in ``split_by_time``. What a node remembers of a
    test object's own past stays among its features: that is no knowledge of the model's. Raises ``DatasetError`` if a
    split has no rows.
    """
    return divide(dataset, parts_by_object(dataset, settings))


def parts_by_time(dataset: Dataset, settings: Settings) -> Parts:
    """The parts of ``split_by_time``."""
    order = np.argsort(dataset.timestamp_ns, kind="stable")
    split = np.empty(dataset.rows, np.int8)
    edges = (np.cumsum(_shares(settings)) * dataset.rows).round().astype(int)
    for part, rows in enumerate(np.split(order, edges[:2])):
        split[rows] = part
    return _without_seen(dataset, split)


def parts_before(dataset: Dataset, begin_ns: int, end_ns: int, settings: Settings) -> Parts:
    """Train and validate on what came before ``begin_ns``, in the settings' proportion, and test up to ``end_ns``.

    Later rows are left out, as are payloads that an earlier part has seen.
    """
    train, validation, _ = _shares(settings)
    before = np.sort(dataset.timestamp_ns[dataset.timestamp_ns < begin_ns])
    edge = round(len(before) * train / (train + validation))
    border_ns = before[edge] if edge < len(before) else begin_ns
    split = np.digitize(dataset.timestamp_ns, [border_ns, begin_ns]).astype(np.int8)
    parts = _without_seen(dataset, split)
    return Parts(split, parts.kept & (dataset.timestamp_ns < end_ns))


def parts_at_random(dataset: Dataset, settings: Settings) -> Parts:
    """The parts of ``split_at_random``."""
    return Parts(_drawn(dataset.payload_digest, settings), np.ones(dataset.rows, np.bool_))


def parts_by_object(dataset: Dataset, settings: Settings) -> Parts:
    """The parts of ``split_by_object``."""
    return _without_seen(dataset, _drawn(dataset.object_id, settings))


def divide(dataset: Dataset, parts: Parts) -> Dataset:
    """The rows that ``parts`` keep, in their splits; the others are counted in ``dropped``.

    Raises ``DatasetError`` if a split is left without rows.
    """
    left_out = {} if parts.kept.all() else _left_out(parts)
    divided = dataclasses.replace(dataset, split=parts.split, dropped=dataset.dropped | left_out).take(parts.kept)
    for part, name in ((TRAIN, "training"), (VALIDATION, "validation"), (TEST, "test")):
        if not (divided.split == part).any():
            raise DatasetError(
                f"the {name} split is empty (left out: {divided.dropped}): widen the window, so that payloads that "
                "were not transferred before reach every split"
            )
    return divided


def _left_out(parts: Parts) -> dict[str, int]:
    return {
        f"payload seen before the {name} split": int((~parts.kept & (parts.split == part)).sum())
        for part, name in ((VALIDATION, "validation"), (TEST, "test"))
    }


def _drawn(names: NDArray[np.str_], settings: Settings) -> NDArray[np.int8]:
    """A split for each row, drawn once for each name."""
    _, name = np.unique(names, return_inverse=True)
    rank = np.random.default_rng(settings.seed).permutation(name.max() + 1)
    edges = np.cumsum(_shares(settings))[:2] * len(rank)
    return np.digitize(rank[name], edges).astype(np.int8)


def _shares(settings: Settings) -> tuple[float, float, float]:
    shares = (settings.train_share, settings.validation_share, 1 - settings.train_share - settings.validation_share)
    if min(shares) <= 0:
        raise DatasetError(
            f"train share {shares[0]} and validation share {shares[1]} leave {shares[2]:.2f} to the test: "
            "each of the three must be above 0 and they sum to 1"
        )
    return shares


def _without_seen(dataset: Dataset, split: NDArray[np.int8]) -> Parts:
    """Keep a row where neither its bytes nor its object's version occur in an earlier split."""
    version = np.char.add(np.char.add(dataset.object_id, "\n"), dataset.object_version.astype(str))
    return Parts(split, ~(_seen_before(dataset.payload_digest, split) | _seen_before(version, split)))


def _seen_before(names: NDArray[np.str_], split: NDArray[np.int8]) -> NDArray[np.bool_]:
    """Rows whose name occurs in an earlier split."""
    uniques, name = np.unique(names, return_inverse=True)
    first = np.full(len(uniques), TEST, np.int8)
    np.minimum.at(first, name, split)
    seen: NDArray[np.bool_] = first[name] < split
    return seen
