"""What was deleted, so that it stays deleted: one small document a product, in an index beside the catalogue's.

OpenSearch forgets a deletion after a minute (`index.gc_deletes`); an older message that arrives later would bring the
product back. A tombstone is written before its product is deleted, and building an index anew does not remove it; a
product that came back since has a higher version than its tombstone.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence

import msgspec
from opensearchpy import OpenSearch

from indexer import aliases, bulk, changes
from indexer.bulk import BulkWriter, Document
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


def versions(client: OpenSearch, catalogue: str, ids: Sequence[str], patience: Patience) -> dict[str, int]:
    """The versions at which those of the products were deleted that were."""
    found = bulk.stored(client, index_name(catalogue), ids, patience, ["version"])
    return {name: int(item["_source"]["version"]) for name, item in found.items()}


def write(client: OpenSearch, catalogue: str, deleted: Mapping[str, int], patience: Patience) -> None:
    """Write tombstones: product id -> version. Raises ClusterError when one of them is not taken."""
    if not deleted:
        return
    index = index_name(catalogue)
    aliases.make(client, index, _BODY, patience)
    now = int(time.time() * 1000)
    documents = [
        Document(name, msgspec.json.encode({"id": name, "version": version, "deleted_at": now}))
        for name, version in deleted.items()
    ]
    outcome = BulkWriter(client, index, patience=patience).write(documents)
    if left := [*outcome.refused, *outcome.blocked]:
        raise ClusterError(f"{len(left)} deletions could not be noted in {index}: {left[0]}.")


def since(client: OpenSearch, catalogue: str, marks: changes.Marks, patience: Patience) -> Iterator[list[str]]:
    """Ids of the products that were deleted after the marks, in pages."""
    index = index_name(catalogue)
    if changes.marks(client, index, patience):
        patience.call(lambda: client.indices.refresh(index=index))
        for hits in changes.changed_since(client, index, marks, patience, source=False):
            yield [hit["_id"] for hit in hits]
