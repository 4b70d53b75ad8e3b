"""Put the same queries to several systems and keep what each answered."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection, Sequence

import msgspec

from indexer.errors import UsageError
from reranker.bundle import fingerprint
from reranker.evaluation.judgments import Query, some
from reranker.retrieval import MODES
from reranker.search import Searcher

DEPTH = 100  # hits taken of each query; recall@100 needs no more
UNFINISHED = ("timeout", "error")


class System(msgspec.Struct, frozen=True):
    """One way to answer a query: a first-stage mode, reranked or not."""

    name: str
    mode: str
    rerank: bool


class Run(msgspec.Struct, frozen=True):
    """What a system answered: by query id the product ids, best first, and what rescoring did.

    `faults` holds the reason for each query that the reranker could not finish; its ranking is the first stage's.
    """

    system: System
    rankings: dict[str, list[str]] = {}
    statuses: dict[str, str] = {}
    faults: dict[str, str] = {}

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
) -> Run:
    """Search every query to a depth of 100, without a deadline: quality must not depend on how busy a machine is."""
    run = Run(system)
    for query in queries:
        page = searcher.search(
            index,
            query.text,
            mode=system.mode,
            window=window,
            size=DEPTH,
            rerank=system.rerank,
            fields=[],
            deadline_ms=math.inf,
        )
        run.rankings[query.id] = [hit.id for hit in page.hits]
        run.statuses[query.id] = page.rerank["status"]
        if page.rerank["status"] in UNFINISHED:
            run.faults[query.id] = page.rerank["reason"]
        on_query()
    return run


def trained_on(searcher: Searcher) -> set[str]:
    """Fingerprints of the queries whose judgments a loaded model was trained on."""
    models = [model for model in (searcher.retriever.encoder, searcher.reranker) if model is not None]
    return {seen for model in models for seen in model.bundle.description.trained_on}


def seen_in_training(queries: Sequence[Query], fingerprints: Collection[str]) -> list[str]:
    """Ids of the queries that a model was trained on: figures with them flatter the model."""
    return [query.id for query in queries if fingerprint(query.text) in fingerprints]
