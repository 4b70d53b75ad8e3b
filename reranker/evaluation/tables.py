"""The results of an evaluation as tables for the terminal."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from rich.box import SIMPLE
from rich.table import Table
from rich.text import Text

from reranker.evaluation.compare import HEADLINE, METRICS, Comparison, Difference
from reranker.evaluation.lines import some
from reranker.evaluation.results import LATENCY_NOTE, Results, latency
from reranker.evaluation.runs import Run
from reranker.evaluation.strata import Stratum


def all_tables(results: Results, title: str) -> list[Table | Text]:
    """Means, differences, other gains, strata and latency, as far as there is something to show."""
    found = results.comparison
    shown: list[Table | Text] = [table(results.runs, found, title)]
    if found.differences:
        shown.append(difference_table(found))
    if results.other_gains:
        shown.append(gains_table(results.other_gains))
    shown += [stratum_table(column, groups, found.baseline) for column, groups in results.strata.items()]
    if any(run.took_ms for run in results.runs):
        shown += [latency_table(results.runs), Text(LATENCY_NOTE)]
    return shown


def table(runs: Sequence[Run], comparison: Comparison, title: str) -> Table:
    """The mean of every metric, a row for each system."""
    shown = _table(title, "system", *METRICS)
    for run in runs:
        values = comparison.means[run.system.name]
        mark = " *" if run.faults else ""
        shown.add_row(Text(run.system.name + mark), *(f"{values[metric]:.4f}" for metric in METRICS))
    if any(run.faults for run in runs):
        shown.caption = "* with queries that the reranker could not finish, in first-stage order"
    return shown


def difference_table(comparison: Comparison) -> Table:
    """Each system against the baseline; `halves` is the share of halvings in which it wins both halves."""
    title = f"{HEADLINE} against {comparison.baseline}"
    shown = _table(title, "system", "difference", "95 % interval", "p", "better", "worse", "halves")
    for name, found in comparison.differences.items():
        halves = "" if found.both_halves is None else f"{found.both_halves:.0%}"
        counts = str(found.better), str(found.worse), halves
        shown.add_row(Text(name), f"{found.mean:+.4f}", interval(found), f"{found.p:.4f}", *counts)
    return shown


def gains_table(comparisons: Mapping[str, Comparison]) -> Table:
    """The headline metric of the same runs under further gain maps."""
    rows = ((text, each.means, each.differences, "") for text, each in comparisons.items())
    baseline = next(iter(comparisons.values())).baseline
    return _grouped(f"{HEADLINE} with other gains, against {baseline}", "gains", rows)


def stratum_table(column: str, groups: Mapping[str, Stratum], baseline: str) -> Table:
    """The headline metric of each system within each group of queries."""
    rows = ((group, each.means, each.differences, f" ({each.queries})") for group, each in groups.items())
    against = f", against {baseline}" if baseline else ""
    return _grouped(f"{HEADLINE} by {column} (queries){against}", column, rows)


def latency_table(runs: Sequence[Run]) -> Table:
    """How long each live system took for a query."""
    shown = _table("milliseconds a query", "system", "median", "95th percentile")
    for run in runs:
        if found := latency(run):
            shown.add_row(Text(run.system.name), f"{found['median']:.1f}", f"{found['p95']:.1f}")
    return shown


def seen_sentence(seen: Sequence[str], count: int) -> str:
    """The warning that figures are not honest ones."""
    return (
        f"{len(seen)} of {count} queries ({some(seen)}) were used to train a model that is measured here: "
        "these figures flatter it. Evaluate on queries that it has not seen (--unseen)."
    )


def interval(found: Difference) -> Text:
    """A difference's 95 % interval."""
    return Text(f"{found.low:+.4f} to {found.high:+.4f}")


_Rows = Iterable[tuple[str, Mapping[str, Mapping[str, float]], Mapping[str, Difference], str]]


def _grouped(title: str, first: str, rows: _Rows) -> Table:
    shown = _table(title, first, "system", HEADLINE, "difference", "95 % interval")
    shown.columns[1].justify = "left"
    for group, means, differences, count in rows:
        for at, (name, values) in enumerate(means.items()):
            found = differences.get(name)
            change = (f"{found.mean:+.4f}", interval(found)) if found else ("", "")
            shown.add_row(Text(f"{group}{count}" if at == 0 else ""), Text(name), f"{values[HEADLINE]:.4f}", *change)
    return shown


def _table(title: str, first: str, *others: str) -> Table:
    shown = Table(title=Text(title), title_justify="left", caption_justify="left", box=SIMPLE)
    shown.add_column(first, no_wrap=True)
    for name in others:
        shown.add_column(name.replace("precision", "p"), justify="right", no_wrap=True)
    return shown
