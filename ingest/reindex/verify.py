"""Is a new index fit to be searched? Every check says what it looked at and what it found; one failure refuses it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
from opensearchpy import OpenSearch

from indexer import bulk, mappings
from indexer.client import capabilities
from indexer.errors import ClusterError
from indexer.patience import Patience
from indexer.settings import Index, Settings
from ingest.documents import Entry, Maker
from reranker.encoder import Encoder
from reranker.evaluation.compare import ESCI_GAINS, parse_gains
from reranker.evaluation.judgments import Qrels, Query
from reranker.evaluation.metrics import gains_of, ndcg
from reranker.retrieval import Retriever
from reranker.search import Searcher

MIN_COSINE = 0.999  # byte and half vectors are rounded in the graph, never in `_source`
MIN_FOUND = 0.9  # near-duplicates push each other out of the first ten
NEIGHBOURS = 10
_DERIVED = (*mappings.VECTORS, "rerank_tokens", "ingested_at")


class Check(msgspec.Struct):
    """One check: its name, whether it held, and in words what was seen."""

    name: str
    ok: bool
    seen: str


Answers = Callable[[str], list[str]]


class Judged(msgspec.Struct, frozen=True):
    """Judged queries. `answers` makes, of an index, what answers a query from it: product ids, best first."""

    queries: tuple[Query, ...]
    qrels: Qrels
    answers: Callable[[str], Answers]
    margin: float


def first_stage(client: OpenSearch, settings: Settings, encoder: Encoder, index: str) -> Answers:
    """The first ten of the configured first stage on an index."""
    retriever = Retriever(client, capabilities(client), settings.search, encoder)
    searcher = Searcher(retriever, None, settings)
    return lambda query: [hit.id for hit in searcher.search(index, query, size=NEIGHBOURS, rerank=False).hits]


class Examination:
    """The checks of one index."""

    def __init__(self, client: OpenSearch, index: str, maker: Maker, settings: Index, patience: Patience) -> None:
        self.checks: list[Check] = []
        self._client, self._index, self._maker = client, index, maker
        self._settings, self._patience = settings, patience

    @property
    def failed(self) -> list[Check]:
        """What did not hold."""
        return [check for check in self.checks if not check.ok]

    def refuse(self) -> None:
        """Raise ClusterError when any check failed."""
        if self.failed:
            told = "; ".join(f"{check.name}: {check.seen}" for check in self.failed)
            raise ClusterError(f"The new index {self._index} was refused and the old one stays live. {told}.")

    def run(self, live: str, expected: int, failed: int, sample: Sequence[Entry], judged: Judged | None) -> None:
        """All checks that need no lock. `expected` is how many documents there should be; `live` the index now live."""
        self.written(failed)
        self.count(expected)
        self._as_made()
        self._models(expected)
        self._fields_and_vectors(sample)
        if judged:
            self._judged(judged, live)

    def count(self, expected: int) -> None:
        """As many documents as went in."""
        there = self._count({"match_all": {}})
        self._add("count", there == expected, f"{there:,} documents, expected {expected:,}")

    def written(self, failed: int) -> None:
        """Nothing was refused."""
        self._add("written", failed == 0, f"{failed:,} products that the cluster would not take")

    def _as_made(self) -> None:
        """Mapping and analysis are those that this version makes."""
        wanted = mappings.index_body(self._settings, self._maker.made(self._settings))["mappings"]
        there = self._patience.call(lambda: self._client.indices.get_mapping(index=self._index))[self._index][
            "mappings"
        ]
        names = sorted(
            name
            for name in wanted["properties"].keys() | there.get("properties", {}).keys()
            if _kind(wanted["properties"].get(name)) != _kind(there.get("properties", {}).get(name))
        )
        same_meta = there.get("_meta") == wanted["_meta"]
        seen = f"fields that differ: {', '.join(names)}" if names else "fields as expected"
        self._add("mapping", not names and same_meta, seen if same_meta else f"{seen}; made with {there.get('_meta')}")

    def _models(self, expected: int) -> None:
        """Every document has a vector of this encoder and token ids of this reranker."""
        for field, encoder in self._maker.encoders.items():
            name = encoder.bundle_id
            have = [{"exists": {"field": field}}, {"term": {mappings.made_by(field): name}}]
            vectors = self._count({"bool": {"filter": have}})
            self._add(
                _of(field, "vectors"), vectors == expected, f"{vectors:,} of {expected:,} have a vector of {name}"
            )
        tokens = self._maker.tokens.tokens_id
        ids = self._count({"term": {"rerank_bundle": tokens}})
        self._add("token ids", ids == expected, f"{ids:,} of {expected:,} have token ids of {tokens}")

    def _fields_and_vectors(self, sample: Sequence[Entry]) -> None:
        """A sample, made anew from its source, is what is stored."""
        there = bulk.stored(self._client, self._index, [entry.id for entry in sample], self._patience)
        # Without what is stored of models: vectors and token ids are made anew.
        bare = [dataclasses.replace(entry, made={}) for entry in sample]
        differing: list[str] = []
        made = self._maker.sources(bare)
        for wanted in made:
            name = wanted["id"]
            source = there.get(name, {}).get("_source", {})
            fields = [
                key
                for key in wanted.keys() | source.keys()
                if key not in _DERIVED and wanted.get(key) != source.get(key)
            ]
            if fields:
                differing.append(f"{name} ({', '.join(sorted(fields))})")
        self._add("fields", not differing, _told(differing, len(sample), "differ from their source"))
        for field in self._maker.encoders:
            self._vector_values(field, made, there)

    def _vector_values(
        self, field: str, made: Sequence[Mapping[str, Any]], there: Mapping[str, Mapping[str, Any]]
    ) -> None:
        """The sample's stored vectors are sound, and find their products."""
        crooked: list[str] = []
        found = 0
        for wanted in made:
            name, vector = wanted["id"], wanted[field]
            if not _like(there.get(name, {}).get("_source", {}).get(field), vector):
                crooked.append(name)
            elif name in self._nearest(field, vector):
                found += 1
        size = len(made)
        told = _told(crooked, size, "have a vector that is not what the encoder makes")
        self._add(_of(field, "vector values"), not crooked, told)
        told = f"{found} of {size} are found by their own vector"
        self._add(_of(field, "neighbours"), found >= MIN_FOUND * size, told)

    def _nearest(self, field: str, vector: Sequence[float]) -> set[str]:
        body = {
            "size": NEIGHBOURS,
            "query": {"knn": {field: {"vector": vector, "k": NEIGHBOURS}}},
            "_source": False,
        }
        answer = self._patience.call(lambda: self._client.search(index=self._index, body=body))
        return {hit["_id"] for hit in answer["hits"]["hits"]}

    def _judged(self, judged: Judged, live: str) -> None:
        """On judged queries the new index is no worse than the old one by more than the margin."""
        gain = parse_gains(ESCI_GAINS)
        old, new = (
            [ndcg(answer(query.text), gains_of(judged.qrels.get(query.id, {}), gain), 10) for query in judged.queries]
            for answer in (judged.answers(live), judged.answers(self._index))
        )
        before, after = (math.fsum(values) / max(len(values), 1) for values in (old, new))
        seen = f"nDCG@10 {after:.4f} after {before:.4f} on {len(old)} queries (margin {judged.margin:g})"
        self._add("judged queries", after >= before - judged.margin, seen)

    def _count(self, query: Mapping[str, Any]) -> int:
        answer = self._patience.call(lambda: self._client.count(index=self._index, body={"query": query}))
        return int(answer["count"])

    def _add(self, name: str, ok: bool, seen: str) -> None:
        self.checks.append(Check(name, ok, seen))


def _of(field: str, check: str) -> str:
    return check if field == mappings.VECTOR else f"second {check}"


def _kind(field: Any) -> Any:
    """What a field is, whatever defaults the server adds to it."""
    if not isinstance(field, Mapping):
        return field
    return {key: field.get(key) for key in ("type", "analyzer", "search_analyzer", "dimension", "normalizer")}


def _like(stored: Any, wanted: Sequence[float]) -> bool:
    """Whether a stored vector is finite, of length 1, and points where it should."""
    if not isinstance(stored, list) or len(stored) != len(wanted):
        return False
    vector = np.asarray(stored, np.float64)
    norm = float(np.linalg.norm(vector))
    if not np.isfinite(vector).all() or abs(norm - 1) > 1e-3:
        return False
    return float(vector @ np.asarray(wanted, np.float64)) / norm >= MIN_COSINE


def _told(names: Iterable[str], size: int, what: str) -> str:
    listed = list(names)
    examples = f": {', '.join(listed[:3])}" if listed else ""
    return f"{len(listed)} of {size} sampled {what}{examples}"
