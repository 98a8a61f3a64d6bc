"""Does one input alone give the answer away? Nothing that a node knows before it chooses does.

Every feature is judged alone: cut into bins (its own values if few, else quantiles), each bin answered by its most
frequent label among one half of the objects, and the answers held against the labels of the other half. What counts is
the *skill* beyond the majority class, (accuracy - majority) / (1 - majority), so that a window with one frequent label
is judged like any other. The best legitimate features, the cost ratios, separate one candidate from another and leave
the third open; a copy of the label, or of an outcome that decides it, leaves nothing open.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dwcp.contract import CANDIDATES

IMPLAUSIBLE_SKILL = 0.95
"""The best feature of the recorded fleet has 0.6; a whole model at the gate's 98 % has about 0.97."""
BINS = 64


def skill_of_each(
    features: NDArray[np.float32], labels: NDArray[np.int64], object_id: NDArray[np.str_]
) -> NDArray[np.float64]:
    """The skill of each feature alone, shape (features,); at most 1, and about 0 for noise.

    0 for all where one half of the objects has no rows, or only one label.
    """
    _, codes = np.unique(object_id, return_inverse=True)
    learn = codes % 2 == 0
    judge = ~learn
    skills = np.zeros(features.shape[1])
    if not learn.any() or not judge.any():
        return skills
    majority = float((labels[judge] == np.bincount(labels[learn], minlength=len(CANDIDATES)).argmax()).mean())
    if majority == 1:
        return skills
    for column in range(features.shape[1]):
        answers = _answers(features[:, column], labels, learn)
        skills[column] = (float((answers[judge] == labels[judge]).mean()) - majority) / (1 - majority)
    return skills


def _answers(values: NDArray[np.float32], labels: NDArray[np.int64], learn: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Each row's answer by the value's bin."""
    distinct = np.unique(values)
    edges = distinct[1:] if len(distinct) <= BINS else np.unique(np.quantile(values, np.arange(1, BINS) / BINS))
    bins = np.digitize(values, edges)
    counts = np.zeros((len(edges) + 1, len(CANDIDATES)), np.int64)
    np.add.at(counts, (bins[learn], labels[learn]), 1)
    answers: NDArray[np.int64] = counts.argmax(axis=1)[bins]
    return answers
