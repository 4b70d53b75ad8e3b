"""Build an index beside the live one, bring it up to date, examine it, and put it in the live one's place.

    build    products from their origin into a new index; what it has already is skipped, so a resumed job goes on
    verify   what changed in the live index meanwhile is brought over, again until little is left; then the checks
    switch   the live index takes no writes; the last changes come over; the alias is moved in one step

Where the job is, is kept in the cluster (`indexer.jobs`). Whatever ends the process, the live index is as it was or the
new one is whole, and `resume` goes on from any machine. Between the write block and the moved alias (one catch-up of
the last changes) writers are refused and must try again, as `shelfrank feed` does; searches are answered throughout.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from opensearchpy import OpenSearch

from indexer import aliases, bulk, changes, jobs, mappings, terminal, tombstones
from indexer.bulk import BulkWriter, Outcome
from indexer.client import capabilities
from indexer.errors import ClusterError, InputError, UsageError, WorkerError
from indexer.flights import Flights
from indexer.patience import Patience
from indexer.settings import Settings
from ingest import guards
from ingest.documents import Encoder, Entry, Maker, Stream, Tokens, stored_entry
from ingest.products import StoppedError, pausing
from ingest.reindex.origins import Origin, Progress
from ingest.reindex.steps import drop_strays, end_cancelled, follow_deletions, keep, open_again, undo
from ingest.reindex.verify import Check, Examination, Judged
from ingest.report import DeadLetters, Report
from ingest.sample import Sample
from ingest.settle import in_order, look, refuse

T = TypeVar("T")

FEW_CHANGES = 1000  # what a catch-up may leave to the one that writers wait for
MAX_CATCH_UPS = 20
_TELL_EVERY_S = 2.0
_GREEN_S = 120.0


@dataclass(frozen=True)
class Options:
    """What one run is asked to do. `sample` products are compared field by field."""

    name: str
    dead_letter: Path
    sample: int = 200
    judged: Judged | None = None
    force_merge: bool = False
    allow: frozenset[str] = frozenset()


class Reindex:
    """One run of a job. `report` is filled as it goes; `checks` holds what the examination saw. Documents are made in
    this process unless a `stream` is given that makes them elsewhere; with a `second` encoder they have its
    vectors too."""

    def __init__(
        self,
        client: OpenSearch,
        origin: Origin,
        encoder: Encoder,
        tokens: Tokens,
        settings: Settings,
        options: Options,
        *,
        stop: threading.Event | None = None,
        on_progress: Progress = lambda phase, done, total: None,
        lease_s: float = jobs.LEASE_S,
        stream: Stream | None = None,
        second: Encoder | None = None,
    ) -> None:
        self.report = Report()
        self.checks: list[Check] = []
        self._client, self._origin, self._options = client, origin, options
        self._maker, self._settings = Maker(encoder, tokens, second), settings
        self._stream = stream or self._maker.stream
        self._stop, self._on_progress, self._lease_s = stop or threading.Event(), on_progress, lease_s
        self._pause = pausing(self._stop)
        self._patience = Patience(settings.ingest.patience_s, sleep=self._pause, tell=terminal.note)
        self._board = jobs.Board(client, settings.ingest.patience_s)
        self._ids: set[str] = set()  # what the new index should hold; only where the origin is no index
        self._touched: set[str] = set()  # written by a catch-up: newer than what the origin said
        self._dead: set[str] = set()  # deleted by their tombstone, and perhaps in the live index still
        self._again: list[Entry] = []  # written by somebody else between our look at them and our write
        self._fresh = aliases.dated(options.name)  # what a new job builds
        self._sample = Sample[Entry](options.sample, options.name)
        self._told = 0.0

    def start(self) -> Report:
        """A new job, to its end. Raises UsageError where one is open, else as `resume`."""
        return self._run(self._begin)

    def resume(self) -> Report:
        """Go on with the open job. Raises UsageError where there is none, LostError where another has it, ClusterError
        when the cluster fails or the new index is refused. The report says `stopped` when it was told to pause."""
        return self._run(self._go_on)

    def _run(self, opening: Any) -> Report:
        started = time.monotonic()
        name = self._options.name
        try:
            mappings.check_vector(self._settings.index, self._patience.call(lambda: capabilities(self._client)))
            with jobs.Lease(self._board, name, lease_s=self._lease_s, sleep=self._pause) as lease:
                record = lease.change(opening)
                self.report.index = record.target
                try:
                    self._phases(lease, record)
                except StoppedError:
                    self._stopped(lease)
                except jobs.LostError:
                    raise
                except (ClusterError, InputError, WorkerError) as error:
                    problem = str(error)
                    lease.change(lambda record: setattr(record, "problem", problem))
                    raise
        except StoppedError:
            self.report.stopped = True  # before there was a job to go on with
        finally:
            self.report.seconds = time.monotonic() - started
        return self.report

    # Opening a job

    def _begin(self, record: jobs.Record) -> None:
        name = self._options.name
        live = aliases.live(self._client, name)
        if record.target == self._fresh:
            return  # our own note, whose answer was lost
        if record.phase == "ingest" and live is None:
            record.must_be_reindex()
        if record.is_open and record.phase != "ingest":
            raise UsageError(
                f"A reindex of {name} is open ({record.phase}, {record.done:,} done). Go on with "
                f"`shelfrank reindex resume {name}`, or end it with `shelfrank reindex cancel {name}`."
            )
        if self._origin.stored and live is None:
            raise UsageError(f"There is no catalogue {name} to take products from. Name a file with --file.")
        now = time.time()
        fresh = jobs.Record(
            name,
            job=f"{name}-{int(now)}",
            phase="build",
            source=self._origin.described(),
            target=self._fresh,
            live=live.index if live else "",
            encoder=self._maker.encoder.bundle_id,
            second_encoder=self._maker.second.bundle_id if self._maker.second else "",
            tokens=self._maker.tokens.tokens_id,
            # From before the first product is read: what changes from now on is brought over.
            marks=changes.marks(self._client, live.index, self._patience) if live else {},
            deleted_marks=self._marks(tombstones.index_name(name)),
            started_at=now,
            history=record.history,
            owner=record.owner,
            lease=record.lease,
            lease_s=record.lease_s,
            renewals=record.renewals,
            lease_until=record.lease_until,
        )
        _copy(fresh, record)

    def _go_on(self, record: jobs.Record) -> None:
        record.must_be_reindex()
        begun = [name for name in (record.encoder, record.second_encoder) if name]
        encoders = [each.bundle_id for each in self._maker.encoders.values()]
        if (begun, record.tokens) != (encoders, self._maker.tokens.tokens_id):
            raise UsageError(
                f"This reindex was begun with the encoder {' and '.join(begun)} and token ids {record.tokens}; loaded "
                f"are {' and '.join(encoders)} and {self._maker.tokens.tokens_id}. Set models.encoder, "
                "models.second_encoder (--second-encoder) and models.reranker to the first."
            )
        record.wanted, record.paused, record.problem = "", False, ""

    # The phases

    def _phases(self, lease: jobs.Lease, record: jobs.Record) -> None:
        live = aliases.live(self._client, record.catalogue)
        if record.phase == "switch" and live is not None and live.index == record.target:
            self._end(lease)  # it ended between the moved alias and its note
            return
        if (live.index if live else "") != record.live:
            raise ClusterError(
                f"{record.catalogue} stood for {record.live or 'nothing'} when this reindex began, and stands for "
                f"{live.index if live else 'nothing'} now. Cancel it and start anew."
            )
        self._make(record)
        with DeadLetters(self._options.dead_letter) as letters:
            try:
                self._build(lease, record, letters)
            finally:
                self.report.dead_letter = letters.written
        if self.report.read and not self.report.clean:
            raise InputError(
                f"All {self.report.read} rows were rejected ({', '.join(self.report.reasons)}): look at "
                f"{self.report.dead_letter}, and whether the mapping fits the file."
            )
        lease.change(lambda record: setattr(record, "phase", "verify"))
        self._settle_in(lease, record)
        self._verify(lease, record)
        self._guard(record)
        self._switch(lease, record)

    def _make(self, record: jobs.Record) -> None:
        body = mappings.index_body(self._settings.index, self._maker.made(self._settings.index))
        # Nobody searches it yet: no refreshes, no copies.
        body["settings"]["index"] |= {"refresh_interval": "-1", "number_of_replicas": 0}
        aliases.make(self._client, record.target, body, self._patience)

    def _build(self, lease: jobs.Lease, record: jobs.Record, letters: DeadLetters) -> None:
        entries = self._origin.entries(self.report, letters, self._stop, self._on_progress)
        total = self._origin.total() if self._origin.stored else None
        wanted = self._wanted(record, _batches(entries, self._settings.ingest.batch), letters)
        # The origin has each product once, so it does not matter which batch is written first.
        while True:
            with Flights(self._writer(record.target)) as flights:
                for batch, documents in self._stream(self._changed(record, wanted)):
                    lease.check()
                    flights.send(documents, partial(self._written, batch, letters))
                    self._progress(lease, "Build", self.report.read, total or self._origin.total())
            if not self._again:
                break
            wanted, self._again = _batches(iter(self._again), self._settings.ingest.batch), []

    def _wanted(
        self, record: jobs.Record, batches: Iterator[list[Entry]], letters: DeadLetters
    ) -> Iterator[list[Entry]]:
        """What the new index should hold of each batch."""
        for batch in batches:
            chosen = self._alive(record, batch) if self._origin.stored else self._newest(record, batch, letters)
            for entry in chosen:
                self._sample.offer(entry)
            if not self._origin.stored:
                self._ids.update(entry.id for entry in chosen)
            yield chosen

    def _alive(self, record: jobs.Record, batch: Sequence[Entry]) -> list[Entry]:
        """Products of the live index without those that their tombstone deletes."""
        deleted = tombstones.versions(self._client, record.catalogue, [entry.id for entry in batch], self._patience)
        dead = {entry.id for entry in batch if tombstones.deletes(deleted.get(entry.id), entry.version)}
        self._dead |= dead
        return [entry for entry in batch if entry.id not in dead]

    def _newest(self, record: jobs.Record, batch: Sequence[Entry], letters: DeadLetters) -> list[Entry]:
        """A file's rows without what was deleted since, and with the live document where that is newer."""
        ids = [entry.id for entry in batch]
        there = look(self._client, record.catalogue, record.live, ids, self._patience)
        newer = [row.id for row in batch if there.is_newer(row)]
        whole = bulk.stored(self._client, record.live, newer, self._patience)
        chosen = []
        for row in batch:
            if there.is_deleted(row, self.report, letters):
                continue
            if row.id in whole:
                self.report.superseded += 1
                chosen.append(stored_entry(whole[row.id]["_source"]))
            else:
                chosen.append(in_order(row, there.held(row.id)))
        return chosen

    def _changed(self, record: jobs.Record, batches: Iterator[list[Entry]]) -> Iterator[list[Entry]]:
        """What the new index does not hold already of each batch."""
        fields = ["content_hash", "version"]
        for batch in batches:
            there = bulk.stored(self._client, record.target, [entry.id for entry in batch], self._patience, fields)
            changed = []
            for entry in batch:
                found = there.get(entry.id, {})
                entry.seen = bulk.condition(found)
                if self._maker.made_already(entry, found.get("_source", {})):
                    self.report.unchanged += 1
                else:
                    changed.append(entry)
            yield changed

    def _written(self, batch: Sequence[Entry], letters: DeadLetters | None, outcome: Outcome) -> None:
        self.report.written += len(outcome.written)
        if outcome.conflicts:
            by_id = {entry.id: entry for entry in batch}
            self._again += [by_id[name] for name in outcome.conflicts]
        if letters:
            refuse(outcome, batch, self.report, letters)
        else:
            self.report.failed += len(outcome.refused)

    def _settle_in(self, lease: jobs.Lease, record: jobs.Record) -> None:
        """Searchable, with its copies, and nearly up to date."""
        target = record.target
        self._refresh(target)
        if self._options.force_merge:
            self._on_progress("Merge", 0, None)
            self._patience.call(
                lambda: self._client.indices.forcemerge(
                    index=target, params={"max_num_segments": "1"}, request_timeout=3600
                )
            )
        settings = {"index": {"refresh_interval": None, "number_of_replicas": self._settings.index.replicas}}
        self._patience.call(lambda: self._client.indices.put_settings(index=target, body=settings))
        for _ in range(MAX_CATCH_UPS):
            lease.check()
            if self._catch_up(lease, record) <= FEW_CHANGES:
                break
        # The old index has its copies too: a switch to one without would be a step down.
        params: dict[str, Any] = {"wait_for_status": "green", "timeout": f"{_GREEN_S:.0f}s"}
        health = self._patience.call(
            lambda: self._client.cluster.health(index=target, params=params, request_timeout=_GREEN_S + 30)
        )
        if health.get("timed_out"):
            self.report.warnings.append(
                f"{target} is {health.get('status')} after {_GREEN_S:.0f} s: not all of its "
                f"{self._settings.index.replicas} copies have a node to be on."
            )

    def _verify(self, lease: jobs.Lease, record: jobs.Record) -> None:
        self._on_progress("Verify", 0, None)
        self._refresh(record.target)
        if not self._origin.stored and self._count(record.target) != len(self._ids):
            self._drop_strays(record)
        # What the live index has may change while this looks: it is counted again when nothing can.
        expected = self._count(record.target) if self._origin.stored else len(self._ids)
        sample = [entry for entry in self._sample.entries if entry.id not in self._touched]
        examined = self._examination(record)
        examined.run(record.live, expected, self.report.failed, sample, self._options.judged)
        self._judge(lease, examined)

    def _guard(self, record: jobs.Record) -> None:
        """The new index is like the live one, or somebody has said that it need not be."""
        if self._origin.stored:
            return  # it has what the live one has, product by product
        guards.refuse_empty(self._count(record.target), record.target)
        if record.live:
            chosen = self._settings.guards
            found = guards.indexes(self._client, record.live, record.target, chosen, self._patience)
            what = f"{record.live} stays live, and {record.target} waits beside it"
            guards.refuse(found, self._options.allow, what, f"shelfrank reindex resume {record.catalogue}")

    def _examination(self, record: jobs.Record) -> Examination:
        return Examination(self._client, record.target, self._maker, self._settings.index, self._patience)

    def _judge(self, lease: jobs.Lease, examined: Examination) -> None:
        self.checks = examined.checks
        seen = msgspec.to_builtins(examined.checks)

        def note(record: jobs.Record) -> None:
            record.checks = seen
            if examined.failed:
                record.phase = "refused"

        lease.change(note)
        examined.refuse()

    def _switch(self, lease: jobs.Lease, record: jobs.Record) -> None:
        client, live, target = self._client, record.live, record.target
        lease.change(lambda record: setattr(record, "phase", "switch"))
        self._on_progress("Switch", 0, None)
        try:
            if live:
                # Waits for writes in flight; from its answer on none can be lost.
                self._patience.call(lambda: client.indices.add_block(index=live, block="write"))
                self._catch_up(lease, record)
            self._last_look(lease, record)
            after = self._marks(target)
            gone = self._marks(tombstones.index_name(record.catalogue))
            lease.change(lambda record: keep(record, live, after, gone))
            lease.check()
            aliases.swap(client, record.catalogue, live, target)
        except BaseException:
            if live:
                open_again(client, live)
            raise
        self._end(lease)

    def _last_look(self, lease: jobs.Lease, record: jobs.Record) -> None:
        """With nothing written any more: both hold the same products, to the last one."""
        self._refresh(record.target)
        if self._origin.stored:
            self._refresh(record.live)
        expected = self._alive_in(record.live) if self._origin.stored else len(self._ids)
        if self._count(record.target) != expected:
            self._drop_strays(record)
        examined = self._examination(record)
        examined.written(self.report.failed)
        examined.count(expected)
        examined.checks += [check for check in self.checks if check.name not in ("written", "count")]
        self._judge(lease, examined)

    def _drop_strays(self, record: jobs.Record) -> None:
        """Remove what the new index should not have: products deleted past shelfrank, without a tombstone, while it was
        built, or rows of the file as it was before the job was resumed."""
        if self._origin.stored:
            wanted: Iterator[str] = (
                name for name in changes.ids(self._client, record.live, self._patience) if name not in self._dead
            )
        else:
            wanted = iter(sorted(self._ids))
        drop_strays(self._client, record.target, wanted, self._writer(record.target), self._patience)

    def _end(self, lease: jobs.Lease) -> None:
        def ended(record: jobs.Record) -> None:
            record.phase, record.problem, record.wanted, record.paused = "done", "", "", False

        lease.change(ended)

    # Keeping up with the live index

    def _catch_up(self, lease: jobs.Lease, record: jobs.Record) -> int:
        """Bring over what changed in the live index since the record's marks; returns how many products that were."""
        if not record.live:
            return 0
        client, name = self._client, record.catalogue
        marks, deleted_marks = self._marks(record.live), self._marks(tombstones.index_name(name))
        self._refresh(record.live)
        writer = self._writer(record.target)
        count = 0

        def changed() -> Iterator[Entry]:
            nonlocal count
            for hits in changes.changed_since(client, record.live, record.marks, self._patience):
                for hit in hits:
                    count += 1
                    yield stored_entry(hit["_source"])

        left = changed()
        while True:
            batches = _batches(left, self._settings.ingest.batch)
            for batch, documents in self._stream(self._changed(record, self._newer(record, batches))):
                lease.check()
                outcome = Outcome()
                try:
                    writer.write(documents, outcome)
                finally:
                    self._written(batch, None, outcome)
            if not self._again:
                break
            left, self._again = iter(self._again), []
        gone, dead = follow_deletions(
            client, name, record.live, record.deleted_marks, record.target, writer, self._patience, lease
        )
        self._dead |= dead
        self._ids.difference_update(gone)
        self._touched.update(gone)
        # Here alone: a resumed job builds again from its origin, and must bring over all that came since it began.
        record.marks, record.deleted_marks = marks, deleted_marks
        return count + len(gone)

    def _newer(self, record: jobs.Record, batches: Iterator[list[Entry]]) -> Iterator[list[Entry]]:
        """What of each batch is to replace what the new index holds: a file may know of a newer version."""
        for found in batches:
            batch = self._alive(record, found)
            ids = [entry.id for entry in batch]
            there = bulk.stored(self._client, record.target, ids, self._patience, ["version"])
            versions = {key: found["_source"].get("version") for key, found in there.items()}
            self._touched.update(ids)
            if not self._origin.stored:
                self._ids.update(ids)
            yield [entry for entry in batch if (versions.get(entry.id) or -1) <= (entry.version or 0)]

    # Small things

    def _progress(self, lease: jobs.Lease, phase: str, done: int, total: int | None) -> None:
        self._on_progress(phase, done, total)
        if time.monotonic() - self._told > _TELL_EVERY_S:
            self._told = time.monotonic()

            def tell(record: jobs.Record) -> None:
                record.done, record.total = done, total

            lease.change(tell)
        self._pause(0)
        if lease.wanted:
            raise StoppedError

    def _stopped(self, lease: jobs.Lease) -> None:
        self.report.stopped = True

        def note(record: jobs.Record) -> None:
            record.paused, record.done = True, self.report.read

        record = lease.change(note)
        if record.wanted == "cancel":
            undo(self._client, record)
            lease.change(lambda record: end_cancelled(record))
            self.report.warnings.append("The reindex was cancelled; the live index is as it was.")

    def _writer(self, index: str) -> BulkWriter:
        ingest = self._settings.ingest
        return BulkWriter(
            self._client,
            index,
            max_bytes=ingest.bulk_bytes,
            max_requests=ingest.bulk_requests,
            patience=self._patience,
        )

    def _marks(self, index: str) -> changes.Marks:
        return changes.marks(self._client, index, self._patience)

    def _refresh(self, index: str) -> None:
        self._patience.call(lambda: self._client.indices.refresh(index=index))

    def _alive_in(self, index: str) -> int:
        """How many products of an index are not deleted by their tombstone."""
        dead, ids = 0, sorted(self._dead)
        for at in range(0, len(ids), changes.PAGE):
            there = look(self._client, self._options.name, index, ids[at : at + changes.PAGE], self._patience)
            dead += len(there.dead)
            # Those that came back meanwhile are no strays.
            self._dead.difference_update(there.alive)
        return self._count(index) - dead

    def _count(self, index: str) -> int:
        return int(self._patience.call(lambda: self._client.count(index=index))["count"])


def _copy(source: jobs.Record, to: jobs.Record) -> None:
    for name in source.__struct_fields__:
        setattr(to, name, getattr(source, name))


def _batches(items: Iterator[T], size: int) -> Iterator[list[T]]:
    while batch := list(islice(items, size)):
        yield batch
