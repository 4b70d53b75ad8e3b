"""The commands `train prepare` and `train check`."""

from __future__ import annotations

from pathlib import Path
from typing import NoReturn

import click
import msgspec
from rich.text import Text

from indexer.errors import ShelfrankError, UsageError
from indexer.terminal import emit_json, err
from indexer.terminal import out as terminal

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
_FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)
_HELP = {"help_option_names": ["-h", "--help"]}
_SIMILARITY = click.option(
    "--similarity",
    default=0.7,
    show_default=True,
    type=click.FloatRange(0.3, 1.0),
    help="From which similarity two queries are nearly the same.",
)


@click.command(context_settings=_HELP)
@click.option(
    "--out", "folder", type=click.Path(file_okay=False, path_type=Path), required=True, help="Folder to fill."
)
@click.option("--queries", type=_FILE, multiple=True, help="TSV: query_id, query, further columns (split, language).")
@click.option("--qrels", type=_FILE, multiple=True, help="TSV: query_id, product_id, grade; one for each --queries.")
@click.option(
    "--clicks", type=_FILE, nargs=2, multiple=True, help="UBI exports of queries and events; may be one file."
)
@click.option("--purchases", type=_FILE, multiple=True, help="CSV: product_id, quantity, and query or basket_id.")
@click.option("--dataset", type=click.Choice(["esci", "wands"]), help="A public collection, as it is published.")
@click.option("--path", type=_FOLDER, help="Folder of the collection.")
@click.option("--locale", default="us", show_default=True, help="Of ESCI: us, es or jp.")
@click.option("--large", is_flag=True, help="Of ESCI: the easier queries too.")
@click.option("--products", type=_FILE, help="The catalogue; judgments of other products are rejected.")
@click.option("--test-share", default=0.2, show_default=True, help="Share of the queries for the final figures.")
@click.option("--dev-share", default=0.15, show_default=True, help="Share of the queries for choices.")
@click.option("--seed", default=13, show_default=True, help="For the splits.")
@click.option("--fix/--no-fix", default=True, show_default=True, help="Move queries that leak between given splits.")
@_SIMILARITY
@click.option(
    "--thresholds", default="0.3,0.1,0.03", show_default=True, help="Least values of grades 3, 2, 1 (clicks)."
)
@click.option(
    "--min-impressions", default=10, show_default=True, type=click.IntRange(1), help="Of a pair, for a grade."
)
@click.option("--weights", default="1,3,5", show_default=True, help="Of a click, a cart, a purchase.")
@click.option("--max-session-clicks", default=100, show_default=True, type=click.IntRange(1), help="More is a bot.")
@click.option("--json", "as_json", is_flag=True, help="The report as JSON on standard output.")
def prepare(
    folder: Path,
    queries: tuple[Path, ...],
    qrels: tuple[Path, ...],
    clicks: tuple[tuple[Path, Path], ...],
    purchases: tuple[Path, ...],
    dataset: str | None,
    path: Path | None,
    locale: str,
    large: bool,
    products: Path | None,
    test_share: float,
    dev_share: float,
    seed: int,
    fix: bool,
    similarity: float,
    thresholds: str,
    min_impressions: int,
    weights: str,
    max_session_clicks: int,
    as_json: bool,
) -> None:
    """Turn judgments, clicks and purchases into data to train on, split by query.

    \b
    Example:
      shelfrank train prepare --queries queries.tsv --qrels qrels.tsv \\
        --clicks ubi_queries.ndjson ubi_events.ndjson --out prepared
      shelfrank train prepare --dataset esci --path esci-data --out prepared

    Writes queries.tsv, qrels.tsv, report.json, report.txt and rejected.jsonl, which `train reranker` and `evaluate`
    read; of a public collection also its catalogue, products.jsonl, which `ingest --mapping esci` reads.
    """
    from reranker.training.prepare import clicks as clicked
    from reranker.training.prepare import datasets, job, render

    if len(queries) != len(qrels):
        raise UsageError("Give --queries and --qrels the same number of times, one of each for a set of judgments.")
    if (dataset is None) != (path is None):
        raise UsageError("Give --dataset and --path together: which collection, and the folder that it lies in.")
    if not (queries or clicks or purchases or dataset):
        raise UsageError("Nothing to prepare: give --queries and --qrels, --clicks, --purchases, or --dataset.")
    exact, substitute, related = _three(thresholds, "--thresholds")
    click_weight, cart_weight, purchase_weight = _three(weights, "--weights")
    options = job.Options(
        test_share=test_share,
        dev_share=dev_share,
        seed=seed,
        fix=fix,
        similarity=similarity,
        clicks=clicked.Options(
            thresholds=(exact, substitute, related),
            min_impressions=min_impressions,
            click_weight=click_weight,
            cart_weight=cart_weight,
            purchase_weight=purchase_weight,
            max_session_clicks=max_session_clicks,
        ),
    )
    logs = [path for pair in clicks for path in pair]
    published = datasets.Published(dataset, path, locale, large) if dataset and path else None
    made = job.prepare(folder, list(zip(queries, qrels, strict=True)), logs, purchases, products, options, published)
    if as_json:
        emit_json(msgspec.to_builtins(made))
    else:
        terminal.print(Text(render.as_text(made)), soft_wrap=True)
        err.print(Text(f"Written to {folder}."))


@click.command(context_settings=_HELP)
@click.option(
    "--queries", type=_FILE, multiple=True, required=True, help="TSV with a column split; may be given again."
)
@click.option("--qrels", type=_FILE, multiple=True, help="TSV; also finds queries with the same relevant products.")
@_SIMILARITY
@click.option("--json", "as_json", is_flag=True, help="The leaks as JSON on standard output.")
def check(queries: tuple[Path, ...], qrels: tuple[Path, ...], similarity: float, as_json: bool) -> None:
    """Look for near-identical queries in different splits; exits with 1 when there are any.

    \b
    Example:
      shelfrank train check --queries queries.tsv --qrels qrels.tsv
    """
    from reranker.training.prepare import job
    from reranker.training.prepare.render import leak_line

    found = job.check(queries, qrels, similarity)
    if as_json:
        emit_json(msgspec.to_builtins(found))
    else:
        for leak in found:
            terminal.print(Text(leak_line(leak)), soft_wrap=True)
    if found:
        raise ShelfrankError(
            f"Pairs of queries that leak: {len(found)}. `shelfrank train prepare` moves the later of each."
        )
    err.print("Nothing leaks between the splits.")


def _three(text: str, option: str) -> tuple[float, float, float]:
    try:
        first, second, third = (float(part) for part in text.split(","))
    except ValueError:
        _refuse(option, text)
    if min(first, second, third) < 0:
        _refuse(option, text)
    return first, second, third


def _refuse(option: str, text: str) -> NoReturn:
    raise UsageError(f"{option} is {text!r}; it must be three numbers from 0 up, separated by commas.")
