"""What the prepared data are like, and what a trainer should know of them before starting."""

from __future__ import annotations

import io
import math
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence

import msgspec
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table
from rich.text import Text

from reranker.evaluation.judgments import MAX_QUERIES
from reranker.training.prepare import clicks
from reranker.training.prepare.collection import SPLITS, Entry, Judgment, Merges
from reranker.training.prepare.leakage import Leak
from reranker.training.prepare.ledger import Count
from reranker.training.prepare.position import MIN_CLICKS

RARE = 0.01  # share of the judgments below which a grade is hardly learned
FEW_QUERIES = 50
EXACT = 3
_SPREAD = 0.2  # usual standard deviation, over queries, of a difference in nDCG@10
_LISTED = 20


class Part(msgspec.Struct):
    """Figures of one split, or of all (`per_query` and `words` are minimum, median and maximum)."""

    queries: int
    judgments: int
    grades: dict[str, int]
    per_query: tuple[int, float, int]
    characters: tuple[int, float, int]
    languages: dict[str, int]
    sources: dict[str, int]
    one_grade: int


class Report(msgspec.Struct):
    """`report.json`."""

    parts: dict[str, Part]
    rows: dict[str, Count]
    merges: Merges
    judgments_by_source: dict[str, int]
    leaks: list[Leak]
    leaks_fixed: bool
    clicks: clicks.Summary | None
    together: int
    baskets: int
    products: int | None
    unjudged_share: float | None
    seed: int
    warnings: list[str] = []
    next: list[str] = []


def describe(
    entries: Mapping[str, Entry],
    judged: Mapping[str, Mapping[str, Judgment]],
    splits: Mapping[str, str],
) -> dict[str, Part]:
    """Figures by split, splits without queries left out, and of `all`."""
    chosen = {name: [key for key in entries if splits[key] == name] for name in SPLITS}
    return {name: _part(entries, judged, keys) for name, keys in {**chosen, "all": list(entries)}.items() if keys}


def _part(entries: Mapping[str, Entry], judged: Mapping[str, Mapping[str, Judgment]], keys: Sequence[str]) -> Part:
    grades = Counter(judgment.grade for key in keys for judgment in judged[key].values())
    return Part(
        queries=len(keys),
        judgments=sum(grades.values()),
        grades={str(grade): grades[grade] for grade in sorted(grades, reverse=True)},
        per_query=_range([len(judged[key]) for key in keys]),
        characters=_range([len(entries[key].text) for key in keys]),
        languages=_counts(entries[key].language for key in keys),
        sources=_counts(entries[key].source for key in keys),
        one_grade=sum(len({judgment.grade for judgment in judged[key].values()}) == 1 for key in keys),
    )


def _range(values: Sequence[int]) -> tuple[int, float, int]:
    return min(values), statistics.median(values), max(values)


def _counts(values: object) -> dict[str, int]:
    return dict(sorted(Counter(values).items(), key=lambda item: (-item[1], item[0])))  # type: ignore[call-overload]


def warnings(report: Report, largest_group: int) -> list[str]:
    """What may go wrong with these data, in sentences."""
    told = []
    whole = report.parts["all"]
    if whole.queries < FEW_QUERIES:
        told.append(f"There are {whole.queries} queries; with fewer than {FEW_QUERIES} no figure will be certain.")
    if whole.queries > MAX_QUERIES:
        told.append(f"There are more than {MAX_QUERIES:,} queries, which is more than `evaluate` reads; sample them.")
    for grade, count in whole.grades.items():
        if count < RARE * whole.judgments:
            told.append(
                f"Grade {grade} has {count} of {whole.judgments:,} judgments, below {RARE:.0%}: hardly learned."
            )
    for name in SPLITS:
        part = report.parts.get(name)
        if part is None:
            told.append(f"The split {name} has no query.")
        elif not part.grades.get(str(EXACT)):
            told.append(f"The split {name} has no exact product (grade {EXACT}).")
    if whole.one_grade:
        told.append(
            f"{whole.one_grade} of {whole.queries} queries have judgments of one grade only: they order nothing."
        )
    if largest_group > max(0.05 * whole.queries, 10):
        told.append(f"{largest_group} near-identical queries hang together and fill one split; raise --similarity.")
    if report.merges.split_conflicts:
        told.append(
            f"{len(report.merges.split_conflicts)} queries stood in two splits under two ids; the first one counts."
        )
    if report.leaks and not report.leaks_fixed:
        told.append(f"{len(report.leaks)} pairs of queries leak between splits; without --no-fix they would be moved.")
    told += _click_warnings(report.clicks)
    if report.baskets:
        told.append(
            f"{report.baskets:,} baskets know no query: {report.together:,} pairs of products bought together are in "
            "pairs.tsv, for related products and pre-training, and none is a judgment."
        )
    return told


def _click_warnings(summary: clicks.Summary | None) -> list[str]:
    if summary is None:
        return []
    told = []
    if summary.curve and not summary.curve.estimated:
        told.append(
            f"How far shoppers look cannot be told from these clicks (at least {MIN_CLICKS} are needed, and products that "
            f"move between positions; {summary.curve.linked:.1%} of the impressions are of such): 1 / position is assumed."
        )
    lists = [name for name, shown in summary.shown_by.items() if shown == "result lists"]
    nothing = [name for name, shown in summary.shown_by.items() if shown == "nothing"]
    if lists:
        told.append(
            f"No impressions were logged by {', '.join(lists)}: the first page of each result list counts as shown."
        )
    if nothing:
        told.append(
            f"Neither impressions nor result lists were logged by {', '.join(nothing)}: its clicks give no grade 0, "
            "grade 3 to what was bought, 2 to what was put in a cart or clicked several times."
        )
    if summary.bot_sessions:
        told.append(f"{summary.bot_sessions} sessions with too many clicks for a person were left out.")
    return told


def outlook(parts: Mapping[str, Part]) -> list[str]:
    """What training will make of these data."""
    told = []
    train, test = parts.get("train"), parts.get("test")
    if train:
        ordering = train.queries - train.one_grade
        told.append(
            f"Training will see {train.queries} queries with {train.judgments:,} judgments; {ordering} order products."
        )
        if train.judgments < 10_000:
            told.append(
                "That is little for a cross-encoder: expect most from negatives mined in the catalogue and from "
                "queries made of titles, which need no judgment."
            )
    if test:
        half = 1.96 * _SPREAD / math.sqrt(test.queries)
        told.append(
            f"On {test.queries} test queries a difference in nDCG@10 comes with about ±{half:.3f} (95 %, at a "
            f"spread of {_SPREAD} between queries): smaller ones will not show."
        )
    told.append("Next: shelfrank train reranker --index INDEX --queries queries.tsv --qrels qrels.tsv --out RUN")
    return told


def as_text(report: Report) -> str:
    """`report.txt`, for people."""
    page = Console(file=io.StringIO(), width=110, color_system=None, force_terminal=False)
    page.print(_parts_table(report.parts))
    page.print(_rows_table(report.rows))
    merges = report.merges
    page.print(
        f"Merged: {merges.same_text} queries of the same text; of pairs judged more than once {merges.agreeing} "
        f"agreed, {merges.conflicts} did not and took the lower median, {merges.overruled} overruled by a better source."
    )
    by = ", ".join(f"{count:,} from {source}" for source, count in report.judgments_by_source.items())
    page.print(f"Judgments: {by}.")
    if report.clicks and report.clicks.curve:
        curve = report.clicks.curve
        shown = " ".join(f"{value:.2f}" for value in curve.theta[:10])
        page.print(f"Looked at, by position ({'estimated' if curve.estimated else 'assumed'}): {shown}")
    if report.unjudged_share is not None:
        page.print(f"Products: {report.products:,}, of which {report.unjudged_share:.1%} have no judgment.")
    if report.leaks:
        what = "moved to one split" if report.leaks_fixed else "still there"
        page.print(f"\nNear-identical queries in different splits: {len(report.leaks)} pairs, {what}.")
        for leak in report.leaks[:_LISTED]:
            page.print(Text(f"  {leak_line(leak)}"))
        if len(report.leaks) > _LISTED:
            page.print(f"  and {len(report.leaks) - _LISTED} more in report.json")
    for title, lines in (("Warnings", report.warnings), ("What follows", report.next)):
        if lines:
            page.print(f"\n{title}")
            for line in lines:
                page.print(Text(f"  - {line}"))
    assert isinstance(page.file, io.StringIO)
    return "\n".join(line.rstrip() for line in page.file.getvalue().strip("\n").splitlines()) + "\n"


def leak_line(leak: Leak) -> str:
    how = f"similarity {leak.similarity:.2f}" if leak.kind == "query" else "the same relevant products"
    return (
        f"{leak.first!r} ({leak.first_id}, {leak.first_split}) and {leak.second!r} ({leak.second_id}, "
        f"{leak.second_split}): {how}"
    )


def _parts_table(parts: Mapping[str, Part]) -> Table:
    table = Table(title="Splits", title_justify="left", box=SIMPLE)
    table.add_column("")
    for name in parts:
        table.add_column(name, justify="right")
    grades = sorted({int(grade) for part in parts.values() for grade in part.grades}, reverse=True)
    languages = list(parts["all"].languages)
    rows = {
        "queries": [f"{part.queries:,}" for part in parts.values()],
        "judgments": [f"{part.judgments:,}" for part in parts.values()],
        **{
            f"  grade {grade}": [f"{part.grades.get(str(grade), 0) / part.judgments:.1%}" for part in parts.values()]
            for grade in grades
        },
        "judgments a query": [_shown(part.per_query) for part in parts.values()],
        "characters a query": [_shown(part.characters) for part in parts.values()],
        **{f"  in {each}": [str(part.languages.get(each, 0)) for part in parts.values()] for each in languages},
        "of one grade only": [str(part.one_grade) for part in parts.values()],
    }
    for name, cells in rows.items():
        table.add_row(Text(name), *cells)
    table.caption = "a query: minimum, median, maximum"
    table.caption_justify = "left"
    return table


def _rows_table(rows: Mapping[str, Count]) -> Table:
    table = Table(title="Rows", title_justify="left", box=SIMPLE)
    table.add_column("", overflow="fold")
    for name in ("read", "used", "merged", "rejected"):
        table.add_column(name, justify="right", no_wrap=True)
    for name, count in rows.items():
        table.add_row(Text(name), *(f"{value:,}" for value in (count.read, count.used, count.merged, count.rejected)))
        for reason, times in sorted(count.reasons.items(), key=lambda item: -item[1])[:5]:
            table.add_row(Text(f"  {reason}"), "", "", "", f"{times:,}")
    return table


def _shown(values: tuple[int, float, int]) -> str:
    return f"{values[0]} {values[1]:g} {values[2]}"
