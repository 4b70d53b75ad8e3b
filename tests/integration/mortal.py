"""A process that ends in the middle: as the cluster sees it, nothing comes from it any more."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from opensearchpy import OpenSearch


class DiedError(BaseException):
    """The process has ended: nothing that it would still do reaches the cluster."""


@dataclass
class Mortal:
    """For the time of a `with` block a client that ends at its request number `at`: before the cluster has seen it or,
    `answered`, when the cluster has done it and the answer is lost."""

    client: OpenSearch
    at: int
    answered: bool
    count: int = 0

    def __enter__(self) -> Mortal:
        self._perform = self.client.transport.perform_request

        def perform(*given: Any, **named: Any) -> Any:
            self.count += 1
            if self.count > self.at or (self.count == self.at and not self.answered):
                raise DiedError
            answer = self._perform(*given, **named)
            if self.count == self.at:
                raise DiedError
            return answer

        self.client.transport.perform_request = perform  # type: ignore[method-assign]
        return self

    def __exit__(self, *_: object) -> None:
        self.client.transport.perform_request = self._perform  # type: ignore[method-assign]
