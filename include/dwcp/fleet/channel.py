"""Let the fleet follow what nodes are told: in each region champion and challenger decide as the channel has it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from dwcp.contract import FEATURES, REGIONS
from dwcp.fleet.policy import Choices, RulesPolicy
from dwcp.fleet.serve import BundlePolicy

_REGION = [feature.name for feature in FEATURES].index("region")


class Told(Protocol):
    """What the channel document says of a region; ``dwcp.release.registry.RegionState`` is one."""

    @property
    def champion(self) -> str | None:
        """None: the rules."""

    @property
    def challenger(self) -> str | None:
        """None: nobody."""

    @property
    def share_buckets(self) -> int:
        """The rollout buckets below follow the challenger."""


class ChannelPolicy:
    """Routes as a Go node does (``go/rollout.go``): the challenger within its share, else the champion.

    Without a champion the rules act beyond the share, and the challenger's word is logged in the shadow. A region that
    nothing was told follows the rules.
    """

    model_version: str | None = "by channel"
    """Names no model: each row says which one was asked."""

    def __init__(self, regions: Mapping[str, Told], bundles: Path) -> None:
        """Load every version that is named from below ``bundles``. Raises ``ModelError`` as ``BundlePolicy`` does."""
        self._regions = regions
        named = {name for told in regions.values() for name in (told.champion, told.challenger) if name}
        self._models = {name: BundlePolicy(bundles / name) for name in sorted(named)}

    def choose(self, features: NDArray[np.float32], bucket: NDArray[np.int64], /) -> Choices:
        """Each row by what its region was told."""
        by_rules = RulesPolicy().choose(features, bucket)
        executed, predicted, confidence = by_rules.executed, by_rules.predicted, by_rules.confidence
        reason, arm = by_rules.reason.astype("U20"), by_rules.arm.astype("U20")
        version = np.full(len(features), "", "U64")
        region = features[:, _REGION].astype(np.int64)
        for name, told in self._regions.items():
            here = region == REGIONS.index(name) + 1
            within = here & (bucket < told.share_buckets)
            routes = [(told.challenger, within, "canary"), (told.champion, here & ~within, "champion")]
            if told.champion is None:
                routes[1] = (told.challenger, here & ~within, "shadow")
            for model, rows, as_arm in routes:
                if model is None or not rows.any():
                    continue
                said = self._models[model].choose(features[rows], bucket[rows])
                predicted[rows], confidence[rows] = said.predicted, said.confidence
                version[rows], arm[rows] = model, as_arm
                if as_arm != "shadow":
                    executed[rows], reason[rows] = said.executed, said.reason
        return Choices(executed, predicted, confidence, reason, arm, version)

    def decision_us(self, _features: NDArray[np.float32], /) -> None:
        """Not timed but emulated: a machine that is busy must not look like nodes that are slow."""
