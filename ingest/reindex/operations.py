"""What an operator does with reindex jobs and the indexes they leave: look, pause, cancel, roll back, clean up."""

from __future__ import annotations

import time

import msgspec
from opensearchpy import OpenSearch

from indexer import aliases, bulk, changes, jobs, mappings, tombstones
from indexer.bulk import BulkWriter
from indexer.client import index_meta
from indexer.errors import ClusterError, UsageError
from indexer.patience import Patience
from indexer.settings import Settings
from ingest.documents import Encoder, Maker, Tokens, stored_entry
from ingest.reindex.steps import end_cancelled, follow_deletions, keep, open_again, undo


class Status(msgspec.Struct):
    """A catalogue's job as an operator sees it. `running`: some process holds it at this moment; `blocked`: the live
    index takes no writes."""

    record: jobs.Record
    running: bool
    live: str
    documents: int | None
    kept: list[str]
    leftovers: list[str]
    blocked: bool = False


def status(client: OpenSearch, name: str) -> Status:
    """How it stands. Raises ClusterError."""
    record = jobs.Board(client).read(name)
    live = aliases.live(client, name)
    documents = int(Patience(30.0).call(lambda: client.count(index=live.index))["count"]) if live else None
    there = set(aliases.leftovers(client, name))
    kept = [each.index for each in record.history if each.index in there]
    open_target = {record.target} if record.is_open else set()
    return Status(
        record,
        record.held_by_other("", time.time()),
        live.index if live else "",
        documents,
        kept,
        sorted(there - set(kept) - open_target),
        live is not None and aliases.blocked(client, live.index),
    )


def pause(client: OpenSearch, name: str) -> jobs.Record:
    """Ask the process that holds the job to stop after its batch. Raises UsageError when none is open."""

    def ask(record: jobs.Record) -> None:
        _must_be_open(record)
        record.wanted = "pause"

    return jobs.Board(client).change(name, ask)


def cancel(client: OpenSearch, name: str) -> jobs.Record:
    """End the open job and delete its index. Where a process holds it, that one does so; see `running`."""
    board = jobs.Board(client)

    def ask(record: jobs.Record) -> None:
        _must_be_open(record)
        record.wanted = "cancel"

    record = board.change(name, ask)
    if record.held_by_other("", time.time()):
        return record
    try:
        with jobs.Lease(board, name) as lease:
            return _end(client, lease)
    except jobs.LostError:
        return board.read(name)  # somebody holds it after all, and reads what is wanted of it


def _end(client: OpenSearch, lease: jobs.Lease) -> jobs.Record:
    record = lease.change(lambda record: None)
    if not record.is_open:
        return record  # its holder was faster
    live = aliases.live(client, record.catalogue)
    if live is not None and live.index == record.target:
        raise UsageError(
            f"{record.catalogue} stands for {record.target} already. End the job with "
            f"`shelfrank reindex resume {record.catalogue}`; `shelfrank reindex rollback {record.catalogue}` "
            "then leads back."
        )
    undo(client, record)
    return lease.change(end_cancelled)


def rollback(
    client: OpenSearch, name: str, encoder: Encoder, tokens: Tokens, settings: Settings, second: Encoder | None = None
) -> tuple[str, int]:
    """Put the index that was live before in the live one's place, with all that changed since; the live one is kept.

    Returns the index that is live now, and how many changes were brought over. Raises UsageError when none is kept,
    ClusterError also when its encoder is not a loaded one.
    """
    patience = Patience(settings.ingest.patience_s)
    with jobs.Lease(jobs.Board(client, settings.ingest.patience_s), name) as lease:
        record = lease.change(lambda record: None)
        if record.is_open:
            raise UsageError(f"A reindex of {name} is open. Resume or cancel it first.")
        live = aliases.live(client, name)
        there = set(aliases.leftovers(client, name))
        kept = next((each for each in reversed(record.history) if each.index in there), None)
        if live is None or kept is None:
            raise UsageError(f"No earlier index of {name} is kept, so there is nothing to roll back to.")
        there = msgspec.convert(index_meta(client, kept.index)[kept.index]["shelfrank"], mappings.Made)
        maker = Maker(encoder, tokens, second).fitting(kept.index, there, name)
        try:
            patience.call(lambda: client.indices.add_block(index=live.index, block="write"))
            open_again(client, kept.index)
            brought = _bring_back(client, name, live.index, kept, maker, patience, lease)
            graves = tombstones.index_name(name)
            after, gone = changes.marks(client, kept.index, patience), changes.marks(client, graves, patience)
            left = live.index
            # The one that comes back stays in the history: until the alias has moved, it is what can be gone back to.
            lease.change(lambda record: keep(record, left, after, gone))
            lease.check()
            aliases.swap(client, name, live.index, kept.index)
        except BaseException:
            open_again(client, live.index)
            raise
        return kept.index, brought


def _bring_back(
    client: OpenSearch,
    name: str,
    live: str,
    kept: jobs.Kept,
    maker: Maker,
    patience: Patience,
    lease: jobs.Lease,
) -> int:
    writer = BulkWriter(client, kept.index, patience=patience)
    patience.call(lambda: client.indices.refresh(index=live))
    count = 0
    for hits in changes.changed_since(client, live, kept.marks, patience):
        left = {hit["_id"]: stored_entry(hit["_source"]) for hit in hits}
        deleted = tombstones.versions(client, name, list(left), patience)
        left = {key: each for key, each in left.items() if not tombstones.deletes(deleted.get(key), each.version)}
        count += len(left)
        while left:
            lease.check()
            there = bulk.stored(client, kept.index, list(left), patience, False)
            for key, entry in left.items():
                entry.seen = bulk.condition(there.get(key))
            outcome = writer.write(maker.documents(list(left.values())))
            if outcome.refused:
                raise ClusterError(f"{kept.index} does not take {outcome.refused[0].id}: {outcome.refused[0].reason}")
            left = {key: left[key] for key in outcome.conflicts}
    gone, _ = follow_deletions(client, name, live, kept.deleted_marks, kept.index, writer, patience, lease)
    count += len(gone)
    patience.call(lambda: client.indices.refresh(index=kept.index))
    return count


def clean(client: OpenSearch, name: str, keep_last: int, *, dry_run: bool = False) -> list[str]:
    """Delete indexes of the catalogue that no name stands for, but the last `keep_last` that were live.

    Returns their names. Never touches the live index or that of an open job.
    """
    board = jobs.Board(client)
    with jobs.Lease(board, name) as lease:
        record = lease.change(lambda record: None)
        there = aliases.leftovers(client, name)
        live = aliases.live(client, name)
        kept = [each.index for each in record.history if each.index in there]
        spared = set(kept[len(kept) - keep_last :]) if keep_last else set()
        spared |= {record.target} if record.is_open else set()
        spared |= {live.index} if live else set()
        doomed = [index for index in there if index not in spared]
        if dry_run:
            return doomed
        for index in doomed:
            lease.check()
            Patience(30.0).call(
                lambda: client.indices.delete(index=index, params={"ignore_unavailable": "true"})  # noqa: B023
            )

        def forget(record: jobs.Record) -> None:
            record.history = [each for each in record.history if each.index not in doomed]

        lease.change(forget)
        return doomed


def _must_be_open(record: jobs.Record) -> None:
    if not record.is_open:
        record.must_be_reindex()
