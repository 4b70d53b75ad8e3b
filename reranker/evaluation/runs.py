"""Put the same queries to several systems and keep what each answered."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence

import msgspec

from indexer.errors import InputError, UsageError
from reranker.bundle import fingerprint
from reranker.evaluation.judgments import Qrels, Query
from reranker.evaluation.lines import some, word
from reranker.retrieval import MODES, Filters
from reranker.search import MAX_WINDOW, Searcher

DEPTH = 100  # hits taken of each query; recall@100 needs no more
SHOWN = 10  # hits of each query that a report shows with their titles
UNFINISHED = ("timeout", "error")


class System(msgspec.Struct, frozen=True):
    """One way to answer a query: a first-stage mode, reranked or not; or an outside one that only its run tells of."""

    name: str
    mode: str
    rerank: bool
    outside: bool = False


class Run(msgspec.Struct, frozen=True):
    """What a system answered: by query id the product ids, best first, and what rescoring did.

    `faults` holds the reason for each query that the reranker could not finish; its ranking is the first stage's.
    `took_ms` holds how long each live search took, `titles` those of the first hits by product id.
    """

    system: System
    rankings: dict[str, list[str]] = {}
    statuses: dict[str, str] = {}
    faults: dict[str, str] = {}
    took_ms: dict[str, float] = {}
    titles: dict[str, str] = {}

    @property
    def all_faulty(self) -> bool:
        """Whether the reranker finished nothing, so that the run says nothing about it."""
        return bool(self.faults) and "applied" not in self.statuses.values()

    def warnings(self) -> list[str]:
        """What a reader must know before trusting the run's figures."""
        if not self.faults:
            return []
        common = Counter(self.faults.values()).most_common(3)
        reasons = "; ".join(f"{count} x {reason}" for reason, count in common)
        return [
            f"{self.system.name}: {len(self.faults)} of {len(self.rankings)} queries were not reranked and count in "
            f"their first-stage order ({some(list(self.faults))}): {reasons}"
        ]


def parse_systems(text: str, mode: str) -> list[System]:
    """`bm25,vector,hybrid,rerank` and `rerank:MODE`; `rerank` alone reranks `mode`. Raises UsageError."""
    systems: dict[str, System] = {}
    for name in (part.strip() for part in text.split(",")):
        first, colon, given = name.partition(":")
        rerank = first == "rerank"
        chosen = (given if colon else mode) if rerank else name
        if chosen not in MODES:
            allowed = ", ".join([*MODES, "rerank", *(f"rerank:{each}" for each in MODES)])
            raise UsageError(f"Unknown system {name!r}; name some of {allowed}, separated by commas.")
        systems[name] = System(name, chosen, rerank)
    return list(systems.values())


def run_system(
    searcher: Searcher,
    index: str,
    queries: Sequence[Query],
    system: System,
    window: int | None = None,
    on_query: Callable[[], None] = lambda: None,
    pool: Qrels | None = None,
) -> Run:
    """Search every query to a depth of 100, without a deadline: quality must not depend on how busy a machine is.

    With a `pool` each query searches, and reranks, its judged products alone; those that the first stage cannot find
    come last in the order of their ids. Raises UsageError for a pool that is larger than the first stage reaches.
    """
    run = Run(system)
    if pool is not None:
        _check_pool(queries, pool, min(searcher.settings.search.depth, MAX_WINDOW))
    for query in queries:
        judged = tuple(sorted(pool[query.id])) if pool is not None else ()
        page = searcher.search(
            index,
            query.text,
            mode=system.mode,
            window=len(judged) if pool is not None else window,
            size=max(DEPTH, len(judged)),
            filters=Filters(ids=judged),
            rerank=system.rerank,
            fields=["title"],
            deadline_ms=math.inf,
        )
        run.rankings[query.id] = [hit.id for hit in page.hits]
        run.statuses[query.id] = page.rerank["status"]
        run.took_ms[query.id] = page.took_ms["total"]
        run.titles.update({hit.id: str(hit.source.get("title", "")) for hit in page.hits[:SHOWN]})
        if page.rerank["status"] in UNFINISHED:
            run.faults[query.id] = page.rerank["reason"]
        on_query()
    return run if pool is None else in_pool(run, pool)


def _check_pool(queries: Sequence[Query], pool: Qrels, most: int) -> None:
    for query in queries:
        if len(pool[query.id]) > most:
            raise UsageError(
                f"Query {query.id!r} has {len(pool[query.id])} judged products, and the first stage reaches {most}. "
                f"Raise search.depth (at most {MAX_WINDOW}) or use --protocol full."
            )


def in_pool(run: Run, pool: Qrels) -> Run:
    """The run with each query's judged products alone: in its order, and those it lacks last in the order of ids."""
    rankings = {}
    for query, ranking in run.rankings.items():
        found = [product for product in ranking if product in pool[query]]
        rankings[query] = [*found, *sorted(pool[query].keys() - found)]
    return msgspec.structs.replace(run, rankings=rankings)


def outside_run(name: str, rankings: Mapping[str, Sequence[str]], queries: Sequence[Query], qrels: Qrels) -> Run:
    """Rankings that another system made, as a run over `queries`; a query that they lack has no hit.

    Ids whose white space a TREC file turned into `_` are known again. Raises InputError when no query is ranked.
    """
    run = Run(System(name, "", rerank=False, outside=True))
    for query in queries:
        spelled = {word(product): product for product in qrels.get(query.id, {})}
        found = rankings.get(query.id, rankings.get(word(query.id), []))
        run.rankings[query.id] = [spelled.get(product, product) for product in found]
    if not any(run.rankings.values()):
        theirs, ours = next(iter(rankings), ""), queries[0].id
        raise InputError(f"The run {name} ranks none of the queries: its first id is {theirs!r}, theirs is {ours!r}.")
    return run


def to_depth(run: Run, depth: int = DEPTH) -> Run:
    """The run cut to the depth that live systems are searched to: a deeper list would find more by its length."""
    return msgspec.structs.replace(run, rankings={query: each[:depth] for query, each in run.rankings.items()})


def trained_on(searcher: Searcher) -> set[str]:
    """Fingerprints of the queries whose judgments a loaded model was trained on."""
    models = [model for model in (searcher.retriever.encoder, searcher.reranker) if model is not None]
    return {seen for model in models for seen in model.bundle.description.seen}


def seen_in_training(queries: Sequence[Query], fingerprints: Collection[str]) -> list[str]:
    """Ids of the queries that a model was trained on: figures with them flatter the model."""
    return [query.id for query in queries if fingerprint(query.text) in fingerprints]
