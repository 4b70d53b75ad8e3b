"""What the version before this one left in a cluster: it is searched, gone on with, fed, led back and made anew."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest
from opensearchpy import OpenSearch

from indexer import aliases, jobs, settings
from indexer.errors import ClusterError
from indexer.settings import Cluster, Settings
from ingest.reindex import operations
from reranker.search import Searcher
from tests.integration import earlier
from tests.integration.clearing import remove
from tests.integration.lamps import EVENTS, Shop
from tests.integration.standin import StandIn

NAME = "test-earlier"
LAMPS = {str(number): (f"Lamp {number} 台灯", 10 + number, "") for number in range(12)}
# id -> title, price: after the feed that every recording but the first ingest's has made.
FED = {
    **{key: (title, float(price)) for key, (title, price, _) in LAMPS.items() if key not in ("1", "2")},
    "3": ("Lamp 3 台灯", 99.5),
    "30": ("Fresh", 4.0),
}
FED_AGAIN = {**{key: row for key, row in FED.items() if key != "4"}, "31": ("After", 7.0)}
Step = Callable[[Shop], None]
# What an operator does first with each recording, and which products the catalogue has then.
RECORDINGS: dict[str, tuple[Step, dict[str, tuple[str, float]]]] = {
    "fed": (lambda shop: None, FED),
    "reindexed": (lambda shop: shop.rollback("stand-in-1"), FED_AGAIN),
    "first-ingest-died": (
        lambda shop: shop.ingest(LAMPS),
        {key: (title, float(price)) for key, (title, price, _) in LAMPS.items()},
    ),
    "reindex-paused": (lambda shop: shop.reindex(StandIn("stand-in-2")), FED_AGAIN),
    "reindex-died": (lambda shop: shop.reindex(StandIn("stand-in-2")), FED_AGAIN),
    "reindex-died-in-switch": (lambda shop: shop.reindex(StandIn("stand-in-2")), FED),
}


@pytest.fixture
def shop(client: OpenSearch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shop]:
    """A job's holder was a process of another machine: whether it has gone shows when its lease, here of a second, is
    over."""
    monkeypatch.setattr(jobs, "_MAX_LEASE_S", 1.0)
    remove(client, NAME)
    yield Shop(client, tmp_path, NAME)
    remove(client, NAME)


def products(shop: Shop) -> dict[str, tuple[str, float]]:
    documents = shop.state()["documents"]
    return {key: (document["title"], document["price"]) for key, document in documents.items()}


@pytest.mark.node
@pytest.mark.parametrize("name", RECORDINGS)
def test_what_an_earlier_version_left_goes_on(shop: Shop, node: str, name: str) -> None:
    step, wanted = RECORDINGS[name]
    earlier.replay(shop.client, name)
    step(shop)
    assert products(shop) == wanted
    record = jobs.Board(shop.client).read(NAME)
    assert (record.is_open, record.owner) == (False, "")
    shop.feed(
        [
            {"op": "upsert", "version": 50, "product": {"id": "50", "title": "Newest", "price": 1}},
            {"op": "delete", "version": 51, "id": "0"},
            {"op": "update", "version": 52, "id": "5", "set": {"price": 2}},
            {"op": "upsert", "version": 4, "product": {"id": "1", "title": "Older than its deletion", "price": 1}},
        ]
    )
    if name == "first-ingest-died":  # there, nobody had deleted it
        wanted = {**wanted, "1": ("Older than its deletion", 1.0)}
    wanted = {**{key: row for key, row in wanted.items() if key != "0"}, "50": ("Newest", 1.0)}
    wanted["5"] = (wanted["5"][0], 2.0)
    assert products(shop) == wanted
    searcher = Searcher.connect(Settings(cluster=Cluster(url=node)), encoder=False, reranker=False)
    found = searcher.search(NAME, "台灯", mode="bm25", rerank=False, size=20)
    assert {hit.id for hit in found.hits} == {key for key, (title, _) in wanted.items() if "台灯" in title}
    shop.reindex(StandIn("stand-in-3"))
    assert products(shop) == wanted
    live = aliases.live(shop.client, NAME)
    assert live is not None
    assert live.made.encoder == "stand-in-3"


@pytest.mark.node
def test_what_can_only_be_gone_on_with_says_so(shop: Shop) -> None:
    earlier.replay(shop.client, "reindex-died-in-switch")
    with pytest.raises(ClusterError, match="left in the middle"):
        Shop(shop.client, shop.folder, NAME, patience_s=2.0).feed(
            [{"op": "upsert", "version": 51, "product": {"id": "0", "title": "Another", "price": 1}}]
        )
    assert operations.status(shop.client, NAME).blocked
    shop.reindex(StandIn("stand-in-2"))
    assert not operations.status(shop.client, NAME).blocked


@pytest.mark.node
def test_a_recording_leaves_what_was_recorded(shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(earlier, "FOLDER", tmp_path)
    with earlier.recording(shop.client, tmp_path / "present.jsonl"):
        shop.ingest(LAMPS)
        shop.reindex(StandIn("stand-in-2"))
        shop.feed(EVENTS)
    live, state, record = aliases.live(shop.client, NAME), shop.state(), jobs.Board(shop.client).read(NAME)
    remove(shop.client, NAME)
    earlier.replay(shop.client, "present")
    assert (aliases.live(shop.client, NAME), shop.state(), jobs.Board(shop.client).read(NAME)) == (live, state, record)


def test_its_settings_are_read() -> None:
    found = settings.load(earlier.FOLDER / "settings.toml", {})
    assert found == Settings()
    assert msgspec.to_builtins(found)["guards"]
