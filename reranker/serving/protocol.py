"""HTTP connections that do not wait for ever: one that sends no whole request head in time is closed."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEAD_TIMEOUT_S = 10.0


class Patient(HttpToolsProtocol):
    """uvicorn's own protocol, with an end to its patience before the first request."""

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._waiting = asyncio.get_running_loop().call_later(HEAD_TIMEOUT_S, self._give_up)

    def on_headers_complete(self) -> None:
        self._waiting.cancel()
        super().on_headers_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        self._waiting.cancel()
        super().connection_lost(exc)

    def _give_up(self) -> None:
        if self.cycle is None and not self.transport.is_closing():
            self.transport.close()
