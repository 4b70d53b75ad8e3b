"""A request as a claim to the service's time: whose it is, since when, and whether somebody waits for the answer."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine
from typing import Any, TypeVar

import msgspec
from fastapi import Request

from reranker.serving.addresses import Network, is_in, network
from reranker.serving.keys import Key
from reranker.serving.turns import Share

T = TypeVar("T")


class GoneError(Exception):
    """The client has left before its answer was there."""


class Visit(msgspec.Struct, frozen=True):
    """Whose request it is and when its head was there: every deadline counts from then."""

    share: Share
    arrived: float

    def deadline(self, after_ms: float) -> float:
        """A reading of `time.monotonic()`."""
        return self.arrived + after_ms / 1000


def of(request: Request, key: Key | None) -> Visit:
    """Of a request with a key, or none."""
    arrived = getattr(request.state, "arrived", None) or time.monotonic()
    if key is not None:
        return Visit(Share(f"key {key.name}", float(key.shares)), arrived)
    return Visit(Share(f"address {address(request)}"), arrived)


def address(request: Request) -> str:
    """The network address of the client, or of the first proxy that `serve.trusted_proxies` does not name; an IPv6
    client has a network of 64 bits to itself."""
    trusted: tuple[Network, ...] = request.app.state.proxies
    hops = [each.strip() for each in ",".join(request.headers.getlist("x-forwarded-for")).split(",")]
    found = request.client.host if request.client else ""
    while hops and is_in(found, trusted):
        found = hops.pop() or found
    return network(found)


async def while_there(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`, which is cancelled when the client leaves. Raises GoneError. The request's body has been
    read before."""
    task, leaving = asyncio.ensure_future(work), asyncio.ensure_future(_leaving(request))
    try:
        await asyncio.wait({task, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise GoneError
        return task.result()
    finally:
        task.cancel()
        leaving.cancel()


async def _leaving(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
