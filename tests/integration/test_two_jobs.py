"""Two jobs of one catalogue at once, whichever: each is done or told to wait, and with both given again the catalogue
is what it is when one comes after the other."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import combinations_with_replacement
from pathlib import Path

import pytest
from opensearchpy import OpenSearch

from indexer import aliases, jobs
from indexer.errors import ShelfrankError
from tests.integration.clearing import remove
from tests.integration.lamps import EVENTS, LAMPS, NEWER, Shop, State
from tests.integration.standin import StandIn
from tests.workers import LONG, SEED

NAME = "test-two-jobs"
# Versions decide what stands, so it does not matter who comes first.
VERSIONED = {key: (title, price, "3") for key, (title, price, _) in NEWER.items()}
JOBS: dict[str, Callable[[Shop], None]] = {
    "ingest": lambda shop: shop.ingest(VERSIONED),
    "feed": lambda shop: shop.feed(EVENTS),
    "reindex": lambda shop: shop.reindex(StandIn("stand-in-3")),
    "rollback": lambda shop: shop.rollback("stand-in-1"),
    "clean": lambda shop: shop.clean(),
}
PAIRS = list(combinations_with_replacement(JOBS, 2))


@pytest.fixture
def shops(client: OpenSearch, tmp_path: Path) -> Iterator[tuple[Shop, Shop]]:
    """The same catalogue, as two operators have it: live is the second index, the first is kept."""
    remove(client, NAME)
    folders = tmp_path / "one", tmp_path / "other"
    for folder in folders:
        folder.mkdir()
    one, other = (Shop(client, folder, NAME) for folder in folders)
    one.ingest(LAMPS)
    one.reindex(StandIn("stand-in-2"))
    yield one, other
    remove(client, NAME)


@pytest.fixture
def alone(client: OpenSearch, tmp_path: Path) -> Iterator[Shop]:
    """One of which nobody else knows."""
    remove(client, "test-one-job")
    shop = Shop(client, tmp_path, "test-one-job")
    shop.ingest(LAMPS)
    yield shop
    remove(client, "test-one-job")


@pytest.mark.node
@pytest.mark.parametrize("pair", PAIRS if LONG else random.Random(SEED).sample(PAIRS, 4), ids=" beside ".join)
def test_two_jobs_at_once_end_as_one_after_the_other(
    shops: tuple[Shop, Shop], alone: Shop, pair: tuple[str, str]
) -> None:
    for job in pair:
        if job in ("ingest", "feed"):
            JOBS[job](alone)

    delays = iter(random.Random(f"{SEED} {pair}").choices((0.0, 0.05, 0.1, 0.2, 0.4), k=2))

    def run(job: str, shop: Shop) -> str:
        time.sleep(next(delays, 0.0))
        try:
            JOBS[job](shop)
        except ShelfrankError as error:
            return str(error)
        return ""

    one = shops[0]
    with ThreadPoolExecutor(2) as threads:
        told = list(threads.map(run, pair, shops))
    for job, shop, reason in zip(pair, shops, told, strict=True):
        again = run(job, shop) if reason else ""
        # What was to be led back to may have been cleaned away.
        assert not again or (job == "rollback" and "clean" in pair), f"{reason} Given again: {again}"
    record, live = jobs.Board(one.client).read(NAME), aliases.live(one.client, NAME)
    assert (record.is_open, record.owner) == (False, "")
    assert live is not None
    bundles, found = contents(one)
    assert bundles == {live.made.encoder}
    assert found == contents(alone)[1]
    one.feed([{"op": "upsert", "version": 99, "product": {"id": "99", "title": "Last", "price": 1}}])  # takes writes


def contents(shop: Shop) -> tuple[set[str], State]:
    """Whose vectors a catalogue has, and what does not depend on them."""
    state = shop.state()
    bundles = {document.pop("vector_bundle") for document in state["documents"].values()}
    for document in state["documents"].values():
        del document["content_hash"]
    return bundles, state
