"""The command `explain`."""

from __future__ import annotations

import math
from collections.abc import Sequence

import click
import msgspec
from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from indexer import settings as config
from indexer.terminal import emit_json, out
from reranker.commands import first_stage_options
from reranker.explaining.explained import Explained, ExplainedHit, Language
from reranker.explaining.explainer import MAX_HITS, TIME_LIMIT_MS, explain
from reranker.explaining.reading import FieldEffect, WordEffect
from reranker.retrieval import Filters
from reranker.search import Searcher

_LEAST = 0.05  # logits; below this a word is not marked
_STRONG = 0.5
_WORDS = 12  # listed at most


@click.command(name="explain", context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("query")
@click.option("--index", required=True, help="Index or alias to search.")
@click.option("--top", type=click.IntRange(1, MAX_HITS), default=3, show_default=True, help="How many hits.")
@click.option("--from", "start", type=click.IntRange(0), default=0, show_default=True, help="Hits before the first.")
@click.option("--id", "ids", multiple=True, help="This product, wherever it stands; may be given again.")
@click.option("--language", type=click.Choice(["en", "zh"]), default="en", show_default=True, help="Of the sentences.")
@click.option(
    "--time-limit-ms",
    type=click.FloatRange(0),
    default=TIME_LIMIT_MS,
    show_default=True,
    help="Stop measuring fields and words after this long.",
)
@first_stage_options
@click.option("--json", "as_json", is_flag=True, help="One JSON document on standard output.")
def explain_command(
    query: str,
    index: str,
    top: int,
    start: int,
    ids: tuple[str, ...],
    language: Language,
    time_limit_ms: float,
    mode: str | None,
    window: int | None,
    filters: Filters,
    as_json: bool,
) -> None:
    """Tell why hits of a search stand where they stand.

    Words and fields that spoke for a hit are marked + and green, those against it - and red.

    \b
    Examples:
      shelfrank explain "quiet keyboard" --index shop --top 3 --max-price 80
      shelfrank explain 适合送爸爸的保温杯 --index shop --id BOT-11-2 --language zh --json
    """
    settings = config.load()
    needs_vector = (mode or settings.search.mode) != "bm25"
    told = explain(
        Searcher.connect(settings, encoder=needs_vector),
        index,
        query,
        ids=ids or None,
        mode=mode,
        window=window,
        size=top,
        start=start,
        filters=filters,
        time_limit_ms=time_limit_ms,
        language=language,
    )
    if as_json:
        emit_json(msgspec.to_builtins(told))
    else:
        out.print(explained_table(told))


def explained_table(told: Explained) -> RenderableType:
    """Everything that was explained, hit by hit."""
    state = told.rerank
    about = f"rerank {state['status']}" + (f": {state['reason']}" if state["reason"] else f" to {state['window']} hits")
    reading = told.reading
    read = f"{reading['scored']} of {reading['pairs']} effects measured, {told.took_ms['total']:.0f} ms"
    lines: list[RenderableType] = [Text(f"{told.query}  ({told.total} found, {about}; {read})", style="italic")]
    for hit in told.hits:
        lines += _hit(hit)
    if told.not_found:
        lines.append(Text(f"Not among the hits of this search: {', '.join(told.not_found)}", style="yellow"))
    return Group(*lines)


def _hit(hit: ExplainedHit) -> list[RenderableType]:
    moved = hit.first_stage_rank - hit.rank
    arrow = "↑" if moved > 0 else "↓" if moved < 0 else "="
    head = Text(f"\n#{hit.rank}, was {hit.first_stage_rank} {arrow}  {hit.id}  ", style="bold")
    lines: list[RenderableType] = [head + _marked_title(hit)]
    lines += [Padding(Text(sentence), (0, 0, 0, 2), expand=False) for sentence in hit.text]
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    for name, effects in (("fields", hit.fields), ("words", hit.words), ("query", hit.query_words)):
        measured = [effect for effect in effects if effect.effect is not None][:_WORDS]
        if measured:
            table.add_row(Text(name, style="dim"), _effects(measured))
    if table.row_count:
        lines.append(Padding(table, (0, 0, 0, 2), expand=False))
    if hit.terms:
        lines.append(Padding(_terms(hit), (0, 0, 0, 2), expand=False))
    return lines


def _marked_title(hit: ExplainedHit) -> Text:
    text = Text(hit.title)
    for word in hit.words:
        for place in word.places:
            if place.field == "title" and word.effect is not None:
                text.stylize(_style(word.effect), place.start, place.end)
    return text


def _effects(effects: Sequence[FieldEffect | WordEffect]) -> Text:
    shown = [
        Text(
            f"{effect.effect:+.2f} {effect.name if isinstance(effect, FieldEffect) else effect.text}",
            _style(effect.effect),
        )
        for effect in effects
        if effect.effect is not None
    ]
    return Text("  ").join(shown)


def _style(effect: float) -> str:
    if math.fabs(effect) < _LEAST:
        return "dim"
    return ("bold " if math.fabs(effect) >= _STRONG else "") + ("green" if effect > 0 else "red")


def _terms(hit: ExplainedHit) -> Table:
    """What adds up to the final score; terms of no weight or no value anywhere in the window are left out."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("final score", no_wrap=True)
    for name in ("weight", "value", "adds", "average hit"):
        table.add_column(name, justify="right", no_wrap=True)
    for term in hit.terms:
        if term.adds or term.average:
            table.add_row(
                term.name, f"{term.weight:.3f}", f"{term.value:.3f}", f"{term.adds:+.3f}", f"{term.average:+.3f}"
            )
    table.add_row("base", "", "", f"{hit.base:+.3f}", "", end_section=True)
    table.add_row("sum", "", "", f"{hit.scores['final']:.3f}", "")
    return table
