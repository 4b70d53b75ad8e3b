"""Rows of user behaviour: one client leaves room for others, and a cluster that hangs holds up nobody, nor the end."""

from __future__ import annotations

import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import msgspec
import pytest
from opensearchpy import OpenSearch

from indexer.settings import Cluster, Settings
from reranker.serving import ubi
from tests.reranker.serving.failing import hung
from tests.reranker.serving.service import running, with_serve
from tests.waiting import until

ROW = {"client_id": "c", "message": "m" * 100}
NO_TIME_S = 600.0  # longer than a test would wait


class Dropped:
    """What was dropped, and why."""

    def __init__(self) -> None:
        self.rows: Counter[str] = Counter()

    def __call__(self, why: str, rows: int) -> None:
        self.rows[why] += rows


@pytest.fixture
def blocked() -> Iterator[Callable[[], OpenSearch]]:
    """A way to a cluster that never comes about, until the test is over."""
    over = threading.Event()

    def connect() -> OpenSearch:
        over.wait(NO_TIME_S)
        raise OSError("made by the test")

    yield connect
    over.set()


def filled(log: ubi.Log, owner: str, index: str = ubi.EVENTS, most: int = 100_000) -> int:
    """How many rows of one owner are taken before the first that is not."""
    return next(taken for taken in range(most) if not log.put(index, ROW, owner))


def ended(log: ubi.Log) -> bool:
    """Whether `close` comes back, whatever the cluster does."""
    closing = threading.Thread(target=log.close, daemon=True)
    closing.start()
    closing.join(60)
    return not closing.is_alive()


def test_one_who_floods_leaves_as_much_room_as_it_takes(blocked: Callable[[], OpenSearch]) -> None:
    log = ubi.Log(blocked, Dropped(), room=1_000_000, stop_s=0.1)
    log.put(ubi.EVENTS, ROW, "whoever came first")
    until(lambda: log._in_hand)  # so that the writer, which waits for the cluster now, takes no more of the room's rows
    first = filled(log, "the attacker")
    second = filled(log, "the attacker's friend")
    honest = filled(log, "a shopper")
    assert first > 500
    assert second == pytest.approx(first / 2, rel=0.05)
    assert honest == pytest.approx(first / 4, rel=0.1)
    searches = filled(log, "the attacker", ubi.QUERIES)
    assert searches == pytest.approx(first / 8, rel=0.2)  # events of a shop's own key hold up no searches of it
    assert ended(log)


def test_many_who_flood_take_turns_at_what_is_left_and_memory_is_bounded(blocked: Callable[[], OpenSearch]) -> None:
    dropped = Dropped()
    log = ubi.Log(blocked, dropped, room=1_000_000, stop_s=0.1)
    for turn in range(20_000):
        log.put(ubi.EVENTS, ROW, f"address {turn % 1000}")
    assert log._free >= 0
    assert sum(row.size for row in log._rows) <= 1_000_000
    assert dropped.rows["full"] > 10_000
    assert not log.put(ubi.QUERIES, {"user_query": "q" * 2_000_000}, "a row larger than all")
    assert ended(log)


def test_the_room_of_what_is_written_is_free_again() -> None:
    log = ubi.Log(blocked_by(OSError("made by the test")), Dropped(), room=100_000, stop_s=5.0)
    for _ in range(20):
        until(lambda: log.put(ubi.EVENTS, ROW, "c"))
    until(lambda: not log._rows)
    assert log._free == 100_000
    assert not log._held
    assert ended(log)


def blocked_by(error: Exception) -> Callable[[], OpenSearch]:
    def connect() -> OpenSearch:
        raise error

    return connect


def test_a_full_log_ends_while_the_cluster_hangs_and_counts_what_it_drops(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ubi, "_TIMEOUT_S", NO_TIME_S)
    dropped = Dropped()
    with hung() as url:
        connect = partial(ubi.connect, Settings(cluster=Cluster(url=url, timeout_s=NO_TIME_S)))
        log = ubi.Log(connect, dropped, room=50_000, stop_s=0.2)
        taken = filled(log, "c")
        until(lambda: log._in_hand)  # some are on their way, which does not end
        taken += filled(log, "c")
        assert ended(log)
    assert dropped.rows["stop"] == taken
    assert not log.put(ubi.EVENTS, ROW, "too late")


def test_what_is_in_hand_is_not_counted_twice() -> None:
    dropped, goes_on = Dropped(), threading.Event()

    def connect() -> OpenSearch:
        goes_on.wait(NO_TIME_S)
        raise OSError("made by the test")

    log = ubi.Log(connect, dropped, stop_s=0.2)
    assert log.put(ubi.EVENTS, ROW, "c")
    until(lambda: log._in_hand == 1)
    assert ended(log)
    goes_on.set()
    log._thread.join(60)
    assert dropped.rows == {"stop": 1}


def _has_dropped(dropped: Dropped, number: int) -> bool:
    return dropped.rows["cluster"] == number


def test_what_the_cluster_does_not_take_is_counted_and_the_next_is_tried() -> None:
    dropped = Dropped()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        nobody = f"http://127.0.0.1:{taken.getsockname()[1]}"
    log = ubi.Log(partial(ubi.connect, Settings(cluster=Cluster(url=nobody))), dropped)
    for number in (1, 2):
        assert log.put(ubi.EVENTS, ROW, "c")
        until(partial(_has_dropped, dropped, number))
    assert ended(log)
    assert dropped.rows == {"cluster": 2}


@pytest.mark.node
def test_the_end_writes_what_is_left(node_settings: Settings, client: OpenSearch) -> None:
    dropped = Dropped()
    log = ubi.Log(partial(ubi.connect, node_settings), dropped, stop_s=60.0)
    rows = [ubi.event_row("click", f"left-{number}", "left", "a1", 1, "") for number in range(1000)]
    assert all(log.put(ubi.EVENTS, row, "c") for row in rows)
    assert ended(log)
    client.indices.refresh(index=ubi.EVENTS)
    mine = {"query": {"term": {"client_id": "left"}}}
    assert client.count(index=ubi.EVENTS, body=mine)["count"] == 1000
    assert not dropped.rows
    client.delete_by_query(index=ubi.EVENTS, body=mine, params={"refresh": "true"})


@pytest.mark.node
def test_a_row_that_the_cluster_refuses_takes_no_other_with_it(node_settings: Settings, client: OpenSearch) -> None:
    dropped = Dropped()
    log = ubi.Log(partial(ubi.connect, node_settings), dropped, stop_s=60.0)
    good = ubi.event_row("click", "refused", "refused", "a1", 1, "")
    for row in (good, {**good, "timestamp": "no day"}, good):
        assert log.put(ubi.EVENTS, row, "c")
    assert ended(log)
    assert dropped.rows == {"cluster": 1}
    client.indices.refresh(index=ubi.EVENTS)
    mine = {"query": {"term": {"client_id": "refused"}}}
    assert client.count(index=ubi.EVENTS, body=mine)["count"] == 2
    client.delete_by_query(index=ubi.EVENTS, body=mine, params={"refresh": "true"})


@pytest.mark.node
def test_a_service_before_a_hung_cluster_ends_and_says_what_it_dropped(
    patient: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ubi, "_TIMEOUT_S", NO_TIME_S)
    event: dict[str, Any] = {"action_name": "click", "client_id": "c"}
    with hung() as url:
        cluster = Cluster(url=url, timeout_s=NO_TIME_S)
        settings = with_serve(msgspec.structs.replace(patient, cluster=cluster), ubi=True, stop_s=1.0)
        with running(settings, wait=False) as found:
            query_id = found.app.state.query_ids.new("c")
            answer = found.http.post("/v1/events", json={**event, "query_id": query_id})
            assert answer.json() == {"kept": True}
            metrics = found.app.state.metrics
        until(lambda: b'shelfrank_ubi_dropped_total{why="stop"} 1.0' in metrics.text())
