"""Writing many documents: item by item outcomes, and requests as large as the cluster likes them.

Documents have ids of their own, so a request that was applied and then lost its answer may be sent again: the second
time replaces the first. Where a write is conditional, the second time is a conflict, and its sender looks again.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import msgspec
from opensearchpy import OpenSearch
from opensearchpy.exceptions import TransportError

from indexer.client import explained
from indexer.errors import ClusterError
from indexer.patience import TRANSIENT, Patience, told, transient, unanswered

TOO_LARGE = 413
FORBIDDEN = 403
CONFLICT = 409
ABSENT = 404


@dataclass(frozen=True)
class Document:
    """One document to write: its id and its source as JSON (for `update`, the fields to merge; for `delete`, nothing).

    `condition` is empty, or `if_seq_no` and `if_primary_term` of the document as it was read.
    """

    id: str
    source: bytes = b""
    op: Literal["index", "create", "update", "delete"] = "index"
    condition: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Refusal:
    """A document that the cluster will not take, however often it is sent."""

    id: str
    status: int
    reason: str


@dataclass
class Outcome:
    """What became of some documents: `written` holds ids in the order sent.

    `conflicts` are those whose condition did not hold, `blocked` those for which the index takes no writes at present.
    """

    written: list[str] = field(default_factory=list)
    refused: list[Refusal] = field(default_factory=list)
    conflicts: list[str] = field(default_factory=list)
    blocked: list[str] = field(default_factory=list)


class Pace:
    """How many bytes a request holds, and how many requests may be out at once: half as many of both when the cluster
    refuses or is slow, then slowly more again. Safe to share between threads.
    """

    def __init__(self, max_bytes: int, max_requests: int = 1, *, min_bytes: int = 64_000, slow_s: float = 5.0) -> None:
        self.max_bytes, self.min_bytes, self._slow_s = max_bytes, min(min_bytes, max_bytes), slow_s
        self.bytes = max_bytes
        self.max_requests, self.requests = max_requests, 1
        self._well = 0  # requests that were taken since their number was changed
        self._lock = threading.Lock()

    def went_well(self, seconds: float) -> None:
        """A request was taken whole."""
        if seconds > self._slow_s:
            self.refused()
            return
        with self._lock:
            self.bytes = min(self.max_bytes, max(self.min_bytes, int(self.bytes * 1.2)))
            self._well += 1
            if self._well >= self.requests < self.max_requests:
                self.requests, self._well = self.requests + 1, 0

    def refused(self) -> None:
        """The cluster had no room for a request or a part of it."""
        with self._lock:
            self.bytes = max(self.min_bytes, self.bytes // 2)
            self.requests, self._well = max(1, self.requests // 2), 0


class BulkWriter:
    """Writes documents into one index by bulk requests of bounded size, smaller ones while the cluster is busy."""

    def __init__(
        self,
        client: OpenSearch,
        index: str,
        *,
        max_documents: int = 500,
        max_bytes: int = 5_000_000,
        max_requests: int = 1,
        patience: Patience | None = None,
    ) -> None:
        self._client, self._index = client, index
        self._max_documents, self.pace = max_documents, Pace(max_bytes, max_requests)
        self._patience = patience or Patience()
        self._given_up = threading.Event()

    def write(self, documents: Sequence[Document], outcome: Outcome | None = None) -> Outcome:
        """Write all documents, retrying single items that the cluster had no room for.

        An `outcome` that is handed in is filled as answers come, so it tells what was written even when this
        raises ClusterError.
        """
        outcome = Outcome() if outcome is None else outcome
        for chunk in self._chunks(documents):
            self._send(chunk, outcome)
        return outcome

    def give_up(self) -> None:
        """Send nothing a second time: writes that other threads have begun end with a ClusterError when they fail."""
        self._given_up.set()

    def _wait(self, problem: str) -> None:
        if self._given_up.is_set():
            raise ClusterError(f"What was left to write is not sent again; last problem: {problem}.")
        self._patience.wait(problem)

    def _chunks(self, documents: Sequence[Document]) -> Iterator[list[Document]]:
        chunk: list[Document] = []
        size = 0
        for document in documents:
            if chunk and (len(chunk) >= self._max_documents or size + len(document.source) > self.pace.bytes):
                yield chunk
                chunk, size = [], 0
            chunk.append(document)
            size += len(document.source)
        if chunk:
            yield chunk

    def _send(self, chunk: Sequence[Document], outcome: Outcome) -> None:
        pending = list(chunk)
        while pending:
            begun = time.monotonic()
            try:
                answer = self._client.bulk(body=_body(self._index, pending))
            except TransportError as error:
                if error.status_code == TOO_LARGE:
                    self._halve(pending, outcome)
                    return
                problem = transient(error)
                if problem is None:
                    raise explained(error) from error
                self.pace.refused()
                self._wait(problem)
                if len(pending) > 1 and sum(len(document.source) for document in pending) > self.pace.bytes:
                    self._halve(pending, outcome)
                    return
                continue
            again, problem = _sort(pending, answer["items"], outcome)
            if len(again) < len(pending):
                self._patience.succeeded()
            if again:
                self.pace.refused()
                self._wait(problem)
            else:
                self.pace.went_well(time.monotonic() - begun)
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


def stored(
    client: OpenSearch, index: str, ids: Sequence[str], patience: Patience, source: Any = True
) -> dict[str, dict[str, Any]]:
    """Those of the documents that the index holds, by id: `_source` (as far as asked for), `_seq_no`, `_primary_term`.

    Reads what was written last, refreshed or not; an index that is not there holds nothing. Raises ClusterError.
    """
    if not ids:
        return {}
    body = {"docs": [{"_id": name, "_source": source} for name in ids]}

    def read() -> dict[str, dict[str, Any]]:
        answer = client.mget(index=index, body=body)
        for item in answer["docs"]:
            if "error" in item and item["error"].get("type") != "index_not_found_exception":
                # A shard that is not there yet, after a restart: not the same as a document that is not there.
                raise unanswered(f"reading stored documents failed: {told(item['error'])}")
        return {item["_id"]: item for item in answer["docs"] if item.get("found")}

    return patience.call(read)


def condition(found: Mapping[str, Any] | None) -> dict[str, int]:
    """That a document is as `stored` found it; empty where it found none."""
    return {"if_seq_no": found["_seq_no"], "if_primary_term": found["_primary_term"]} if found else {}


def settled(name: str, source: bytes, found: Mapping[str, Any] | None) -> Document:
    """A whole document that is written only where nobody wrote it since it was `found` (None: there was none)."""
    return Document(name, source, "index" if found else "create", condition(found))


def _body(index: str, documents: Sequence[Document]) -> bytes:
    lines: list[bytes] = []
    for document in documents:
        lines.append(msgspec.json.encode({document.op: {"_index": index, "_id": document.id, **document.condition}}))
        if document.op == "update":
            lines.append(b'{"doc":' + document.source + b"}")
        elif document.op != "delete":
            lines.append(document.source)
    return b"\n".join(lines) + b"\n"


def _sort(
    pending: Sequence[Document], items: Sequence[Mapping[str, Any]], outcome: Outcome
) -> tuple[list[Document], str]:
    """File what is settled in `outcome`; returns what to send again, and why."""
    again: list[Document] = []
    problem = ""
    for document, item in zip(pending, items, strict=True):
        result = item[document.op]
        status, error = int(result["status"]), result.get("error")
        if 200 <= status < 300 or (document.op == "delete" and status == ABSENT and error is None):
            outcome.written.append(document.id)
        elif status == CONFLICT:
            outcome.conflicts.append(document.id)
        elif status == FORBIDDEN and isinstance(error, Mapping) and error.get("type") == "cluster_block_exception":
            outcome.blocked.append(document.id)
        elif status in TRANSIENT:
            again.append(document)
            problem = f"HTTP status {status} ({told(error)})"
        else:
            outcome.refused.append(Refusal(document.id, status, told(error)))
    return again, problem
