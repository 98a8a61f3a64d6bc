"""How the watch's quantities read: a name, and a format that fits the unit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from dwcp.release.wording import NOTHING, bounds, percent

Unit = Literal["share", "points", "ms", "days", "index"]


@dataclass(frozen=True, slots=True)
class Quantity:
    """A quantity in words. ``good`` says on which side of its limit good values lie.

    ``loss``: a value below zero is a loss, and the limit is the loss that is allowed.
    """

    name: str
    title: str
    unit: Unit
    digits: int = 2
    good: Literal["≥", "≤"] = "≤"
    loss: bool = False

    def value(self, value: float | None) -> str:
        """The value with its unit."""
        if value is None:
            return NOTHING
        if self.unit == "points":
            return f"{100 * value:+.{self.digits}f} points"
        if self.unit in ("share", "points"):
            return percent(value, self.digits)
        return f"{value:.{self.digits}f}{'' if self.unit == 'index' else f' {self.unit}'}"

    def limit(self, threshold: float | None) -> float | None:
        """Where the limit lies on the value's own scale."""
        return -threshold if self.loss and threshold is not None else threshold

    def beyond(self, threshold: float | None) -> str:
        """The limit with its side; nothing where no rule judges the quantity."""
        return "" if threshold is None else f"{self.good} {self.value(self.limit(threshold))}"

    def interval(self, lower: float | None, upper: float | None) -> str:
        """Both bounds, without the unit."""
        if lower is None or upper is None:
            return NOTHING
        if self.unit in ("share", "points"):
            return bounds(lower, upper, self.digits)
        return f"{lower:.{self.digits}f} to {upper:.{self.digits}f}"


QUANTITIES = {
    quantity.name: quantity
    for quantity in (
        Quantity("accuracy", "realised accuracy", "share", good="≥"),
        Quantity("throughput_gain", "canary against control, typical transfer", "share", good="≥", loss=True),
        Quantity("bulk_throughput_gain", "canary against control, all bytes", "share", good="≥", loss=True),
        Quantity("throughput_loss", "throughput lost against the best choices", "share"),
        Quantity("mean_regret", "mean regret of what was executed", "share"),
        Quantity("accuracy_drop", "accuracy lost since release", "points"),
        Quantity("suboptimal_share", "suboptimal selections", "share"),
        Quantity("overhead_of_time", "looking and deciding, of a transfer's time", "share"),
        Quantity("overhead_of_cpu", "looking and deciding, of a transfer's CPU", "share"),
        Quantity("latency_p50_ms", "a decision's latency, p50", "ms", 3),
        Quantity("latency_p95_ms", "a decision's latency, p95", "ms", 3),
        Quantity("latency_p99_ms", "a decision's latency, p99", "ms", 3),
        Quantity("feature_psi", "features: largest stability index", "index"),
        Quantity("feature_distance", "features: largest distance", "index"),
        Quantity("prediction_drift", "predictions: stability index", "index"),
        Quantity("label_drift", "labels: stability index", "index"),
        Quantity("quarantine_rise", "rows that break the contract, risen by", "points"),
        Quantity("missing_predictions", "rows without a prediction", "share"),
        Quantity("staleness_days", "days since training's last row", "days", 1),
    )
}
"""In the order in which they are shown."""


def quantity(name: str) -> Quantity:
    """The quantity of that name, also one that is not known here yet."""
    return QUANTITIES.get(name) or Quantity(name, name.replace("_", " "), "index", 3)
