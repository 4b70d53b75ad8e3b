"""A candidate against the current bundle, in searches of judged queries on a real index."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from indexer import client as clusters
from indexer.errors import ClusterError, InputError, UsageError
from indexer.settings import Settings
from reranker.bundle import ENGLISH, Bundle
from reranker.encoder import Encoder
from reranker.evaluation.compare import ESCI_GAINS, HEADLINE, Gain, difference, mean, measure, parse_gains
from reranker.evaluation.judgments import Qrels, Query, of_split, read_qrels, read_queries, some
from reranker.evaluation.runs import Run, System, run_system, seen_in_training
from reranker.languages import is_latin
from reranker.registry.gate import Check
from reranker.retrieval import Retriever
from reranker.scoring import CrossEncoder
from reranker.search import Searcher


class Task(msgspec.Struct, frozen=True):
    """What both bundles are measured on; `candidate_index` is an encoder's own, made with it."""

    index: str
    queries: Sequence[Query]
    qrels: Qrels
    gain: Gain
    margin: float
    split: str = ""
    candidate_index: str = ""
    window: int | None = None


class Outcome(msgspec.Struct, frozen=True):
    """The checks, the figures that the registry records, and what a reader must know."""

    checks: tuple[Check, ...]
    figures: dict[str, Any]
    warnings: tuple[str, ...]


def read_task(
    index: str,
    queries_path: Path,
    qrels_path: Path,
    split: str | None = None,
    gains: str | None = None,
    margin: float = 0.005,
    candidate_index: str = "",
    window: int | None = None,
) -> Task:
    """A task from the files that `shelfrank evaluate` takes. Raises InputError or UsageError."""
    every = read_queries(queries_path)
    qrels = read_qrels(qrels_path, every)
    chosen = of_split(every, split, queries_path) if split else every
    queries = [query for query in chosen if query.id in qrels]
    if not queries:
        raise InputError(f"{qrels_path} judges none of the {len(chosen)} queries of {queries_path} that were chosen.")
    return Task(index, queries, qrels, parse_gains(gains or ESCI_GAINS), margin, split or "", candidate_index, window)


def compare(
    candidate: Bundle, current: Bundle, settings: Settings, task: Task, on_query: Callable[[], None] = lambda: None
) -> Outcome:
    """nDCG@10 of search with each, the same queries in both. The candidate may be below by no more than the margin.

    Raises ClusterError when the index holds vectors of another encoder than the one that is to search it.
    """
    if candidate.description.kind == "encoder":
        searchers = _with_encoders(candidate, current, settings, task)
    else:
        searchers = _with_rerankers(candidate, current, settings, task)
    if candidate.description.kind == ENGLISH:
        task = msgspec.structs.replace(task, queries=[query for query in task.queries if is_latin(query.text, ())])
    mode = settings.search.mode
    if candidate.description.kind == "encoder" and mode == "bm25":
        mode = "hybrid"
    runs: dict[str, Run] = {}
    for name, (searcher, index) in searchers.items():
        # A run whose first-stage settings differ would measure those: both take them from the same settings.
        runs[name] = run_system(searcher, index, task.queries, System(name, mode, True), task.window, on_query)
    values = {name: measure(run.rankings, task.qrels, task.gain) for name, run in runs.items()}
    if not any(row["judged@10"] for each in values.values() for row in each.values()):
        raise InputError(
            f"None of the first 10 hits of {len(task.queries)} queries is judged: the judgments' product ids are not "
            f"those of {task.index}. Give the judgments of this catalogue."
        )
    found = difference(values["candidate"], values["current"])
    means = {name: mean(each)[HEADLINE] for name, each in values.items()}
    sentence = (
        f"{HEADLINE} {means['candidate']:.4f} with {candidate.id}, {means['current']:.4f} with {current.id}: "
        f"{found.mean:+.4f} (95 % {found.low:+.4f} to {found.high:+.4f}) on {len(task.queries)} queries; "
        f"{found.better} better, {found.worse} worse"
    )
    # One unit of rounding: a difference of exactly the margin passes.
    quality = Check("quality", found.mean >= -task.margin - 1e-9, round(found.mean, 6), -task.margin, sentence)
    figures = {
        HEADLINE: round(means["candidate"], 6),
        f"{HEADLINE} before": round(means["current"], 6),
        "before": current.id,
        "difference": round(found.mean, 6),
        "low": round(found.low, 6),
        "high": round(found.high, 6),
        "queries": len(task.queries),
        "split": task.split,
        "index": searchers["candidate"][1],
    }
    return Outcome((_finished(runs["candidate"]), quality), figures, tuple(_warnings(candidate, current, runs, task)))


def _with_rerankers(
    candidate: Bundle, current: Bundle, settings: Settings, task: Task
) -> dict[str, tuple[Searcher, str]]:
    if task.candidate_index:
        raise UsageError("--candidate-index is for encoders; rerankers are compared on one index.")
    by_vector = settings.search.mode != "bm25"
    weighed = any(bundle.description.vector_weights for bundle in (candidate, current))
    plain = Searcher.connect(settings, encoder=by_vector or weighed, reranker=False, waits=True)
    encoder = plain.retriever.encoder
    if by_vector and encoder is not None:
        made_with = _encoder_of(plain, task.index)
        if made_with not in ("", encoder.bundle_id):
            raise ClusterError(
                f"The index {task.index} holds vectors of the encoder {made_with}, and {encoder.bundle_id} is loaded. "
                "Name the first in models.encoder (SHELFRANK_MODELS_ENCODER), or make new vectors with "
                "`shelfrank reindex start`."
            )
    rerankers = {"current": current, "candidate": candidate}
    return {
        name: (Searcher(plain.retriever, CrossEncoder(bundle, settings.models), settings), task.index)
        for name, bundle in rerankers.items()
    }


def _with_encoders(
    candidate: Bundle, current: Bundle, settings: Settings, task: Task
) -> dict[str, tuple[Searcher, str]]:
    connected = Searcher.connect(settings, encoder=False, waits=True)
    sides = {"current": (current, task.index), "candidate": (candidate, task.candidate_index or task.index)}
    searchers = {}
    for name, (bundle, index) in sides.items():
        made_with = _encoder_of(connected, index)
        if made_with != bundle.id:
            raise ClusterError(
                f"The index {index} holds vectors of {made_with or 'an encoder it does not name'}, and the {name} "
                f"encoder is {bundle.id}. An encoder is compared only on an index that was made with it: "
                f"`SHELFRANK_MODELS_ENCODER={bundle.folder} shelfrank ingest FILE --mapping MAPPING --index "
                f"{task.index}-{name}`, then give --index and --candidate-index, one for each."
            )
        found = connected.retriever
        encoder = Encoder(bundle, settings.models)
        retriever = Retriever(found.client, found.capabilities, settings.search, encoder)
        searchers[name] = (Searcher(retriever, connected.reranker, settings), index)
    return searchers


def _encoder_of(searcher: Searcher, index: str) -> str:
    """The encoder that an index (or alias) was made with, empty where its mapping does not say."""
    metas = clusters.index_meta(searcher.retriever.client, index).values()
    names = {str(meta.get("shelfrank", {}).get("encoder", "")) for meta in metas}
    return ", ".join(sorted(names))


def _finished(run: Run) -> Check:
    reason = f": {next(iter(run.faults.values()))}" if run.faults else ""
    detail = f"{len(run.faults)} of {len(run.rankings)} queries could not be reranked{reason}"
    return Check("answers", not run.faults, len(run.faults), 0, detail)


def _warnings(candidate: Bundle, current: Bundle, runs: dict[str, Run], task: Task) -> list[str]:
    told = runs["current"].warnings()
    for name, bundle in (("candidate", candidate), ("current bundle", current)):
        seen = seen_in_training(task.queries, set(bundle.description.seen))
        if seen:
            told.append(
                f"The {name} was trained on {len(seen)} of {len(task.queries)} queries ({some(seen)}): "
                "the figures flatter it. Compare on queries that neither has seen."
            )
    return told
