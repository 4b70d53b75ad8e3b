"""Steps that a reindex and an operator's commands share."""

from __future__ import annotations

import time

from opensearchpy import OpenSearch
from opensearchpy.exceptions import NotFoundError

from indexer import bulk, changes, jobs, tombstones
from indexer.bulk import BulkWriter, Document
from indexer.errors import ClusterError
from indexer.patience import Patience


def follow_deletions(
    client: OpenSearch,
    catalogue: str,
    live: str,
    since: changes.Marks,
    dying: set[str],
    writer: BulkWriter,
    patience: Patience,
    lease: jobs.Lease,
) -> list[str]:
    """Delete, where `writer` writes to, what has a tombstone newer than the marks and is not in the live index.

    `dying` holds those that still are there, whose tombstone comes before their end: the next call looks again.
    Returns the ids that are gone. Raises LostError, ClusterError.
    """
    for ids in tombstones.since(client, catalogue, since, patience):
        lease.check()
        dying.update(ids)
    gone: list[str] = []
    for at in range(0, len(known := sorted(dying)), changes.PAGE):
        ids = known[at : at + changes.PAGE]
        still = bulk.stored(client, live, ids, patience, False)
        absent = [key for key in ids if key not in still]
        writer.write([Document(key, op="delete") for key in absent])
        gone += absent
    dying.difference_update(gone)
    return gone


def keep(record: jobs.Record, index: str, after: changes.Marks, gone: changes.Marks) -> None:
    """Remember an index that the alias leaves, with its successor's marks at that moment."""
    record.history = [kept for kept in record.history if kept.index != index]
    if index:
        record.history.append(jobs.Kept(index, time.time(), after, gone))


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
