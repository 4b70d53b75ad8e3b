"""TLS on connections that are counted and timed from their first packet on, handshake included."""

from __future__ import annotations

import asyncio
import ssl
from typing import Any

from reranker.serving import protocol
from reranker.serving.protocol import Patient


class Handshake(asyncio.Protocol):
    """What a connection is until both sides have their keys; then `patient` takes it over."""

    def __init__(self, patient: Patient, context: ssl.SSLContext, shutdown_s: float) -> None:
        self._patient, self._context, self._shutdown_s = patient, context, shutdown_s
        self._early: list[bytes] = []

    def connection_made(self, transport: Any) -> None:
        self._patient.arrive(transport)
        transport.pause_reading()
        self._task = asyncio.get_running_loop().create_task(self._shake_hands(transport))

    def data_received(self, data: bytes) -> None:
        """What came together with the end of the handshake."""
        self._early.append(data)

    async def _shake_hands(self, outlet: asyncio.Transport) -> None:
        patient = self._patient
        try:
            inner = await asyncio.get_running_loop().start_tls(
                outlet,
                self,
                self._context,
                server_side=True,
                ssl_handshake_timeout=protocol.HEAD_TIMEOUT_S,
                ssl_shutdown_timeout=self._shutdown_s,
            )
        except OSError:  # no TLS, not ours, or too late
            inner = None
        if inner is None or inner.is_closing():
            patient.listener.leave(patient)
            return
        outlet.set_protocol(_Relay(outlet.get_protocol(), patient))
        inner.set_protocol(patient)
        patient.connection_made(inner)
        if self._early:
            patient.data_received(b"".join(self._early))


class _Relay(asyncio.BufferedProtocol):
    """Between the socket and TLS: asyncio's TLS keeps to itself when the client does not read."""

    def __init__(self, inner: Any, patient: Patient) -> None:
        self._inner, self._patient = inner, patient
        self._paused = False

    def connection_lost(self, exc: Exception | None) -> None:
        self._inner.connection_lost(exc)

    def get_buffer(self, sizehint: int) -> Any:
        return self._inner.get_buffer(sizehint)

    def buffer_updated(self, nbytes: int) -> None:
        self._inner.buffer_updated(nbytes)

    def eof_received(self) -> Any:
        return self._inner.eof_received()

    def pause_writing(self) -> None:
        self._paused = True
        self._inner.pause_writing()
        self._patient.pause_writing()

    def resume_writing(self) -> None:
        self._paused = False
        self._inner.resume_writing()  # which may write more, and be paused again
        if not self._paused:
            self._patient.resume_writing()
