"""Every document is written once or refused with a reason, whatever the cluster does in between."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest
from opensearchpy import OpenSearch
from opensearchpy.exceptions import AuthorizationException, ConnectionTimeout, TransportError
from opensearchpy.exceptions import ConnectionError as NoConnection

from indexer.bulk import BulkWriter, Document, Outcome, Refusal, stored
from indexer.errors import ClusterError
from indexer.patience import Patience

INDEX = "test-bulk"


def documents(*names: str, size: int = 0) -> list[Document]:
    return [Document(name, msgspec.json.encode({"name": name, "pad": "x" * size})) for name in names]


class Faults:
    """A client that fails as told before it passes a bulk request on; counts what it sees."""

    def __init__(self, behind: Callable[[list[str]], dict[str, Any]], *faults: Exception | dict[str, int]) -> None:
        self._behind, self._faults = behind, list(faults)
        self.requests: list[list[str]] = []

    def bulk(self, body: bytes) -> dict[str, Any]:
        names = [msgspec.json.decode(line)["index"]["_id"] for line in body.splitlines()[::2]]
        self.requests.append(names)
        fault = self._faults.pop(0) if self._faults else {}
        if isinstance(fault, Exception):
            raise fault
        taken = iter(self._behind([name for name in names if name not in fault])["items"])
        items = [_refused(name, fault[name]) if name in fault else next(taken) for name in names]
        return {"items": items}


def _refused(name: str, status: int) -> dict[str, Any]:
    error = {"type": "some_exception", "reason": "no room", "caused_by": {"reason": "queue full"}}
    return {"index": {"_id": name, "status": status, "error": error}}


def _taken(names: list[str]) -> dict[str, Any]:
    return {"items": [{"index": {"_id": name, "status": 201}} for name in names]}


class Sleeps(list[float]):
    """Remembers how long it was asked to sleep; time passes by that much."""

    def __call__(self, seconds: float) -> None:
        self.append(seconds)

    def clock(self) -> float:
        return sum(self)


def writer(client: Any, sleeps: Sleeps, limit_s: float = 60.0, **chosen: Any) -> BulkWriter:
    patience = Patience(limit_s, seed=1, sleep=sleeps, clock=sleeps.clock)
    return BulkWriter(client, INDEX, patience=patience, **chosen)


@pytest.fixture
def index(client: OpenSearch) -> Iterator[str]:
    client.indices.delete(index=INDEX, params={"ignore_unavailable": "true"})
    fields = {"name": {"type": "keyword"}, "pad": {"type": "keyword", "index": False, "doc_values": False}}
    client.indices.create(index=INDEX, body={"mappings": {"dynamic": "strict", "properties": fields}})
    yield INDEX
    client.indices.delete(index=INDEX)


@pytest.mark.node
def test_documents_arrive_on_a_real_node_and_a_second_time_replaces_the_first(client: OpenSearch, index: str) -> None:
    bulk = BulkWriter(client, index, max_documents=2)
    assert bulk.write(documents("a", "b", "c")).written == ["a", "b", "c"]
    assert bulk.write(documents("c", "d")).written == ["c", "d"]
    client.indices.refresh(index=index)
    assert client.count(index=index)["count"] == 4


@pytest.mark.node
def test_a_document_that_the_mapping_refuses_costs_only_itself(client: OpenSearch, index: str) -> None:
    bad = Document("bad", b'{"name": "bad", "unknown": 1}')
    outcome = BulkWriter(client, index).write([*documents("a"), bad, *documents("b")])
    assert outcome.written == ["a", "b"]
    assert [(refusal.id, refusal.status) for refusal in outcome.refused] == [("bad", 400)]
    assert "unknown" in outcome.refused[0].reason


@pytest.mark.node
def test_what_is_stored_is_read_of_documents_that_exist(client: OpenSearch, index: str) -> None:
    BulkWriter(client, index).write(documents("a", "b"))
    found = stored(client, index, ["b", "x", "a"], Patience(), ["name"])
    assert {name: item["_source"] for name, item in found.items()} == {"a": {"name": "a"}, "b": {"name": "b"}}
    assert stored(client, index, [], Patience()) == {}


def test_requests_are_bounded_in_documents_and_in_bytes() -> None:
    client = Faults(_taken)
    writer(client, Sleeps(), max_documents=2).write(documents("a", "b", "c"))
    assert client.requests == [["a", "b"], ["c"]]
    client = Faults(_taken)
    writer(client, Sleeps(), max_bytes=250).write(documents("a", "b", "c", size=80))
    assert client.requests == [["a", "b"], ["c"]]


def test_a_document_larger_than_a_request_goes_alone() -> None:
    client = Faults(_taken)
    writer(client, Sleeps(), max_bytes=100).write([*documents("a"), *documents("big", size=500), *documents("c")])
    assert client.requests == [["a"], ["big"], ["c"]]


@pytest.mark.parametrize("status", [429, 502, 503, 504])
def test_only_the_items_without_room_are_sent_again(status: int) -> None:
    client, sleeps = Faults(_taken, {"b": status, "c": status}, {"c": status}), Sleeps()
    outcome = writer(client, sleeps).write(documents("a", "b", "c"))
    assert client.requests == [["a", "b", "c"], ["b", "c"], ["c"]]
    assert sorted(outcome.written) == ["a", "b", "c"]
    assert len(sleeps) == 2


@pytest.mark.parametrize(
    "fault",
    [
        TransportError(429, "busy"),
        TransportError(502, "bad gateway"),
        TransportError(503, "unavailable"),
        TransportError(504, "gateway timeout"),
        NoConnection("N/A", "refused", Exception("refused")),
        ConnectionTimeout("TIMEOUT", "timed out", Exception("timed out")),
    ],
)
def test_a_request_that_may_pass_later_is_sent_again(fault: Exception) -> None:
    client, sleeps = Faults(_taken, fault, fault), Sleeps()
    assert writer(client, sleeps).write(documents("a", "b")).written == ["a", "b"]
    assert client.requests == [["a", "b"]] * 3


def test_other_item_errors_are_refusals_with_the_innermost_reason() -> None:
    client = Faults(_taken, {"b": 400})
    outcome = writer(client, Sleeps()).write(documents("a", "b"))
    assert outcome.refused == [Refusal("b", 400, "no room: queue full")]
    assert client.requests == [["a", "b"]]


def test_a_request_that_is_not_permitted_ends_at_once() -> None:
    client = Faults(_taken, AuthorizationException(403, "forbidden", {}))
    with pytest.raises(ClusterError, match="403"):
        writer(client, Sleeps()).write(documents("a"))
    assert len(client.requests) == 1


def test_a_request_too_large_for_the_cluster_is_halved_until_it_fits() -> None:
    client = Faults(_taken, TransportError(413, "too large"), TransportError(413, "too large"))
    outcome = writer(client, Sleeps()).write(documents("a", "b", "c", "d"))
    assert client.requests == [["a", "b", "c", "d"], ["a", "b"], ["a"], ["b"], ["c", "d"]]
    assert outcome.written == ["a", "b", "c", "d"]
    alone = writer(Faults(_taken, TransportError(413, "too large")), Sleeps()).write(documents("a"))
    assert [refusal.status for refusal in alone.refused] == [413]


def test_patience_ends_after_its_limit_and_tells_the_last_problem_and_what_was_written() -> None:
    down = [NoConnection("N/A", "refused", Exception("refused"))] * 1000
    client, sleeps, outcome = Faults(_taken, {}, *down), Sleeps(), Outcome()
    with pytest.raises(ClusterError, match=r"taken nothing for 60 s; last problem: no connection \(refused\)"):
        writer(client, sleeps, max_documents=1).write(documents("a", "b"), outcome)
    assert outcome.written == ["a"]
    assert sum(sleeps) == pytest.approx(60.0)


def test_every_success_starts_patience_afresh() -> None:
    busy = [{"b": 503}] * 4 + [{}] + [{"c": 503}] * 4
    client, sleeps = Faults(_taken, *busy), Sleeps()
    outcome = writer(client, sleeps, limit_s=6.0, max_documents=1).write(documents("b", "c"))
    assert outcome.written == ["b", "c"]


def test_what_is_waited_for_is_told_once_and_not_at_once() -> None:
    told: list[str] = []
    sleeps = Sleeps()
    patience = Patience(60.0, seed=1, sleep=sleeps, clock=sleeps.clock, tell=told.append)
    while sum(sleeps) < 3.0:
        patience.wait("busy")
        assert told == []
    for _ in range(3):
        patience.wait("busy")
    assert told == ["Waiting, for 60 s at most: busy."]
    patience.succeeded()
    patience.wait("busy")
    assert len(told) == 1


def test_waits_grow_are_jittered_and_capped() -> None:
    sleeps = Sleeps()
    patience = Patience(1e9, base_s=1.0, cap_s=8.0, seed=3, sleep=sleeps, clock=lambda: 0.0)
    for _ in range(200):
        patience.wait("busy")
    assert all(0 <= wait <= min(8.0, 2.0**attempt) for attempt, wait in enumerate(sleeps))
    later = sleeps[10:]
    assert min(later) < 1.0
    assert max(later) > 7.0
    assert Sleeps(sleeps) != sorted(sleeps)
