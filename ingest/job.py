"""A catalogue file into the live index: clean, skip what is stored already, embed, write; a rerun goes on where one
ended. The first index of a catalogue is seen when it is whole; building one beside a live one is `ingest.reindex`.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from opensearchpy import OpenSearch

from indexer import aliases, jobs, mappings, terminal
from indexer.bulk import BulkWriter, Outcome
from indexer.client import capabilities
from indexer.errors import ClusterError, InputError
from indexer.patience import Patience
from indexer.settings import Settings
from ingest import guards
from ingest.documents import Encoder, Entry, Maker, Tokens
from ingest.first import First, ended
from ingest.products import Products, StoppedError, pausing
from ingest.report import DeadLetters, Report
from ingest.settle import look, overtaken, refuse, settle
from ingest.sources import Catalogue


@dataclass(frozen=True)
class Options:
    """What one run is asked to do."""

    name: str
    dead_letter: Path
    limit: int | None = None
    allow: frozenset[str] = frozenset()


class Job:
    """One run over one catalogue. `report` is filled as it goes and is right at any moment."""

    def __init__(
        self,
        client: OpenSearch,
        catalogue: Catalogue,
        encoder: Encoder,
        tokens: Tokens,
        settings: Settings,
        options: Options,
        *,
        stop: threading.Event | None = None,
        on_progress: Callable[[str, int, int | None], None] = lambda phase, done, total: None,
        lease_s: float = jobs.LEASE_S,
        second: Encoder | None = None,
    ) -> None:
        self.report = Report()
        self._client, self._catalogue = client, catalogue
        self._maker = Maker(encoder, tokens, second)
        self._settings, self._options = settings, options
        self._stop = stop or threading.Event()
        self._on_progress, self._lease_s = on_progress, lease_s
        self._pause = pausing(self._stop)
        self._patience = Patience(settings.ingest.patience_s, sleep=self._pause, tell=terminal.note)
        self._made = self._maker.made(settings.index)
        self._ids: set[str] = set()  # what a first index should hold that an earlier run has begun

    def run(self) -> Report:
        """Do it. Raises InputError or ClusterError; the report then tells how far it came.

        When `stop` is set, the batch in flight is finished and the report says `stopped`.
        """
        started = time.monotonic()
        try:
            with jobs.Lease(
                jobs.Board(self._client), self._options.name, lease_s=self._lease_s, sleep=self._pause
            ) as lease:
                return self._run(lease)
        except StoppedError:
            self.report.stopped = True  # while the cluster was waited for
            return self.report
        except ClusterError as error:
            raise ClusterError(f"{error} {self._how_far()}") from error
        finally:
            self.report.seconds = time.monotonic() - started

    def _run(self, lease: jobs.Lease) -> Report:
        report, options = self.report, self._options
        mappings.check_vector(self._settings.index, self._patience.call(lambda: capabilities(self._client)))
        live = aliases.live(self._client, options.name)
        first = None
        if live is None:
            first = First(self._client, options.name, lease, self._patience)
            report.index = first.begin(self._settings.index, self._made)
        else:
            lease.change(ended)  # where the last run came no further than to move the alias
            report.index = self._fitting(live)
            found = guards.file(self._client, live.index, self._catalogue, self._settings.guards, self._patience)
            what = f"Nothing was written to {live.index}"
            guards.refuse(found, options.allow, what, f"shelfrank ingest --index {options.name} …")
        if self._catalogue.unused:
            report.warnings.append(f"Columns that the mapping does not use: {', '.join(self._catalogue.unused)}.")
        with DeadLetters(options.dead_letter) as letters:
            try:
                self._ingest(report.index, letters, lease, first)
            except StoppedError:
                report.stopped = True
                if first:
                    report.warnings.append(first.stopped())
                    return report
            finally:
                report.dead_letter = letters.written
        if first and not first.resumed and not report.clean and not report.stopped:
            first.give_up()
        if report.read and not report.clean and not report.stopped:
            raise InputError(
                f"All {report.read} rows were rejected ({', '.join(report.reasons)}): look at {report.dead_letter}, "
                "and whether the mapping fits the file."
            )
        if not report.stopped:
            guards.refuse_empty(report.read, str(self._catalogue.path))
        self._patience.call(lambda: self._client.indices.refresh(index=report.index))
        if first:
            first.show(self._ids, self._writer(report.index))
        return report

    def _fitting(self, live: aliases.Live) -> str:
        """The live index, if documents of this encoder and this version go into it. Raises ClusterError."""
        name, there, wanted = self._options.name, live.made, self._made
        self._maker = self._maker.fitting(live.index, there, name)
        if there.format != wanted.format:
            raise ClusterError(
                f"{name} ({live.index}) has format {there.format} of the documents, and this version writes "
                f"{wanted.format}. Renew it with `shelfrank reindex start {name}`, or ingest under another name."
            )
        if there.vector != wanted.vector:
            self.report.warnings.append(
                f"{live.index} keeps the vector settings that it was made with ({there.vector}); "
                f"`shelfrank reindex start {name}` applies the present ones."
            )
        return live.index

    def _ingest(self, index: str, letters: DeadLetters, lease: jobs.Lease, first: First | None) -> None:
        ingest = self._settings.ingest
        writer = self._writer(index)
        products = Products(
            self._catalogue,
            self.report,
            limit=self._options.limit,
            stop=self._stop,
            on_progress=self._on_progress,
        )
        entries = products.entries(letters)
        while batch := list(islice(entries, ingest.batch)):
            lease.check()
            if first and first.resumed:
                self._ids.update(entry.id for entry in batch)
            self._write(index, batch, writer, letters)
            self._on_progress("Ingest", self.report.read, products.total)
            self._pause(0)
            if first and lease.wanted:
                raise StoppedError

    def _writer(self, index: str) -> BulkWriter:
        return BulkWriter(self._client, index, max_bytes=self._settings.ingest.bulk_bytes, patience=self._patience)

    def _write(self, index: str, batch: Sequence[Entry], writer: BulkWriter, letters: DeadLetters) -> None:
        report, left = self.report, list(batch)
        while left:
            there = look(self._client, self._options.name, index, [entry.id for entry in left], self._patience)
            changed = settle(left, there, self._maker, report, letters)
            chosen = {entry.id: entry for entry in changed}
            removals = [each for each in there.removals() if each.id not in chosen]
            outcome = Outcome()
            try:
                writer.write([*self._maker.documents(changed), *removals], outcome)
            finally:
                written = [name for name in outcome.written if name in chosen]
                report.written += len(written)
                refuse(outcome, changed, report, letters)
            if outcome.blocked:
                raise ClusterError(
                    f"{index} takes no writes at present (a switch to a new index that did not end, or an operator's "
                    f"write block). See `shelfrank reindex status {self._options.name}`."
                )
            created = {name: chosen[name].version for name in written if not chosen[name].seen}
            gone = overtaken(self._client, self._options.name, created, self._patience)
            report.written -= len(gone)
            # Somebody else wrote these since they were looked at: look again.
            again = gone.union(name for name in outcome.conflicts if name in chosen)
            left = [entry for entry in left if entry.id in again]

    def _how_far(self) -> str:
        report = self.report
        if not report.index:
            return ""
        return (
            f"So far {report.written} products were written to {report.index} and {report.unchanged} were there "
            "already. When the cluster is back, the same command will go on: what is written is skipped."
        )
