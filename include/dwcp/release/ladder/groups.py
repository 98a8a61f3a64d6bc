"""The features in steps, from the seed's 18 to all of the contract's: each step adds a group."""

from __future__ import annotations

from dwcp.contract import FEATURES, SEED_FEATURES

SEED = "seed's 18"
_GROUPS: tuple[tuple[str, tuple[str, ...]], ...] = (
    (SEED, tuple(feature.name for feature in SEED_FEATURES)),
    ("+ derived (§4.2)", ("rtt_bin", "bandwidth_ratio", "jitter_average_ms", "size_category")),
    ("+ known and zero shares, streams", ("known_share", "zero_share", "peer_has_version", "amst_streams")),
    (
        "+ history of times",
        ("recent_hde_ms_per_mb", "recent_amst_ms_per_mb", "recent_zstd_ms_per_mb", "history_source"),
    ),
    ("+ probe through the engines", ("probe_zstd_share", "probe_zstd_ms_per_mb", "probe_lz4_ms_per_mb")),
    ("+ cost ratios by history", ("hde_cost_ratio", "amst_cost_ratio", "zstd_cost_ratio", "hde_amst_cost_ratio")),
    ("+ cost ratios by probe", ("probe_hde_cost_ratio", "probe_amst_cost_ratio", "probe_zstd_cost_ratio")),
)


def steps() -> dict[str, tuple[str, ...]]:
    """The inputs of each step, by its name, in contract order. The last step takes every feature of the contract."""
    taken: set[str] = set()
    found = {}
    for name, group in (*_GROUPS, ("+ all others", _others())):
        if group:
            taken |= set(group)
            found[name] = tuple(feature.name for feature in FEATURES if feature.name in taken)
    return found


def _others() -> tuple[str, ...]:
    grouped = {name for _, group in _GROUPS for name in group}
    return tuple(feature.name for feature in FEATURES if feature.name not in grouped)
