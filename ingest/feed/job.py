"""A feed into the live index: events in batches, each batch settled against what is stored, then written.

Nothing needs to be remembered between runs: events carry versions, so a feed that is given again changes nothing.
Whatever is written is conditional on the document being as it was when it was looked at; where it is not, or where the
live index is being switched, the batch is looked at again.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import msgspec
from opensearchpy import OpenSearch

from indexer import aliases, bulk, jobs, mappings, terminal, tombstones
from indexer.bulk import BulkWriter, Document, Outcome
from indexer.errors import ClusterError, UsageError
from indexer.patience import Patience
from indexer.settings import Settings
from ingest import guards
from ingest.documents import Encoder, Entry, Maker, Tokens, digest_by, stored_entry
from ingest.feed.events import Event
from ingest.feed.state import Product
from ingest.products import StoppedError, pausing
from ingest.report import DeadLetters
from ingest.settle import There, look, overtaken
from ingest.sources import Rejection

_REMEMBER_EVERY = 1000  # lines


@dataclass
class Counts:
    """What became of a feed's lines: read = applied + superseded + rejected + failed, at its end."""

    read: int = 0
    applied: int = 0
    superseded: int = 0
    rejected: int = 0
    failed: int = 0
    embedded: int = 0
    upserts: int = 0
    updates: int = 0
    deletes: int = 0
    unreadable: int = 0  # of those rejected
    seconds: float = 0.0
    last_version: int | None = None
    stopped: bool = False
    error: str = ""
    dead_letter: str = ""
    reasons: dict[str, int] = field(default_factory=dict)


class Feed:
    """Applies events to the catalogue `name`. `counts` is right at any moment."""

    def __init__(
        self,
        client: OpenSearch,
        name: str,
        encoder: Encoder,
        tokens: Tokens,
        settings: Settings,
        letters: DeadLetters,
        *,
        stop: threading.Event | None = None,
        on_progress: Callable[[str, int, int | None], None] = lambda phase, done, total: None,
        lease_s: float = jobs.LEASE_S,
        second: Encoder | None = None,
        allow: frozenset[str] = frozenset(),
    ) -> None:
        self.counts = Counts()
        self._allow = allow
        self._client, self._name, self._settings, self._letters = client, name, settings, letters
        self._maker = Maker(encoder, tokens, second)
        self._on_progress, self._lease_s = on_progress, lease_s
        self._pause = pausing(stop or threading.Event())
        self._patience = Patience(settings.ingest.patience_s, sleep=self._pause, tell=terminal.note)
        # Of its own: what is read between two attempts must not pass for the end of a write block.
        self._block = Patience(settings.ingest.patience_s, sleep=self._pause, tell=terminal.note)

    def run(self, batches: Iterable[Sequence[Event | Rejection]]) -> Counts:
        """Apply batches in their order until they end or `stop` is set. Raises UsageError, ClusterError."""
        started = time.monotonic()
        board = jobs.Board(self._client, self._settings.ingest.patience_s)
        try:
            # One feed at a time: two could pass each other between looking for a tombstone and writing.
            with jobs.Lease(board, f"{self._name}:feed", lease_s=self._lease_s, sleep=self._pause) as lease:
                self._open(lease)
                try:
                    for batch in batches:
                        lease.check()
                        self._batch(batch)
                        self._remember(lease, _REMEMBER_EVERY)
                        self._on_progress("Feed", self.counts.read, None)
                        self._pause(0)
                finally:
                    with suppress(ClusterError):  # an error that is on its way says more
                        self._remember(lease)
        except StoppedError:
            self.counts.stopped = True
        finally:
            self.counts.seconds = time.monotonic() - started
            self.counts.dead_letter = self._letters.written
        return self.counts

    def _open(self, lease: jobs.Lease) -> None:
        """Go on with what the last run has seen."""
        past = lease.change(lambda record: None).source.get("window", "")
        count = self._patience.call(lambda: self._client.count(index=self._live().index))
        self._window = guards.Window(int(count["count"]), self._settings.guards, str(past))
        self._remembered = 0

    def _remember(self, lease: jobs.Lease, every: int = 0) -> None:
        """Keep for the next run what the guards have seen, but for what this one was allowed."""
        if self.counts.read - self._remembered < every:
            return
        kinds = self._window.without(self._allow)
        lease.change(lambda record: record.source.update(window=kinds))
        self._remembered = self.counts.read

    def _guard(self, there: There, products: Mapping[str, Product], source: str) -> None:
        for key, product in products.items():
            after = None if product.entry is None else product.entry.product
            for _, verdict in product.verdicts:
                if verdict == "counts":
                    self._window.see(there.held(key), after)
        line = min(event.line for each in products.values() for event, _ in each.verdicts)
        what = f"Stopped before line {line:,}{f' of {source}' if source else ''}"
        command = f"shelfrank feed {source or '…'} --index {self._name}"
        guards.refuse(self._window.findings(), self._allow, what, command)

    def _batch(self, batch: Sequence[Event | Rejection]) -> None:
        seen = self._window.kinds()
        try:
            self._apply(batch)
        except BaseException:
            # What was not applied is no part of what the shop has seen, however often it is tried.
            self._window.go_back(seen)
            raise

    def _apply(self, batch: Sequence[Event | Rejection]) -> None:
        self.counts.read += len(batch)
        left: dict[str, list[Event]] = {}
        for each in batch:
            if isinstance(each, Rejection):
                self.counts.unreadable += 1
                self._reject(each)
            else:
                left.setdefault(each.id, []).append(each)
                self.counts.last_version = max(each.version, self.counts.last_version or 0)
        source: str | None = getattr(batch, "source", "")
        while left:
            left, source = self._attempt(left, source), None

    def _attempt(self, events: dict[str, list[Event]], source: str | None) -> dict[str, list[Event]]:
        """Settle and write; returns the events of products that somebody else wrote meanwhile."""
        live = self._live()
        there = self._look(live.index, events)
        products = {key: self._product(there, key) for key in sorted(events)}
        for key, product in products.items():
            product.apply(events[key])
        if source is not None:  # judged once, however often it is tried
            self._guard(there, products, source)
        changed = {key for key, product in products.items() if any(said == "counts" for _, said in product.verdicts)}
        # First the tombstones: whoever stops here has deleted nothing that an older message could bring back.
        graves = {key: products[key].deleted for key in changed if products[key].entry is None}
        tombstones.write(self._client, self._name, graves, self._patience)
        entries = {key: entry for key in sorted(changed) if (entry := products[key].entry)}
        removed = [
            key
            for key in events
            if key not in entries and there.condition(key) and (key in changed or key in there.dead)
        ]
        documents = self._documents(live, there, entries, products)
        documents += [Document(key, op="delete", condition=there.condition(key)) for key in removed]
        outcome = Outcome()
        BulkWriter(self._client, live.index, max_bytes=self._settings.ingest.bulk_bytes, patience=self._patience).write(
            documents, outcome
        )
        again = {*outcome.conflicts, *outcome.blocked, *self._passed_by(live.index, there, graves, entries, outcome)}
        refused = {refusal.id: refusal for refusal in outcome.refused}
        for key, product in products.items():
            if key in again:
                continue
            for event, verdict in product.verdicts:
                if key in refused and verdict == "counts":
                    self.counts.failed += 1
                    refusal = refused[key]
                    reason = f"the cluster refused it ({refusal.status}): {refusal.reason}"
                    self._letters.add(Rejection(event.line, "", key, reason))
                else:
                    self._count(event, verdict)
        if outcome.blocked:
            self._wait_for_writes()
        elif documents:
            self._block.succeeded()
        return {key: events[key] for key in again}

    def _wait_for_writes(self) -> None:
        """Wait until the live index, perhaps another one by then, takes writes; nothing is made in vain meanwhile."""
        index, blocked = self._live().index, True
        while blocked:
            self._block.wait(
                f"{index} takes no writes: a switch to a new index is under way, or was left in the middle (see "
                f"`shelfrank reindex status {self._name}`)"
            )
            index = self._live().index
            blocked = aliases.blocked(self._client, index)

    def _live(self) -> aliases.Live:
        live = aliases.live(self._client, self._name)
        if live is None:
            raise UsageError(f"There is no catalogue {self._name}. Make it with `shelfrank ingest`.")
        if live.made.format != mappings.FORMAT:
            raise ClusterError(
                f"{live.index} has format {live.made.format} of the documents, and this version writes "
                f"{mappings.FORMAT}. Renew it with `shelfrank reindex start {self._name}`."
            )
        return live

    def _look(self, index: str, ids: Iterable[str]) -> There:
        return look(self._client, self._name, index, sorted(ids), self._patience, source=True)

    def _product(self, there: There, key: str) -> Product:
        held = there.held(key)
        entry = stored_entry(held) if held else None
        return Product(self._maker.reads, entry, there.deleted.get(key, -1), key in there.dead)

    def _passed_by(
        self, index: str, there: There, graves: Iterable[str], entries: Mapping[str, Entry], outcome: Outcome
    ) -> set[str]:
        """Products that somebody created while they were deleted here, or deleted while they were created here."""
        unseen = [key for key in graves if not there.condition(key)]
        created = {key: entries[key].version for key in outcome.written if key in entries and not there.condition(key)}
        return {
            *bulk.stored(self._client, index, unseen, self._patience, False),
            *overtaken(self._client, self._name, created, self._patience),
        }

    def _documents(
        self, live: aliases.Live, there: There, entries: Mapping[str, Entry], products: Mapping[str, Product]
    ) -> list[Document]:
        whole: list[Entry] = []
        documents: list[Document] = []
        for key, entry in entries.items():
            entry.seen = there.condition(key)
            if (fields := self._part(entry, products[key], there.held(key).get("offer") or {})) is not None:
                documents.append(Document(key, msgspec.json.encode(fields), "update", entry.seen))
            else:
                whole.append(entry)
        if whole:
            maker = self._maker.fitting(live.index, live.made, self._name)
            self.counts.embedded += sum(maker.embeds(entry) for entry in whole)
            documents += maker.documents(whole)
        return documents

    def _part(self, entry: Entry, product: Product, offer: Mapping[str, int]) -> dict[str, Any] | None:
        """The fields of a document that changed, where vector and token ids stay as they are; else None. What is not
        named stays, so `offer`, which the document holds, must not lose anything."""
        if not entry.seen or not entry.made:
            return None
        events = [event for event, verdict in product.verdicts if verdict == "counts"]
        touched = sorted({key for event in events for key in event.set})
        digest = digest_by(entry, entry.made)
        if all(event.op == "update" for event in events):
            if any(key not in entry.product for key in touched):
                return None  # a part of a document can be set but not taken away
            return {**{key: entry.product[key] for key in touched}, "offer": entry.offer, "content_hash": digest}
        # An upsert of what is there already brings nothing but its version.
        same = digest == entry.made["content_hash"] and entry.offer == offer
        return {"version": entry.version} if same else None

    def _count(self, event: Event, verdict: str) -> None:
        counts = self.counts
        if verdict == "superseded":
            counts.superseded += 1
        elif verdict == "absent":
            self._reject(Rejection(event.line, "id", event.id, "no such product to update"))
        else:
            counts.applied += 1
            setattr(counts, f"{event.op}s", getattr(counts, f"{event.op}s") + 1)

    def _reject(self, rejection: Rejection) -> None:
        self.counts.rejected += 1
        kind = rejection.reason.partition(":")[0]
        self.counts.reasons[kind] = self.counts.reasons.get(kind, 0) + 1
        self._letters.add(rejection)
