"""Fuse two first-stage lists ourselves, as OpenSearch's own processors do, for clusters without neural-search.

The formulas are those of the `normalization-processor` (min_max, arithmetic_mean) and the `score-ranker-processor`
(rrf) of OpenSearch's neural-search plugin, the floor of 0.001 for the lowest score included.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

_LOWEST = 0.001  # what the server gives the lowest hit of a list, so that it still counts as matched
_SINGLE = 1.0


def min_max(lists: Sequence[Mapping[str, float]], weights: Sequence[float]) -> dict[str, float]:
    """Weighted mean of min-max normalised scores; a document missing from a list counts 0 there.

    `lists` hold id -> score, one for each query clause; returns id -> fused score in first-seen order.
    """
    fused: dict[str, float] = {}
    for scores, weight in zip(lists, weights, strict=True):
        if not scores:
            continue
        low, high = min(scores.values()), max(scores.values())
        for key, score in scores.items():
            normal = _SINGLE if high == low else (score - low) / (high - low) or _LOWEST
            fused[key] = fused.get(key, 0.0) + weight * normal
    total = sum(weights)
    return {key: score / total for key, score in fused.items()}


def reciprocal_rank(lists: Sequence[Sequence[str]], rank_constant: int) -> dict[str, float]:
    """Reciprocal rank fusion (Cormack et al. 2009): the sum of 1 / (constant + rank), ranks from 1."""
    fused: dict[str, float] = {}
    for keys in lists:
        for rank, key in enumerate(keys, start=1):
            fused[key] = fused.get(key, 0.0) + 1.0 / (rank_constant + rank)
    return fused
