"""The strongest plain first stage, tuned on other queries than it is measured on, and the reranker tuned likewise.

A reranker that beats an untuned baseline has shown little. So fields and weights of BM25, and how its list is fused
with the vector's, are chosen by nDCG@10 on all folds but one and measured on that one, in turn. The reranker comes on
top of the fusion twice: with the weights it carries, and with those weights refitted on the same folds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import product

import msgspec
import numpy as np
from numpy.typing import NDArray

from indexer.client import call
from indexer.errors import ClusterError, UsageError
from indexer.settings import Search
from reranker import fusion, signals
from reranker.blend import COLUMNS, features, weighted
from reranker.evaluation.compare import Gain
from reranker.evaluation.judgments import Qrels, Query
from reranker.evaluation.metrics import gains_of, ndcg
from reranker.evaluation.runs import DEPTH, SHOWN, UNFINISHED, Run, System, in_pool
from reranker.rescore import STORED_FIELDS, Candidate, Outcome, rescore
from reranker.retrieval import bounded, text_query, vector_query
from reranker.scoring import CrossEncoder
from reranker.search import Searcher
from reranker.training.lastmile import Window, fitter, know_cosines

FIELDS = (
    Search().text_fields,
    "title",
    "title^3,brand.text^2",
    "title^3,brand.text^2,color.text,bullets",
    "title^3,brand.text^2,color.text,category_path.text,bullets",
    "title^6,brand.text^2,color.text,category_path.text,bullets",
    "title^3,brand.text,color.text^0.5,category_path.text^0.5,bullets^0.5,description^0.25",
)
VECTOR_WEIGHTS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
RANK_CONSTANTS = (5, 10, 20, 60)


class Choice(msgspec.Struct, frozen=True, omit_defaults=True):
    """One way to run the first stage; `fusion` empty is BM25 alone."""

    text_fields: str
    fusion: str = ""
    vector_weight: float = 0.0
    rank_constant: int = 0


CHOICES = (
    *(Choice(fields) for fields in FIELDS),
    *(Choice(fields, "min_max", vector_weight=weight) for fields, weight in product(FIELDS, VECTOR_WEIGHTS)),
    *(Choice(fields, "rrf", rank_constant=constant) for fields, constant in product(FIELDS, RANK_CONSTANTS)),
)


GROUPS = {
    "bm25": ("",),
    "min_max": ("min_max",),
    "rrf": ("rrf",),
    "fusion": ("min_max", "rrf"),
}  # tuned first stages, by the fusions they choose from
TUNED = tuple(f"{name}-tuned" for name in GROUPS)
RERANKED = ("rerank-tuned", "rerank-refit")


class Lists(msgspec.Struct, frozen=True):
    """What one query found: id -> score, by the fields that BM25 read, and by the vector."""

    text: dict[str, dict[str, float]]
    vector: dict[str, float]


class Tuned(msgspec.Struct, frozen=True):
    """Runs of the tuned systems, put together from the folds, and what all queries together would choose."""

    runs: list[Run]
    chosen: dict[str, Choice]


def tuned_runs(
    searcher: Searcher,
    index: str,
    queries: Sequence[Query],
    qrels: Qrels,
    gain: Gain,
    folds: int,
    seed: int = 0,
    window: int = 50,
    pool: Qrels | None = None,
    on_query: Callable[[], None] = lambda: None,
) -> Tuned:
    """Runs `bm25-tuned`, `min_max-tuned`, `rrf-tuned`, `fusion-tuned` (the better of the two in each fold's training
    queries) and, with a reranker, `rerank-tuned`: the same window rescored, and `rerank-refit`: rescored with weights
    refitted on the fold's training queries. With a `pool` judged products alone.

    Raises UsageError when there are fewer queries than folds, and ClusterError when the cluster fails.
    """
    parts = make_folds(len(queries), folds, seed)
    found = []
    for query in queries:
        found.append(fetch(searcher, index, query.text, sorted(pool[query.id]) if pool is not None else ()))
        on_query()
    gains = [gains_of(qrels[query.id], gain) for query in queries]
    values = np.array(
        [
            [ndcg(list(ranking(lists, choice)), each, 10) for lists, each in zip(found, gains, strict=True)]
            for choice in CHOICES
        ]
    )
    everything = np.arange(len(queries))
    runs = [Run(System(f"{name}-tuned", "bm25" if name == "bm25" else "hybrid", rerank=False)) for name in GROUPS]
    choices = []  # of each fold's fusion
    for part in parts:
        training = np.setdiff1d(everything, part)
        for run, kinds in zip(runs, GROUPS.values(), strict=True):
            choice = best(values, training, kinds)
            for at in part:
                run.rankings[queries[at].id] = list(ranking(found[at], choice))[:DEPTH]
        choices.append(best(values, training, GROUPS["fusion"]))
    chosen = {f"{name}-tuned": best(values, everything, kinds) for name, kinds in GROUPS.items()}
    made = list(runs)
    if searcher.reranker:
        rows: dict[Choice, list[_Rescored]] = {}
        for choice in dict.fromkeys(choices):
            rows[choice] = []
            for query, lists in zip(queries, found, strict=True):
                scores = ranking(lists, choice)
                size = len(scores) if pool is not None else window
                rows[choice].append(_rescored(searcher, index, query, scores, size))
                on_query()
        made += _reranked(queries, gains, parts, [rows[choice] for choice in choices], searcher.reranker)
    return Tuned([in_pool(run, pool) for run in made] if pool is not None else made, chosen)


def make_folds(count: int, folds: int, seed: int) -> list[NDArray[np.int64]]:
    """Positions 0 to `count` in `folds` parts of like size, shuffled by the seed."""
    if not 2 <= folds <= count:
        raise UsageError(f"--folds is {folds}; it must be 2 to the number of queries, which is {count}.")
    order = np.random.default_rng(seed).permutation(count)
    return [np.sort(order[at::folds]) for at in range(folds)]


def best(values: NDArray[np.float64], at: NDArray[np.int64], kinds: Sequence[str]) -> Choice:
    """The choice of the best mean over some queries; `values` float64 [choices, queries]. Of equals the first."""
    allowed = [number for number, choice in enumerate(CHOICES) if choice.fusion in kinds]
    means = values[allowed][:, at].mean(axis=1)
    return CHOICES[allowed[int(np.argmax(means))]]


def ranking(lists: Lists, choice: Choice) -> dict[str, float]:
    """Id -> score of a first stage, best first; equal scores by id, as in serving."""
    text = lists.text[choice.text_fields]
    if choice.fusion == "min_max":
        scores = fusion.min_max([text, lists.vector], [1 - choice.vector_weight, choice.vector_weight])
    elif choice.fusion == "rrf":
        scores = fusion.reciprocal_rank([list(text), list(lists.vector)], choice.rank_constant)
    else:
        scores = text
    return {key: scores[key] for key in sorted(scores, key=lambda key: (-scores[key], key))}


def fetch(searcher: Searcher, index: str, query: str, ids: Sequence[str] = ()) -> Lists:
    """One query's list for every choice of fields, and the vector's, to the first stage's depth, in one request."""
    settings, text = searcher.settings.search, bounded(query)
    if searcher.retriever.encoder is None:
        raise UsageError("--folds tunes the fusion of words and vectors, and no encoder is loaded.")
    clauses = [{"terms": {"_id": list(ids)}}] if ids else []
    vector, made_with = searcher.query_vector(index, searcher.vectors(text), "vector")
    bodies = [text_query(text, clauses, fields) for fields in FIELDS]
    bodies.append(vector_query(vector or (), settings.depth, clauses, made_with.field))
    lines: list[Mapping[str, object]] = []
    for body in bodies:
        lines += [{"index": index}, {"query": body, "size": settings.depth, "_source": False}]
    answers = call(lambda: searcher.retriever.client.msearch(body=lines))["responses"]
    for answer in answers:
        if "error" in answer:
            raise ClusterError(f"The cluster refused the search: {answer['error'].get('reason', answer['error'])}")
    *texts, nearest = ({hit["_id"]: float(hit["_score"]) for hit in answer["hits"]["hits"]} for answer in answers)
    return Lists(dict(zip(FIELDS, texts, strict=True)), nearest)


class _Rescored(msgspec.Struct, frozen=True):
    """One query's window as the bundle's own weights order it, and what a refit needs to order it otherwise."""

    ids: list[str]
    tail: list[str]
    titles: dict[str, str]
    outcome: Outcome
    features: NDArray[np.float64]


def _rescored(searcher: Searcher, index: str, query: Query, scores: Mapping[str, float], window: int) -> _Rescored:
    assert searcher.reranker is not None
    ids = list(scores)
    recipe = sorted(searcher.reranker.fields)
    text = bounded(query.text)
    wanted = sorted({*recipe, *signals.FIELDS, *STORED_FIELDS})
    head, tail = ids[:window], ids[window:DEPTH]
    got = call(
        lambda: searcher.retriever.client.mget(
            index=index, body={"ids": head}, params={"_source_includes": ",".join(wanted)}
        )
    )
    fields = {document["_id"]: document.get("_source") or {} for document in got["docs"]}
    hits = [Candidate(key, scores[key], fields[key]) for key in head]
    weight = searcher.settings.search.weight
    outcome = rescore(text, hits, searcher.reranker, weight, vectors=searcher.vectors(text))
    rows = np.zeros((0, len(COLUMNS)))
    if outcome.status == "applied":
        first, rerank = (np.array(each, float) for each in ([scores[key] for key in head], outcome.rerank))
        rows = features(text, [fields[key] for key in head], first, rerank, outcome.known_cosines())
    titles = {key: str(fields[key].get("title", "")) for key in head}
    return _Rescored(head, tail, titles, outcome, rows)


def _reranked(
    queries: Sequence[Query],
    gains: Sequence[Mapping[str, float]],
    parts: Sequence[NDArray[np.int64]],
    rows: Sequence[Sequence[_Rescored]],
    reranker: CrossEncoder,
) -> list[Run]:
    """Runs `rerank-tuned` and `rerank-refit`; `rows` hold, for each part, all queries on that part's first stage."""
    runs = [Run(System(name, "hybrid", rerank=True)) for name in RERANKED]
    for part, found in zip(parts, rows, strict=True):
        windows = [
            Window(tuple(found[at].ids), found[at].features, gains[at])
            for at in np.setdiff1d(np.arange(len(queries)), part)
            if found[at].outcome.status == "applied"
        ]
        weights = fitter(reranker.bundle.description, know_cosines(windows))(windows)
        for at in part:
            row, key = found[at], queries[at].id
            orders = [row.outcome.order, row.outcome.order]
            if row.outcome.status == "applied":
                orders[1] = list(map(int, np.argsort(-weighted(row.features, weights), kind="stable")))
            for run, order in zip(runs, orders, strict=True):
                run.rankings[key] = [row.ids[place] for place in order] + row.tail
                run.statuses[key] = row.outcome.status
                run.titles.update(
                    {shown: row.titles[shown] for shown in run.rankings[key][:SHOWN] if shown in row.titles}
                )
                if row.outcome.status in UNFINISHED:
                    run.faults[key] = row.outcome.reason
    return runs
