"""What events make of a product, whatever order they come in: rules alone, no cluster.

An event counts when its version is above what is known: for a whole product its `version`, for a field that updates
set that field's own (`offer`), for a deleted product its tombstone's. So a late upsert brings its text and leaves a
newer price alone, late updates of different fields all count, and a deleted product comes back only by a newer upsert.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

from ingest.documents import OFFER_FIELDS, Entry
from ingest.feed.events import Event

Verdict = Literal["counts", "superseded", "absent"]


@dataclass
class Product:
    """One product's state. `entry` is None where the index has none, or one that its tombstone deletes (`dead`);
    `deleted` is the tombstone's version. `reads` are the fields that models read: vector and token ids are kept while
    those stay as they are."""

    reads: frozenset[str]
    entry: Entry | None = None
    deleted: int = -1
    dead: bool = False
    verdicts: list[tuple[Event, Verdict]] = field(default_factory=list)

    def apply(self, events: Iterable[Event]) -> None:
        """Let events count, oldest version first; `verdicts` says what became of each."""
        for event in sorted(events, key=lambda event: event.version):
            self.verdicts.append((event, getattr(self, f"_{event.op}")(event)))

    def _known(self) -> int:
        return max(-1 if self.entry is None or self.entry.version is None else self.entry.version, self.deleted)

    def _upsert(self, event: Event) -> Verdict:
        assert event.entry is not None
        if event.version <= self._known():
            return "superseded"
        fresh = copy.deepcopy(event.entry)
        if self.entry is not None:
            keep_offers(fresh, self.entry)
            if all(fresh.product.get(key) == self.entry.product.get(key) for key in self.reads):
                fresh.made = self.entry.made
        self.entry = fresh
        return "counts"

    def _update(self, event: Event) -> Verdict:
        if self.entry is None:
            return "superseded" if self.deleted >= 0 else "absent"
        newer = [
            key for key in event.set if event.version > max(self.entry.version or -1, self.entry.offer.get(key, -1))
        ]
        if self.reads & set(newer):
            self.entry.made = {}
        for key in newer:
            self.entry.offer[key] = event.version
            if event.set[key] is None:
                self.entry.product.pop(key, None)
            else:
                self.entry.product[key] = event.set[key]
        return "counts" if newer else "superseded"

    def _delete(self, event: Event) -> Verdict:
        # What was begun by this very message, and not ended, is its doing still.
        begun = self.dead and event.version == self.deleted
        if event.version <= self._known() and not begun:
            return "superseded"
        self.entry, self.deleted, self.dead = None, event.version, False
        return "counts"


def keep_offers(fresh: Entry, stored: Entry) -> None:
    """Leave to a product what updates newer than it have set."""
    if fresh.version is None:
        return  # it counts as newest of all
    for key in OFFER_FIELDS:
        if stored.offer.get(key, -1) > fresh.version:
            fresh.offer[key] = stored.offer[key]
            if key in stored.product:
                fresh.product[key] = stored.product[key]
            else:
                fresh.product.pop(key, None)
