"""Everything one evaluation found, whatever made its runs: what tables, JSON and the page show."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import msgspec
import numpy as np

from reranker.evaluation.compare import ESCI_GAINS, Comparison, compare, doubts, parse_gains
from reranker.evaluation.judgments import Qrels, Query
from reranker.evaluation.runs import Run
from reranker.evaluation.strata import Stratum, groups_by, strata

Protocol = Literal["full", "judged"]

LATENCY_NOTE = "A by-product of the run, one query after another on a machine that did other things: no benchmark."


class Options(msgspec.Struct, frozen=True):
    """How runs are measured. `baseline` empty takes the best system that does not rerank."""

    gains: str = ESCI_GAINS
    min_grade: int = 1
    also_gains: tuple[str, ...] = ()
    by: tuple[str, ...] = ()
    baseline: str = ""
    seed: int = 0
    protocol: Protocol = "full"


class Results(msgspec.Struct, frozen=True):
    """Runs with their measures. `strata` is by column and group; `other_gains` by gain map; `about` says what was run.

    `seen` holds the ids of queries that a measured model was trained on.
    """

    queries: list[Query]
    qrels: Qrels
    runs: list[Run]
    options: Options
    comparison: Comparison
    strata: dict[str, dict[str, Stratum]]
    other_gains: dict[str, Comparison]
    warnings: list[str]
    seen: list[str] = []
    about: dict[str, Any] = {}


def evaluate_runs(queries: Sequence[Query], qrels: Qrels, runs: Sequence[Run], options: Options) -> Results:
    """Measure and compare runs, in one go or put together from folds; every run must hold all the queries.

    Raises UsageError for gains, a column or a baseline that are not there. The protocol is only named here: runs of
    the judged protocol come from `runs.in_pool`.
    """
    gain = parse_gains(options.gains)
    others = {text: parse_gains(text) for text in options.also_gains}
    groups = {column: groups_by(column, queries) for column in options.by}
    found = compare(runs, qrels, gain, options.min_grade, options.seed, options.baseline)
    return Results(
        queries=list(queries),
        qrels=qrels,
        runs=list(runs),
        options=options,
        comparison=found,
        strata={column: strata(each, found.values, found.baseline, options.seed) for column, each in groups.items()},
        other_gains={
            text: compare(runs, qrels, other, options.min_grade, options.seed, found.baseline)
            for text, other in others.items()
        },
        warnings=doubts(runs, found),
    )


def latency(run: Run) -> dict[str, float]:
    """Median and 95th percentile of a live system's milliseconds for a query; empty for a run without times."""
    if not run.took_ms:
        return {}
    median, high = np.quantile(list(run.took_ms.values()), [0.5, 0.95])
    return {"median": round(float(median), 1), "p95": round(float(high), 1)}


def headline(results: Results) -> str:
    """What was measured, in one line."""
    options, window = results.options, results.about.get("window")
    parts = [f"{len(results.queries)} queries", f"protocol {options.protocol}", f"gains {options.gains}"]
    return " · ".join([*parts, *([f"window {window}"] if window is not None else [])])
