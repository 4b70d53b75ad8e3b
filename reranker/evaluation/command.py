"""The `evaluate` command: how well each system orders judged queries, and how sure that is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import msgspec
from rich.box import SIMPLE
from rich.table import Table
from rich.text import Text

from indexer.errors import InputError, ShelfrankError, UsageError
from indexer.settings import load
from indexer.terminal import emit_json, err, out, progress
from reranker.evaluation.compare import (
    ESCI_GAINS,
    HEADLINE,
    METRICS,
    Comparison,
    compare,
    doubts,
    groups_by,
    means_by,
    parse_gains,
    warnings,
)
from reranker.evaluation.judgments import Query, of_split, read_qrels, read_queries, some, write_run
from reranker.evaluation.runs import DEPTH, Run, System, parse_systems, run_system, seen_in_training, trained_on
from reranker.search import Searcher

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
_DECIMALS = 6


@click.command()
@click.option("--index", required=True, help="Index or alias to search.")
@click.option("--queries", "queries_path", required=True, type=_FILE, help="TSV: query_id, query, further columns.")
@click.option("--qrels", "qrels_path", required=True, type=_FILE, help="TSV: query_id, product_id, grade; or TREC.")
@click.option(
    "--systems",
    "systems_text",
    default="bm25,vector,hybrid,rerank",
    show_default=True,
    help="Also rerank:bm25, rerank:vector, rerank:hybrid; `rerank` alone reranks search.mode.",
)
@click.option("--gains", default=ESCI_GAINS, show_default=True, help="What a grade is worth; or linear, exponential.")
@click.option("--min-grade", default=1, show_default=True, type=click.IntRange(1), help="The lowest relevant grade.")
@click.option("--split", help="Only queries whose column `split` says so.")
@click.option("--unseen", is_flag=True, help="Only queries that the reranker was not trained on.")
@click.option("--by", help="Also show each group of queries by a column of theirs, `language` say.")
@click.option("--window", type=click.IntRange(0), help="Hits to rerank; default search.window.")
@click.option("--per-query", type=click.Path(dir_okay=False, path_type=Path), help="Write JSON lines, or .tsv.")
@click.option("--run-dir", type=click.Path(file_okay=False, path_type=Path), help="Write a TREC run of each system.")
@click.option("--seed", default=0, show_default=True, help="For the intervals.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output.")
def evaluate(
    index: str,
    queries_path: Path,
    qrels_path: Path,
    systems_text: str,
    gains: str,
    min_grade: int,
    split: str | None,
    unseen: bool,
    by: str | None,
    window: int | None,
    per_query: Path | None,
    run_dir: Path | None,
    seed: int,
    as_json: bool,
) -> None:
    """Compare first-stage and reranked results on judged queries.

    \b
    Example:
      shelfrank evaluate --index shop --queries queries.tsv --qrels qrels.tsv --split test

    What is not judged counts as irrelevant. The difference to the best system that does not rerank comes with a 95 %
    interval over queries.
    """
    settings = load()
    window = settings.search.window if window is None else window
    systems = parse_systems(systems_text, settings.search.mode)
    gain = parse_gains(gains)
    _check_parent(per_query)
    every, qrels = read_queries(queries_path), read_qrels(qrels_path)
    told = warnings(every, qrels, min_grade)
    chosen = of_split(every, split, queries_path) if split else every
    queries = [query for query in chosen if query.id in qrels]
    if not queries:
        raise InputError(f"{qrels_path} judges none of the {len(chosen)} queries of {queries_path} that were chosen.")
    vectors, rerank = any(system.mode != "bm25" for system in systems), any(system.rerank for system in systems)
    searcher = Searcher.connect(settings, encoder=vectors, reranker=rerank)
    seen = seen_in_training(queries, trained_on(searcher))
    if unseen:
        queries, seen = [query for query in queries if query.id not in seen], []
        if not queries:
            raise InputError("The reranker was trained on every one of these queries. Judge some new ones.")
    groups = groups_by(by, queries) if by else {}
    runs = run_all(searcher, index, queries, systems, window)
    comparison = compare(runs, qrels, gain, min_grade, seed)
    told += doubts(runs, comparison)
    grouped = means_by(groups, comparison.values)
    if per_query:
        with _writing(per_query):
            write_per_query(per_query, queries, runs, comparison)
    if run_dir:
        with _writing(run_dir):
            run_dir.mkdir(parents=True, exist_ok=True)
            for run in runs:
                name = run.system.name.replace(":", "-")
                write_run(run_dir / f"{name}.run", run.rankings, name)
    for line in told:
        err.print(Text(f"Warning: {line}", style="yellow"))
    if as_json:
        about = {
            "index": index,
            "queries": len(queries),
            "gains": gains,
            "min_grade": min_grade,
            "depth": DEPTH,
            "window": window,
            "models": _models(searcher),
            "seen_in_training": seen,
            "warnings": told,
        }
        emit_json(as_plain(runs, comparison, about, {by: grouped} if by else {}))
    else:
        out.print(table(runs, comparison, f"{len(queries)} queries · gains {gains} · window {window}"))
        if comparison.differences:
            out.print(difference_table(comparison))
        if by:
            out.print(group_table(by, grouped))
        if seen:
            out.print(Text(seen_sentence(seen, len(queries)), style="bold red"))
    faulty = [run.system.name for run in runs if run.all_faulty]
    if faulty:
        raise ShelfrankError(f"The reranker finished no query of {', '.join(faulty)}; see the warnings above.")


def run_all(
    searcher: Searcher, index: str, queries: Sequence[Query], systems: Sequence[System], window: int | None = None
) -> list[Run]:
    """Run every system with a progress bar on standard error."""
    runs = []
    with progress() as bar:
        for system in systems:
            task = bar.add_task(system.name, total=len(queries))
            runs.append(run_system(searcher, index, queries, system, window, lambda task=task: bar.advance(task)))  # type: ignore[misc]
    return runs


def as_plain(
    runs: Sequence[Run], comparison: Comparison, about: Mapping[str, Any], groups: Mapping[str, Any]
) -> dict[str, Any]:
    """The JSON answer: a key for each system, and all else under `comparison`."""
    systems: dict[str, Any] = {}
    for run in runs:
        values = comparison.means[run.system.name]
        systems[run.system.name] = {
            **{name: round(values[name], _DECIMALS) for name in METRICS},
            "queries": len(run.rankings),
            "unfinished": len(run.faults),
        }
    differences = {name: msgspec.structs.asdict(each) for name, each in comparison.differences.items()}
    by = {column: _rounded(values) for column, values in groups.items()}
    return {
        **systems,
        "comparison": {
            "metric": HEADLINE,
            "baseline": comparison.baseline,
            "differences": _rounded(differences),
            **({"by": by} if by else {}),
            **about,
        },
    }


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(each) for key, each in value.items()}
    return round(value, _DECIMALS) if isinstance(value, float) else value


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
    """Each system against the best that does not rerank."""
    title = f"{HEADLINE} against {comparison.baseline}"
    shown = _table(title, "system", "difference", "95 % interval", "p", "better", "worse")
    for name, found in comparison.differences.items():
        interval = Text(f"{found.low:+.4f} to {found.high:+.4f}")
        counts = str(found.better), str(found.worse)
        shown.add_row(Text(name), f"{found.mean:+.4f}", interval, f"{found.p:.4f}", *counts)
    return shown


def _table(title: str, first: str, *others: str) -> Table:
    shown = Table(title=title, title_justify="left", caption_justify="left", box=SIMPLE)
    shown.add_column(first, no_wrap=True)
    for name in others:
        shown.add_column(name.replace("precision", "p"), justify="right", no_wrap=True)
    return shown


def group_table(column: str, groups: Mapping[str, Mapping[str, Any]]) -> Table:
    """The headline metric of each system, a row for each group of queries."""
    names = [name for name in next(iter(groups.values())) if name != "queries"]
    shown = _table(f"{HEADLINE} by {column}", column, "queries", *names)
    for group, figures in groups.items():
        shown.add_row(Text(group), str(figures["queries"]), *(f"{figures[name][HEADLINE]:.4f}" for name in names))
    return shown


def seen_sentence(seen: Sequence[str], count: int) -> str:
    """The warning that figures are not honest ones."""
    return (
        f"{len(seen)} of {count} queries ({some(seen)}) were used to train a model that is measured here: "
        "these figures flatter it. Evaluate on queries that it has not seen (--unseen)."
    )


def write_per_query(path: Path, queries: Sequence[Query], runs: Sequence[Run], comparison: Comparison) -> None:
    """Each query's values under each system: JSON lines, or TSV with a header where the name ends in .tsv."""
    rows = [
        {
            "query_id": query.id,
            "query": query.text,
            "system": run.system.name,
            **{name: round(comparison.values[run.system.name][query.id][name], _DECIMALS) for name in METRICS},
            "rerank_status": run.statuses[query.id],
        }
        for run in runs
        for query in queries
    ]
    with path.open("wb") as file:
        if path.suffix == ".tsv":
            file.write("\t".join(rows[0]).encode() + b"\n")
            file.writelines("\t".join(map(str, row.values())).encode() + b"\n" for row in rows)
        else:
            file.writelines(msgspec.json.encode(row) + b"\n" for row in rows)


def _models(searcher: Searcher) -> dict[str, str]:
    encoder, reranker = searcher.retriever.encoder, searcher.reranker
    return {
        "encoder": encoder.bundle_id if encoder else "",
        "reranker": reranker.bundle_id if reranker else "",
    }


def _check_parent(path: Path | None) -> None:
    """An evaluation takes minutes: say before it that its result has nowhere to go."""
    if path and not path.absolute().parent.is_dir():
        raise UsageError(f"--per-query {path}: there is no folder {path.absolute().parent}. Make it first.")


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror}. Choose another place.") from error
