"""Writing many documents: item by item outcomes, bounded requests, and a retry loop that knows when to stop.

Documents have ids of their own, so a request that was applied and then lost its answer may be sent again: the
second time replaces the first.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import msgspec
from opensearchpy import OpenSearch
from opensearchpy.exceptions import ConnectionError as NoConnection
from opensearchpy.exceptions import SSLError, TransportError

from indexer.client import explained
from indexer.errors import ClusterError

T = TypeVar("T")

# The cluster, or something in front of it, is busy or away for a moment.
TRANSIENT = frozenset({429, 502, 503, 504})
TOO_LARGE = 413


@dataclass(frozen=True)
class Document:
    """One document to index: its id and its source as JSON."""

    id: str
    source: bytes


@dataclass(frozen=True)
class Refusal:
    """A document that the cluster will not take, however often it is sent."""

    id: str
    status: int
    reason: str


@dataclass
class Outcome:
    """What became of some documents: `written` holds ids in the order sent."""

    written: list[str] = field(default_factory=list)
    refused: list[Refusal] = field(default_factory=list)


class Patience:
    """Waits between attempts (exponential, full jitter) until nothing has succeeded for `limit_s` seconds."""

    def __init__(
        self,
        limit_s: float = 120.0,
        *,
        base_s: float = 0.25,
        cap_s: float = 15.0,
        seed: int | None = None,
        sleep: Callable[[float], object] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.limit_s = limit_s
        self._base_s, self._cap_s = base_s, cap_s
        self._random = random.Random(seed)  # noqa: S311 (jitter, not a secret)
        self._sleep, self._clock = sleep, clock
        self._failing_since: float | None = None
        self._attempts = 0

    def succeeded(self) -> None:
        """Something went through: start afresh at the next problem."""
        self._failing_since, self._attempts = None, 0

    def wait(self, problem: str) -> None:
        """Sleep before the next attempt. Raises ClusterError with the problem when patience is over."""
        now = self._clock()
        if self._failing_since is None:
            self._failing_since = now
        left = self.limit_s - (now - self._failing_since)
        if left <= 0:
            raise ClusterError(f"The cluster has taken nothing for {self.limit_s:.0f} s; last problem: {problem}.")
        # Full jitter: many writers that failed together must not come back together.
        delay = self._random.uniform(0, min(self._cap_s, self._base_s * 2**self._attempts))
        self._attempts = min(self._attempts + 1, 30)
        self._sleep(min(delay, left))

    def call(self, action: Callable[[], T]) -> T:
        """The action's result, tried again while the cluster is away or busy. Raises ClusterError."""
        while True:
            try:
                result = action()
            except TransportError as error:
                problem = transient(error)
                if problem is None:
                    raise explained(error) from error
                self.wait(problem)
            else:
                self.succeeded()
                return result


class BulkWriter:
    """Indexes documents into one index by bulk requests of bounded size."""

    def __init__(
        self,
        client: OpenSearch,
        index: str,
        *,
        max_documents: int = 500,
        max_bytes: int = 5_000_000,
        patience: Patience | None = None,
    ) -> None:
        self._client, self._index = client, index
        self._max_documents, self._max_bytes = max_documents, max_bytes
        self._patience = patience or Patience()

    def write(self, documents: Sequence[Document], outcome: Outcome | None = None) -> Outcome:
        """Index all documents, retrying single items that the cluster had no room for.

        An `outcome` that is handed in is filled as answers come, so it tells what was written even when this
        raises ClusterError.
        """
        outcome = Outcome() if outcome is None else outcome
        for chunk in self._chunks(documents):
            self._send(chunk, outcome)
        return outcome

    def _chunks(self, documents: Sequence[Document]) -> Iterator[list[Document]]:
        chunk: list[Document] = []
        size = 0
        for document in documents:
            if chunk and (len(chunk) >= self._max_documents or size + len(document.source) > self._max_bytes):
                yield chunk
                chunk, size = [], 0
            chunk.append(document)
            size += len(document.source)
        if chunk:
            yield chunk

    def _send(self, chunk: Sequence[Document], outcome: Outcome) -> None:
        pending = list(chunk)
        while pending:
            try:
                answer = self._client.bulk(body=_body(self._index, pending))
            except TransportError as error:
                if error.status_code == TOO_LARGE:
                    self._halve(pending, outcome)
                    return
                problem = transient(error)
                if problem is None:
                    raise explained(error) from error
                self._patience.wait(problem)
                continue
            again, problem = _sort(pending, answer["items"], outcome)
            if len(again) < len(pending):
                self._patience.succeeded()
            if again:
                self._patience.wait(problem)
            pending = again

    def _halve(self, pending: list[Document], outcome: Outcome) -> None:
        """The request is larger than the cluster, or a proxy before it, takes."""
        if len(pending) == 1:
            reason = f"the document has {len(pending[0].source):,} bytes, more than the cluster takes in a request"
            outcome.refused.append(Refusal(pending[0].id, TOO_LARGE, reason))
            return
        middle = len(pending) // 2
        self._send(pending[:middle], outcome)
        self._send(pending[middle:], outcome)


def stored_values(
    client: OpenSearch, index: str, ids: Sequence[str], field_name: str, patience: Patience
) -> dict[str, str]:
    """One field's value for those of the ids that the index holds. Raises ClusterError."""
    if not ids:
        return {}
    params = {"_source_includes": field_name}
    while True:
        answer = patience.call(lambda: client.mget(index=index, body={"ids": list(ids)}, params=params))
        failed = [item["error"] for item in answer["docs"] if "error" in item]
        if not failed:
            return {
                item["_id"]: str(item["_source"].get(field_name, "")) for item in answer["docs"] if item.get("found")
            }
        # A shard that is not there yet, after a restart: not the same as a document that is not there.
        patience.wait(f"reading stored documents failed: {_told(failed[0])}")


def transient(error: TransportError) -> str | None:
    """What to say of an error that may pass by itself; None for one that will not."""
    if isinstance(error, SSLError):
        return None
    if isinstance(error, NoConnection):
        return f"no connection ({_first_line(error.error)})"
    if error.status_code in TRANSIENT:
        return f"HTTP status {error.status_code} ({_first_line(error.error)})"
    return None


def _body(index: str, documents: Sequence[Document]) -> bytes:
    lines: list[bytes] = []
    for document in documents:
        lines += [msgspec.json.encode({"index": {"_index": index, "_id": document.id}}), document.source]
    return b"\n".join(lines) + b"\n"


def _sort(
    pending: Sequence[Document], items: Sequence[Mapping[str, Any]], outcome: Outcome
) -> tuple[list[Document], str]:
    """File what is settled in `outcome`; returns what to send again, and why."""
    again: list[Document] = []
    problem = ""
    for document, item in zip(pending, items, strict=True):
        result = item["index"]
        status = int(result["status"])
        if 200 <= status < 300:
            outcome.written.append(document.id)
        elif status in TRANSIENT:
            again.append(document)
            problem = f"HTTP status {status} ({_told(result.get('error'))})"
        else:
            outcome.refused.append(Refusal(document.id, status, _told(result.get("error"))))
    return again, problem


def _told(error: Any) -> str:
    """The server's error as one line, with the cause that it names innermost."""
    if not isinstance(error, Mapping):
        return _first_line(error)
    parts = [str(error.get("reason") or error.get("type") or "unknown error")]
    cause = error.get("caused_by")
    while isinstance(cause, Mapping):
        parts.append(str(cause.get("reason") or cause.get("type")))
        cause = cause.get("caused_by")
    return _first_line(": ".join(dict.fromkeys(parts)))


def _first_line(value: Any) -> str:
    return (str(value).splitlines() or [""])[0][:500]
