"""Reading an index while it is written to: everything once in the order of ids, and whatever changed since a mark.

A mark is a shard's highest sequence number: OpenSearch numbers every write in a shard, so what is numbered above the
mark was written after it, whoever wrote it and whatever their clock said. A deletion leaves no document to find; those
that shelfrank makes leave a tombstone (`indexer.tombstones`), which is a document.
"""

from __future__ import annotations

import heapq
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import islice
from typing import Any, NamedTuple

from opensearchpy import OpenSearch
from opensearchpy.exceptions import NotFoundError, OpenSearchException

from indexer.errors import ClusterError
from indexer.patience import Patience, unanswered

PAGE = 500
SLICES = 8  # readers of one index at most; each holds two pages
_KEEP_ALIVE = "5m"

Marks = dict[str, int]


def marks(client: OpenSearch, index: str, patience: Patience) -> Marks:
    """Shard number -> highest sequence number of its primary at this moment; empty where there is no such index."""
    answer = patience.call(
        lambda: client.indices.stats(index=index, params={"level": "shards", "ignore_unavailable": "true"})
    )
    found: Marks = {}
    for stats in answer["indices"].values():
        for shard, copies in stats["shards"].items():
            primary = next((copy for copy in copies if copy["routing"]["primary"]), None)
            if primary is None or "seq_no" not in primary:
                raise ClusterError(
                    f"Shard {shard} of {index} has no primary that answers. Look at the cluster's health."
                )
            found[shard] = int(primary["seq_no"]["max_seq_no"])
    return found


def changed_since(
    client: OpenSearch, index: str, since: Marks, patience: Patience, source: Any = True
) -> Iterator[list[dict[str, Any]]]:
    """Hits of documents written after the marks, in pages. The index must have been refreshed.

    A shard without a mark is read whole.
    """
    for shard in sorted(marks(client, index, patience), key=int):
        after = since.get(shard, -1)
        while True:
            body = {
                "size": PAGE,
                "query": {"range": {"_seq_no": {"gt": after}}},
                "sort": [{"_seq_no": "asc"}],
                "seq_no_primary_term": True,
                "_source": source,
                "track_total_hits": False,
            }
            params = {"preference": f"_shards:{shard}|_primary", "ignore_unavailable": "true"}
            hits = _hits(client, patience, body, {"index": index, "params": params})
            if not hits:
                break
            yield hits
            after = int(hits[-1]["sort"][0])


def everything(
    client: OpenSearch, index: str, patience: Patience, *, after: str = "", source: Any = True, page: int = PAGE
) -> Iterator[list[dict[str, Any]]]:
    """All documents with an id behind `after`, in the order of ids, in pages, as they were when it began.

    Read by a slice of the point in time for each shard (at most `SLICES`), all at once and each a page ahead, and
    merged: what is not read in time is read while the caller works. A point in time that is lost (a node that
    restarted) is opened again where the reading had come to: from there on it is the index as it is then.
    """
    view = _View(client, index, patience)
    slices = max(1, min(view.open().shards, SLICES))

    def read(slice_id: int, after: str) -> list[dict[str, Any]]:
        body: dict[str, Any] = {
            "size": page,
            "query": {"match_all": {}},
            "sort": [{"id": "asc"}],
            "_source": source,
            "track_total_hits": False,
        }
        if slices > 1:
            # No more slices than shards: each is whole shards, and no document is looked at to tell whose it is.
            body["slice"] = {"id": slice_id, "max": slices}
        if after:
            body["search_after"] = [after]
        return view.hits(body)

    def hits(slice_id: int) -> Iterator[dict[str, Any]]:
        ahead = readers.submit(read, slice_id, after)
        while found := ahead.result():
            ahead = readers.submit(read, slice_id, str(found[-1]["sort"][0]))
            yield from found

    readers = ThreadPoolExecutor(slices, "slice")
    try:
        merged = heapq.merge(*(hits(each) for each in range(slices)), key=lambda hit: str(hit["sort"][0]))
        while found := list(islice(merged, page)):
            yield found
    finally:
        readers.shutdown(cancel_futures=True)
        view.close()


class _Held(NamedTuple):
    """A point in time: its id, and how many shards it is of."""

    id: str
    shards: int


class _View:
    """A point in time of an index, for several readers at once; opened when first needed, and again when lost."""

    def __init__(self, client: OpenSearch, index: str, patience: Patience) -> None:
        self._client, self._index, self._patience = client, index, patience
        self._lock = threading.Lock()
        self._held: _Held | None = None

    def open(self) -> _Held:
        with self._lock:
            if self._held is None:
                params = {"keep_alive": _KEEP_ALIVE}
                answer = self._patience.call(lambda: self._client.create_pit(index=self._index, params=params))
                self._held = _Held(str(answer["pit_id"]), int(answer["_shards"]["total"]))
            return self._held

    def hits(self, body: Mapping[str, Any]) -> list[dict[str, Any]]:
        while True:
            held = self.open()
            try:
                asked = {**body, "pit": {"id": held.id, "keep_alive": _KEEP_ALIVE}}
                return _hits(self._client, self._patience, asked, {})
            except ClusterError as error:
                if getattr(error.__cause__, "status_code", None) != 404:
                    raise
                with self._lock:
                    if self._held == held:  # or another reader has opened a new one meanwhile
                        self._held = None

    def close(self) -> None:
        if self._held:
            with suppress(OpenSearchException):  # it ends by itself in minutes
                self._client.delete_pit(body={"pit_id": [self._held.id]})


def ids(client: OpenSearch, index: str, patience: Patience) -> Iterator[str]:
    """Every product id of an index, in order."""
    for hits in everything(client, index, patience, source=False, page=10_000):
        for hit in hits:
            yield hit["_id"]


def differences(left: Iterator[str], right: Iterator[str]) -> Iterator[tuple[str, str]]:
    """Ids that only one of two ordered runs has, as ("left" or "right", id); holds one of each at a time."""
    mine, other = next(left, None), next(right, None)
    while mine is not None or other is not None:
        if other is None or (mine is not None and mine < other):
            assert mine is not None
            yield "left", mine
            mine = next(left, None)
        elif mine is None or other < mine:
            yield "right", other
            other = next(right, None)
        else:
            mine, other = next(left, None), next(right, None)


def _hits(
    client: OpenSearch, patience: Patience, body: Mapping[str, Any], where: dict[str, Any]
) -> list[dict[str, Any]]:
    def read() -> list[dict[str, Any]]:
        answer = client.search(body=body, **where)
        shards = answer["_shards"]
        failed = shards.get("failures") or []
        # A shard without any copy is not among the failed ones, only missing from the successful ones.
        if shards["successful"] == shards["total"] and not answer.get("timed_out"):
            hits: list[dict[str, Any]] = answer["hits"]["hits"]
            return hits
        if any("No search context found" in str(failure) for failure in failed):
            raise ClusterError("The point in time is gone.") from NotFoundError(404, "search_context_missing", {})
        # A part of the answer would pass for the whole.
        reason = failed[0].get("reason", {}).get("reason", "") if failed else "it has no copy, or timed out"
        raise unanswered(f"a shard did not answer ({reason})")

    return patience.call(read)
