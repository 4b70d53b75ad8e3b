"""Reading an index whose shards do not answer: waited for with patience, and never for ever."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from opensearchpy import OpenSearch

from indexer import bulk, changes
from indexer.errors import ClusterError
from indexer.patience import Patience

INDEX = "test-changes"


@pytest.fixture
def half(client: OpenSearch) -> Iterator[OpenSearch]:
    """An alias of two indexes, one of which has its only shard nowhere."""
    client.indices.delete(index=f"{INDEX}-*")
    client.indices.create(index=f"{INDEX}-1", body={"aliases": {INDEX: {}}, "mappings": {"properties": MAPPING}})
    nowhere = {"index.routing.allocation.require._name": "nowhere", "number_of_replicas": 0}
    body = {"settings": nowhere, "aliases": {INDEX: {}}, "mappings": {"properties": MAPPING}}
    client.indices.create(index=f"{INDEX}-2", body=body, params={"wait_for_active_shards": 0})
    client.index(index=f"{INDEX}-1", id="a", body={"id": "a"}, params={"refresh": "true"})
    yield client
    client.indices.delete(index=f"{INDEX}-*")


MAPPING = {"id": {"type": "keyword"}}


@pytest.mark.node
def test_documents_of_a_shard_that_is_nowhere_are_not_waited_for_for_ever(half: OpenSearch) -> None:
    with pytest.raises(ClusterError, match=r"taken nothing for 1 s.*reading stored documents failed"):
        bulk.stored(half, f"{INDEX}-2", ["a"], Patience(1.0))


@pytest.mark.node
def test_a_part_of_an_answer_is_never_taken_for_the_whole(half: OpenSearch) -> None:
    body = {"query": {"match_all": {}}}
    assert half.search(index=INDEX, body=body)["hits"]["total"]["value"] == 1  # which looks like all there is
    with pytest.raises(ClusterError, match=r"taken nothing for 1 s.*a shard did not answer"):
        changes._hits(half, Patience(1.0), body, {"index": INDEX})
