"""Taking a test's catalogue away: its indexes, its tombstones and its job."""

from __future__ import annotations

from opensearchpy import OpenSearch

from indexer import jobs, tombstones


def remove(client: OpenSearch, name: str) -> None:
    """Delete what belongs to a catalogue, and indexes of catalogues whose names begin as its own."""
    pattern = f"{name}*,{tombstones.index_name(name)}*"
    for index in client.indices.get(index=pattern, params={"expand_wildcards": "all"}):
        client.indices.delete(index=index)
    if client.indices.exists(index=jobs.INDEX):
        body = {"query": {"ids": {"values": [name, f"{name}:feed"]}}}
        client.delete_by_query(index=jobs.INDEX, body=body, params={"refresh": "true"})
