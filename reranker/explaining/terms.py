"""The last mile taken apart: what each score and signal adds to a hit's final score."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from reranker.blend import COLUMNS, FIRST_STAGE, RERANK, as_weights, features, weighted

_DECIMALS = 6  # as final scores have


class Term(msgspec.Struct, frozen=True):
    """One score or signal: its `weight` and `value`, the points that they `add` to the final score, and the points
    that it adds to a hit of the window on `average`."""

    name: str
    weight: float
    value: float
    adds: float
    average: float


def terms(
    query: str,
    products: Sequence[Mapping[str, Any]],
    first: Sequence[float],
    rerank: Sequence[float],
    weights: Mapping[str, float],
    blend: float | None,
    cosines: NDArray[np.float64] | None = None,
) -> list[list[Term]]:
    """Terms of every hit of a window that was rescored, strongest against the average first.

    Takes what `rescore` took; `blend` is the one that decided, None for the weights. A hit's final score is the sum
    of what its terms add and of one number that is the same for the whole window but for the last decimal.
    """
    rows = features(query, products, np.array(first, np.float64), np.array(rerank, np.float64), cosines)
    names = COLUMNS if blend is None else (FIRST_STAGE, RERANK)
    chosen = weights if blend is None else as_weights(blend)
    scale = 1.0
    if blend is None:
        sums = weighted(rows, chosen)
        spread = float(sums.max() - sums.min())
        scale = 1 / spread if spread else 0.0
    columns = [(name, chosen.get(name, 0.0), rows[:, COLUMNS.index(name)]) for name in names]
    added = np.round([weight * values * scale for _, weight, values in columns], _DECIMALS) + 0.0  # no -0.0
    averages = np.round(added.mean(axis=1), _DECIMALS) + 0.0
    found = []
    for hit in range(len(rows)):
        own = [
            Term(name, weight, round(float(values[hit]), _DECIMALS) + 0.0, float(added[at][hit]), float(averages[at]))
            for at, (name, weight, values) in enumerate(columns)
        ]
        found.append(sorted(own, key=lambda term: -abs(term.adds - term.average)))
    return found
