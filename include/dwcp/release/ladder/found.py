"""What a ladder found: figures only, as JSON, so that pages can be printed again without training anything."""

from __future__ import annotations

import json
from dataclasses import dataclass

from pydantic import TypeAdapter

from dwcp.release.intervals import Interval
from dwcp.release.ladder.looks import Looks
from dwcp.release.metrics import Bin

WITHOUT_MODEL = "without a model"
STEPS = "XGBoost, feature by feature"
MODELS = "models"
EXECUTED = "what runs"
ENSEMBLE = "ensemble"
PRODUCT = "ensemble as the product runs it"


@dataclass(frozen=True, slots=True)
class Rung:
    """One selector on one split's test rows. ``accuracy`` is of what it says, the rest of what would run.

    ``gain_paid`` charges it with what looking at the payload cost, if it looks. ``inputs`` is None without a model.
    """

    name: str
    kind: str
    inputs: int | None
    accuracy: Interval
    accuracy_outside_ties: Interval
    mean_regret: Interval
    p95_regret: float
    gain_over_zstd: Interval
    gain_paid: Interval


@dataclass(frozen=True, slots=True)
class Slice:
    """The ensemble on some of the test rows: ``by`` what they were sliced, and which slice.

    ``accuracy`` and ``regret`` are of its argmax; the rest of what the product runs. ``gain_over_zstd`` is before, and
    ``gain_paid`` after what looking cost.
    """

    by: str
    name: str
    rows: int
    objects: int
    accuracy: Interval
    regret: Interval
    executed_regret: Interval
    zstd_share: float
    gain_over_zstd: Interval
    gain_paid: Interval


@dataclass(frozen=True, slots=True)
class SplitFound:
    """All rungs and slices of one split. ``look_share`` is what looking cost over the oracle's time."""

    name: str
    training_rows: int
    test_rows: int
    test_objects: int
    new_objects: int
    dropped: dict[str, int]
    look_share: float
    rungs: tuple[Rung, ...]
    slices: tuple[Slice, ...]

    def rung(self, name: str) -> Rung:
        """The selector called ``name``. Raises ``KeyError``."""
        for rung in self.rungs:
            if rung.name == name:
                return rung
        raise KeyError(name)


@dataclass(frozen=True, slots=True)
class Calibration:
    """The ensemble's confidence against how often it is right, before and after dividing logits by ``temperature``."""

    temperature: float
    before: tuple[Bin, ...]
    after: tuple[Bin, ...]
    error_before: float
    error_after: float


@dataclass(frozen=True, slots=True)
class ModelSize:
    """One size of one kind of model on the time split; the ``knee`` was chosen by the validation rows alone."""

    kind: str
    name: str
    inputs: int
    size_bytes: int
    latency_us: float
    validation_accuracy: float
    validation_regret: float
    accuracy: float
    mean_regret: float
    knee: bool


@dataclass(frozen=True, slots=True)
class Point:
    """One point of the learning curve: XGBoost trained on ``rows`` of the training rows."""

    rows: int
    accuracy: Interval
    mean_regret: Interval


@dataclass(frozen=True, slots=True)
class Mistake:
    """A test row where the ensemble's argmax is not the oracle's choice."""

    object_id: str
    version: int
    data_type: str
    link_type: str
    size_bytes: int
    truth: str
    said: str
    confidence: float
    oracle_ms: float
    lost_ms: float
    gap: float


@dataclass(frozen=True, slots=True)
class MistakeKind:
    """Mistakes of one kind: how many, and their share of all time lost to mistakes."""

    truth: str
    said: str
    link_type: str
    rows: int
    share_of_lost: float


@dataclass(frozen=True, slots=True)
class Definition:
    """The same transfers under one definition of the oracle, and XGBoost trained and judged under it."""

    name: str
    mix: dict[str, float]
    agreement: float
    ties_1: float
    ties_5: float
    accuracy: Interval
    mean_regret: Interval
    gain_over_zstd: Interval


@dataclass(frozen=True, slots=True)
class Ceiling:
    """What a perfect predictor scores, as labels are noisy: from ``source``."""

    source: str
    agreement: float
    mean_regret: float | None


@dataclass(frozen=True, slots=True)
class Worth:
    """How much the labels are worth. ``runs`` counts rows by the runs behind each of their times."""

    definitions: tuple[Definition, ...]
    ceilings: tuple[Ceiling, ...]
    runs: dict[str, int]


@dataclass(frozen=True, slots=True)
class Ladder:
    """Everything that one climb found."""

    dataset_digest: str
    command: str
    oracle: str
    rows: int
    objects: int
    first_day: str
    last_day: str
    looks: Looks
    splits: tuple[SplitFound, ...]
    calibration: Calibration
    sizes: tuple[ModelSize, ...]
    curve: tuple[Point, ...]
    mistakes: tuple[Mistake, ...]
    mistake_kinds: tuple[MistakeKind, ...]
    worth: Worth
    shuffled: Interval
    machine: str
    seconds: float

    def split(self, name: str) -> SplitFound:
        """The split called ``name``. Raises ``KeyError``."""
        for split in self.splits:
            if split.name == name:
                return split
        raise KeyError(name)

    def to_json(self) -> str:
        """Canonical JSON with everything in it."""
        return json.dumps(_ADAPTER.dump_python(self, mode="json"), sort_keys=True, indent=1, allow_nan=False)

    @classmethod
    def from_json(cls, text: str | bytes) -> Ladder:
        """The inverse of :meth:`to_json`. Raises ``ValueError`` if ``text`` is something else."""
        return _ADAPTER.validate_json(text)


_ADAPTER = TypeAdapter(Ladder)
