"""The report as text, for people."""

from __future__ import annotations

import io
from collections.abc import Mapping

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table
from rich.text import Text

from reranker.training.prepare.leakage import Leak
from reranker.training.prepare.ledger import Count
from reranker.training.prepare.report import Part, Report

_LISTED = 20


def as_text(report: Report) -> str:
    """`report.txt`, for people."""
    page = Console(file=io.StringIO(), width=110, color_system=None, force_terminal=False)
    if report.parts:
        page.print(_parts_table(report.parts))
    page.print(_rows_table(report.rows))
    merges = report.merges
    page.print(
        f"Merged: {merges.same_text} queries of the same text. Pairs judged more than once: {merges.agreeing} agreed, "
        f"{merges.conflicts} did not (the lower median counts), {merges.overruled} were overruled by a better source."
    )
    by = ", ".join(f"{count:,} from {source}" for source, count in report.judgments_by_source.items())
    page.print(f"Judgments: {by or 'none'}.")
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
