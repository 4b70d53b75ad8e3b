"""The `evaluate` command: how well each system orders judged queries, and how sure that is."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import click
import msgspec
from rich.text import Text

from indexer.errors import InputError, ShelfrankError, UsageError
from indexer.settings import Settings, load
from indexer.terminal import emit_json, err, out, progress
from reranker.evaluation import report
from reranker.evaluation.answer import as_plain, write_per_query
from reranker.evaluation.compare import ESCI_GAINS, parse_gains, warnings
from reranker.evaluation.judgments import Qrels, Query, of_split, read_qrels, read_queries, read_run, write_run
from reranker.evaluation.lines import writing
from reranker.evaluation.results import Options, Protocol, Results, evaluate_runs, headline
from reranker.evaluation.runs import (
    Run,
    System,
    in_pool,
    outside_run,
    parse_systems,
    run_system,
    seen_in_training,
    to_depth,
    trained_on,
)
from reranker.evaluation.strata import groups_by
from reranker.evaluation.tables import all_tables, difference_table, seen_sentence, table
from reranker.evaluation.tuning import RERANKED, TUNED, Tuned, make_folds, tuned_runs
from reranker.search import Searcher

__all__ = ["difference_table", "evaluate", "run_all", "seen_sentence", "table"]

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
_NEW_FILE = click.Path(dir_okay=False, path_type=Path)
_RESERVED = ("comparison", "queries")  # keys of the JSON answer


@click.command()
@click.option("--index", help="Index or alias to search; not needed without live systems.")
@click.option("--queries", "queries_path", required=True, type=_FILE, help="TSV: query_id, query, … or a query set.")
@click.option(
    "--qrels", "qrels_path", required=True, type=_FILE, help="TSV: query_id, product_id, grade; TREC; judgment list."
)
@click.option(
    "--systems",
    "systems_text",
    default="bm25,vector,hybrid,rerank",
    show_default=True,
    help='Also rerank:bm25, rerank:vector, rerank:hybrid; `rerank` alone reranks search.mode. "" for none.',
)
@click.option("--run", "run_texts", multiple=True, metavar="NAME=FILE", help="Also a TREC run of another system.")
@click.option("--protocol", type=click.Choice(["full", "judged"]), default="full", show_default=True)
@click.option("--baseline", default="", help="What to compare with; default: the best system that does not rerank.")
@click.option("--gains", default=ESCI_GAINS, show_default=True, help="What a grade is worth; or linear, exponential.")
@click.option("--also-gains", multiple=True, metavar="GAINS", help="Also show the first metric with these gains.")
@click.option("--min-grade", default=1, show_default=True, type=click.IntRange(1), help="The lowest relevant grade.")
@click.option("--split", help="Only queries whose column `split` says so.")
@click.option("--unseen", is_flag=True, help="Only queries that the reranker was not trained on.")
@click.option("--by", multiple=True, help="Also show groups of queries: a column of theirs, language or length.")
@click.option("--window", type=click.IntRange(0), help="Hits to rerank; default search.window.")
@click.option("--folds", type=int, default=0, help="Also first stage and reranker tuned on the other folds' queries.")
@click.option("--per-query", type=_NEW_FILE, help="Write JSON lines, or .tsv.")
@click.option("--run-dir", type=click.Path(file_okay=False, path_type=Path), help="Write a TREC run of each system.")
@click.option("--html", type=_NEW_FILE, help="Write a page with plots and every query's results.")
@click.option("--seed", default=0, show_default=True, help="For the intervals.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output.")
def evaluate(
    index: str | None,
    queries_path: Path,
    qrels_path: Path,
    systems_text: str,
    run_texts: tuple[str, ...],
    protocol: Protocol,
    baseline: str,
    gains: str,
    also_gains: tuple[str, ...],
    min_grade: int,
    split: str | None,
    unseen: bool,
    by: tuple[str, ...],
    window: int | None,
    folds: int,
    per_query: Path | None,
    run_dir: Path | None,
    html: Path | None,
    seed: int,
    as_json: bool,
) -> None:
    """Compare first-stage and reranked results on judged queries.

    \b
    Example:
      shelfrank evaluate --index shop --queries queries.tsv --qrels qrels.tsv --split test

    By default the whole catalogue is searched and what is not judged counts as irrelevant; with `--protocol judged`
    only each query's judged products are ordered. The difference to the baseline comes with a 95 % interval over
    queries.
    """
    settings = load()
    systems = parse_systems(systems_text, settings.search.mode) if systems_text.strip() else []
    options = Options(gains, min_grade, also_gains, by, baseline, seed, protocol)
    files = _run_files(run_texts, systems)
    _check(options, systems, files, index, window, unseen, folds)
    _check_parent("--per-query", per_query)
    _check_parent("--html", html)
    every = read_queries(queries_path)
    qrels = read_qrels(qrels_path, every)
    told = warnings(every, qrels, min_grade)
    chosen = of_split(every, split, queries_path) if split else every
    queries = [query for query in chosen if query.id in qrels]
    if not queries:
        raise InputError(f"{qrels_path} judges none of the {len(chosen)} queries of {queries_path} that were chosen.")
    for column in by:
        groups_by(column, queries)
    outside = {name: read_run(path) for name, path in files.items()}
    window = settings.search.window if window is None else window
    about: dict[str, Any] = {"index": index, "window": window if systems and protocol == "full" else None}
    runs, seen = [], []
    if systems:
        assert index is not None
        searcher = _connect(settings, systems)
        about["models"] = _models(searcher)
        seen = seen_in_training(queries, trained_on(searcher))
        if unseen:
            queries, seen = [query for query in queries if query.id not in seen], []
            if not queries:
                raise InputError("The reranker was trained on every one of these queries. Judge some new ones.")
        if folds:
            make_folds(len(queries), folds, seed)  # says before the searches what cannot be
        pool = qrels if protocol == "judged" else None
        runs = run_all(searcher, index, queries, systems, window, pool)
        if folds:
            tuned = _tune(searcher, index, queries, qrels, gains, folds, seed, window, pool)
            runs += tuned.runs
            about |= {"folds": folds, "tuned_on_all": msgspec.to_builtins(tuned.chosen)}
    runs += [_outside(name, rankings, queries, qrels, protocol) for name, rankings in outside.items()]
    if files:
        about["runs"] = {name: str(path) for name, path in files.items()}
    results = evaluate_runs(queries, qrels, runs, options)
    results = msgspec.structs.replace(results, about=about, seen=seen, warnings=told + results.warnings)
    _write(results, per_query, run_dir, html)
    _tell(results, as_json)
    faulty = [run.system.name for run in runs if run.all_faulty]
    if faulty:
        raise ShelfrankError(f"The reranker finished no query of {', '.join(faulty)}; see the warnings above.")


def run_all(
    searcher: Searcher,
    index: str,
    queries: Sequence[Query],
    systems: Sequence[System],
    window: int | None = None,
    pool: Qrels | None = None,
) -> list[Run]:
    """Run every system with a progress bar on standard error."""
    runs = []
    with progress() as bar:
        for system in systems:
            task = bar.add_task(system.name, total=len(queries))
            runs.append(run_system(searcher, index, queries, system, window, partial(bar.advance, task), pool))
    return runs


def _tune(
    searcher: Searcher,
    index: str,
    queries: Sequence[Query],
    qrels: Qrels,
    gains: str,
    folds: int,
    seed: int,
    window: int,
    pool: Qrels | None,
) -> Tuned:
    with progress() as bar:
        task = bar.add_task("tuned", total=None if searcher.reranker else len(queries))
        advance = partial(bar.advance, task)
        return tuned_runs(searcher, index, queries, qrels, parse_gains(gains), folds, seed, window, pool, advance)


def _check(
    options: Options,
    systems: Sequence[System],
    files: dict[str, Path],
    index: str | None,
    window: int | None,
    unseen: bool,
    folds: int,
) -> None:
    """An evaluation takes minutes: say before it what cannot be meant."""
    for text in (options.gains, *options.also_gains):
        parse_gains(text)
    names = [*(system.name for system in systems), *files]
    if folds and not any(system.mode != "bm25" for system in systems):
        raise UsageError("--folds tunes the fusion of words and vectors: name vector, hybrid or rerank in --systems.")
    if folds:
        names += [*TUNED, *(RERANKED if any(system.rerank for system in systems) else ())]
    if not names:
        raise UsageError("There is nothing to evaluate. Name --systems, or --run NAME=FILE.")
    if options.baseline and options.baseline not in names:
        raise UsageError(
            f"--baseline {options.baseline} is no system of this evaluation; there are {', '.join(names)}."
        )
    if systems and not index:
        raise UsageError('--index is missing: the systems search it. Without live systems give --systems "".')
    if unseen and not systems:
        raise UsageError("--unseen asks the loaded models which queries they saw; without live systems there is none.")
    if window is not None and options.protocol == "judged":
        raise UsageError("--window has no place in --protocol judged: the window holds all judged products.")


def _run_files(texts: Sequence[str], systems: Sequence[System]) -> dict[str, Path]:
    files: dict[str, Path] = {}
    taken = {system.name for system in systems} | set(_RESERVED)
    for text in texts:
        name, equals, file = text.partition("=")
        if not equals or not re.fullmatch(r"[\w.:+-]+", name):
            raise UsageError(f"--run {text!r} is no NAME=FILE; a name has letters, digits and . : + - _.")
        if name in files or name in taken:
            raise UsageError(f"--run {text!r}: the name {name!r} is taken. Choose another.")
        if not Path(file).is_file():
            raise UsageError(f"--run {text!r}: there is no file {file!r}.")
        files[name] = Path(file)
    return files


def _connect(settings: Settings, systems: Sequence[System]) -> Searcher:
    vectors, rerank = any(system.mode != "bm25" for system in systems), any(system.rerank for system in systems)
    return Searcher.connect(settings, encoder=vectors, reranker=rerank, waits=True)


def _outside(
    name: str, rankings: dict[str, list[str]], queries: Sequence[Query], qrels: Qrels, protocol: Protocol
) -> Run:
    run = outside_run(name, rankings, queries, qrels)
    return in_pool(run, qrels) if protocol == "judged" else to_depth(run)


def _write(results: Results, per_query: Path | None, run_dir: Path | None, html: Path | None) -> None:
    if per_query:
        with writing(per_query):
            write_per_query(per_query, results)
    if run_dir:
        with writing(run_dir):
            run_dir.mkdir(parents=True, exist_ok=True)
            for run in results.runs:
                name = run.system.name.replace(":", "-")
                write_run(run_dir / f"{name}.run", run.rankings, name)
    if html:
        with writing(html):
            html.write_text(report.page(results), "utf-8")


def _tell(results: Results, as_json: bool) -> None:
    for line in results.warnings:
        err.print(Text(f"Warning: {line}", style="yellow"))
    if as_json:
        emit_json(as_plain(results))
        return
    for shown in all_tables(results, headline(results)):
        out.print(shown)
    for name, choice in results.about.get("tuned_on_all", {}).items():
        settings = ", ".join(f"search.{key} = {value!r}" for key, value in choice.items() if value)
        out.print(Text(f"{name}, by all queries: {settings}"))
    if results.seen:
        out.print(Text(seen_sentence(results.seen, len(results.queries)), style="bold red"))


def _models(searcher: Searcher) -> dict[str, str]:
    encoder, reranker = searcher.retriever.encoder, searcher.reranker
    return {
        "encoder": encoder.bundle_id if encoder else "",
        "reranker": reranker.bundle_id if reranker else "",
    }


def _check_parent(option: str, path: Path | None) -> None:
    if path and not path.absolute().parent.is_dir():
        raise UsageError(f"{option} {path}: there is no folder {path.absolute().parent}. Make it first.")
