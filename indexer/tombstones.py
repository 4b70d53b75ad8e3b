"""What was deleted, so that it stays deleted: one small document a product, in an index beside the catalogue's.

OpenSearch forgets a deletion after a minute (`index.gc_deletes`); an older message that arrives later would bring the
product back. A tombstone is written before its product is deleted, and building an index anew does not remove it; a
product that came back since has a higher version than its tombstone.

One rule says what a tombstone deletes (`deletes`), and all jobs go by it: whoever meets a stored product that its
tombstone deletes ends what a job that died has begun. So that none slips through between two jobs, who deletes looks
at the product after the tombstone is written, and who creates looks at the tombstone after the product is written.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec
from opensearchpy import OpenSearch

from indexer import aliases, bulk, changes
from indexer.bulk import BulkWriter
from indexer.errors import ClusterError
from indexer.patience import Patience

_BODY = {
    "settings": {"index": {"number_of_shards": 1, "auto_expand_replicas": "0-1", "hidden": True}},
    "mappings": {
        "dynamic": "strict",
        "properties": {"id": {"type": "keyword"}, "version": {"type": "long"}, "deleted_at": {"type": "date"}},
    },
}


def index_name(catalogue: str) -> str:
    """The index that holds a catalogue's tombstones."""
    return f"shelfrank-deleted-{catalogue}"


def deletes(tombstone: int | None, version: int | None) -> bool:
    """Whether a tombstone (None: there is none) deletes a product stored with a version (None: without)."""
    return tombstone is not None and (version is None or version <= tombstone)


def versions(client: OpenSearch, catalogue: str, ids: Sequence[str], patience: Patience) -> dict[str, int]:
    """The versions at which those of the products were deleted that were."""
    found = bulk.stored(client, index_name(catalogue), ids, patience, ["version"])
    return {name: _version(item) for name, item in found.items()}


def write(client: OpenSearch, catalogue: str, deleted: Mapping[str, int], patience: Patience) -> None:
    """Write tombstones: product id -> version. A tombstone of a higher version stays.

    Raises ClusterError when one of them is not taken.
    """
    index = index_name(catalogue)
    writer = BulkWriter(client, index, patience=patience)
    left = dict(deleted)
    if left:
        aliases.make(client, index, _BODY, patience)
    while left:
        there = bulk.stored(client, index, list(left), patience, ["version"])
        left = {key: version for key, version in left.items() if version > _version(there.get(key))}
        now = int(time.time() * 1000)
        documents = [
            bulk.settled(key, msgspec.json.encode({"id": key, "version": version, "deleted_at": now}), there.get(key))
            for key, version in left.items()
        ]
        outcome = writer.write(documents)
        if untaken := [*outcome.refused, *outcome.blocked]:
            raise ClusterError(f"{len(untaken)} deletions could not be noted in {index}: {untaken[0]}.")
        left = {key: left[key] for key in outcome.conflicts}


def since(client: OpenSearch, catalogue: str, marks: changes.Marks, patience: Patience) -> Iterator[list[str]]:
    """Ids of the products that were deleted after the marks, in pages."""
    index = index_name(catalogue)
    if changes.marks(client, index, patience):
        patience.call(lambda: client.indices.refresh(index=index))
        for hits in changes.changed_since(client, index, marks, patience, source=False):
            yield [hit["_id"] for hit in hits]


def _version(found: Mapping[str, Any] | None) -> int:
    return int(found["_source"]["version"]) if found else -1
