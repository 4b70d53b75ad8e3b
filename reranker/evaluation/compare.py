"""Measure runs against judgments and say how sure the differences between systems are."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from indexer.errors import UsageError
from reranker.evaluation import metrics
from reranker.evaluation.judgments import Qrels, Query, some
from reranker.evaluation.runs import Run

HEADLINE = "ndcg@10"
METRICS = (HEADLINE, "mrr", "recall@100", "precision@10", "map", "judged@10")

ESCI_GAINS = "3:1.0,2:0.1,1:0.01,0:0"  # exact, substitute, complement, irrelevant
Gain = Callable[[int], float]

Values = dict[str, dict[str, float]]
"""Query id -> metric -> value."""


class Difference(msgspec.Struct, frozen=True):
    """A system minus the baseline in the headline metric: mean, 95 % interval, p, and queries won and lost."""

    mean: float
    low: float
    high: float
    p: float
    better: int
    worse: int


class Comparison(msgspec.Struct, frozen=True):
    """Every run's values and means, and each system's difference to the best that does not rerank (`baseline`)."""

    values: dict[str, Values]
    means: dict[str, dict[str, float]]
    baseline: str
    differences: dict[str, Difference]


def parse_gains(text: str) -> Gain:
    """What each grade is worth: `linear`, `exponential`, or `GRADE:GAIN,...`. Raises UsageError.

    A grade that is not listed is worth nothing, so a list must name every grade that counts.
    """
    if text in ("linear", "exponential"):
        return metrics.linear_gain if text == "linear" else metrics.exponential_gain
    gains: dict[int, float] = {}
    for part in text.split(","):
        grade, _, gain = part.partition(":")
        try:
            number, worth = int(grade), float(gain)
        except ValueError:
            number, worth = 0, math.nan
        if not 0 <= worth < math.inf:
            raise UsageError(
                f"Cannot read the gain {part!r}; write linear, exponential, or GRADE:GAIN,... such as {ESCI_GAINS}."
            )
        gains[number] = worth
    return lambda grade: gains.get(grade, 0.0)


def measure(rankings: Mapping[str, Sequence[str]], qrels: Qrels, gain: Gain, min_grade: int = 1) -> Values:
    """Every metric of every query of a run; the queries must have judgments."""
    values: Values = {}
    for query, ranking in rankings.items():
        grades = qrels[query]
        gains, relevant = metrics.gains_of(grades, gain), metrics.relevant_of(grades, min_grade)
        values[query] = {
            HEADLINE: metrics.ndcg(ranking, gains, 10),
            "mrr": metrics.reciprocal_rank(ranking, relevant),
            "recall@100": metrics.recall(ranking, relevant, 100),
            "precision@10": metrics.precision(ranking, relevant, 10),
            "map": metrics.average_precision(ranking, relevant),
            "judged@10": metrics.judged(ranking, grades, 10),
        }
    return values


def mean(values: Values) -> dict[str, float]:
    """The mean of every metric over the queries."""
    return {name: math.fsum(row[name] for row in values.values()) / len(values) for name in METRICS}


def compare(runs: Sequence[Run], qrels: Qrels, gain: Gain, min_grade: int = 1, seed: int = 0) -> Comparison:
    """Measure all runs and compare each with the best of those that do not rerank.

    Of two equally good baselines the first named is taken. The seed starts afresh for each pair, so a figure does not
    depend on which other systems were compared.
    """
    values = {run.system.name: measure(run.rankings, qrels, gain, min_grade) for run in runs}
    means = {name: mean(each) for name, each in values.items()}
    plain = [run.system.name for run in runs if not run.system.rerank]
    baseline = max(plain, key=lambda name: means[name][HEADLINE], default="")
    others = [name for name in values if baseline and name != baseline]
    return Comparison(
        values, means, baseline, {name: difference(values[name], values[baseline], seed) for name in others}
    )


def difference(system: Values, baseline: Values, seed: int = 0, metric: str = HEADLINE) -> Difference:
    """Paired difference with its bootstrap interval and the p of a randomisation test, seeded."""
    pairs = [(system[query][metric], baseline[query][metric]) for query in baseline]
    deltas: NDArray[np.float64] = np.array([ours - theirs for ours, theirs in pairs])
    rng = np.random.default_rng(seed)
    interval = metrics.bootstrap_interval(deltas, rng)
    p = metrics.randomisation_test(deltas, rng)
    better, worse = int((deltas > 0).sum()), int((deltas < 0).sum())
    return Difference(interval.mean, interval.low, interval.high, p, better, worse)


def groups_by(column: str, queries: Sequence[Query]) -> dict[str, list[str]]:
    """Query ids by their value in a column. Raises UsageError when no query has the column."""
    groups: dict[str, list[str]] = {}
    for query in sorted(queries, key=lambda query: query.columns.get(column, "")):
        if query.columns.get(column):
            groups.setdefault(query.columns[column], []).append(query.id)
    if not groups:
        names = sorted({name for query in queries for name in query.columns})
        raise UsageError(f"The queries have no column {column!r}; they have {', '.join(names) or 'no further ones'}.")
    return groups


def means_by(groups: Mapping[str, Sequence[str]], values: Mapping[str, Values]) -> dict[str, dict[str, Any]]:
    """Means within each group of queries: group -> `queries` (how many), and system -> metric."""
    return {
        group: {"queries": len(ids), **{name: mean({id_: each[id_] for id_ in ids}) for name, each in values.items()}}
        for group, ids in groups.items()
    }


def warnings(queries: Sequence[Query], qrels: Qrels, min_grade: int = 1) -> list[str]:
    """What is odd about queries and judgments taken together."""
    known = {query.id for query in queries}
    stray = [query for query in qrels if query not in known]
    bare = [query.id for query in queries if query.id not in qrels]
    poor = [query.id for query in queries if query.id in qrels and not metrics.relevant_of(qrels[query.id], min_grade)]
    told = [
        (stray, "Query ids of the judgments that are not among the queries"),
        (bare, "Queries without a judgment, left out"),
        (poor, f"Queries with no product of grade {min_grade} or better, 0 in mrr, recall, precision and map"),
    ]
    return [f"{text}: {len(ids)} ({some(ids)})" for ids, text in told if ids]


def doubts(runs: Sequence[Run], comparison: Comparison) -> list[str]:
    """What makes the figures of runs doubtful: queries not reranked, and hits that nobody judged."""
    found = [line for run in runs for line in run.warnings()]
    for name, values in comparison.values.items():
        if not any(row["judged@10"] for row in values.values()):
            found.append(f"{name}: none of its first 10 hits is judged. Are the judgments' ids those of the index?")
    return found
