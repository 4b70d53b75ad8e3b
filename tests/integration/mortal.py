"""A process that ends in the middle: as the cluster sees it, nothing comes from it any more."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from opensearchpy import OpenSearch


class DiedError(BaseException):
    """The process has ended: nothing that it would still do reaches the cluster."""


@contextmanager
def intercepted(client: OpenSearch, handle: Callable[..., Any]) -> Iterator[None]:
    """For a time each request of `client` goes to `handle(send, method, url, ...)`, which may send it on."""
    send = client.transport.perform_request
    client.transport.perform_request = lambda *given, **named: handle(send, *given, **named)  # type: ignore[method-assign]
    try:
        yield
    finally:
        client.transport.perform_request = send  # type: ignore[method-assign]


@dataclass
class Mortal:
    """For the time of a `with` block a client that ends at its request number `at`: before the cluster has seen it or,
    `answered`, when the cluster has done it and the answer is lost."""

    client: OpenSearch
    at: int
    answered: bool
    count: int = 0

    def __enter__(self) -> Mortal:
        self._stack = ExitStack()
        self._stack.enter_context(intercepted(self.client, self._handle))
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _handle(self, send: Callable[..., Any], *given: Any, **named: Any) -> Any:
        self.count += 1
        if self.count > self.at or (self.count == self.at and not self.answered):
            raise DiedError
        answer = send(*given, **named)
        if self.count == self.at:
            raise DiedError
        return answer
