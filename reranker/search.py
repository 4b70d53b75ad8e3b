"""A query to a page: retrieve, rescore the window, put the tail behind it, cut the page."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import msgspec

from indexer import client as clusters
from indexer import mappings
from indexer.errors import ClusterError, UsageError
from indexer.patience import patient
from indexer.settings import Settings
from reranker import signals
from reranker.encoder import Encoder, QueryVectors
from reranker.rescore import (
    STORED_FIELDS,
    TOKENS_FIELD,
    TOKENS_NAME_FIELD,
    Candidate,
    Outcome,
    remaining_until,
    rescore,
    weighs_cosines,
)
from reranker.retrieval import Filters, Hit, Retriever, bounded
from reranker.scoring import CrossEncoder

MAX_REACH = 10_000  # OpenSearch's own limit on from + size
MAX_WINDOW = 1_000
T = TypeVar("T")


class Ranked(msgspec.Struct):
    """One hit of a page. `rank` and `first_stage_rank` count from 1 over all pages; `cosine` is that of query and
    product, where the order was to know those of all hits."""

    id: str
    rank: int
    first_stage_rank: int
    scores: dict[str, float | None]
    source: dict[str, Any]
    cosine: float | None = None


class Page(msgspec.Struct):
    """What `search` returns; `rerank` says what rescoring did, `took_ms` where the time went. `failed_shards` parts of
    the index gave no answer, so hits may be missing."""

    hits: list[Ranked]
    total: int
    rerank: dict[str, Any]
    took_ms: dict[str, float]
    failed_shards: int = 0


class MadeWith(msgspec.Struct, frozen=True):
    """The indexes behind a name, the loaded encoder that made their vectors, and the field that holds these."""

    indexes: frozenset[str] = frozenset()
    encoder: Encoder | None = None
    field: str = mappings.VECTOR


class ModelWork:
    """How a searcher has its models work: at once, in the caller's own thread. A service has ways of its own."""

    def run(self, kind: str, work: Callable[[], T]) -> T:
        """The result of a piece of work of a kind: `encode` or `explain`."""
        return work()

    def rescore(
        self,
        query: str,
        window: Sequence[Candidate],
        reranker: CrossEncoder | None,
        blend: float | None,
        deadline: float,
        vectors: QueryVectors | None,
    ) -> Outcome:
        """As `reranker.rescore`."""
        return rescore(query, window, reranker, blend, deadline, vectors)


class Searcher:
    """Searches one cluster with one encoder and one reranker; safe to share between threads.

    While a catalogue moves to another encoder, `next_encoder` is that one: each index is asked with vectors of the
    encoder that made its own, before, in and after the switch. An index with vectors of two encoders is asked in
    the field of the loaded one, of both in that of `retriever.encoder`.
    """

    def __init__(
        self,
        retriever: Retriever,
        reranker: CrossEncoder | None,
        settings: Settings | None = None,
        next_encoder: Encoder | None = None,
    ) -> None:
        self.retriever = retriever
        self.reranker = reranker
        self.settings = settings or Settings()
        self.models = ModelWork()
        encoders = [each for each in (retriever.encoder, next_encoder) if each is not None]
        self._encoders = {each.bundle_id: each for each in encoders}
        # Name searched -> what it stood for when last looked.
        self._made_with: dict[str, MadeWith] = {}

    @classmethod
    def connect(
        cls, settings: Settings, encoder: bool = True, reranker: bool = True, *, waits: bool = False
    ) -> Searcher:
        """A searcher on the cluster that the settings name, with the models that are asked for; a reranker that weighs
        cosines has the encoder too. One that `waits` is for long commands: it waits for a cluster that is away, as
        long as an ingest does."""
        client = clusters.connect(settings)
        if waits:
            patient(client, settings.ingest.patience_s)
        second = CrossEncoder.load(settings.models) if reranker else None
        encoder = encoder or weighs_cosines(second, settings.search.weight)
        chosen = Encoder.load(settings.models) if encoder else None
        following = Encoder.named(settings.models.next_encoder, settings.models) if encoder else None
        retriever = Retriever(client, clusters.capabilities(client), settings.search, chosen)
        return cls(retriever, second, settings, following)

    def worked_by(self, models: ModelWork) -> Searcher:
        """This searcher, with another way to have its models work; what it remembers of indexes is shared."""
        found = copy.copy(self)
        found.models = models
        return found

    def search(
        self,
        index: str,
        query: str,
        *,
        mode: str | None = None,
        window: int | None = None,
        size: int | None = None,
        start: int = 0,
        filters: Filters | None = None,
        rerank: bool = True,
        fields: Sequence[str] | None = None,
        deadline_ms: float | None = None,
        weight: float | None = None,
        cosines: bool = False,
    ) -> Page:
        """One page of hits `start` to `start + size`, the first `window` of the list rescored.

        `fields` limits what each hit carries (default: everything but the vector). The window is a hard boundary:
        it is always the same hits, whatever the page, so page follows page without one lost or repeated.
        `weight` is that of the rerank score, 0 to 1, in the place of `search.blend`. Where the order weighs cosines,
        or `cosines` asks for them, the vectors of the window's hits are brought, whatever the mode.
        `deadline_ms` counts from the start of this call. Raises UsageError for values out of bounds and ClusterError
        when the first stage fails.
        """
        chosen = self.settings.search
        mode = mode or chosen.mode
        window = chosen.window if window is None else window
        size = chosen.size if size is None else size
        _check_bounds(window, size, start)
        deadline = remaining_until(chosen.deadline_ms if deadline_ms is None else deadline_ms)
        clock = _Clock()
        text = bounded(query)
        asked = self.vectors(text)
        vector, made_with = self.query_vector(index, asked, mode)
        clock.lap("encode")
        first = start if start >= window else 0  # a page behind the window needs none of it
        count, filters = max(window, start + size) - first, filters or Filters()
        blend = chosen.weight if weight is None else weight
        near = window > first and rerank and (cosines or weighs_cosines(self.reranker, blend))
        wanted = self._wanted(fields, near and bool(self._encoders))
        found = self.retriever.retrieve(index, text, vector, mode, first, count, filters, wanted, made_with.field)
        if vector is not None and not found.indexes <= made_with.indexes:
            # The name was moved to another index since it was looked up, whose vectors may be of another encoder.
            self._made_with.pop(index, None)
            vector, made_with = self.query_vector(index, asked, mode)
            found = self.retriever.retrieve(index, text, vector, mode, first, count, filters, wanted, made_with.field)
        clock.lap("retrieve")
        head = [Candidate(hit.id, hit.score, hit.source) for hit in found.hits[: max(0, window - first)]]
        reranker = self.reranker if rerank else None
        outcome = self.models.rescore(text, head, reranker, blend, deadline, asked if near else None)
        clock.lap("rerank")
        behind = first > 0 and window > 0 and rerank and self.reranker is not None
        page = arrange(found.hits, outcome, first, behind)[start - first : start - first + size]
        for hit in page:
            hit.source = _shown(hit.source, fields)
        return Page(page, found.total, outcome.summary(), clock.done(), found.failed_shards)

    def vectors(self, text: str) -> QueryVectors:
        """A query's vectors by the loaded encoders."""
        return QueryVectors(text, self._encoders.values())

    def query_vector(self, index: str, asked: QueryVectors, mode: str) -> tuple[list[float] | None, MadeWith]:
        """The vector that the first stage asks with, None where the mode has none, and what it may be compared with.
        Raises ClusterError."""
        if mode == "bm25" or self.retriever.encoder is None or not asked.query:
            return None, MadeWith()
        made_with = self._made_with.get(index) or self._look_up(index, self.retriever.encoder)
        self._made_with[index] = made_with
        encoder = made_with.encoder or self.retriever.encoder
        vector = self.models.run("encode", lambda: asked.by(encoder.bundle_id))
        return [float(value) for value in vector], made_with

    def _look_up(self, index: str, encoder: Encoder) -> MadeWith:
        """The indexes behind a name and the encoder of their vectors: a query's vector means nothing to another's."""
        found = clusters.index_meta(self.retriever.client, index)
        made_with = MadeWith(frozenset(found), encoder)
        for name, meta in found.items():
            fields = mappings.vector_fields(meta.get("shelfrank")) or {encoder.bundle_id: mappings.VECTOR}
            # The first of the loaded ones: of two encoders in one index, models.encoder says which is meant.
            chosen = next((each for each in self._encoders if each in fields), None)
            if chosen is None:
                raise ClusterError(
                    f"The index {name} holds vectors of the encoder {' and '.join(fields)}, and "
                    f"{' and '.join(self._encoders)} is loaded. Set models.encoder (or models.next_encoder) to the "
                    "first, or make new vectors with `shelfrank reindex start`.",
                    f"The vectors of {index} are of another encoder than the service has loaded (models.encoder, "
                    "models.next_encoder).",
                )
            made_with = MadeWith(frozenset(found), self._encoders[chosen], fields[chosen])
        return made_with

    def _wanted(self, fields: Sequence[str] | None, near: bool) -> dict[str, list[str]]:
        """What to bring of each hit: the fields to show and to read, and its vectors where they are to be compared."""
        without: dict[str, list[str]] = {} if near else {"excludes": list(mappings.VECTORS)}
        if fields is None:
            return without
        needed = list(STORED_FIELDS if near else (TOKENS_FIELD, TOKENS_NAME_FIELD))
        if self.reranker:
            needed += self.reranker.fields
            needed += signals.FIELDS if self.reranker.weighs_signals else ()
        return {"includes": sorted({*fields, *needed}), **without}


def arrange(hits: Sequence[Hit], outcome: Outcome, first: int = 0, behind: bool = False) -> list[Ranked]:
    """The window in its new order, then the tail in first-stage order; `first` is the first hit's place in the list
    and `behind` says that all of them come behind a window that is reordered.

    Where the window was reordered, its final scores are 0 to 1 and those of the tail are minus their rank over
    10,000: `final` orders the whole list and the two scales never mix.
    """
    ranked = []
    for place, at in enumerate([*outcome.order, *range(outcome.window, len(hits))], start=first + 1):
        hit = hits[at]
        rerank, final, cosine = None, hit.score, None
        if at < outcome.window:
            rerank, final = outcome.rerank[at], outcome.final[at]
            cosine = outcome.cosines[at] if outcome.cosines else None
        elif outcome.status == "applied" or behind:
            final = -place / MAX_REACH
        scores = {"first_stage": hit.score, "rerank": rerank, "final": final}
        ranked.append(Ranked(hit.id, place, first + at + 1, scores, hit.source, cosine))
    return ranked


def _shown(source: Mapping[str, Any], fields: Sequence[str] | None) -> dict[str, Any]:
    hidden = {"content_hash", *STORED_FIELDS}
    if fields is None:
        return {name: value for name, value in source.items() if name not in hidden}
    return {name: source[name] for name in fields if name in source and name not in mappings.VECTORS}


def _check_bounds(window: int, size: int, start: int) -> None:
    if not 0 <= window <= MAX_WINDOW:
        raise UsageError(f"window is {window}; it must be 0 to {MAX_WINDOW}.")
    if size < 0 or start < 0:
        raise UsageError(f"size is {size} and from is {start}; neither may be negative.")
    if start + size > MAX_REACH:
        raise UsageError(f"from + size is {start + size}; pages end at {MAX_REACH}. Narrow the search with filters.")


class _Clock:
    """Milliseconds by phase."""

    def __init__(self) -> None:
        self._began = self._last = time.monotonic()
        self._laps: dict[str, float] = {}

    def lap(self, name: str) -> None:
        now = time.monotonic()
        self._laps[name] = round((now - self._last) * 1000, 2)
        self._last = now

    def done(self) -> dict[str, float]:
        return {**self._laps, "total": round((time.monotonic() - self._began) * 1000, 2)}
