"""Health, readiness and metrics: endpoints of the service, and of a listener of their own that it cannot keep busy."""

from __future__ import annotations

import asyncio
import logging
import socket
import threading
import time
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import msgspec
import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from indexer.errors import ClusterError, ShelfrankError
from indexer.settings import Serve
from reranker.serving.access import DeniedError, check
from reranker.serving.disclosure import told
from reranker.serving.keys import Keys
from reranker.serving.listening import configured
from reranker.serving.local import refusal
from reranker.serving.metrics import Metrics

CLUSTER_S = 2.0
PULSE_S = 2.0
_FRESH_S = 0.5
_CONNECTIONS = 64
_PATHS = ("/healthz", "/readyz", "/metrics")
_DEAD = "the event loop does not answer"
T = TypeVar("T")
log = logging.getLogger("shelfrank")


class Readiness:
    """What the service still misses; asked at most twice a second, however often it is wanted."""

    def __init__(self, app: FastAPI) -> None:
        self._state = app.state
        self._lock = asyncio.Lock()
        self._missing: list[str] = []
        self._logged: list[str] = []
        self._asked = float("-inf")

    async def missing(self) -> list[str]:
        async with self._lock:
            if time.monotonic() - self._asked > _FRESH_S:
                self._missing = await self._look()
                self._asked = time.monotonic()
            return self._missing

    async def _look(self) -> list[str]:
        errors: list[ShelfrankError] = []
        try:
            self._state.engine.check_ready()
        except ShelfrankError as error:
            errors.append(error)
        try:
            await asyncio.wait_for(self._state.passage.send("GET", "/", lend=True), CLUSTER_S)
        except TimeoutError:
            errors.append(ShelfrankError(f"OpenSearch did not answer within {CLUSTER_S:g} s."))
        except ClusterError as error:
            errors.append(error)
        self._log([str(error) for error in errors])
        return [told(error) for error in errors]

    def _log(self, errors: list[str]) -> None:
        """Say once what a client is not told."""
        if errors != self._logged:
            self._logged = errors
            log.warning("The service is %s", f"not ready: {'; '.join(errors)}" if errors else "ready.")


def add_health(app: FastAPI) -> None:
    """The endpoints of the service itself."""
    app.state.loop = None  # the event loop, while it runs
    app.state.readiness = Readiness(app)

    @app.get("/healthz", summary="Whether the process lives")
    async def healthz() -> dict[str, str]:
        return {"status": "ok"}

    @app.get(
        "/readyz",
        summary="Whether models are warm and the cluster is reachable",
        responses={503: {"description": "Not yet, or no more; the body says what is missing."}},
    )
    async def readyz(request: Request) -> Response:
        return _readiness(await request.app.state.readiness.missing())

    @app.get("/metrics", summary="For Prometheus", response_class=Response)
    async def metrics(request: Request) -> Response:
        return _metrics(request)


def _readiness(missing: list[str]) -> Response:
    return JSONResponse({"status": "not ready" if missing else "ready", "missing": missing}, 503 if missing else 200)


def _metrics(request: Any) -> Response:
    check(request, "admin")
    return Response(request.app.state.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")


def create(app: FastAPI, serve: Serve) -> Starlette:
    """The application of the second listener, which answers for the first one, `app`, whatever that is doing."""

    async def healthz(request: Any) -> Response:
        try:
            await _asked(app, _pulse())
        except TimeoutError:
            return JSONResponse({"status": _DEAD}, 503)
        return JSONResponse({"status": "ok"})

    async def readyz(request: Any) -> Response:
        try:
            return _readiness(await _asked(app, app.state.readiness.missing(), CLUSTER_S))
        except TimeoutError:
            return _readiness([_DEAD])

    async def metrics(request: Any) -> Response:
        return _metrics(request)

    async def denied(request: Any, error: Exception) -> Response:
        assert isinstance(error, DeniedError)
        headers = {"www-authenticate": "Bearer"} if error.status == 401 else {}
        return JSONResponse({"message": str(error)}, error.status, headers)

    found = Starlette(
        routes=[Route(path, each) for path, each in zip(_PATHS, (healthz, readyz, metrics), strict=True)],
        exception_handlers={DeniedError: denied},
        middleware=[Middleware(_Front, keys=app.state.keys, metrics=app.state.metrics)],
    )
    found.state.metrics, found.state.keys = app.state.metrics, app.state.keys
    # Who may read metrics depends on where they are listened for.
    own = msgspec.structs.replace(serve, host=serve.ops_host or serve.host)
    found.state.settings = msgspec.structs.replace(app.state.settings, serve=own)
    return found


class _Front:
    """Counts requests as the service counts its own; without keys, nobody but this machine's own people is answered."""

    def __init__(self, app: ASGIApp, keys: Keys, metrics: Metrics) -> None:
        self.app, self.keys, self.metrics = app, keys, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                route = scope["path"] if scope["path"] in _PATHS else "none"
                self.metrics.requests.labels(route, message["status"]).inc()
            await send(message)

        why = "" if self.keys.required else refusal(scope["method"], scope["path"], scope["headers"])
        await (JSONResponse({"message": why}, 403) if why else self.app)(scope, receive, sending)


async def _pulse() -> None:
    """What the event loop does when it does anything."""


async def _asked(app: FastAPI, work: Coroutine[Any, Any, T], more_s: float = 0.0) -> T:
    """What the service's own event loop makes of `work`. Raises TimeoutError where it does not."""
    try:
        future = asyncio.run_coroutine_threadsafe(work, app.state.loop)
    except (AttributeError, RuntimeError):  # not there yet, or no more
        work.close()
        raise TimeoutError from None
    return await asyncio.wait_for(asyncio.wrap_future(future), PULSE_S + more_s)


@contextmanager
def beside(app: FastAPI, serve: Serve, sockets: list[socket.socket]) -> Iterator[None]:
    """The second listener, in a thread with an event loop of its own, for the time of a `with` block."""
    if not sockets:
        yield
        return
    server = uvicorn.Server(configured(create(app, serve), serve, "operations", _CONNECTIONS))
    thread = threading.Thread(target=server.run, kwargs={"sockets": sockets}, name="shelfrank-ops", daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.should_exit = True
        thread.join(5)
