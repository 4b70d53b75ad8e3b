"""The commands `search` and `rerank`."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import click
import msgspec
from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from indexer import settings as config
from indexer.errors import InputError
from indexer.lines import whole_lines
from indexer.terminal import emit_json, out
from reranker.documents import MAX_DOCUMENTS, rerank
from reranker.retrieval import MODES, Filters
from reranker.scoring import CrossEncoder
from reranker.search import Page, Searcher


def first_stage_options(command: Callable[..., None]) -> Callable[..., None]:
    """The options that `search` and `explain` share: `mode`, `window`, and `filters` made of the others."""

    @wraps(command)
    def with_filters(
        *,
        min_price: float | None,
        max_price: float | None,
        brand: tuple[str, ...],
        category: tuple[str, ...],
        min_rating: float | None,
        **others: Any,
    ) -> None:
        command(filters=Filters(min_price, max_price, brand, category, min_rating), **others)

    options = (
        click.option("--mode", type=click.Choice(MODES), help="First stage. [default: search.mode, hybrid]"),
        click.option("--window", type=int, help="How many first-stage hits are rescored. [default: search.window, 50]"),
        click.option("--min-price", type=float),
        click.option("--max-price", type=float),
        click.option("--brand", multiple=True, help="Only this brand; may be given again."),
        click.option(
            "--category", multiple=True, help='Only this category path, e.g. "Toys > Games"; may be given again.'
        ),
        click.option("--min-rating", type=float),
    )
    for option in reversed(options):
        option(with_filters)
    return with_filters


@click.command(name="search", context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("query")
@click.option("--index", required=True, help="Index or alias to search.")
@click.option("--size", type=int, help="Hits on a page. [default: search.size, 10]")
@click.option("--from", "start", type=int, default=0, show_default=True, help="Hits before this page.")
@click.option("--encoder", help="Encoder bundle, of two whose vectors the index holds. [default: models.encoder]")
@click.option("--no-rerank", is_flag=True, help="Show the first stage as it is.")
@click.option("--deadline-ms", type=float, help="Give up rescoring after this long. [default: search.deadline_ms]")
@first_stage_options
@click.option("--json", "as_json", is_flag=True, help="One JSON document on standard output.")
def search_command(
    query: str,
    index: str,
    size: int | None,
    start: int,
    encoder: str | None,
    no_rerank: bool,
    deadline_ms: float | None,
    mode: str | None,
    window: int | None,
    filters: Filters,
    as_json: bool,
) -> None:
    """Search an index and rerank the first hits.

    \b
    Examples:
      shelfrank search "quiet keyboard" --index shop --max-price 80
      shelfrank search 适合送爸爸的保温杯 --index shop --mode vector --json
    """
    settings = config.load()
    if encoder:
        settings = msgspec.structs.replace(settings, models=msgspec.structs.replace(settings.models, encoder=encoder))
    needs_vector = (mode or settings.search.mode) != "bm25"
    searcher = Searcher.connect(settings, encoder=needs_vector, reranker=not no_rerank)
    page = searcher.search(
        index,
        query,
        mode=mode,
        window=window,
        size=size,
        start=start,
        filters=filters,
        rerank=not no_rerank,
        deadline_ms=deadline_ms,
    )
    if as_json:
        emit_json({"query": query, "index": index, **page_json(page)})
    else:
        out.print(page_table(query, page))


def page_json(page: Page) -> dict[str, Any]:
    """A page as plain values: each hit's fields lie beside its id, ranks and scores."""
    hits = []
    for hit in page.hits:
        own = {"id": hit.id, "rank": hit.rank, "first_stage_rank": hit.first_stage_rank, "scores": hit.scores}
        hits.append({**own, **{name: value for name, value in hit.source.items() if name not in own}})
    about = {"total": page.total, "failed_shards": page.failed_shards, "rerank": page.rerank, "took_ms": page.took_ms}
    return {"hits": hits, **about}


def page_table(query: str, page: Page) -> Table:
    """A page as a table: new rank, old rank, scores, title and price."""
    state = page.rerank
    about = f"rerank {state['status']}" + (f": {state['reason']}" if state["reason"] else f" to {state['window']} hits")
    # Text, not strings: queries and titles hold brackets, which rich would read as markup.
    if page.failed_shards:
        about += f", {page.failed_shards} shards did not answer"
    title = Text(f"{query}  ({page.total} found, {about}, {page.took_ms['total']:.0f} ms)")
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD)
    for name in ("#", "was", "first", "rerank", "final"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("title", overflow="ellipsis", no_wrap=True, max_width=max(20, out.width - 55))
    table.add_column("price", justify="right", no_wrap=True)
    for hit in page.hits:
        moved = hit.first_stage_rank - hit.rank
        arrow = "[green]↑[/]" if moved > 0 else "[red]↓[/]" if moved < 0 else " "
        scores = [_number(hit.scores[name]) for name in ("first_stage", "rerank", "final")]
        price = hit.source.get("price")
        shown = "" if price is None else f"{price:g} {hit.source.get('currency') or ''}".strip()
        product = Text(str(hit.source.get("title", "")))
        table.add_row(str(hit.rank), f"{hit.first_stage_rank} {arrow}", *scores, product, Text(shown))
    return table


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


@click.command(name="rerank", context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("query")
@click.option(
    "--documents",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    required=True,
    help="JSON lines; each has a `text`, or product fields such as title and brand.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON document on standard output.")
def rerank_command(query: str, documents: Path, as_json: bool) -> None:
    """Score documents against a query, without a cluster.

    \b
    Example:
      shelfrank rerank "steel bottle" --documents products.jsonl --json
    """
    rows = read_documents(documents)
    results = rerank(query, rows, CrossEncoder.load(config.load().models))
    if as_json:
        emit_json({"query": query, "results": msgspec.to_builtins(results)})
        return
    table = Table("#", "line", "score", "document")
    for rank, item in enumerate(results, start=1):
        row = rows[item.index]
        text = Text(str(row.get("text") or row.get("title", "")))
        table.add_row(str(rank), str(item.index + 1), f"{item.score:.3f}", text)
    out.print(table)


def read_documents(path: Path) -> list[dict[str, Any]]:
    """Documents of a JSON lines file. Raises InputError naming the line."""
    rows = []
    for number, line in enumerate(whole_lines(path), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise InputError(f"{path} line {number} is not JSON: {error}. Write one object a line.") from error
        if not isinstance(row, dict):
            raise InputError(f"{path} line {number} holds a {type(row).__name__}; write one object a line.")
        rows.append(row)
        if len(rows) > MAX_DOCUMENTS:
            raise InputError(f"{path} has more than {MAX_DOCUMENTS} documents, the most one call scores. Split it.")
    return rows
