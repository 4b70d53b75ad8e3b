"""The first index of a catalogue: no alias stands for it, so nobody searches it, until its ingest has come to an end.

Filling it is a job of the catalogue's (`indexer.jobs`), so that the next run, from any machine, goes on with it.
"""

from __future__ import annotations

from collections.abc import Collection

import msgspec
from opensearchpy import OpenSearch

from indexer import aliases, jobs, mappings
from indexer.bulk import BulkWriter
from indexer.client import index_meta
from indexer.errors import ClusterError, UsageError
from indexer.patience import Patience
from indexer.settings import Index
from ingest.reindex.steps import drop_strays, end_cancelled, undo


class First:
    """What an ingest does about the index of a catalogue that has none yet, while it holds the catalogue's lease."""

    def __init__(self, client: OpenSearch, name: str, lease: jobs.Lease, patience: Patience) -> None:
        self._client, self._name, self._lease, self._patience = client, name, lease, patience
        self._fresh = aliases.dated(name)
        self.resumed = False

    def begin(self, settings: Index, made: mappings.Made) -> str:
        """The index that an earlier run has begun, or a new one.

        Raises UsageError when a reindex is making it, ClusterError when it was begun with other models or settings.
        """

        def note(record: jobs.Record) -> None:
            if record.is_open and record.phase != "ingest":
                raise UsageError(
                    f"A reindex is making the first index of {self._name}. Go on with `shelfrank reindex resume "
                    f"{self._name}`, or end it with `shelfrank reindex cancel {self._name}`."
                )
            if not record.is_open:
                record.phase, record.target, record.live = "ingest", self._fresh, ""
            record.wanted, record.paused, record.problem = "", False, ""

        index = self._lease.change(note).target
        self.resumed = index != self._fresh
        aliases.make(self._client, index, mappings.index_body(settings, made), self._patience)
        there = index_meta(self._client, index)[index].get("shelfrank")
        if there != (wanted := msgspec.to_builtins(made)):
            raise ClusterError(
                f"The unfinished first index {index} was begun with {there}, and now it would be {wanted}. Go back to "
                f"the first, or throw it away with `shelfrank reindex cancel {self._name}`."
            )
        return index

    def stopped(self) -> str:
        """Note that the run has ended before the catalogue was whole; what to tell of it."""
        record = self._lease.change(lambda record: setattr(record, "paused", True))
        if record.wanted != "cancel":
            return f"Nobody sees {self._name} before it is whole."
        self.give_up()
        return f"The first ingest of {self._name} was cancelled, and its index deleted."

    def give_up(self) -> None:
        """Leave no index and no job to go on with."""
        undo(self._client, self._lease.change(lambda record: None))
        self._lease.change(end_cancelled)

    def show(self, ids: Collection[str], writer: BulkWriter) -> None:
        """The index holds what was read: let the catalogue's name stand for it. An earlier run may have read another
        file, or this one as it was: what is not among `ids` goes."""
        self._lease.check()
        index = self._lease.change(lambda record: None).target
        if self.resumed:
            drop_strays(self._client, index, iter(sorted(ids)), writer, self._patience)
        aliases.swap(self._client, self._name, "", index)
        self._lease.change(ended)


def ended(record: jobs.Record) -> None:
    """Note that a first ingest is over: the catalogue has an index."""
    if record.phase == "ingest":
        record.phase = "done"
