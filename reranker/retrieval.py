"""First stage: BM25, vector and hybrid queries, built as data, in one round trip.

Vector and hybrid lists reach down to `depth` hits, the same for every page: fusion depends on how deep the lists
are, so a depth that moved with the page would lose or repeat hits.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec
from opensearchpy import OpenSearch
from opensearchpy.exceptions import TransportError

from indexer.client import Capabilities, call, explained
from indexer.errors import ClusterError, UsageError
from indexer.mappings import VECTOR
from indexer.patience import patience_of
from indexer.settings import Search
from reranker import fusion
from reranker.encoder import Encoder

MODES = ("bm25", "vector", "hybrid")
_MAX_CHARACTERS = 1000
_MAX_WORDS = 48  # with a clause for each field this stays below the server's limit of 1,024
_WORD = re.compile(r"[㐀-鿿]|[^\s㐀-鿿]+")


class Filters(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a shopper has narrowed the search to. Brands, categories and ids within one list are alternatives."""

    min_price: float | None = None
    max_price: float | None = None
    brands: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()  # a path such as "Toys > Games", or its root alone
    min_rating: float | None = None
    ids: tuple[str, ...] = ()  # these products alone

    def clauses(self) -> list[dict[str, Any]]:
        """OpenSearch filter clauses, empty when nothing is asked."""
        found: list[dict[str, Any]] = []
        price = {"gte": self.min_price, "lte": self.max_price}
        if bounds := {key: value for key, value in price.items() if value is not None}:
            found.append({"range": {"price": bounds}})
        if self.brands:
            found.append({"terms": {"brand": list(self.brands)}})
        if self.categories:
            found.append({"terms": {"category_path": list(self.categories)}})
        if self.min_rating is not None:
            found.append({"range": {"rating": {"gte": self.min_rating}}})
        if self.ids:
            found.append({"terms": {"_id": list(self.ids)}})
        return found


class Hit(msgspec.Struct):
    """One first-stage hit: its id, score and stored fields."""

    id: str
    score: float
    source: dict[str, Any]


class Retrieved(msgspec.Struct):
    """First-stage hits in order; `total` is how many there are to page through, `indexes` where the hits lie,
    `failed_shards` how many parts of the index gave no answer, `again` whether another copy of them may."""

    hits: list[Hit]
    total: int
    indexes: frozenset[str] = frozenset()
    failed_shards: int = 0
    again: bool = False


def bounded(query: str) -> str:
    """The query as it is searched: Unicode-normalised, without control characters, at most 48 words.

    A Han character counts as a word. What is cut off would only dilute the match and can pass the server's limits.
    """
    text = unicodedata.normalize("NFKC", query[:_MAX_CHARACTERS])
    text = "".join(" " if unicodedata.category(c).startswith("C") else c for c in text)
    text = " ".join(text.split())
    words = list(_WORD.finditer(text))
    return text if len(words) <= _MAX_WORDS else text[: words[_MAX_WORDS - 1].end()]


class Retriever:
    """Runs first-stage queries on one cluster."""

    def __init__(
        self, client: OpenSearch, capabilities: Capabilities, settings: Search, encoder: Encoder | None
    ) -> None:
        self.client = client
        self.capabilities = capabilities
        self.settings = settings
        self.encoder = encoder

    def retrieve(
        self,
        index: str,
        query: str,
        vector: Sequence[float] | None,
        mode: str,
        start: int,
        count: int,
        filters: Filters,
        source: Any,
        vector_field: str = VECTOR,
    ) -> Retrieved:
        """Hits `start` to `start + count` of the first stage, best first; `vector` is compared with `vector_field`.

        An empty query lists everything that passes the filters. Raises UsageError for an unknown mode and
        ClusterError when the cluster fails or lacks k-NN.
        """
        if mode not in MODES:
            raise UsageError(f"Unknown mode {mode!r}; use one of {', '.join(MODES)}.")
        clauses = filters.clauses()
        preference = hashlib.sha256(query.encode()).hexdigest()[:16]
        if not query:
            body = _plain({"bool": {"must": [{"match_all": {}}], "filter": clauses}}, start, count, source)
            return self._search(index, body, preference)
        words = text_query(query, clauses, self.settings.text_fields)
        if mode == "bm25":
            return self._search(index, _plain(words, start, count, source), preference)
        if vector is None:
            raise UsageError(f"Mode {mode} needs an encoder; load one or use --mode bm25.")
        if not self.capabilities.knn:
            raise ClusterError(
                f"Mode {mode} needs the k-NN plugin, which this cluster lacks. "
                "Install opensearch-knn or use --mode bm25.",
                f"Mode {mode} is not to be had here; use bm25.",
            )
        count = max(0, min(count, self.settings.depth - start))
        nearest = vector_query(vector, self.settings.depth, clauses, vector_field)
        if mode == "vector":
            return self._limited(self._search(index, _plain(nearest, start, count, source), preference))
        if self.capabilities.neural_search:
            body = self._hybrid(words, nearest, start, count, source)
            return self._limited(self._search(index, body, preference))
        found = self._fused(index, words, nearest, preference)
        return self._limited(self._brought(index, found, found.hits[start : start + count], source, preference))

    def _hybrid(
        self, text: dict[str, Any], nearest: dict[str, Any], start: int, count: int, source: Any
    ) -> dict[str, Any]:
        depth = self.settings.depth
        return {
            "query": {"hybrid": {"queries": [text, nearest], "pagination_depth": depth}},
            "from": start,
            "size": count,
            "_source": source,
            "search_pipeline": {"phase_results_processors": [self._processor()]},
        }

    def _processor(self) -> dict[str, Any]:
        if self.settings.fusion == "rrf":
            combination = {"technique": "rrf", "rank_constant": self.settings.rank_constant}
            return {"score-ranker-processor": {"combination": combination}}
        return {
            "normalization-processor": {
                "normalization": {"technique": "min_max"},
                "combination": {"technique": "arithmetic_mean", "parameters": {"weights": self._weights()}},
            }
        }

    def _weights(self) -> list[float]:
        weight = self.settings.vector_weight
        return [round(1.0 - weight, 6), weight]

    def _search(self, index: str, body: Mapping[str, Any], preference: str) -> Retrieved:
        def ask() -> Retrieved:
            return _read(call(lambda: self.client.search(index=index, body=body, params={"preference": preference})))

        return self._whole(ask)

    def _fused(
        self,
        index: str,
        text: dict[str, Any],
        nearest: dict[str, Any],
        preference: str,
    ) -> Retrieved:
        depth = self.settings.depth
        lines: list[dict[str, Any]] = []
        for query in (text, nearest):
            # Not sorted by id: the server's own fusion ranks hits of equal score as they lie in the index.
            body = {"query": query, "size": depth, "_source": False}
            lines += [{"index": index, "preference": preference}, body]

        def ask() -> Retrieved:
            answers = _responses(call(lambda: self.client.msearch(body=lines)))
            for answer in answers:
                if "error" in answer:
                    refused = TransportError(answer.get("status", 500), "search refused", answer)
                    raise explained(refused) from refused
            return self._fuse([_read(answer) for answer in answers])

        return self._whole(ask)

    def _whole(self, ask: Callable[[], Retrieved]) -> Retrieved:
        """What `ask` finds, asked a second time where a part of the index gave no answer: a node that dies between a
        search's two phases loses its hits, and OpenSearch itself does not turn to another copy for them. With a client
        that waits it is asked until the index answers whole."""
        found = ask()
        if found.again:
            found = ask()
        patience = patience_of(self.client)
        while found.failed_shards and patience:
            patience.wait(f"{found.failed_shards} parts of the index gave no answer")
            found = ask()
        return found

    def _fuse(self, read: Sequence[Retrieved]) -> Retrieved:
        lists = [each.hits for each in read]
        if self.settings.fusion == "rrf":
            fused = fusion.reciprocal_rank([[hit.id for hit in hits] for hits in lists], self.settings.rank_constant)
        else:
            fused = fusion.min_max([{hit.id: hit.score for hit in hits} for hits in lists], self._weights())
        found = {hit.id: hit for hits in lists for hit in hits}
        order = sorted(fused, key=lambda key: (-fused[key], key))
        hits = [Hit(key, fused[key], found[key].source) for key in order]
        indexes = frozenset[str]().union(*(each.indexes for each in read))
        failed = max(each.failed_shards for each in read)
        return Retrieved(hits, len(fused), indexes, failed, any(each.again for each in read))

    def _brought(self, index: str, found: Retrieved, hits: Sequence[Hit], source: Any, preference: str) -> Retrieved:
        """What was found, of it only these hits, with their fields; one that was deleted meanwhile is left out."""
        if not hits:
            return msgspec.structs.replace(found, hits=[])
        body = {"query": {"ids": {"values": [hit.id for hit in hits]}}, "size": len(hits), "_source": source}
        brought = self._search(index, body, preference)
        sources = {hit.id: hit.source for hit in brought.hits}
        return msgspec.structs.replace(
            found,
            hits=[msgspec.structs.replace(hit, source=sources[hit.id]) for hit in hits if hit.id in sources],
            failed_shards=max(found.failed_shards, brought.failed_shards),
        )

    def _limited(self, found: Retrieved) -> Retrieved:
        return msgspec.structs.replace(found, total=min(found.total, self.settings.depth))


def _plain(query: dict[str, Any], start: int, count: int, source: Any) -> dict[str, Any]:
    order = [{"_score": "desc"}, {"id": "asc"}]
    return {"query": query, "from": start, "size": count, "sort": order, "track_scores": True, "_source": source}


def text_query(text: str, clauses: Sequence[dict[str, Any]], fields: str) -> dict[str, Any]:
    """BM25 over fields such as "title^3,bullets"; every field that matches adds its score."""
    names = [name.strip() for name in fields.split(",")]
    match = {"multi_match": {"query": text, "type": "most_fields", "fields": names}}
    return {"bool": {"must": [match], "filter": list(clauses)}}


def vector_query(
    vector: Sequence[float], depth: int, clauses: Sequence[dict[str, Any]], field: str = VECTOR
) -> dict[str, Any]:
    """The `depth` nearest products; filters are applied during the search, not after it."""
    clause: dict[str, Any] = {"vector": list(vector), "k": depth}
    if clauses:
        clause["filter"] = {"bool": {"filter": list(clauses)}}
    return {"knn": {field: clause}}


class _Found(msgspec.Struct):
    index: str = msgspec.field(name="_index")
    id: str = msgspec.field(name="_id")
    score: float | None = msgspec.field(name="_score", default=None)
    source: dict[str, Any] | None = msgspec.field(name="_source", default=None)


class _Total(msgspec.Struct):
    value: int


class _Hits(msgspec.Struct):
    total: _Total
    hits: list[_Found]


class _Shards(msgspec.Struct):
    total: int
    successful: int
    failed: int


class _Answer(msgspec.Struct):
    hits: _Hits
    shards: _Shards = msgspec.field(name="_shards")


def _responses(answer: object) -> list[dict[str, Any]]:
    """The answers to both queries of a fusion. Raises ClusterError for what is none."""
    responses = answer.get("responses") if isinstance(answer, dict) else None
    if not isinstance(responses, list) or len(responses) != 2 or not all(isinstance(each, dict) for each in responses):
        raise ClusterError("OpenSearch's answer is not that to two searches. Check OPENSEARCH_URL.")
    return responses


def _read(answer: object) -> Retrieved:
    """Raises ClusterError for what is no answer to a search: something else may stand where the cluster should."""
    try:
        read = msgspec.convert(answer, _Answer)
    except msgspec.ValidationError as error:
        told = "OpenSearch's answer is not that to a search"
        raise ClusterError(f"{told}: {error}. Check OPENSEARCH_URL, and what stands before it.", f"{told}.") from error
    hits = [Hit(each.id, each.score or 0.0, each.source or {}) for each in read.hits.hits]
    # A shard without any copy is not among the failed ones, only missing from the successful ones.
    missing = read.shards.total - read.shards.successful
    indexes = frozenset(each.index for each in read.hits.hits)
    return Retrieved(hits, read.hits.total.value, indexes, missing, read.shards.failed > 0)
