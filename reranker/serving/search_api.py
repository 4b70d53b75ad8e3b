"""shelfrank's own endpoints: a search with its own first stage, what the page needs to know, and feedback."""

from __future__ import annotations

import threading
import uuid
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

import msgspec
from fastapi import APIRouter, Depends, Request
from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from indexer import client as clusters
from reranker.commands import page_json
from reranker.explaining.explained import Explained, Language
from reranker.explaining.explainer import MAX_HITS, TIME_LIMIT_MS, explain
from reranker.rescore import untouched
from reranker.retrieval import MODES, Filters, Retriever
from reranker.scoring import CrossEncoder
from reranker.search import MAX_REACH, MAX_WINDOW, Page, Searcher
from reranker.serving import ubi
from reranker.serving.access import needs
from reranker.serving.engine import DEFAULT, Engine

router = APIRouter(dependencies=[Depends(needs("search"))])

Name = Annotated[
    str, StringConstraints(min_length=1, max_length=255, pattern=r"^[^_.\-/\\*?\"<>| ,#:+][^/\\*?\"<>| ,#:]*$")
]
Words = Annotated[str, StringConstraints(max_length=10_000)]
Short = Annotated[str, StringConstraints(max_length=200)]


class FilterRequest(BaseModel):
    """What the shopper narrowed the search to; alternatives within a list."""

    model_config = ConfigDict(extra="forbid")
    min_price: float | None = None
    max_price: float | None = None
    brands: Annotated[list[Short], Field(max_length=100)] = []
    categories: Annotated[list[Short], Field(max_length=100)] = []
    min_rating: float | None = None
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
    client_id: Short = ""


class ExplainRequest(Search):
    """A search, and which of its hits to explain: those of a page, or those of `ids` wherever they stand."""

    size: Annotated[int, Field(ge=1, le=MAX_HITS)] | None = 3
    ids: Annotated[list[Short], Field(min_length=1, max_length=MAX_HITS)] | None = None
    language: Language = "en"
    time_limit_ms: Annotated[float, Field(ge=0, le=10_000)] = TIME_LIMIT_MS


class EventRequest(BaseModel):
    """One thing a shopper did with a result, as UBI has it."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "example": {
                "action_name": "click",
                "query_id": "5f0c…",
                "client_id": "c1",
                "object_id": "a1",
                "position": 1,
            }
        },
    )
    action_name: Annotated[str, StringConstraints(min_length=1, max_length=100)]
    query_id: Short
    client_id: Short
    object_id: Short = ""
    position: Annotated[int, Field(ge=1, le=MAX_REACH)] | None = None
    message: Annotated[str, StringConstraints(max_length=1000)] = ""


class Shop:
    """The searcher of the service, made when the cluster and the models are there."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._lock = threading.Lock()
        # Kept between requests: a searcher remembers which encoder made which index.
        self._searchers: dict[CrossEncoder | None, Searcher] = {}
        self._retriever: Retriever | None = None

    def retriever(self) -> Retriever:
        """The way to the cluster. Raises ShelfrankError while cluster or encoder are not there."""
        with self._lock:
            if self._retriever is None or self._retriever.encoder is None:
                settings = self._engine.settings
                client = clusters.connect(settings)
                about = clusters.capabilities(client)
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


def find(shop: Shop, engine: Engine, asked: SearchRequest) -> Page:
    """One page; a reranker that is missing or left alone is told as such."""
    why = engine.unavailable(asked.bundle) if asked.rerank else ""
    page = shop.searcher(asked.bundle).search(
        asked.index,
        asked.query,
        mode=asked.mode,
        window=asked.window,
        size=asked.size,
        start=asked.start,
        filters=asked.narrowed(),
        rerank=asked.rerank and not why,
        fields=asked.fields,
        deadline_ms=asked.deadline_ms,
        weight=asked.weight,
    )
    if why:
        page.rerank = {**untouched([], "error", why).summary(), "window": page.rerank["window"]}
    elif asked.rerank:
        engine.record(asked.bundle, page.rerank["status"], asked.deadline_ms is None)
    return page


@router.post("/v1/search", summary="Search with shelfrank's own first stage")
async def search(request: Request, asked: SearchRequest) -> dict[str, Any]:
    """A page of hits with all their scores and ranks; `rerank` says what rescoring did, `took_ms` where time went.

    `query_id` is for the events that follow.
    """
    engine: Engine = request.app.state.engine
    shop: Shop = request.app.state.shop
    page = await engine.run(lambda: find(shop, engine, asked), "search")
    engine.count(asked.index, page.rerank["status"])
    query_id = str(uuid.uuid4())
    if engine.settings.serve.ubi:
        row = ubi.query_row(query_id, asked.client_id, asked.query, asked.index, [hit.id for hit in page.hits], _now())
        request.app.state.ubi.put(ubi.QUERIES, row)
    return {"query_id": query_id, "query": asked.query, "index": asked.index, **page_json(page)}


@router.post("/v1/explain", summary="Why hits stand where they stand")
async def explained(request: Request, asked: ExplainRequest) -> dict[str, Any]:
    """The same search again, its hits taken apart: scores, terms, fields, words, and sentences about them."""
    engine: Engine = request.app.state.engine
    shop: Shop = request.app.state.shop

    def told() -> Explained:
        return explain(
            shop.searcher(asked.bundle),
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
            deadline_ms=float(engine.settings.serve.rerank_deadline_ms),
        )

    answer: dict[str, Any] = msgspec.to_builtins(await engine.run(told, "explain"))
    return answer


@router.post("/v1/events", status_code=202, summary="Write down what a shopper did with a result")
async def event(request: Request, asked: EventRequest) -> dict[str, Any]:
    """Kept in the cluster's `ubi_events` where `serve.ubi` is on; `kept` says whether it was."""
    on: bool = request.app.state.engine.settings.serve.ubi
    if on:
        row = ubi.event_row(**asked.model_dump(), timestamp=_now())
        request.app.state.ubi.put(ubi.EVENTS, row)
    return {"kept": on}


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
        "encoder": engine.encoder.bundle_id if engine.encoder else None,
        "missing": engine.missing,
        "ubi": settings.serve.ubi,
    }


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
