"""HTTP for clients that may never send the rest, send too much of it, or never read: each has its time and its size."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from enum import Enum
from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from starlette.responses import JSONResponse
from uvicorn.protocols.http.flow_control import service_unavailable
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

if TYPE_CHECKING:
    from reranker.serving.connections import Connections

HEAD_TIMEOUT_S = 10.0
HEAD_BYTES = 65_536
HEAD_FIELDS = 200
KEEP_ALIVE_S = 30
LINGER_S = 2.0
PIPELINED = 16
_SLICE = 16_384


class Phase(Enum):
    """What a client is to send next: the rest of a head, the rest of a body, or another request when it likes."""

    HEAD = "head"
    BODY = "body"
    IDLE = "idle"


class RefusedError(Exception):
    """A request that is not read to its end."""


class Patient(HttpToolsProtocol):
    """uvicorn's own protocol, with an end to its patience.

    Every head and body has its time, from its first byte on; what is neither head nor body (extensions of chunks,
    trailers, empty lines) is bounded as a head is. `outlet` is what the bytes leave by: below TLS, where there is any.
    """

    def __init__(self, listener: Connections, **parts: Any) -> None:
        super().__init__(**parts)
        self.listener = listener
        self.outlet: asyncio.Transport | None = None
        self._running: RequestResponseCycle | None = None
        self._refusal: tuple[int, str] | None = None
        self._owes(Phase.HEAD)

    def arrive(self, outlet: asyncio.Transport) -> None:
        """The connection is there; with TLS its handshake is still to come."""
        self.outlet = outlet
        outlet.set_write_buffer_limits(high=0)  # whatever a client does not read is heard of
        # asyncio does so for the sockets alone that it has made; without, an answer waits for the client's next word.
        outlet.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if not self.listener.enter(self, outlet.get_extra_info("peername")):
            self.limit_concurrency = 0  # uvicorn's word for no room

    def connection_made(self, transport: Any) -> None:
        if self.outlet is None:
            self.arrive(transport)
        super().connection_made(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self.listener.leave(self)
        if self._running is not None and not self._running.response_complete:
            # uvicorn tells the latest request alone, which may be one that waits behind this one.
            self._running.disconnected = True
            self._running.message_event.set()
        super().connection_lost(exc)

    def abort(self) -> None:
        """Close the connection, whatever the client has not read."""
        if self.outlet is not None:
            self.outlet.abort()

    # What the client sends

    def data_received(self, data: bytes) -> None:
        if self._phase is Phase.IDLE:
            self._owes(Phase.HEAD)
        for start in range(0, len(data), _SLICE):
            if self._refusal is not None or self.transport.is_closing():
                return
            part = data[start : start + _SLICE]
            self._silent_bytes += len(part)
            super().data_received(part)
            if self._silent_bytes > HEAD_BYTES:
                self._refusal = (431, f"The head of a request may have {HEAD_BYTES} bytes.")
                self.send_400_response("")

    def on_message_begin(self) -> None:
        if self._phase is not Phase.HEAD:
            self._owes(Phase.HEAD)
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._phase is Phase.BODY:
            return  # a trailer: it comes too late to be part of the head
        if len(self.headers) >= HEAD_FIELDS:
            self._refusal = (431, f"The head of a request may have {HEAD_FIELDS} fields.")
            raise RefusedError
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._owes(Phase.BODY)
        if len(self.pipeline) >= PIPELINED:
            self._refusal = (400, f"At most {PIPELINED} requests may wait for the answer to one before them.")
            raise RefusedError
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._silent_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._owes(Phase.IDLE)
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        """The end of a connection that no further request can be read from; what is being answered is answered."""
        status, message = self._refusal = self._refusal or (400, msg)
        if self.pipeline or (self.is_answering and (self._phase is not Phase.BODY or self.cycle.response_started)):
            self.shutdown()
            return
        body = json.dumps({"message": message}).encode()
        head = f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\ncontent-type: application/json\r\n"
        self.transport.write(f"{head}content-length: {len(body)}\r\nconnection: close\r\n\r\n".encode() + body)
        if self.is_answering or not self.transport.can_write_eof():
            self.transport.close()
            return
        # A client that is still sending would hear of a reset and not of the answer, so it has a moment to read.
        self.transport.write_eof()
        self._due = time.monotonic() + LINGER_S

    # What the client is sent

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._running = cycle
        if app is service_unavailable:
            app = self._no_room
        elif self.flow.write_paused:
            app = partial(self._once_read, app)
        super()._start_asgi_task(cycle, app)

    async def _once_read(self, app: Any, scope: Any, receive: Any, send: Any) -> None:
        await self.flow.drain()  # a client that does not read an answer is owed no other
        await app(scope, receive, send)

    async def _no_room(self, scope: Any, receive: Any, send: Any) -> None:
        self.listener.ended("refused")
        message = f"All {self.listener.most} connections (serve.connections) are being answered. Try again."
        headers = {"retry-after": "1", "connection": "close"}
        await JSONResponse({"message": message}, 503, headers)(scope, receive, send)

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._idles_anew()

    def pause_writing(self) -> None:
        super().pause_writing()
        self.listener.unread(self)

    def resume_writing(self) -> None:
        if not self.unsent:
            super().resume_writing()
            self.listener.read(self)
            self._idles_anew()

    @property
    def unsent(self) -> int:
        """Bytes that wait for the client to read."""
        parts = {id(each): each for each in (self.outlet, self.transport) if each is not None}
        return sum(each.get_write_buffer_size() for each in parts.values())

    # Whose turn it is

    @property
    def is_answering(self) -> bool:
        return self._running is not None and not self._running.response_complete

    @property
    def is_idle(self) -> bool:
        """Whether the client owes nothing."""
        return self._phase is Phase.IDLE

    @property
    def waits_since(self) -> float | None:
        """Since when the client could have gone on, by `time.monotonic()`; None while it is the service's turn."""
        if self.transport is None or self.transport.is_closing() or self.unsent:
            return self._since
        if self.is_answering and (self._phase is not Phase.BODY or self.flow.read_paused):
            return None
        return self._since

    def check(self, now: float) -> None:
        """End the connection where the client's time is up."""
        if now < self._due or self.unsent:
            return
        if not self.is_answering:
            self.listener.end(self, "idle" if self.is_idle else "slow")
        elif self._phase is Phase.BODY and self.flow.read_paused:
            self._owes(Phase.BODY)  # it is the service that does not read
        elif self._phase is not Phase.IDLE:
            self.shutdown()  # when what is being answered is answered

    def _idles_anew(self) -> None:
        if self._phase is Phase.IDLE:
            self._owes(Phase.IDLE)

    def _owes(self, phase: Phase) -> None:
        seconds = {Phase.HEAD: HEAD_TIMEOUT_S, Phase.BODY: self.listener.body_s, Phase.IDLE: KEEP_ALIVE_S}[phase]
        self._phase, self._since, self._silent_bytes = phase, time.monotonic(), 0
        self._due = self._since + seconds
