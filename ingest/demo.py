"""The command `demo`: the sample shop from its catalogue file to reranked pages, in two languages."""

from __future__ import annotations

import tempfile
from importlib.resources import as_file, files
from pathlib import Path

import click
from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from indexer import settings as config
from indexer.settings import Settings
from indexer.terminal import err, out, progress
from ingest.commands import shower
from ingest.job import Job, Options
from ingest.schema import load_mapping
from ingest.sources import open_catalogue
from reranker.evaluation.command import difference_table, run_all, table
from reranker.evaluation.compare import ESCI_GAINS, compare, parse_gains
from reranker.evaluation.judgments import Qrels, Query, of_split, read_qrels, read_queries
from reranker.evaluation.runs import parse_systems
from reranker.search import Searcher

INDEX = "sample-shop"
SHOWN = {"en": 2, "zh": 2}  # the first held-out queries of each language: not chosen for how they look
_SIZE = 5
_GRADES = {3: "[green]exact[/]", 2: "[yellow]substitute[/]", 1: "[yellow]complement[/]", 0: "[dim]–[/]"}


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
def demo() -> None:
    """Ingest the sample shop and show result pages before and after reranking.

    Starts the embedded OpenSearch node unless OPENSEARCH_URL names a cluster, and leaves it running. The queries that
    are shown and measured are the sample shop's test split, which no shipped model was trained on.

    \b
    Example:
      shelfrank demo
    """
    settings = config.load()
    searcher = Searcher.connect(settings)
    with as_file(files("ingest") / "sample_shop") as folder:
        _ingest(searcher, folder, settings)
        queries = of_split(read_queries(folder / "queries.tsv"), "test", folder / "queries.tsv")
        qrels = read_qrels(folder / "qrels.tsv")
    for language, count in SHOWN.items():
        for query in [query for query in queries if query.columns["language"] == language][:count]:
            _show(searcher, query, qrels)
    systems = parse_systems("bm25,hybrid,rerank", settings.search.mode)
    runs = run_all(searcher, INDEX, queries, systems)
    comparison = compare(runs, qrels, parse_gains(ESCI_GAINS))
    out.print(table(runs, comparison, f"{len(queries)} held-out queries, English and Chinese"))
    out.print(difference_table(comparison))
    out.print(f'Try it: shelfrank search "bottle without straw" --index {INDEX}   (and: shelfrank node stop)')
    out.print(f"In a browser: shelfrank serve --index {INDEX}, then http://127.0.0.1:8100/_shelfrank/")


def _ingest(searcher: Searcher, folder: Path, settings: Settings) -> None:
    assert searcher.retriever.encoder is not None
    assert searcher.reranker is not None
    catalogue = open_catalogue(folder / "catalog.csv", load_mapping(str(folder / "catalog.toml")))
    with tempfile.TemporaryDirectory() as scratch, progress() as bar:
        options = Options(INDEX, Path(scratch) / "rejected.jsonl")
        job = Job(
            searcher.retriever.client,
            catalogue,
            searcher.retriever.encoder,
            searcher.reranker,
            settings,
            options,
            on_progress=shower(bar),
        )
        report = job.run()
    for part in report.tables():
        err.print(part)


def _show(searcher: Searcher, query: Query, qrels: Qrels) -> None:
    page = searcher.search(INDEX, query.text, size=searcher.settings.search.window, deadline_ms=float("inf"))
    grades = qrels.get(query.id, {})
    shown = Table(title=Text(f"“{query.text}”", style="bold"), box=SIMPLE_HEAD, title_justify="left")
    width = max(24, out.width - 34)
    shown.add_column("#", justify="right")
    shown.add_column("was", justify="right")
    shown.add_column("judged", min_width=10)
    shown.add_column("product", no_wrap=True, overflow="ellipsis", max_width=width)
    before = sorted(page.hits, key=lambda hit: hit.first_stage_rank)[:_SIZE]
    shown.add_row("", "", "", "[bold]before: the first stage[/]")
    for hit in before:
        shown.add_row(str(hit.first_stage_rank), "", _GRADES[grades.get(hit.id, 0)], Text(str(hit.source["title"])))
    shown.add_row("", "", "", "[bold]after: reranked[/]")
    for hit in page.hits[:_SIZE]:
        was = "" if hit.rank == hit.first_stage_rank else str(hit.first_stage_rank)
        shown.add_row(str(hit.rank), was, _GRADES[grades.get(hit.id, 0)], Text(str(hit.source["title"])))
    out.print(shown)
