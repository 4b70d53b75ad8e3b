"""The application: every endpoint, and one place where failures become answers."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from importlib.metadata import version
from typing import Any

import msgspec
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, RedirectResponse, Response
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware

from indexer import node
from indexer.errors import ClusterError, ConfigError, InputError, ShelfrankError, UsageError
from indexer.settings import Settings
from reranker.serving import addresses, events_api, gateway_api, ops, page_files, rerank_api, search_api, ubi
from reranker.serving.access import KEY_HEADER, DeniedError
from reranker.serving.disclosure import told, untold
from reranker.serving.engine import Engine
from reranker.serving.gateway import Gateway
from reranker.serving.guard import Guard
from reranker.serving.keys import Keys
from reranker.serving.limits.hidden import Hidden
from reranker.serving.limits.ranges import Ranges
from reranker.serving.metrics import Metrics
from reranker.serving.notes import note
from reranker.serving.passing import Passage
from reranker.serving.query_ids import QueryIds
from reranker.serving.tracing import trace
from reranker.serving.turns import BusyError
from reranker.serving.visits import GoneError


def create(settings: Settings) -> FastAPI:
    """The application for some settings. Raises ConfigError for keys or an address that cannot be."""
    metrics = Metrics()
    if not settings.cluster.url:
        cluster = msgspec.structs.replace(settings.cluster, url=node.ensure(settings.node))
        settings = msgspec.structs.replace(settings, cluster=cluster)
    app = FastAPI(
        title="shelfrank",
        version=version("shelfrank"),
        description="Semantic reranking for shops that search with OpenSearch.",
        docs_url=None,
        redoc_url=None,
        lifespan=_lifespan,
    )
    app.state.settings = settings
    app.state.metrics = metrics
    app.state.traces = None
    app.state.keys = Keys(os.environ, settings.serve.keys_file)
    app.state.proxies = addresses.trusted(settings.serve.trusted_proxies)
    app.state.engine = engine = Engine(settings, metrics)
    app.state.passage = Passage(settings.cluster, settings.limits.answer_bytes)
    app.state.ranges = Ranges(app.state.passage, settings.limits)
    app.state.hidden = Hidden(app.state.passage, settings.limits.hidden)
    app.state.gateway = Gateway(app.state.passage, engine, settings, metrics)
    app.state.shop = search_api.Shop(engine)
    app.state.query_ids = QueryIds(os.environ, settings.serve)
    app.state.event_counts = events_api.Counts(settings.serve.events_each)
    app.state.ubi = ubi.Log(partial(ubi.connect, settings), lambda why, rows: metrics.ubi_dropped.labels(why).inc(rows))
    ops.add_health(app)
    _page(app)
    app.include_router(rerank_api.router)
    app.include_router(search_api.router)
    app.include_router(events_api.router)
    app.mount(page_files.PATH, page_files.PageFiles())
    app.include_router(gateway_api.router)
    _failures(app)
    origins = [each.strip() for each in settings.serve.cors_origins.split(",") if each.strip()]
    if origins:
        allowed = ["authorization", "content-type", KEY_HEADER]
        app.add_middleware(CORSMiddleware, allow_origins=origins, allow_methods=["GET", "POST"], allow_headers=allowed)
    trace(app, os.environ)
    app.add_middleware(Guard, serve=settings.serve, metrics=metrics, keys=app.state.keys)
    return app


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    app.state.loop = asyncio.get_running_loop()
    loading = asyncio.create_task(app.state.engine.keep_loading())
    yield
    loading.cancel()
    await app.state.passage.close()
    await asyncio.to_thread(app.state.engine.close)
    await asyncio.to_thread(app.state.ubi.close)
    await asyncio.to_thread(app.state.shop.close)
    if app.state.traces is not None:
        await asyncio.to_thread(app.state.traces.shutdown)


def _page(app: FastAPI) -> None:
    @app.get(page_files.PATH, include_in_schema=False)
    async def page() -> Response:
        return RedirectResponse(f"{page_files.PATH}/")


_STATUS: tuple[tuple[type[Exception], int], ...] = (
    (ConfigError, 503),
    (InputError, 400),
    (UsageError, 400),
    (BusyError, 503),
    (ClusterError, 502),
    (ShelfrankError, 503),
)


_CLIENTS_OWN = (400, 404, 429)  # what the cluster says of a request and not of itself


def _failures(app: FastAPI) -> None:
    """Every failure as a status and a sentence, in the shape that the endpoint's clients read."""

    async def failed(request: Request, error: Exception) -> Response:
        status = next(code for kind, code in _STATUS if isinstance(error, kind))
        cause = getattr(error.__cause__, "status_code", None)
        if isinstance(error, ClusterError) and cause in _CLIENTS_OWN:
            status = cause
        headers = {"retry-after": "1"} if isinstance(error, BusyError) else {}
        if why := untold(error):
            note(request, cause=why)
        return problem(request, status, told(error), headers)

    async def denied(request: Request, error: Exception) -> Response:
        assert isinstance(error, DeniedError)
        headers = {"www-authenticate": "Bearer"} if error.status == 401 else {}
        return problem(request, error.status, str(error), headers)

    async def invalid(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        return problem(request, 422, f"{place}: {first['msg']}", {})

    async def other(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        return problem(request, error.status_code, str(error.detail), dict(error.headers or {}))

    async def gone(request: Request, error: Exception) -> Response:
        return Response(status_code=499)  # for the log and the metrics: nobody reads it

    app.add_exception_handler(GoneError, gone)
    for kind, _ in _STATUS:
        app.add_exception_handler(kind, failed)
    app.add_exception_handler(DeniedError, denied)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(HTTPException, other)


def problem(request: Request, status: int, message: str, headers: dict[str, str]) -> Response:
    """An error in the shape of the endpoint: Cohere's `message`, OpenAI's and TEI's `error`, OpenSearch's `error`."""
    path = request.url.path
    body: dict[str, Any] = {"message": message}
    if path == "/v1/embeddings":
        kind = "server_error" if status >= 500 else "invalid_request_error"
        body = {"error": {"message": message, "type": kind, "code": status}}
    elif path == "/rerank":
        body = {"error": message, "error_type": "Overloaded" if status == 503 else "Validation"}
    elif getattr(request.scope.get("route"), "path", "") in gateway_api.PATHS:
        cause = {"type": "shelfrank_exception", "reason": message}
        body = {"error": {"root_cause": [cause], **cause}, "status": status}
    return JSONResponse(body, status, headers)
