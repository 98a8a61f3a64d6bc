"""Thresholds for tests that show the way to a published model, and nothing of its worth."""

from __future__ import annotations

LENIENT: dict[str, float] = {
    "gate_accuracy": 0.3,
    "gate_accuracy_half_width": 1.0,
    "gate_precision": 0.0,
    "gate_recall": 0.0,
    "gate_f1": 0.0,
    "gate_regret": 1e9,
    "gate_throughput_gain": -1.0,
    "gate_champion_tolerance": 1.0,
    "gate_slower_slices": 100,
    "gate_min_rows": 10,
    "gate_memory_bytes": 10**10,
}
"""A short training on few transfers meets these; no threshold of the seed would let it through."""
