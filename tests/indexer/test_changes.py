"""Reading an index: once, in order, by a slice for each shard; and with patience where shards do not answer."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

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


@pytest.fixture
def sharded(client: OpenSearch) -> Iterator[Callable[[int], list[str]]]:
    """Makes the index with so many shards, and documents in all of them; their ids in order."""

    def make(shards: int) -> list[str]:
        client.indices.delete(index=INDEX, params={"ignore_unavailable": "true"})
        settings = {"number_of_shards": shards, "number_of_replicas": 0}
        client.indices.create(index=INDEX, body={"settings": settings, "mappings": {"properties": MAPPING}})
        made = sorted([f"{at:04}" for at in range(600)] + ["保温杯", "é", "z", "\U0001f600"])
        lines: list[dict[str, object]] = []
        for each in made:
            lines += [{"index": {"_index": INDEX, "_id": each}}, {"id": each}]
        client.bulk(body=lines, params={"refresh": "true"})
        return made

    yield make
    client.indices.delete(index=INDEX, params={"ignore_unavailable": "true"})


def open_views(client: OpenSearch) -> int:
    return len(client.get_all_pits()["pits"])


@pytest.mark.node
@pytest.mark.parametrize("shards", [1, 3, changes.SLICES + 3])
def test_everything_is_read_once_in_order_whatever_the_shards(
    client: OpenSearch, sharded: Callable[[int], list[str]], shards: int
) -> None:
    made = sharded(shards)
    pages = list(changes.everything(client, INDEX, Patience(5.0), page=50))
    assert [hit["_id"] for hits in pages for hit in hits] == made
    assert {len(hits) for hits in pages[:-1]} == {50}
    rest = changes.everything(client, INDEX, Patience(5.0), after=made[299], page=50)
    assert [hit["_id"] for hits in rest for hit in hits] == made[300:]
    assert open_views(client) == 0


@pytest.mark.node
def test_a_slice_for_each_shard_reads_no_document_twice(
    client: OpenSearch, sharded: Callable[[int], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = sharded(3)
    read: list[tuple[int, int]] = []
    search = client.search

    def counted(body: dict[str, object], **more: object) -> object:
        answer = search(body=body, **more)
        read.append((body["slice"]["id"], len(answer["hits"]["hits"])))  # type: ignore[index]
        return answer

    monkeypatch.setattr(client, "search", counted)
    assert sum(len(hits) for hits in changes.everything(client, INDEX, Patience(5.0), page=50)) == len(made)
    assert sum(count for _, count in read) == len(made)
    assert {each for each, _ in read} == {0, 1, 2}


@pytest.mark.node
@pytest.mark.parametrize("shards", [1, 3])
def test_a_point_in_time_that_is_lost_is_opened_again_where_the_reading_was(
    client: OpenSearch, sharded: Callable[[int], list[str]], shards: int
) -> None:
    made = sharded(shards)
    pages = changes.everything(client, INDEX, Patience(5.0), page=50)
    found = [hit["_id"] for hit in next(pages)]
    for _ in range(3):
        client.delete_all_pits()
        found += [hit["_id"] for hit in next(pages)]
    assert found + [hit["_id"] for hits in pages for hit in hits] == made
    assert open_views(client) == 0


@pytest.mark.node
def test_a_reading_that_is_given_up_leaves_neither_threads_nor_a_point_in_time(
    client: OpenSearch, sharded: Callable[[int], list[str]]
) -> None:
    sharded(3)
    pages = changes.everything(client, INDEX, Patience(5.0), page=50)
    next(pages)
    assert open_views(client) == 1
    pages.close()  # type: ignore[attr-defined]
    assert open_views(client) == 0
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("slice")]


@pytest.mark.node
def test_an_error_of_a_slice_is_the_readings_error(client: OpenSearch, sharded: Callable[[int], list[str]]) -> None:
    sharded(3)
    pages = changes.everything(client, INDEX, Patience(1.0), page=50)
    next(pages)
    client.indices.delete(index=INDEX)
    with pytest.raises(ClusterError, match=r"no such index|taken nothing for 1 s"):
        list(pages)
