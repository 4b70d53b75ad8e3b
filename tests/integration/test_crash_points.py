"""A process ends at any of its requests to the cluster, and the same command is given again: what stands in the end is
what an undisturbed run leaves, document by document, with nothing lost, doubled or stale."""

from __future__ import annotations

import logging
import os
import random
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from opensearchpy import OpenSearch

from indexer import client as clusters
from indexer import jobs, tombstones
from indexer import node as nodes
from indexer.errors import UsageError
from indexer.patience import Patience
from indexer.settings import Node, Settings
from ingest.reindex import operations
from tests.integration.clearing import remove
from tests.integration.faults import start_again
from tests.integration.lamps import EVENTS, LAMPS, NEWER, Shop, State
from tests.integration.mortal import DiedError, Mortal, intercepted
from tests.integration.standin import StandIn
from tests.workers import LONG, SEED

log = logging.getLogger(__name__)

NAME = "test-crash"
# Points of each job that one run tries; a long one tries all.
POINTS = 3


def with_deletion_left(shop: Shop) -> None:
    """A shop in which a feed has died between a tombstone and its deletion."""
    shop.ingest(LAMPS)
    tombstones.write(shop.client, shop.name, {"7": 3}, Patience(10.0))


def after_reindex(shop: Shop) -> None:
    shop.ingest(LAMPS)
    shop.reindex(StandIn("stand-in-2"))
    shop.feed(EVENTS)


# Job -> what stands before it, and the job itself.
JOBS: dict[str, tuple[Callable[[Shop], None], Callable[[Shop], None]]] = {
    "first ingest": (lambda shop: None, lambda shop: shop.ingest(LAMPS)),
    "ingest": (with_deletion_left, lambda shop: shop.ingest(NEWER)),
    "feed": (with_deletion_left, lambda shop: shop.feed(EVENTS)),
    "reindex": (with_deletion_left, lambda shop: shop.reindex(StandIn("stand-in-2"))),
    "reindex from a file": (with_deletion_left, lambda shop: shop.reindex(StandIn("stand-in-2"), NEWER)),
    "rollback": (after_reindex, lambda shop: shop.rollback("stand-in-1")),
    "clean": (after_reindex, lambda shop: shop.clean()),
}


@pytest.fixture
def shop(client: OpenSearch, tmp_path: Path) -> Iterator[Shop]:
    remove(client, NAME)
    yield Shop(client, tmp_path, NAME)
    remove(client, NAME)


def attempt(shop: Shop, job: str, at: int, answered: bool) -> tuple[int, State]:
    """Let a job die and give its command again: how many requests it made, and what stands then."""
    before, run = JOBS[job]
    remove(shop.client, NAME)
    before(shop)
    with Mortal(shop.client, at, answered) as mortal, suppress(DiedError):
        run(shop)
    run(shop)
    return mortal.count, shop.state()


@pytest.mark.node
@pytest.mark.parametrize("job", JOBS)
def test_a_job_that_died_anywhere_ends_as_if_it_had_not(shop: Shop, job: str) -> None:
    requests, wanted = attempt(shop, job, 10**6, True)
    chance = random.Random(f"{SEED} {job}")
    points = [(at, answered) for at in range(1, requests + 1) for answered in (False, True)]
    chosen = points if LONG else chance.sample(points, POINTS)
    for at, answered in chosen:
        _, found = attempt(shop, job, at, answered)
        assert found == wanted, f"request {at} of {requests}, {'answered' if answered else 'not answered'}"
        writable(shop)
    log.info("%s: %d requests, died %d times, nothing lost, doubled or stale", job, requests, len(chosen))


def writable(shop: Shop) -> None:
    """Nothing that died has left a write block on the live index."""
    shop.feed([{"op": "upsert", "version": 99, "product": {"id": "99", "title": "Last", "price": 1}}])


@pytest.mark.node
def test_a_node_that_restarts_between_any_two_requests_of_a_switch_loses_nothing(
    own_node: Node, tmp_path: Path
) -> None:
    nodes.start(own_node)
    client = clusters.connect(Settings(node=own_node))
    shop = Shop(client, tmp_path, NAME, patience_s=120.0)
    with_deletion_left(shop)
    switching = Switching(client)
    with switching.at(10**6, lambda: None):
        shop.reindex(StandIn("stand-in-2"))
    wanted = shop.state()
    chosen = range(1, switching.count + 1) if LONG else [random.Random(SEED).randint(1, switching.count)]
    for at in chosen:
        remove(client, NAME)
        with_deletion_left(shop)
        with switching.at(at, lambda: restart(own_node)):
            shop.reindex(StandIn("stand-in-2"))
        assert shop.state() == wanted, f"request {at} of {switching.count}"
        writable(shop)
    log.info("%d requests of a switch, %d restarts of the node between them", switching.count, len(chosen))


@dataclass
class Switching:
    """Does something before a request, counted from the one that says that the switch begins."""

    client: OpenSearch
    count: int = 0

    @contextmanager
    def at(self, number: int, do: Callable[[], None]) -> Iterator[None]:
        self.count, done = 0, []

        def handle(send: Callable[..., Any], method: str, url: str, *given: Any, **named: Any) -> Any:
            body = named.get("body")
            begins = url.startswith(f"/{jobs.INDEX}/") and isinstance(body, dict) and body.get("phase") == "switch"
            self.count += begins or self.count > 0
            if self.count == number and not done:
                done.append(True)
                do()
            return send(method, url, *given, **named)

        with intercepted(self.client, handle):
            yield


def restart(node: Node) -> None:
    """Kill a node and start it again."""
    status = nodes.status(node)
    os.kill(status.pid, signal.SIGKILL)
    start_again(node, status.port)


@pytest.mark.node
def test_a_rollback_that_died_before_the_alias_moved_is_given_again(shop: Shop) -> None:
    after_reindex(shop)
    moves: list[str] = []

    def dying(send: Callable[..., Any], method: str, url: str, *given: Any, **named: Any) -> Any:
        if url == "/_aliases" or moves:
            moves.append(url)
            raise DiedError
        return send(method, url, *given, **named)

    with intercepted(shop.client, dying), pytest.raises(DiedError):
        shop.rollback("stand-in-1")
    assert operations.status(shop.client, NAME).blocked
    shop.rollback("stand-in-1")
    assert not operations.status(shop.client, NAME).blocked
    assert {each["vector_bundle"] for each in shop.state()["documents"].values()} == {"stand-in-1"}
    writable(shop)


@pytest.mark.node
def test_there_is_no_job_to_go_on_with_before_the_first(shop: Shop) -> None:
    with pytest.raises(UsageError):
        shop.feed(EVENTS)
