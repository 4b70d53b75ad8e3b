"""What shoppers search and do, in OpenSearch's own schema for it: User Behavior Insights, `ubi_queries`, `ubi_events`.

Rows are written by one thread in batches, over a connection of its own; what finds no room, or the cluster does not
take, is dropped and counted: feedback is never worth a search.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter, deque
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec
from opensearchpy import OpenSearch
from opensearchpy.exceptions import RequestError

from indexer import client as clusters
from indexer.settings import Settings

QUERIES, EVENTS = "ubi_queries", "ubi_events"
_BATCH, _BATCH_BYTES = 200, 5_000_000
_TIMEOUT_S = 10.0
_ROW_BYTES = 300  # of a row in memory beside its text
log = logging.getLogger("shelfrank")

_KEYWORD = {"type": "keyword", "ignore_above": 256}
_MAPPINGS: dict[str, dict[str, Any]] = {
    QUERIES: {
        "timestamp": {"type": "date"},
        "query_id": _KEYWORD,
        "client_id": _KEYWORD,
        "application": _KEYWORD,
        "user_query": _KEYWORD,
        "query_response_id": _KEYWORD,
        "query_response_hit_ids": {"type": "keyword"},
        "query_attributes": {"type": "object"},
    },
    EVENTS: {
        "application": _KEYWORD,
        "action_name": _KEYWORD,
        "client_id": _KEYWORD,
        "query_id": _KEYWORD,
        "message": {"type": "keyword", "ignore_above": 1024},
        "message_type": _KEYWORD,
        "timestamp": {"type": "date"},
        "event_attributes": {
            "properties": {
                "object": {"properties": {"object_id": _KEYWORD, "object_id_field": _KEYWORD}},
                "position": {"properties": {"ordinal": {"type": "integer"}}},
            }
        },
    },
}


def query_row(query_id: str, client_id: str, query: str, index: str, hits: Sequence[str]) -> dict[str, Any]:
    """A row of `ubi_queries`, of now."""
    return {
        "timestamp": _now(),
        "application": "shelfrank",
        "query_id": query_id,
        "client_id": client_id,
        "user_query": query,
        "query_response_hit_ids": list(hits),
        "query_attributes": {"index": index},
    }


def event_row(
    action_name: str, query_id: str, client_id: str, object_id: str, position: int | None, message: str
) -> dict[str, Any]:
    """A row of `ubi_events`, of now."""
    attributes: dict[str, Any] = {}
    if object_id:
        attributes["object"] = {"object_id": object_id, "object_id_field": "id"}
    if position is not None:
        attributes["position"] = {"ordinal": position}
    return {
        "application": "shelfrank",
        "action_name": action_name,
        "query_id": query_id,
        "client_id": client_id,
        "message": message,
        "timestamp": _now(),
        "event_attributes": attributes,
    }


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def connect(settings: Settings) -> OpenSearch:
    """A client of the cluster that gives up soon, for nobody waits. Raises as `indexer.client.connect`."""
    cluster = msgspec.structs.replace(settings.cluster, timeout_s=min(settings.cluster.timeout_s, _TIMEOUT_S))
    return clusters.connect(msgspec.structs.replace(settings, cluster=cluster))


class _Row(msgspec.Struct, frozen=True):
    index: str
    owner: str
    line: bytes

    @property
    def size(self) -> int:
        return len(self.line) + _ROW_BYTES


class Log:
    """Rows on their way to the cluster, `room` bytes of them at most. Whoever has rows waiting gets no more room than
    is left for others, so one alone fills half of it, and two a third each."""

    def __init__(
        self,
        connect: Callable[[], OpenSearch],
        dropped: Callable[[str, int], object],
        room: int = 20_000_000,
        stop_s: float = 5.0,
    ) -> None:
        """`dropped` takes why rows were dropped (`full`, `cluster`, `stop`) and how many; `stop_s` is for the end."""
        self._connect, self._dropped, self._stop_s = connect, dropped, stop_s
        self._client: OpenSearch | None = None
        self._made: set[str] = set()
        self._changed = threading.Condition()
        self._rows: deque[_Row] = deque()
        self._held: Counter[tuple[str, str]] = Counter()
        self._free = room
        self._in_hand = 0
        self._closing = self._closed = False
        self._thread = threading.Thread(target=self._write, name="shelfrank-ubi", daemon=True)
        self._thread.start()

    def put(self, index: str, row: dict[str, Any], owner: str) -> bool:
        """Whether the row was taken: there is room for it, and its owner (a key or an address) has its part of that."""
        new = _Row(index, owner, msgspec.json.encode(row))
        with self._changed:
            taken = not self._closing and self._held[index, owner] + new.size <= self._free
            if taken:
                self._rows.append(new)
                self._held[index, owner] += new.size
                self._free -= new.size
                self._changed.notify()
        if not taken:
            self._dropped("full", 1)
        return taken

    def close(self) -> None:
        """Write what is left, for `stop_s` at most, whatever the cluster does; what is left then is dropped."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join(self._stop_s)
        with self._changed:
            self._closed = True
            left = len(self._rows) + self._in_hand
            self._rows.clear()
        if left:
            self._dropped("stop", left)
            log.warning("%s rows of user behaviour were dropped: the cluster did not take them before the end.", left)

    def _write(self) -> None:
        while rows := self._next():
            try:
                refused = self._send(rows)
            except Exception as error:  # noqa: BLE001 - whatever is wrong with the cluster, searches go on
                self._done(len(rows), str(error))
            else:
                self._done(len(refused), "; ".join(sorted(set(refused))[:3]))
        if self._client is not None:
            self._client.close()

    def _next(self) -> list[_Row]:
        """The next rows to write, when there are some; none when it is over."""
        rows: list[_Row] = []
        with self._changed:
            self._changed.wait_for(lambda: self._rows or self._closing)
            size = 0
            while self._rows and len(rows) < _BATCH and size < _BATCH_BYTES:
                row = self._rows.popleft()
                rows.append(row)
                size += row.size
                self._let_go(row)
            self._in_hand = len(rows)
        return rows

    def _let_go(self, row: _Row) -> None:
        self._free += row.size
        self._held[row.index, row.owner] -= row.size
        if not self._held[row.index, row.owner]:
            del self._held[row.index, row.owner]

    def _done(self, dropped: int, why: str) -> None:
        """The rows in hand are written, but for some."""
        with self._changed:
            self._in_hand = 0
            told = self._closed  # then they are counted already
        if dropped and not told:
            self._dropped("cluster", dropped)
            log.warning("%s rows of user behaviour were dropped: %s", dropped, why)

    def _send(self, rows: Sequence[_Row]) -> list[str]:
        """Why rows were refused, one by one. Raises whatever the way to the cluster raises."""
        if self._client is None:
            self._client = self._connect()
        lines: list[bytes] = []
        for row in rows:
            self._make(self._client, row.index)
            lines += [msgspec.json.encode({"create": {"_index": row.index}}), row.line]
        answer = self._client.bulk(body=b"\n".join([*lines, b""]))
        made = [item["create"] for item in answer["items"]]
        return [str(each["error"].get("reason", "refused")) for each in made if "error" in each]

    def _make(self, client: OpenSearch, index: str) -> None:
        if index in self._made:
            return
        try:
            client.indices.create(index=index, body={"mappings": {"dynamic": False, "properties": _MAPPINGS[index]}})
        except RequestError as error:
            if error.error != "resource_already_exists_exception":
                raise
        self._made.add(index)
