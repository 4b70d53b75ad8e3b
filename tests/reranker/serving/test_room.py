"""Hits on their way from the cluster: who asks for many waits, and nobody waits for who asks for few."""

from __future__ import annotations

import asyncio

import pytest

from indexer.settings import Cluster, Settings
from reranker.serving.room import Room
from reranker.serving.turns import BusyError, Share
from tests.reranker.serving.failing import answering
from tests.reranker.serving.service import running

A, B, C = Share("a"), Share("b"), Share("c")


async def held(room: Room, share: Share, hits: int, over: asyncio.Event) -> None:
    async with room.taken(share, hits):
        await over.wait()


async def settled() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


def test_one_client_leaves_half_of_the_room_and_few_hits_need_none() -> None:
    async def told() -> list[bool]:
        room, over, tasks = Room(40_000, 60.0), asyncio.Event(), []
        for share, hits in ((A, 10_000), (A, 10_000), (A, 10_000), (B, 10_000), (C, 10_000), (C, 9_000), (A, 1000)):
            tasks.append(asyncio.ensure_future(held(room, share, hits, over)))
            await settled()
        waits = [room._taken.total(), [bool(task.done()) for task in tasks]]
        assert waits == [40_000, [False] * 7]
        in_hand = dict(room._taken)
        assert in_hand == {"a": 20_000, "b": 10_000, "c": 10_000}
        over.set()
        await asyncio.gather(*tasks)
        return [room._taken.total() == 0]

    assert asyncio.run(told()) == [True]


def test_a_request_for_more_than_there_is_has_it_alone() -> None:
    async def told() -> None:
        room, over = Room(5_000, 60.0), asyncio.Event()
        whole = asyncio.ensure_future(held(room, A, 9_000, over))
        await settled()
        other = asyncio.ensure_future(held(room, B, 2_000, over))
        await settled()
        assert dict(room._taken) == {"a": 9_000}
        over.set()
        await asyncio.gather(whole, other)

    asyncio.run(told())


def test_who_waits_too_long_is_told_and_who_leaves_takes_nothing_along() -> None:
    async def told() -> None:
        room, over = Room(5_000, 0.01), asyncio.Event()
        first = asyncio.ensure_future(held(room, A, 5_000, over))
        await settled()
        with pytest.raises(BusyError, match="2000 more"):
            async with room.taken(B, 2_000):
                pass
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        async with room.taken(B, 2_000):
            assert dict(room._taken) == {"b": 2_000}

    asyncio.run(told())


@pytest.mark.parametrize(
    ("asked", "sent"),
    [
        ("", ["max_concurrent_searches=2"]),
        ("?max_concurrent_searches=1", ["max_concurrent_searches=1"]),
        ("?max_concurrent_searches=9", ["max_concurrent_searches=2"]),
        (
            "?filter_path=responses.hits&max_concurrent_searches=256",
            ["filter_path=responses.hits", "max_concurrent_searches=2"],
        ),
    ],
)
def test_the_searches_of_one_request_do_not_fill_the_queue_of_a_node(asked: str, sent: list[str]) -> None:
    seen: list[str] = []

    def said(path: str) -> bytes:
        seen.append(path)
        return b'{"responses":[]}' if "_msearch" in path else b"{}"

    with answering(200, said) as url, running(Settings(cluster=Cluster(url=url)), wait=False) as found:
        lines = '{"index":"shop"}\n{"query":{"match_all":{}}}\n' * 3
        found.http.post(f"/_msearch{asked}", content=lines, headers={"content-type": "application/x-ndjson"})
    [path] = [path for path in seen if "_msearch" in path]
    assert path.partition("?")[2].split("&") == sent
