"""A catalogue file into the live index: clean, skip what is stored already, embed, write; a rerun goes on where one
ended. Building a whole index beside the live one is `ingest.reindex`.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from opensearchpy import OpenSearch

from indexer import aliases, bulk, jobs, mappings, tombstones
from indexer.bulk import BulkWriter, Outcome, Patience
from indexer.client import capabilities
from indexer.errors import ClusterError, InputError
from indexer.settings import Settings
from ingest.documents import OFFER_FIELDS, Encoder, Entry, Maker, Tokens, stored_entry
from ingest.feed.state import keep_offers
from ingest.products import Products, StoppedError
from ingest.report import DeadLetters, Report
from ingest.sources import Catalogue, Rejection


@dataclass(frozen=True)
class Options:
    """What one run is asked to do."""

    name: str
    dead_letter: Path
    limit: int | None = None


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
    ) -> None:
        self.report = Report()
        self._client, self._catalogue = client, catalogue
        self._maker = Maker(encoder, tokens)
        self._settings, self._options = settings, options
        self._stop = stop or threading.Event()
        self._on_progress = on_progress
        self._patience = Patience(settings.ingest.patience_s, sleep=self._pause)
        self._made = mappings.made(settings.index, encoder.bundle_id, encoder.dimension)

    def run(self) -> Report:
        """Do it. Raises InputError or ClusterError; the report then tells how far it came.

        When `stop` is set, the batch in flight is finished and the report says `stopped`.
        """
        started = time.monotonic()
        try:
            with jobs.Lease(jobs.Board(self._client), self._options.name) as lease:
                return self._run(lease)
        except ClusterError as error:
            raise ClusterError(f"{error} {self._how_far()}") from error
        finally:
            self.report.seconds = time.monotonic() - started

    def _run(self, lease: jobs.Lease) -> Report:
        report, options = self.report, self._options
        mappings.check_vector(self._settings.index, self._patience.call(lambda: capabilities(self._client)))
        report.index = self._target(aliases.live(self._client, options.name))
        if self._catalogue.unused:
            report.warnings.append(f"Columns that the mapping does not use: {', '.join(self._catalogue.unused)}.")
        with DeadLetters(options.dead_letter) as letters:
            try:
                self._ingest(report.index, letters, lease)
            except StoppedError:
                report.stopped = True
            finally:
                report.dead_letter = letters.written
        if report.read and not report.clean and not report.stopped:
            raise InputError(
                f"All {report.read} rows were rejected ({', '.join(report.reasons)}): look at {report.dead_letter}, "
                "and whether the mapping fits the file."
            )
        self._patience.call(lambda: self._client.indices.refresh(index=report.index))
        return report

    def _target(self, live: aliases.Live | None) -> str:
        """The index to write to, made when there is none."""
        name = self._options.name
        if live is None:
            body = mappings.index_body(self._settings.index, self._made)
            return aliases.create(self._client, name, body, with_alias=True)
        there, wanted = live.made, self._made
        if (there.encoder, there.dimension) != (wanted.encoder, wanted.dimension):
            raise ClusterError(
                f"{name} ({live.index}) holds vectors of the encoder {there.encoder} ({there.dimension} dimensions), "
                f"and this one is {wanted.encoder} ({wanted.dimension}). Make new vectors with "
                f"`shelfrank reindex start {name}`, or ingest under another name."
            )
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

    def _ingest(self, index: str, letters: DeadLetters, lease: jobs.Lease) -> None:
        ingest = self._settings.ingest
        writer = BulkWriter(self._client, index, max_bytes=ingest.bulk_bytes, patience=self._patience)
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
            self._write(index, batch, writer, letters)
            self._on_progress("Ingest", self.report.read, products.total)
            if self._stop.is_set():
                raise StoppedError

    def _write(self, index: str, batch: Sequence[Entry], writer: BulkWriter, letters: DeadLetters) -> None:
        report, left = self.report, list(batch)
        while left:
            changed = settle(
                self._client, self._options.name, index, left, self._maker, self._patience, report, letters
            )
            outcome = Outcome()
            try:
                writer.write(self._maker.documents(changed), outcome)
            finally:
                report.written += len(outcome.written)
                refuse(outcome, changed, report, letters)
            if outcome.blocked:
                raise ClusterError(
                    f"{index} takes no writes at present (a switch to a new index that did not end, or an operator's "
                    f"write block). See `shelfrank reindex status {self._options.name}`."
                )
            # Somebody else wrote these since they were looked at: look again.
            left = [entry for entry in changed if entry.id in set(outcome.conflicts)]

    def _how_far(self) -> str:
        report = self.report
        if not report.index:
            return ""
        return (
            f"So far {report.written} products were written to {report.index} and {report.unchanged} were there "
            "already. When the cluster is back, the same command will go on: what is written is skipped."
        )

    def _pause(self, seconds: float) -> None:
        if self._stop.wait(seconds):
            raise StoppedError


def settle(
    client: OpenSearch,
    catalogue: str,
    index: str,
    batch: Sequence[Entry],
    maker: Maker,
    patience: Patience,
    report: Report,
    letters: DeadLetters,
) -> list[Entry]:
    """The entries of a file that are to be written to `index`: newer than what it holds, and different.

    A row without a version counts as newest of all that still exists, takes on the stored version, and brings nothing
    back that was deleted; a row with one gives way to what is stored with a higher one.
    """
    ids = [entry.id for entry in batch]
    there = bulk.stored(client, index, ids, patience, ["content_hash", "version", "offer", *OFFER_FIELDS])
    deleted = tombstones.versions(client, catalogue, ids, patience)
    chosen = []
    for entry in batch:
        found = there.get(entry.id, {})
        held = found.get("_source", {})
        entry.seen = {"if_seq_no": found["_seq_no"], "if_primary_term": found["_primary_term"]} if found else {}
        if (
            entry.id in deleted
            and entry.id not in there
            and (entry.version is None or entry.version <= deleted[entry.id])
        ):
            report.deleted += 1
            reason = f"deleted: a message of version {deleted[entry.id]} did; send it anew with a higher version"
            letters.add(Rejection(entry.row, "id", entry.id, reason))
            continue
        if entry.version is not None and entry.version < held.get("version", -1):
            report.superseded += 1
            continue
        take_order(entry, held)
        if held.get("content_hash") == maker.digest(entry) and held.get("version") == entry.version:
            report.unchanged += 1
        else:
            chosen.append(entry)
    return chosen


def take_order(entry: Entry, held: Mapping[str, Any]) -> None:
    """Give a row of a file its place in the order of changes, from the document that the index holds of it.

    Without a version it counts as newest of all up to now, with one it leaves newer prices and stocks alone.
    """
    if entry.version is None:
        entry.version, entry.offer = held.get("version"), dict(held.get("offer", {}))
    elif held:
        keep_offers(entry, stored_entry(held))


def refuse(outcome: Outcome, batch: Sequence[Entry], report: Report, letters: DeadLetters) -> None:
    """Count what the cluster will not take, and put it with the dead letters."""
    rows = {entry.id: entry.row for entry in batch}
    for refusal in outcome.refused:
        report.failed += 1
        reason = f"the cluster refused it ({refusal.status}): {refusal.reason}"
        report.count(report.reasons, "refused by the cluster", rows[refusal.id], refusal.id, reason)
        letters.add(Rejection(rows[refusal.id], "", refusal.id, reason))
