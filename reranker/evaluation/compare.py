"""Measure runs against judgments and say how sure the differences between systems are."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from indexer.errors import UsageError
from reranker.evaluation import metrics
from reranker.evaluation.judgments import Qrels, Query
from reranker.evaluation.lines import some
from reranker.evaluation.runs import Run

HEADLINE = "ndcg@10"
METRICS = (HEADLINE, "mrr", "recall@100", "precision@10", "map", "judged@10")

ESCI_GAINS = "3:1.0,2:0.1,1:0.01,0:0"  # exact, substitute, complement, irrelevant
Gain = Callable[[int], float]

Values = dict[str, dict[str, float]]
"""Query id -> metric -> value."""


class Difference(msgspec.Struct, frozen=True):
    """A system minus the baseline in the headline metric: mean, 95 % interval, p, and queries won and lost.

    `both_halves` is the share of random halvings of the queries in which the system wins both halves.
    """

    mean: float
    low: float
    high: float
    p: float
    better: int
    worse: int
    both_halves: float | None = None


class Comparison(msgspec.Struct, frozen=True):
    """Every run's values and means, each system's difference to the `baseline`, and 95 % intervals of the headline."""

    values: dict[str, Values]
    means: dict[str, dict[str, float]]
    baseline: str
    differences: dict[str, Difference]
    intervals: dict[str, metrics.Interval] = {}


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


def compare(
    runs: Sequence[Run], qrels: Qrels, gain: Gain, min_grade: int = 1, seed: int = 0, baseline: str = ""
) -> Comparison:
    """Measure all runs and compare each with the baseline: the one named, else `best_baseline`.

    The seed starts afresh for each pair, so a figure does not depend on which other systems were compared. Raises
    UsageError when no run has the baseline's name.
    """
    values = {run.system.name: measure(run.rankings, qrels, gain, min_grade) for run in runs}
    means = {name: mean(each) for name, each in values.items()}
    if baseline and baseline not in values:
        raise UsageError(f"There is no system {baseline!r} to compare with; there are {', '.join(values)}.")
    baseline = baseline or best_baseline(runs, means)
    others = [name for name in values if baseline and name != baseline]
    differences = {name: difference(values[name], values[baseline], seed) for name in others}
    intervals = {name: _interval([row[HEADLINE] for row in each.values()], seed) for name, each in values.items()}
    return Comparison(values, means, baseline, differences, intervals)


def best_baseline(runs: Sequence[Run], means: Mapping[str, Mapping[str, float]]) -> str:
    """The best of the live systems that do not rerank, of equals the first; without one the first outside run.

    The best of the outside runs would hardly do: nobody knows which of them is the one to beat.
    """
    plain = [run.system.name for run in runs if not run.system.rerank and not run.system.outside]
    outside = [run.system.name for run in runs if run.system.outside]
    return max(plain, key=lambda name: means[name][HEADLINE], default=outside[0] if outside else "")


def difference(system: Values, baseline: Values, seed: int = 0, metric: str = HEADLINE) -> Difference:
    """Paired difference with its bootstrap interval, the p of a randomisation test and split halves, seeded."""
    pairs = [(system[query][metric], baseline[query][metric]) for query in baseline]
    deltas: NDArray[np.float64] = np.array([ours - theirs for ours, theirs in pairs])
    rng = np.random.default_rng(seed)
    interval = metrics.bootstrap_interval(deltas, rng)
    p = metrics.randomisation_test(deltas, rng)
    halves = metrics.split_half_share(deltas, rng)
    better, worse = int((deltas > 0).sum()), int((deltas < 0).sum())
    return Difference(interval.mean, interval.low, interval.high, p, better, worse, halves)


def _interval(values: Sequence[float], seed: int) -> metrics.Interval:
    return metrics.bootstrap_interval(np.array(values), np.random.default_rng(seed))


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
    for run in runs:
        bare = [query for query, ranking in run.rankings.items() if not ranking]
        if run.system.outside and bare:
            found.append(f"{run.system.name}: no hit for {len(bare)} queries ({some(bare)}); they count 0")
    for name, values in comparison.values.items():
        if not any(row["judged@10"] for row in values.values()):
            found.append(f"{name}: none of its first 10 hits is judged. Are the judgments' ids those of the index?")
    return found
