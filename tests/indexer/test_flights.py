"""Several writes at once: no document lost, no outcome untold, fewer at a time while the cluster is busy."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from opensearchpy import OpenSearch
from opensearchpy.exceptions import AuthorizationException, TransportError

from indexer.bulk import BulkWriter, Document, Outcome, Pace
from indexer.errors import ClusterError
from indexer.flights import Flights
from indexer.patience import Patience

INDEX = "test-flights"


def documents(first: int, count: int) -> list[Document]:
    return [Document(str(at), msgspec.json.encode({"at": at})) for at in range(first, first + count)]


class Busy:
    """Passes bulk requests on and knows how many were out at once; fails those that `fault` names."""

    def __init__(self, client: OpenSearch, wait_s: float = 0.02) -> None:
        self._client, self._wait_s, self._lock = client, wait_s, threading.Lock()
        self.out, self.most, self.sent = 0, 0, 0
        self.faults: dict[int, Exception] = {}

    def bulk(self, body: bytes) -> Any:
        with self._lock:
            self.out, self.sent = self.out + 1, self.sent + 1
            self.most = max(self.most, self.out)
            fault = self.faults.get(self.sent)
        try:
            time.sleep(self._wait_s)
            if fault:
                raise fault
            return self._client.bulk(body=body)
        finally:
            with self._lock:
                self.out -= 1


@pytest.fixture
def busy(client: OpenSearch) -> Iterator[Busy]:
    client.indices.delete(index=INDEX, params={"ignore_unavailable": "true"})
    client.indices.create(index=INDEX, body={"mappings": {"properties": {"at": {"type": "integer"}}}})
    yield Busy(client)
    client.indices.delete(index=INDEX)


def writer(busy: Any, most: int) -> BulkWriter:
    return BulkWriter(busy, INDEX, max_requests=most, patience=Patience(30.0, base_s=0.001, cap_s=0.01))


def count(client: OpenSearch) -> int:
    client.indices.refresh(index=INDEX)
    return int(client.count(index=INDEX)["count"])


def test_the_number_of_requests_grows_to_its_limit_and_falls_when_one_is_refused() -> None:
    pace = Pace(1_000_000, 4)
    seen = [pace.requests]
    for _ in range(12):
        pace.went_well(0.1)
        seen.append(pace.requests)
    assert seen == [1, 2, 2, 3, 3, 3, 4, 4, 4, 4, 4, 4, 4]
    pace.refused()
    assert (pace.requests, pace.bytes) == (2, 500_000)
    pace.went_well(60.0)  # far too slow
    assert (pace.requests, pace.bytes) == (1, 250_000)
    pace.refused()
    assert pace.requests == 1
    assert Pace(1_000_000).requests == Pace(1_000_000).max_requests == 1


@pytest.mark.node
@pytest.mark.parametrize("most", [1, 3])
def test_every_document_is_written_and_every_outcome_told(client: OpenSearch, busy: Busy, most: int) -> None:
    told: list[Outcome] = []
    threads = set()

    def landed(outcome: Outcome) -> None:
        threads.add(threading.get_ident())
        told.append(outcome)

    with Flights(writer(busy, most)) as flights:
        for batch in range(30):
            flights.send(documents(batch * 10, 10), landed)
        flights.send([], landed)
    assert busy.most == most
    assert len(told) == 31
    assert sorted(int(name) for outcome in told for name in outcome.written) == list(range(300))
    assert threads == {threading.get_ident()}
    assert count(client) == 300


@pytest.mark.node
def test_a_busy_cluster_gets_fewer_at_a_time_and_still_all(client: OpenSearch, busy: Busy) -> None:
    busy.faults = {number: TransportError(429, "busy") for number in range(20, 40)}
    written: list[str] = []
    with Flights(chosen := writer(busy, 4)) as flights:
        for batch in range(12):
            flights.send(documents(batch * 10, 10), lambda outcome: written.extend(outcome.written))
        before = chosen.pace.requests
        for batch in range(12, 20):
            flights.send(documents(batch * 10, 10), lambda outcome: written.extend(outcome.written))
    assert before == 4
    assert chosen.pace.requests < 4
    assert sorted(map(int, written)) == list(range(200))
    assert count(client) == 200


@pytest.mark.node
def test_a_write_that_fails_is_raised_and_what_others_wrote_is_told(client: OpenSearch, busy: Busy) -> None:
    busy.faults = {9: AuthorizationException(403, "forbidden", {})}
    told: list[str] = []

    def sent() -> int:
        batches = 0
        with Flights(writer(busy, 3)) as flights:
            for batch in range(1000):
                flights.send(documents(batch * 10, 10), lambda outcome: told.extend(outcome.written))
                batches += 1
        return batches

    with pytest.raises(ClusterError, match="403"):
        sent()
    assert len(told) == count(client)
    assert 80 <= len(told) <= 120


@pytest.mark.node
def test_an_end_by_an_exception_sends_nothing_more(client: OpenSearch, busy: Busy) -> None:
    busy.faults = {number: TransportError(503, "away") for number in range(3, 10_000)}
    told: list[str] = []

    def stopped() -> None:
        with Flights(writer(busy, 2)) as flights:
            for batch in range(3):
                flights.send(documents(batch * 10, 10), lambda outcome: told.extend(outcome.written))
            time.sleep(0.5)  # until the third is being tried again and again
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped()
    assert 3 < busy.sent < 100  # and not until patience is over
    assert len(told) == count(client) == 20
