"""XGBoost's trees as complete tables, one a level: no jumps, and every row takes the same steps.

A tree of depth d has 2^l branches in level l < d and 2^d leaves; a branch that ends early is filled up with its leaf.
Branch n of a level leads to 2n of the next where ``x < threshold``, and to 2n + 1 elsewhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dwcp.export.onnx_graph import Booster, ExportError

MAX_DEPTH = 8
"""Seed §4.1.1; tables double with each level."""


@dataclass(frozen=True, slots=True, eq=False)
class LevelTables:
    """``features[l]`` and ``thresholds[l]`` have shape (trees, 2^l), ``leaves`` has (trees, 2^depth)."""

    features: tuple[NDArray[np.int32], ...]
    thresholds: tuple[NDArray[np.float32], ...]
    leaves: NDArray[np.float32]


def level_tables(booster: Booster) -> LevelTables:
    """Tables of all trees, as deep as the deepest. Raises ``ExportError`` if one is deeper than ``MAX_DEPTH``."""
    depth = max(_depth(tree) for tree in booster.trees)
    if depth > MAX_DEPTH:
        raise ExportError(
            f"a tree has {depth} levels; tables hold {MAX_DEPTH}: train with xgboost_max_depth ≤ {MAX_DEPTH}"
        )
    features, thresholds = [], []
    at = [np.zeros(1, np.int64) for _ in booster.trees]  # the tree's nodes that stand in the level, left to right
    for _ in range(depth):
        rows = [_level(tree, nodes) for tree, nodes in zip(booster.trees, at, strict=True)]
        features.append(np.array([row[0] for row in rows], np.int32))
        thresholds.append(np.array([row[1] for row in rows], np.float32))
        at = [row[2] for row in rows]
    leaves = [
        np.asarray(tree["split_conditions"], np.float32)[nodes] for tree, nodes in zip(booster.trees, at, strict=True)
    ]
    return LevelTables(tuple(features), tuple(thresholds), np.array(leaves, np.float32))


def _level(
    tree: Mapping[str, Any], nodes: NDArray[np.int64]
) -> tuple[NDArray[np.int32], NDArray[np.float32], NDArray[np.int64]]:
    """Feature and threshold of each of ``nodes``, and those of the next level; a leaf is followed by itself, twice."""
    left, right = np.asarray(tree["left_children"]), np.asarray(tree["right_children"])
    leaf = left[nodes] == -1
    features = np.where(leaf, 0, np.asarray(tree["split_indices"], np.int32)[nodes])
    thresholds = np.where(leaf, np.float32(0), np.asarray(tree["split_conditions"], np.float32)[nodes])
    below = np.column_stack([np.where(leaf, nodes, left[nodes]), np.where(leaf, nodes, right[nodes])])
    return features, thresholds, below.reshape(-1)


def _depth(tree: Mapping[str, Any]) -> int:
    """Branches on the tree's longest path."""
    depth, nodes = -1, [0]
    while nodes:
        depth += 1
        nodes = [
            child
            for node in nodes
            if tree["left_children"][node] != -1
            for child in (tree["left_children"][node], tree["right_children"][node])
        ]
    return depth
