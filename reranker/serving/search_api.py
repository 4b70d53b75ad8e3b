"""shelfrank's own endpoints: a search with its own first stage, and what the page needs to know."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from indexer import client as clusters
from indexer.errors import ShelfrankError
from reranker.commands import page_json
from reranker.encoder import QueryVectors
from reranker.explaining.explained import Language
from reranker.explaining.explainer import MAX_HITS, TIME_LIMIT_MS, explain
from reranker.rescore import Candidate, Outcome, untouched
from reranker.retrieval import MODES, Filters, Retriever
from reranker.scoring import CrossEncoder
from reranker.search import MAX_REACH, MAX_WINDOW, ModelWork, Page, Searcher
from reranker.serving import access, disclosure, ubi
from reranker.serving.access import needs
from reranker.serving.crew import Piece
from reranker.serving.engine import DEFAULT, Engine
from reranker.serving.events_api import Line
from reranker.serving.gateway import aside
from reranker.serving.notes import note_queries
from reranker.serving.visits import Visit, while_there

router = APIRouter(dependencies=[Depends(needs("search"))])
T = TypeVar("T")

# A search waits so long for a free thread, or for the vector that its first stage asks with.
_PATIENCE_S = 10.0
# An explanation ends at the deadline by itself, with what it has; it is waited for a little.
_GRACE_S = 1.0
_LOOP_S = 5.0  # by then a loop that lives has answered
_HIT_BYTES = 2_000  # about

Name = Annotated[
    str, StringConstraints(min_length=1, max_length=255, pattern=r"^[^_.\-/\\*?\"<>| ,#:+][^/\\*?\"<>| ,#:]*$")
]
Words = Annotated[str, StringConstraints(max_length=10_000)]
Short = Annotated[str, StringConstraints(max_length=200)]
Number = Annotated[float, Field(allow_inf_nan=False)]


class FilterRequest(BaseModel):
    """What the shopper narrowed the search to; alternatives within a list."""

    model_config = ConfigDict(extra="forbid")
    min_price: Number | None = None
    max_price: Number | None = None
    brands: Annotated[list[Short], Field(max_length=100)] = []
    categories: Annotated[list[Short], Field(max_length=100)] = []
    min_rating: Number | None = None
    ids: Annotated[list[Short], Field(max_length=1000)] = []


class Search(BaseModel):
    """A search by shelfrank's own first stage; what is left out is as the settings say."""

    model_config = ConfigDict(
        extra="forbid",
        populate_by_name=True,
        json_schema_extra={
            "example": {"index": "sample-shop", "query": "适合送爸爸的保温杯", "filters": {"max_price": 200}}
        },
    )
    index: Name
    query: Words = ""
    mode: Literal["bm25", "vector", "hybrid"] | None = None
    window: Annotated[int, Field(ge=0, le=MAX_WINDOW)] | None = None
    size: Annotated[int, Field(ge=0, le=MAX_WINDOW)] | None = None
    start: Annotated[int, Field(alias="from", ge=0, le=MAX_REACH)] = 0
    weight: Annotated[float, Field(ge=0, le=1)] | None = None
    bundle: Short = ""
    rerank: bool = True
    filters: FilterRequest = FilterRequest()

    def narrowed(self) -> Filters:
        """The filters, as the first stage takes them."""
        return msgspec.convert(self.filters.model_dump(), Filters)


class SearchRequest(Search):
    """A search, and what to show of each hit."""

    deadline_ms: Annotated[float, Field(gt=0, le=60_000)] | None = None
    fields: Annotated[list[Short], Field(max_length=100)] | None = None
    client_id: Line = ""


class ExplainRequest(Search):
    """A search, and which of its hits to explain: those of a page, or those of `ids` wherever they stand."""

    size: Annotated[int, Field(ge=1, le=MAX_HITS)] | None = 3
    ids: Annotated[list[Short], Field(min_length=1, max_length=MAX_HITS)] | None = None
    language: Language = "en"
    time_limit_ms: Annotated[float, Field(ge=0, le=10_000)] = TIME_LIMIT_MS


class Shop:
    """The searcher of the service, made when the cluster and the models are there."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._lock = threading.Lock()
        # Kept between requests: a searcher remembers which encoder made which index.
        self._searchers: dict[CrossEncoder | None, Searcher] = {}
        self._retriever: Retriever | None = None
        self._failed: tuple[float, ShelfrankError] | None = None  # when the last try to connect ended, and why

    def retriever(self) -> Retriever:
        """The way to the cluster, for which one thread tries at a time: who waited while it failed has failed too, or
        they would try a cluster that hangs one after the other. Raises ShelfrankError while cluster or encoder are not
        there."""
        asked = time.monotonic()
        with self._lock:
            if self._retriever is not None and self._retriever.encoder is not None:
                return self._retriever
            if self._failed is not None and self._failed[0] >= asked:
                raise self._failed[1]
            try:
                settings = self._engine.settings
                client = clusters.connect(settings)
                about = clusters.capabilities(client)
            except ShelfrankError as error:
                self._failed = time.monotonic(), error
                raise
            self._retriever = Retriever(client, about, settings.search, self._engine.encoder)
            return self._retriever

    def searcher(self, bundle: str) -> Searcher:
        """A searcher with one of the rerankers, or without where that one is not loaded.

        It is kept between requests, for it remembers which encoder made which index.
        """
        retriever, reranker = self.retriever(), self._engine.rerankers.get(bundle or DEFAULT)
        found = self._searchers.get(reranker)
        if found is None or found.retriever is not retriever:
            found = Searcher(retriever, reranker, self._engine.settings, self._engine.next_encoder)
            self._searchers[reranker] = found
        return found

    def close(self) -> None:
        """Let go of the models, and of the connections to the cluster."""
        with self._lock:
            self._searchers.clear()
            if self._retriever is not None:
                self._retriever.client.close()
            self._retriever = None


class ByTheEngine(ModelWork):
    """The models' work of one search, when the engine says; the search waits for the cluster in a thread of its own."""

    def __init__(self, engine: Engine, visit: Visit, asked: Search, deadline: float) -> None:
        self.engine, self.visit, self.asked, self.deadline = engine, visit, asked, deadline
        self._loop = asyncio.get_running_loop()
        self.piece = Piece("search", visit.share, visit.deadline(_PATIENCE_S * 1000))

    def run(self, kind: str, work: Callable[[], T]) -> T:
        """When it is the share's turn; a first stage needs its vector, so it is not refused for want of time."""
        until = self.deadline + _GRACE_S if kind == "explain" else time.monotonic() + _PATIENCE_S
        piece = Piece(kind, self.visit.share, until)
        return self._awaited(self.engine.model(work, piece), until)

    def rescore(
        self,
        query: str,
        window: Sequence[Candidate],
        reranker: CrossEncoder | None,
        blend: float | None,
        deadline: float,
        vectors: QueryVectors | None,
    ) -> Outcome:
        """By the engine, at the deadline that counts from the request's arrival."""
        nobody_waits = self.piece.turn is not None and self.piece.turn.stopped
        if not self.asked.rerank or nobody_waits:
            self.engine.count(self.asked.index, "skipped")
            return super().rescore(query, window, None, blend, deadline, vectors)
        rescoring = self.engine.rescore(
            query,
            window,
            index=self.asked.index,
            bundle=self.asked.bundle,
            weight=blend,
            deadline=self.deadline,
            share=self.visit.share,
            vectors=vectors,
        )
        try:
            return self._awaited(rescoring, self.deadline)
        except TimeoutError:
            return untouched(window, "timeout", "the deadline came while the window was scored", reranker)

    def _awaited(self, work: Coroutine[Any, Any, T], until: float) -> T:
        """The result of what ends by then by itself, unless the event loop has ended before it."""
        left = max(0.0, until - time.monotonic())
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(left + _LOOP_S)


def find(shop: Shop, asked: SearchRequest, models: ByTheEngine) -> Page:
    """One page, from a thread; a reranker that is missing or left alone is told as such."""
    return (
        shop.searcher(asked.bundle)
        .worked_by(models)
        .search(
            asked.index,
            asked.query,
            mode=asked.mode,
            window=asked.window,
            size=asked.size,
            start=asked.start,
            filters=asked.narrowed(),
            rerank=asked.rerank,
            fields=asked.fields,
            weight=asked.weight,
        )
    )


@router.post("/v1/search", summary="Search with shelfrank's own first stage")
async def search(request: Request, asked: SearchRequest) -> Response:
    """A page of hits with all their scores and ranks; `rerank` says what rescoring did, `took_ms` where time went.

    `query_id` is for the events that follow.
    """
    engine: Engine = request.app.state.engine
    shop: Shop = request.app.state.shop
    visit = access.visit(request)
    note_queries(request, [asked.query])
    await request.app.state.hidden.check(asked.index)
    chosen = engine.settings.search.deadline_ms if asked.deadline_ms is None else asked.deadline_ms
    models = ByTheEngine(engine, visit, asked, visit.deadline(chosen))
    page = await while_there(request, engine.search(lambda: find(shop, asked, models), models.piece))
    query_id = request.app.state.query_ids.new(asked.client_id)
    if engine.settings.serve.ubi:
        row = ubi.query_row(query_id, asked.client_id, asked.query, asked.index, [hit.id for hit in page.hits])
        request.app.state.ubi.put(ubi.QUERIES, row, visit.share.name)
    answer = {"query_id": query_id, "query": asked.query, "index": asked.index, **page_json(page)}
    return await written(answer, len(page.hits))


async def written(answer: dict[str, Any], hits: int) -> Response:
    """The answer as JSON; a long list is written beside the event loop."""
    body = await aside(hits * _HIT_BYTES, partial(msgspec.json.encode, answer))
    return Response(body, media_type="application/json")


@router.post("/v1/explain", summary="Why hits stand where they stand")
async def explained(request: Request, asked: ExplainRequest) -> Response:
    """The same search again, its hits taken apart: scores, terms, fields, words, and sentences about them."""
    engine: Engine = request.app.state.engine
    shop: Shop = request.app.state.shop
    visit = access.visit(request)
    note_queries(request, [asked.query])
    await request.app.state.hidden.check(asked.index)
    deadline = visit.deadline(engine.settings.serve.rerank_deadline_ms)
    models = ByTheEngine(engine, visit, asked, deadline)

    def told() -> Any:
        found = explain(
            shop.searcher(asked.bundle).worked_by(models),
            asked.index,
            asked.query,
            ids=asked.ids,
            mode=asked.mode,
            window=asked.window,
            size=asked.size or 0,
            start=asked.start,
            filters=asked.narrowed(),
            rerank=asked.rerank,
            weight=asked.weight,
            time_limit_ms=asked.time_limit_ms,
            language=asked.language,
            deadline_ms=max(0.0, deadline - time.monotonic()) * 1000,
        )
        found.reading["reason"] = disclosure.reason(found.reading["status"], found.reading["reason"])
        return msgspec.to_builtins(found)

    return await written(await while_there(request, engine.search(told, models.piece)), MAX_HITS)


@router.get("/v1/about", summary="What the service has to offer")
async def about(request: Request) -> dict[str, Any]:
    """Models, modes and defaults, for the page and for whoever wants to know."""
    engine: Engine = request.app.state.engine
    settings = engine.settings
    return {
        "indexes": sorted({*settings.serve.indexes, *([settings.serve.index] if settings.serve.index else [])}),
        "index": settings.serve.index,
        "modes": list(MODES),
        "mode": settings.search.mode,
        "window": settings.search.window,
        "size": settings.search.size,
        "deadline_ms": settings.search.deadline_ms,
        "bundles": {name: reranker.bundle_id for name, reranker in engine.rerankers.items()},
        "english": {
            name: reranker.english.bundle_id for name, reranker in engine.rerankers.items() if reranker.english
        },
        "encoder": engine.encoder.bundle_id if engine.encoder else None,
        "missing": engine.missing,
        "ubi": settings.serve.ubi,
    }
