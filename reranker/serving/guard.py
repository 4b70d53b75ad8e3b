"""What stands before every request: its id, bounds on its body and on the time to send it, its line in the log."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import time
import uuid
from typing import Any

from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from indexer.settings import Serve
from reranker.serving.keys import Keys
from reranker.serving.local import refusal
from reranker.serving.metrics import Metrics

log = logging.getLogger("shelfrank.access")
_ID = re.compile(r"[\w.:-]{1,128}", re.ASCII)


_CLOSE = {"connection": "close"}  # the rest of the body is not read


class TooLargeError(HTTPException):
    """The body is larger than it may be (413)."""

    def __init__(self, most: int) -> None:
        super().__init__(
            413, f"The body has more than {most} bytes, the most that is read (serve.max_body_bytes).", _CLOSE
        )


class TooSlowError(HTTPException):
    """The body did not come in time (408)."""

    def __init__(self, seconds: float) -> None:
        super().__init__(408, f"The body did not come within {seconds:g} s (serve.read_timeout_s).", _CLOSE)


class Guard:
    """ASGI middleware around the whole application."""

    def __init__(self, app: ASGIApp, serve: Serve, metrics: Metrics, keys: Keys) -> None:
        self.app, self.serve, self.metrics, self.keys = app, serve, metrics, keys
        self._origins = [each.strip() for each in serve.cors_origins.split(",") if each.strip()]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began = time.monotonic()
        scope.setdefault("state", {})["arrived"] = began
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        given = headers.get("x-request-id") or headers.get("x-opaque-id") or ""
        request_id = given if _ID.fullmatch(given) else uuid.uuid4().hex
        status = 0

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], (b"x-request-id", request_id.encode())]
            await send(message)

        self.metrics.in_flight.inc()
        try:
            await self._answer(scope, self._bounded(receive, headers), sending)
        except Exception:
            status = status or 500  # the server above answers so
            raise
        finally:
            self.metrics.in_flight.dec()
            took = time.monotonic() - began
            route = getattr(scope.get("route"), "path", "none")
            self.metrics.requests.labels(route, status).inc()
            self.metrics.seconds.labels(route).observe(took)
            self._note(scope, request_id, status, took)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        if not self.keys.required:
            why = refusal(scope["method"], scope["path"], scope["headers"], self._origins)
            if why:
                await JSONResponse({"message": why}, 403)(scope, receive, send)
                return
        await self.app(scope, receive, send)

    def _bounded(self, receive: Receive, headers: dict[str, str]) -> Receive:
        """`receive` that stops at a body too large or too slow; what the client declares is believed when too large."""
        room, over = self.serve.max_body_bytes, time.monotonic() + self.serve.read_timeout_s
        declared = headers.get("content-length", "0")
        finished = False

        async def receiving() -> Message:
            nonlocal room, finished
            if finished:
                return await receive()
            if declared.isdigit() and int(declared) > self.serve.max_body_bytes:
                raise TooLargeError(self.serve.max_body_bytes)
            try:
                message = await asyncio.wait_for(receive(), max(0.0, over - time.monotonic()))
            except TimeoutError as error:
                raise TooSlowError(self.serve.read_timeout_s) from error
            room -= len(message.get("body", b""))
            if room < 0:
                raise TooLargeError(self.serve.max_body_bytes)
            finished = not message.get("more_body", False)
            return message

        return receiving

    def _note(self, scope: Scope, request_id: str, status: int, took: float) -> None:
        line: dict[str, Any] = {
            "time": round(time.time(), 3),
            "id": request_id,
            "method": scope["method"],
            "route": getattr(scope.get("route"), "path", "none"),
            "status": status,
            "ms": round(took * 1000, 1),
            **scope.get("state", {}).get("log", {}),
        }
        log.info(json.dumps(line, ensure_ascii=False))
