"""Which transfers teach, which stop the teaching, and which judge (seed §5.2: 70 / 15 / 15)."""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

from dwcp.settings import Settings
from dwcp.training.dataset import TEST, TRAIN, VALIDATION, Dataset, DatasetError


def split_by_time(dataset: Dataset, settings: Settings) -> Dataset:
    """The oldest ``train_share`` of the rows, then the ``validation_share``, then the rest: what the gate looks at.

    A model must not be judged on bytes that it has seen: a payload version that was transferred on both sides of a
    boundary (same object and version, or same payload digest) is dropped from the later side and counted in
    ``dropped``. Raises ``DatasetError`` if that leaves a split without rows.
    """
    shares = _shares(settings)
    order = np.argsort(dataset.timestamp_ns, kind="stable")
    split = np.empty(dataset.rows, np.int8)
    edges = (np.cumsum(shares) * dataset.rows).round().astype(int)
    for part, rows in enumerate(np.split(order, edges[:2])):
        split[rows] = part
    payload = dataset.payload_digest
    version = np.char.add(np.char.add(dataset.object_id, "\n"), dataset.object_version.astype(str))
    seen = _seen_before(payload, split) | _seen_before(version, split)
    dropped = dataset.dropped | {
        f"payload seen before the {name} split": int((seen & (split == part)).sum())
        for part, name in ((VALIDATION, "validation"), (TEST, "test"))
    }
    return _checked(dataclasses.replace(dataset, split=split, dropped=dropped).take(~seen))


def split_at_random(dataset: Dataset, settings: Settings) -> Dataset:
    """The same shares drawn by chance, reported beside the time split: what it lacks is the passing of time.

    All transfers of one payload fall together, so this split does not reward memory either. Raises ``DatasetError`` if
    a split has no rows.
    """
    _, payload = np.unique(dataset.payload_digest, return_inverse=True)
    rank = np.random.default_rng(settings.seed).permutation(payload.max() + 1)
    edges = np.cumsum(_shares(settings))[:2] * len(rank)
    return _checked(dataclasses.replace(dataset, split=np.digitize(rank[payload], edges).astype(np.int8)))


def _shares(settings: Settings) -> tuple[float, float, float]:
    shares = (settings.train_share, settings.validation_share, 1 - settings.train_share - settings.validation_share)
    if min(shares) <= 0:
        raise DatasetError(
            f"train share {shares[0]} and validation share {shares[1]} leave {shares[2]:.2f} to the test: "
            "each of the three must be above 0 and they sum to 1"
        )
    return shares


def _seen_before(names: NDArray[np.str_], split: NDArray[np.int8]) -> NDArray[np.bool_]:
    """Rows whose name occurs in an earlier split."""
    uniques, name = np.unique(names, return_inverse=True)
    first = np.full(len(uniques), TEST, np.int8)
    np.minimum.at(first, name, split)
    seen: NDArray[np.bool_] = first[name] < split
    return seen


def _checked(dataset: Dataset) -> Dataset:
    for part, name in ((TRAIN, "training"), (VALIDATION, "validation"), (TEST, "test")):
        if not (dataset.split == part).any():
            raise DatasetError(
                f"the {name} split is empty (left out: {dataset.dropped}): widen the window, so that payloads that "
                "were not transferred before reach every split"
            )
    return dataset
