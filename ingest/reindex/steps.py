"""Steps that a reindex and an operator's commands share."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

from opensearchpy import OpenSearch
from opensearchpy.exceptions import NotFoundError

from indexer import bulk, changes, jobs, tombstones
from indexer.bulk import BulkWriter, Document
from indexer.errors import ClusterError
from indexer.patience import Patience
from ingest.settle import look


def follow_deletions(
    client: OpenSearch,
    catalogue: str,
    live: str,
    since: changes.Marks,
    target: str,
    writer: BulkWriter,
    patience: Patience,
    lease: jobs.Lease,
) -> tuple[set[str], set[str]]:
    """Delete from `target`, by its `writer`, what has a tombstone newer than the marks and is not alive in the live
    index.

    Returns the ids that are gone, and of these those whose removal from the live index is left to do. Raises
    LostError, ClusterError.
    """
    gone, dead = set[str](), set[str]()
    for ids in tombstones.since(client, catalogue, since, patience):
        lease.check()
        there = look(client, catalogue, live, ids, patience)
        dead.update(there.dead)
        absent = [key for key in ids if key not in there.alive]
        gone.update(absent)
        remove(client, target, absent, writer, patience)
    return gone, dead


def remove(client: OpenSearch, index: str, ids: Sequence[str], writer: BulkWriter, patience: Patience) -> None:
    """Delete documents, each as it is when it is looked at. Raises ClusterError."""
    left = list(ids)
    while left:
        there = bulk.stored(client, index, left, patience, False)
        outcome = writer.write(
            [Document(key, op="delete", condition=bulk.condition(found)) for key, found in there.items()]
        )
        left = outcome.conflicts


def keep(record: jobs.Record, index: str, after: changes.Marks, gone: changes.Marks) -> None:
    """Remember an index that the alias leaves, with its successor's marks at that moment."""
    record.history = [kept for kept in record.history if kept.index != index]
    if index:
        record.history.append(jobs.Kept(index, time.time(), after, gone))


def drop_strays(client: OpenSearch, index: str, wanted: Iterator[str], writer: BulkWriter, patience: Patience) -> int:
    """Remove from an index, refreshed, whatever is not `wanted` (ids in their order); returns how many that were."""
    there = changes.ids(client, index, patience)
    strays = [name for side, name in changes.differences(wanted, there) if side == "right"]
    for at in range(0, len(strays), changes.PAGE):
        remove(client, index, strays[at : at + changes.PAGE], writer, patience)
    patience.call(lambda: client.indices.refresh(index=index))
    return len(strays)


def open_again(client: OpenSearch, index: str) -> None:
    """Let an index take writes again."""
    try:
        Patience(30.0).call(
            lambda: client.indices.put_settings(index=index, body={"index": {"blocks": {"write": None}}})
        )
    except ClusterError as error:
        if not isinstance(error.__cause__, NotFoundError):
            raise


def undo(client: OpenSearch, record: jobs.Record) -> None:
    """Take back what an open job has done: the live index takes writes, the new one is gone."""
    if record.live:
        open_again(client, record.live)
    if record.target:
        Patience(30.0).call(lambda: client.indices.delete(index=record.target, params={"ignore_unavailable": "true"}))


def end_cancelled(record: jobs.Record) -> None:
    """Note that an open job has ended without a new index."""
    record.phase, record.wanted, record.paused, record.target = "cancelled", "", False, ""
