"""The last mile: first-stage score, rerank score and cheap signals of a window become one final score.

Training fits the weights with these functions and serving uses them with the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reranker import signals

FIRST_STAGE, RERANK, LOGIT, VECTOR = "first_stage", "rerank", "logit", "vector"
COLUMNS = (FIRST_STAGE, RERANK, LOGIT, *signals.NAMES, VECTOR)
WITHOUT_VECTOR = COLUMNS[:-1]
_COSINES = 10.0  # a tenth of a cosine is a wide distance within one window; farther than twice that, it is an outlier
_LOGITS = 0.25  # four logits are a wide distance within one window
_DECIMALS = 6  # below this, sums of floats differ between machines


def blended(rerank: NDArray[np.float64], first: NDArray[np.float64], weight: float) -> NDArray[np.float64]:
    """Final scores 0 to 1 of a window: both scores float64 [n], n > 0, `weight` that of the reranker."""
    return np.round(weight * unit(rerank) + (1 - weight) * unit(first), _DECIMALS)


def weighed(
    query: str,
    products: Sequence[Mapping[str, Any]],
    first: NDArray[np.float64],
    rerank: NDArray[np.float64],
    weights: Mapping[str, float],
    cosines: NDArray[np.float64] | None = None,
) -> NDArray[np.float64]:
    """Final scores 0 to 1 of a window: the weighted sum of `COLUMNS`, min-max normalised over the window.

    Takes what `features` takes. A column without a weight counts nothing.
    """
    return np.round(unit(weighted(features(query, products, first, rerank, cosines), weights)), _DECIMALS)


def as_weights(blend: float) -> dict[str, float]:
    """A blend written as weights of the same order."""
    return {FIRST_STAGE: 1 - blend, RERANK: blend}


def weighted(rows: NDArray[np.float64], weights: Mapping[str, float]) -> NDArray[np.float64]:
    """The weighted sum of each row of `features`: float64 [n]."""
    row = np.array([weights.get(name, 0.0) for name in COLUMNS])
    return np.asarray(np.round(rows @ row, _DECIMALS), np.float64)


def features(
    query: str,
    products: Sequence[Mapping[str, Any]],
    first: NDArray[np.float64],
    rerank: NDArray[np.float64],
    cosines: NDArray[np.float64] | None = None,
) -> NDArray[np.float64]:
    """What the weights multiply: float64 [n, len(COLUMNS)], each column between -1 and 1, `VECTOR` and `LOGIT` between
    -2 and 2.

    `products` hold the fields that the signals read; scores and `cosines` of query and product are float64 [n], n > 0.
    Cosines count by their distance from the window's mean and are not stretched to its ends as the scores are: where
    all products are about as near, that they are is worth knowing. Without them the column is 0. So do the rerank
    scores, a second time: a model that finds all hits alike has little to say.
    """
    near = np.zeros(len(first)) if cosines is None else _apart(_COSINES, cosines)
    read = unit(rerank), _apart(_LOGITS, rerank)
    return np.column_stack([unit(first), *read, signals.signals(query, products, first), near])


def _apart(scale: float, values: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(np.clip(scale * (values - values.mean()), -2.0, 2.0), np.float64)


def unit(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Min-max normalised to 0 to 1; values that are all alike become 0.5. float64 [n] with n > 0."""
    low, high = values.min(), values.max()
    return np.full_like(values, 0.5) if high == low else (values - low) / (high - low)
