"""The shops that models learn from: judged queries with their splits, products read from the index, judged windows.

Nothing here needs a training library.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from opensearchpy import OpenSearch

from indexer.changes import everything
from indexer.errors import InputError, UsageError
from indexer.patience import Patience, patience_of
from indexer.settings import Settings
from reranker import signals
from reranker.blend import COLUMNS, FIRST_STAGE, RERANK, features
from reranker.evaluation.compare import Gain
from reranker.evaluation.judgments import Qrels, Query
from reranker.evaluation.metrics import gains_of
from reranker.rescore import all_known
from reranker.retrieval import Retriever, bounded
from reranker.search import Searcher
from reranker.training.lastmile import Window
from reranker.training.recipes import RERANKER

KEPT_SCORES = 10_000  # for a query's windows, which have many hits in common
_NEAR = 60  # first-stage hits to mine negatives from


class Source(msgspec.Struct, frozen=True):
    """One shop to learn from: its index, its judged queries, and how they are split."""

    index: str
    queries: Sequence[Query]
    qrels: Qrels
    splits: Mapping[str, str]  # query id -> train, dev or test
    sealed: bool = False  # the test split is the shop's own and is never trained on, refit or not

    def learned(self, refit: bool) -> tuple[str, ...]:
        """The splits that a model is trained on: `train`, and for a refit all that is not sealed."""
        if not refit:
            return ("train",)
        return ("train", "dev") if self.sealed else ("train", "dev", "test")

    def within(self, splits: Sequence[str]) -> list[Query]:
        """The queries of some splits."""
        return [query for query in self.queries if self.splits.get(query.id) in splits]

    def gains(self, query: Query, gain: Gain) -> dict[str, float]:
        """Product id -> gain of one query."""
        return gains_of(self.qrels.get(query.id, {}), gain)


class Shop(msgspec.Struct):
    """A source with its products read from the index, searched as serving does and as mining wants it."""

    source: Source
    products: dict[str, dict[str, Any]]
    searcher: Searcher
    miner: Searcher
    unjudged: Sequence[str] = ()  # queries that teachers may read with its products

    def first_stage(self, query: str) -> list[str]:
        """Ids of the hybrid first stage's best hits."""
        page = self.miner.search(self.source.index, query, mode="hybrid", size=_NEAR, rerank=False, fields=["id"])
        return [hit.id for hit in page.hits]

    def nearest(self, query: str) -> list[tuple[str, float]]:
        """The nearest products by the encoder, with their cosines."""
        page = self.miner.search(self.source.index, query, mode="vector", size=_NEAR, rerank=False, fields=["id"])
        return [(hit.id, 2 * float(hit.scores["first_stage"] or 0.0) - 1) for hit in page.hits]


def paired(indexes: Sequence[str], queries: Sequence[Path], qrels: Sequence[Path]) -> list[tuple[str, Path, Path]]:
    """Index, queries and judgments of each shop. Raises UsageError when one of them lacks another."""
    if not len(indexes) == len(queries) == len(qrels):
        raise UsageError("Give --index, --queries and --qrels the same number of times, one of each for a shop.")
    return list(zip(indexes, queries, qrels, strict=True))


def open_shop(source: Source, settings: Settings, unjudged: Sequence[str] = ()) -> Shop:
    """Read what the recipe and the signals need of every product. Raises InputError for an empty index."""
    searcher = Searcher.connect(settings, reranker=False, waits=True)
    client = searcher.retriever.client
    fields = dict.fromkeys([*(field.name for field in RERANKER.fields), *signals.FIELDS])
    products = read_products(client, source.index, list(fields))
    # Negatives come from words and vectors alike, whatever weights serving has found best.
    even = msgspec.structs.replace(settings.search, fusion="min_max", vector_weight=0.5)
    found = searcher.retriever
    miner = Searcher(Retriever(found.client, found.capabilities, even, found.encoder), None, settings)
    return Shop(source, products, searcher, miner, unjudged)


def read_products(client: OpenSearch, index: str, fields: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Some fields of every product, in the order of their ids. Raises InputError for an empty index."""
    patience = patience_of(client) or Patience()
    pages = everything(client, index, patience, source=list(fields), page=1000)
    products = {hit["_id"]: hit["_source"] for hits in pages for hit in hits}
    if not products:
        raise InputError(f"The index {index} is empty. Ingest a catalogue first.")
    return dict(sorted(products.items()))


def words_window_of(source: Source, searcher: Searcher, query: Query, gain: Gain, window: int) -> list[Window]:
    """BM25's window of a query where the shop's mode is another, else none.

    For the weights that know no cosine: where no vectors are at hand, the first stage is mostly BM25's.
    """
    if searcher.settings.search.mode == "bm25":
        return []
    return [window_of(source, searcher, query, gain, window, mode="bm25")]


def window_of(
    source: Source, searcher: Searcher, query: Query, gain: Gain, window: int, mode: str | None = None
) -> Window:
    """One query's window with everything that the last mile may weigh, from one scoring."""
    page = searcher.search(
        source.index,
        query.text,
        mode=mode,
        window=window,
        size=window,
        fields=list(signals.FIELDS),
        deadline_ms=float("inf"),
        cosines=True,
    )
    gains, name = source.gains(query, gain), f"{source.index}/{query.id}"
    hits = sorted(page.hits, key=lambda hit: hit.first_stage_rank)
    if not hits:
        return Window((), np.zeros((0, len(COLUMNS))), gains, name)
    first, rerank = (np.array([hit.scores[name] for hit in hits], float) for name in (FIRST_STAGE, RERANK))
    cosines = all_known([hit.cosine for hit in hits])
    rows = features(bounded(query.text), [hit.source for hit in hits], first, rerank, cosines)
    return Window(tuple(hit.id for hit in hits), rows, gains, name)
