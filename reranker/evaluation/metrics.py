"""Ranking metrics of one query, and how sure a difference between two systems is.

A ranking is a list of product ids, best first, each once. What is not judged has no gain and is not relevant, as in
trec_eval; `judged` says how much of a list that concerns. The names and values are trec_eval's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

_CHUNK = 4_000_000  # cells of a resampling matrix held at once: 32 MB


def linear_gain(grade: int) -> float:
    """The grade itself (Järvelin and Kekäläinen 2002); what trec_eval uses."""
    return float(max(grade, 0))


def exponential_gain(grade: int) -> float:
    """2^grade - 1 (Burges et al. 2005): the best grade counts for far more than the next."""
    return float(2 ** max(grade, 0) - 1)


def gains_of(grades: Mapping[str, int], gain: Callable[[int], float]) -> dict[str, float]:
    """Product id -> gain, from product id -> grade and what a grade is worth."""
    return {product: gain(grade) for product, grade in grades.items()}


def relevant_of(grades: Mapping[str, int], min_grade: int) -> set[str]:
    """The products with at least that grade: what recall, precision and reciprocal rank call relevant."""
    return {product for product, grade in grades.items() if grade >= min_grade}


def dcg(gains: Sequence[float]) -> float:
    """Discounted cumulative gain: the sum of gain / log2(1 + rank), ranks from 1."""
    return math.fsum(gain / math.log2(1 + rank) for rank, gain in enumerate(gains, start=1))


def ndcg(ranking: Sequence[str], gains: Mapping[str, float], k: int) -> float:
    """DCG of the first `k` hits over the DCG of the best possible first `k` (Järvelin and Kekäläinen 2002).

    The best possible list is made of all judged products, found or not. 0 where no judged product has a gain.
    """
    best = dcg(sorted(gains.values(), reverse=True)[:k])
    return dcg([gains.get(product, 0.0) for product in ranking[:k]]) / best if best > 0 else 0.0


def reciprocal_rank(ranking: Sequence[str], relevant: Collection[str]) -> float:
    """1 / rank of the first relevant hit, 0 without one; its mean over queries is MRR (Voorhees 1999)."""
    return next((1 / rank for rank, product in enumerate(ranking, start=1) if product in relevant), 0.0)


def recall(ranking: Sequence[str], relevant: Collection[str], k: int) -> float:
    """Relevant hits among the first `k` over all relevant products; 0 where there is none."""
    return _found(ranking, relevant, k) / len(relevant) if relevant else 0.0


def precision(ranking: Sequence[str], relevant: Collection[str], k: int) -> float:
    """Relevant hits among the first `k` over `k`, however short the list is."""
    return _found(ranking, relevant, k) / k


def average_precision(ranking: Sequence[str], relevant: Collection[str]) -> float:
    """The sum of the precision at each relevant hit's rank over all relevant products; its mean is MAP."""
    ranks = [rank for rank, product in enumerate(ranking, start=1) if product in relevant]
    return math.fsum(found / rank for found, rank in enumerate(ranks, start=1)) / len(relevant) if relevant else 0.0


def judged(ranking: Sequence[str], judgments: Collection[str], k: int) -> float:
    """Share of the first `k` hits that have a judgment, of whatever grade.

    Low coverage means that the other metrics take the unjudged for irrelevant and are likely too low. 0 for an empty
    list.
    """
    first = ranking[:k]
    return _found(first, judgments, k) / len(first) if first else 0.0


def _found(ranking: Sequence[str], wanted: Collection[str], k: int) -> int:
    return sum(product in wanted for product in ranking[:k])


class Interval(msgspec.Struct, frozen=True):
    """A mean with the ends of its confidence interval."""

    mean: float
    low: float
    high: float


def bootstrap_interval(
    differences: NDArray[np.float64],
    rng: np.random.Generator,
    resamples: int = 10_000,
    level: float = 0.95,
) -> Interval:
    """Percentile bootstrap interval (Efron 1979) of a mean difference, queries resampled with replacement.

    `differences` float64 [queries]: one system minus the other, query by query, which makes it paired (Sakai 2006).
    Raises ValueError without a query.
    """
    count = _counted(differences)
    means = np.empty(resamples)
    for rows in _chunks(resamples, count):
        means[rows] = differences[rng.integers(count, size=(rows.stop - rows.start, count))].mean(axis=1)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(differences.mean()), float(low), float(high))


def randomisation_test(differences: NDArray[np.float64], rng: np.random.Generator, resamples: int = 10_000) -> float:
    """Two-sided p of Fisher's paired randomisation test (Smucker et al. 2007).

    If two systems are alike, each query's difference is as likely with the other sign: p is the share of random signs
    whose mean is at least as far from 0 as the one seen, the seen one counted too, so that p is never 0.
    Raises ValueError without a query.
    """
    count = _counted(differences)
    seen = abs(float(differences.mean())) - 1e-12  # the same sum in another order must count as equal
    extreme = 0
    for rows in _chunks(resamples, count):
        signs = rng.integers(2, size=(rows.stop - rows.start, count)) * 2 - 1
        extreme += int((np.abs((signs * differences).mean(axis=1)) >= seen).sum())
    return (extreme + 1) / (resamples + 1)


def split_half_share(differences: NDArray[np.float64], rng: np.random.Generator, halvings: int = 1_000) -> float | None:
    """Share of random halvings of the queries in which the mean difference is above 0 in both halves.

    It asks whether a gain is spread over the queries or rests on a few of them: two equal systems score about 0, for
    each half must be strictly better. The larger half takes the odd query. None for fewer than two queries, which
    cannot be halved.
    """
    count = _counted(differences)
    if count < 2:
        return None
    won, least = 0, 1e-12  # a sum of equal parts in another order may miss 0 by that much
    for rows in _chunks(halvings, count):
        shuffled = rng.permuted(np.tile(differences, (rows.stop - rows.start, 1)), axis=1)
        first, second = shuffled[:, : count // 2].mean(axis=1), shuffled[:, count // 2 :].mean(axis=1)
        won += int(((first > least) & (second > least)).sum())
    return won / halvings


def _counted(differences: NDArray[np.float64]) -> int:
    if differences.ndim != 1 or not len(differences):
        raise ValueError(f"expected one difference a query, got an array of shape {differences.shape}")
    return len(differences)


def _chunks(resamples: int, count: int) -> list[slice]:
    """Rows of the resampling matrix in parts that fit in memory."""
    step = max(1, _CHUNK // count)
    return [slice(start, min(start + step, resamples)) for start in range(0, resamples, step)]
