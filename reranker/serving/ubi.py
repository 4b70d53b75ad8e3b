"""What shoppers search and do, in OpenSearch's own schema for it: User Behavior Insights, `ubi_queries`, `ubi_events`.

Rows are written by one thread in batches; what the cluster does not take is dropped and counted: feedback is never
worth a search.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable, Sequence
from typing import Any

from opensearchpy import OpenSearch
from opensearchpy.exceptions import OpenSearchException, RequestError

QUERIES, EVENTS = "ubi_queries", "ubi_events"
_KEPT = 10_000
_BATCH = 200
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


def query_row(
    query_id: str, client_id: str, query: str, index: str, hits: Sequence[str], timestamp: str
) -> dict[str, Any]:
    """A row of `ubi_queries`."""
    return {
        "timestamp": timestamp,
        "application": "shelfrank",
        "query_id": query_id,
        "client_id": client_id,
        "user_query": query,
        "query_response_hit_ids": list(hits),
        "query_attributes": {"index": index},
    }


def event_row(
    action_name: str,
    query_id: str,
    client_id: str,
    object_id: str,
    position: int | None,
    message: str,
    timestamp: str,
) -> dict[str, Any]:
    """A row of `ubi_events`."""
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
        "timestamp": timestamp,
        "event_attributes": attributes,
    }


class Log:
    """Rows on their way to the cluster."""

    def __init__(self, connect: Callable[[], OpenSearch]) -> None:
        self._connect = connect
        self._rows: queue.Queue[tuple[str, dict[str, Any]] | None] = queue.Queue(_KEPT)
        self._made: set[str] = set()
        self.dropped = 0
        self._thread = threading.Thread(target=self._write, name="shelfrank-ubi", daemon=True)
        self._thread.start()

    def put(self, index: str, row: dict[str, Any]) -> None:
        """Take a row; where there is no room, it is dropped."""
        try:
            self._rows.put_nowait((index, row))
        except queue.Full:
            self.dropped += 1

    def close(self) -> None:
        """Write what is left, for a few seconds at most."""
        self._rows.put(None)
        self._thread.join(5.0)

    def _write(self) -> None:
        over = False
        while not over:
            rows = [self._rows.get()]
            while len(rows) < _BATCH and not self._rows.empty():
                rows.append(self._rows.get())
            over = None in rows
            try:
                self._send([row for row in rows if row is not None])
            except Exception as error:  # noqa: BLE001 - whatever is wrong with the cluster, searches go on
                self.dropped += len(rows)
                log.warning("%s rows of user behaviour were dropped (%s so far): %s", len(rows), self.dropped, error)

    def _send(self, rows: Sequence[tuple[str, dict[str, Any]]]) -> None:
        if not rows:
            return
        client = self._connect()
        lines: list[dict[str, Any]] = []
        for index, row in rows:
            self._make(client, index)
            lines += [{"create": {"_index": index}}, row]
        answer = client.bulk(body=lines)
        if answer["errors"]:
            reasons = {item["create"]["error"]["reason"] for item in answer["items"] if "error" in item["create"]}
            raise OpenSearchException("; ".join(sorted(reasons)[:3]))

    def _make(self, client: OpenSearch, index: str) -> None:
        if index in self._made:
            return
        try:
            client.indices.create(index=index, body={"mappings": {"dynamic": False, "properties": _MAPPINGS[index]}})
        except RequestError as error:
            if error.error != "resource_already_exists_exception":
                raise
        self._made.add(index)
