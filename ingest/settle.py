"""Which of two is newer: the rows of a file against what an index holds and what was deleted."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from opensearchpy import OpenSearch

from indexer import bulk, tombstones
from indexer.bulk import Document, Outcome
from indexer.patience import Patience
from ingest.documents import OFFER_FIELDS, Entry, Maker, stored_entry
from ingest.feed.state import keep_offers
from ingest.report import DeadLetters, Report
from ingest.sources import Rejection

ORDER_FIELDS = ("version", "offer", *OFFER_FIELDS)
_FIELDS = ("content_hash", *ORDER_FIELDS)  # what settles a row against a stored document


class There:
    """What is known of some products. `alive` are stored documents by id, `dead` those that their tombstone deletes and
    that somebody has yet to remove, `deleted` the versions of tombstones."""

    def __init__(self, found: Mapping[str, Mapping[str, Any]], deleted: Mapping[str, int]) -> None:
        self.deleted = deleted
        self.dead = {
            name: each
            for name, each in found.items()
            if tombstones.deletes(deleted.get(name), each["_source"].get("version"))
        }
        self.alive = {name: each for name, each in found.items() if name not in self.dead}

    def held(self, name: str) -> Mapping[str, Any]:
        """The stored fields of a product; empty where there is none."""
        source: Mapping[str, Any] = self.alive.get(name, {}).get("_source", {})
        return source

    def condition(self, name: str) -> dict[str, int]:
        """That nobody wrote the document since."""
        return bulk.condition(self.alive.get(name) or self.dead.get(name))

    def removals(self) -> list[Document]:
        """The deletions that are left to do."""
        return [Document(name, op="delete", condition=self.condition(name)) for name in self.dead]

    def is_deleted(self, entry: Entry, report: Report, letters: DeadLetters) -> bool:
        """Whether a row must not bring its product back; then it is counted, and a dead letter."""
        gone = self.deleted.get(entry.id)
        if entry.id in self.alive or not tombstones.deletes(gone, entry.version):
            return False
        report.deleted += 1
        reason = f"deleted: a message of version {gone} did; send it anew with a higher version"
        letters.add(Rejection(entry.row, "id", entry.id, reason))
        return True

    def is_newer(self, entry: Entry) -> bool:
        """Whether what is stored has a higher version than the row."""
        return is_older(entry.version, self.held(entry.id))


def is_older(version: int | None, stored: Mapping[str, Any]) -> bool:
    """Whether a row's version is below that of the stored fields, so that it changes nothing."""
    held = stored.get("version")
    return version is not None and held is not None and version < held


def look(
    client: OpenSearch, catalogue: str, index: str, ids: Sequence[str], patience: Patience, source: Any = _FIELDS
) -> There:
    """What `index` (empty: none) and the catalogue's tombstones know of some products. Raises ClusterError."""
    found = bulk.stored(client, index, ids, patience, source) if index else {}
    return There(found, tombstones.versions(client, catalogue, ids, patience))


def overtaken(client: OpenSearch, catalogue: str, written: Mapping[str, int | None], patience: Patience) -> set[str]:
    """Which of the products that were just created, by id with their version, were deleted meanwhile, by somebody who
    may have looked before they were there. Raises ClusterError."""
    deleted = tombstones.versions(client, catalogue, list(written), patience)
    return {name for name, version in written.items() if tombstones.deletes(deleted.get(name), version)}


def settle(batch: Sequence[Entry], there: There, maker: Maker, report: Report, letters: DeadLetters) -> list[Entry]:
    """What is to be written of a file's rows: newer than what is stored, and different.

    A row without a version counts as newest of all that still exists, takes on the stored version, and brings nothing
    back that was deleted; a row with one gives way to what is stored with a higher one. The rows stay as they are, to
    be settled again where somebody else writes meanwhile.
    """
    chosen = []
    for row in batch:
        if there.is_deleted(row, report, letters):
            continue
        if there.is_newer(row):
            report.superseded += 1
            continue
        held = there.held(row.id)
        entry = in_order(row, held)
        entry.seen = there.condition(row.id)
        if maker.made_already(entry, held):
            report.unchanged += 1
        else:
            chosen.append(entry)
    return chosen


def in_order(row: Entry, held: Mapping[str, Any]) -> Entry:
    """A file's row in its place in the order of changes, by the fields that the index holds of the product.

    Without a version it counts as newest of all up to now, with one it leaves newer prices and stocks alone.
    """
    entry = dataclasses.replace(row, product=dict(row.product), offer=dict(row.offer))
    if entry.version is None:
        entry.version, entry.offer = held.get("version"), dict(held.get("offer", {}))
    elif held:
        keep_offers(entry, stored_entry(held))
    return entry


def refuse(outcome: Outcome, batch: Sequence[Entry], report: Report, letters: DeadLetters) -> None:
    """Count what the cluster will not take, and put it with the dead letters."""
    rows = {entry.id: entry.row for entry in batch}
    for refusal in outcome.refused:
        report.failed += 1
        reason = f"the cluster refused it ({refusal.status}): {refusal.reason}"
        report.count(report.reasons, "refused by the cluster", rows[refusal.id], refusal.id, reason)
        letters.add(Rejection(rows[refusal.id], "", refusal.id, reason))
