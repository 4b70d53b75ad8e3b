"""Changes reach the live index of a real node, once and in the right order, also while it is being switched."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from opensearchpy import OpenSearch

from indexer import aliases
from indexer.errors import ClusterError, UsageError
from indexer.patience import Patience
from indexer.settings import Ingest, Settings
from ingest.feed.command import PLAIN, read
from ingest.feed.events import parse
from ingest.feed.job import Counts, Feed
from ingest.job import Job, Options
from ingest.reindex.job import Options as ReindexOptions
from ingest.reindex.job import Reindex
from ingest.reindex.origins import FromStored
from ingest.report import DeadLetters
from ingest.schema import load_mapping
from ingest.sources import open_catalogue
from reranker.encoder import Encoder
from reranker.scoring import CrossEncoder
from tests.commands import run
from tests.integration.clearing import remove
from tests.integration.standin import StandIn
from tests.waiting import until

NAME = "test-feed"
SETTINGS = Settings(ingest=Ingest(batch=50, patience_s=30.0))


@pytest.fixture
def shop(client: OpenSearch, tmp_path: Path) -> Iterator[OpenSearch]:
    """A catalogue of 20 lamps."""
    remove(client, NAME)
    ingest(client, tmp_path)
    yield client
    remove(client, NAME)


def ingest(client: OpenSearch, folder: Path, models: StandIn | None = None) -> None:
    mapping, path = folder / "shop.toml", folder / "shop.csv"
    mapping.write_text('[columns]\nid = "id"\ntitle = "title"\nprice = "price"\n')
    rows = [f"p{number},Lamp number {number} 台灯,{number % 9 + 10}" for number in range(20)]
    path.write_text("\n".join(["id,title,price", *rows, ""]), "utf-8")
    models = models or StandIn()
    options = Options(NAME, folder / "rejected.jsonl")
    Job(client, open_catalogue(path, load_mapping(str(mapping))), models, models, SETTINGS, options).run()


def feed(
    client: OpenSearch,
    folder: Path,
    lines: Sequence[dict[str, Any]],
    models: StandIn | None = None,
    settings: Settings = SETTINGS,
    **chosen: Any,
) -> Counts:
    models = models or StandIn()
    path = folder / "feed.jsonl"
    path.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), "utf-8")
    with DeadLetters(folder / "feed.rejected.jsonl") as letters:
        job = Feed(client, NAME, models, models, settings, letters, **chosen)
        return job.run(read(path, PLAIN, 50, False))


def upsert(version: int, name: str, title: str, **values: Any) -> dict[str, Any]:
    return {"op": "upsert", "version": version, "product": {"id": name, "title": title, **values}}


def update(version: int, name: str, **values: Any) -> dict[str, Any]:
    return {"op": "update", "version": version, "id": name, "set": values}


def delete(version: int, name: str) -> dict[str, Any]:
    return {"op": "delete", "version": version, "id": name}


def there(client: OpenSearch, name: str) -> dict[str, Any] | None:
    found = client.mget(index=NAME, body={"ids": [name]})["docs"][0]
    source: dict[str, Any] | None = found.get("_source")
    return source


def count(client: OpenSearch) -> int:
    client.indices.refresh(index=NAME)
    return int(client.count(index=NAME)["count"])


@pytest.mark.node
def test_products_come_change_and_go(shop: OpenSearch, tmp_path: Path) -> None:
    models = StandIn()
    lines = [upsert(1, "new", "A new lamp", price=5), update(2, "p1", price=99.5, stock=3), delete(3, "p2")]
    counts = feed(shop, tmp_path, lines, models)
    assert (counts.read, counts.applied, counts.upserts, counts.updates, counts.deletes) == (3, 3, 1, 1, 1)
    assert models.embedded == ["new"]
    assert (there(shop, "new") or {})["title"] == "A new lamp"
    changed = there(shop, "p1") or {}
    assert (changed["price"], changed["stock"], changed["title"]) == (99.5, 3, "Lamp number 1 台灯")
    assert there(shop, "p2") is None
    assert count(shop) == 20


@pytest.mark.node
def test_the_same_feed_again_changes_nothing(shop: OpenSearch, tmp_path: Path) -> None:
    lines = [upsert(1, "new", "A new lamp"), update(2, "p1", price=99.5), delete(3, "p2"), upsert(4, "p3", "Other")]
    feed(shop, tmp_path, lines)
    before = {name: there(shop, name) for name in ("new", "p1", "p2", "p3")}
    models = StandIn()
    counts = feed(shop, tmp_path, lines, models)
    assert (counts.applied, counts.superseded, models.embedded) == (0, 4, [])
    assert {name: there(shop, name) for name in before} == before


@pytest.mark.node
def test_an_update_leaves_the_vector_and_the_next_ingest_of_the_same_price_nothing_to_do(
    shop: OpenSearch, tmp_path: Path
) -> None:
    before = there(shop, "p1") or {}
    feed(shop, tmp_path, [update(2, "p1", price=77), update(3, "p1", price=before["price"])])
    after = there(shop, "p1") or {}
    assert after["offer"] == {"price": 3}
    assert {key: after[key] for key in before} == before
    models = StandIn()
    ingest(shop, tmp_path, models)
    assert models.embedded == []


@pytest.mark.node
def test_an_upsert_of_the_same_text_is_not_embedded_again(shop: OpenSearch, tmp_path: Path) -> None:
    models = StandIn()
    same = [
        upsert(5, "p1", "Lamp number 1 台灯", price=11, language="zh"),
        upsert(6, "p2", "Lamp number 2 台灯", price=50),
    ]
    counts = feed(shop, tmp_path, same, models)
    assert (counts.applied, counts.embedded, models.embedded) == (2, 0, [])
    assert (there(shop, "p1") or {})["version"] == 5
    assert (there(shop, "p2") or {})["price"] == 50


@pytest.mark.node
def test_a_value_can_be_taken_away(shop: OpenSearch, tmp_path: Path) -> None:
    models = StandIn()
    feed(shop, tmp_path, [update(2, "p1", price=None)], models)
    assert "price" not in (there(shop, "p1") or {})
    assert models.embedded == []


@pytest.mark.node
def test_a_tombstone_outlives_time_ingest_and_reindex(shop: OpenSearch, tmp_path: Path) -> None:
    feed(shop, tmp_path, [delete(9, "p2")])
    assert feed(shop, tmp_path, [upsert(8, "p2", "Late")]).superseded == 1
    ingest(shop, tmp_path)
    assert there(shop, "p2") is None
    reindex(shop, tmp_path, StandIn("stand-in-2"))
    models = StandIn("stand-in-2")
    assert feed(shop, tmp_path, [upsert(8, "p2", "Late")], models).superseded == 1
    assert feed(shop, tmp_path, [upsert(10, "p2", "Back")], models).applied == 1
    assert feed(shop, tmp_path, [delete(9, "p2")], models).superseded == 1
    assert (there(shop, "p2") or {})["title"] == "Back"


@pytest.mark.node
def test_bad_lines_and_unknown_products_are_dead_letters(shop: OpenSearch, tmp_path: Path) -> None:
    lines = [update(1, "nobody", price=3), {"op": "delete", "id": "p1"}, upsert(1, "x", ""), upsert(2, "y", "Fine")]
    counts = feed(shop, tmp_path, lines)
    assert (counts.read, counts.applied, counts.rejected) == (4, 1, 3)
    letters = [json.loads(line) for line in Path(counts.dead_letter).read_text("utf-8").splitlines()]
    assert [(letter["row"], letter["field"]) for letter in letters] == [(2, "version"), (3, "title"), (1, "id")]


@pytest.mark.node
def test_another_encoder_may_update_and_delete_but_not_make_vectors(shop: OpenSearch, tmp_path: Path) -> None:
    models = StandIn("stand-in-2")
    assert feed(shop, tmp_path, [update(1, "p1", price=3), delete(2, "p2")], models).applied == 2
    with pytest.raises(ClusterError, match=r"encoder stand-in-1, and stand-in-2 is loaded"):
        feed(shop, tmp_path, [upsert(3, "p1", "New text")], models)


@pytest.mark.node
def test_a_write_block_that_nobody_lifts_is_told(shop: OpenSearch, tmp_path: Path) -> None:
    shop.indices.put_settings(index=NAME, body={"index.blocks.write": True})
    impatient = Settings(ingest=Ingest(batch=50, patience_s=2.0))
    with pytest.raises(ClusterError, match=r"taken nothing for 2 s.*takes no writes"):
        feed(shop, tmp_path, [update(1, "p1", price=1.5)], settings=impatient)


@pytest.mark.node
def test_without_a_catalogue_there_is_nothing_to_feed(client: OpenSearch, tmp_path: Path) -> None:
    remove(client, NAME)
    with pytest.raises(UsageError, match="no catalogue test-feed"):
        feed(client, tmp_path, [delete(1, "a")])


@pytest.mark.node
def test_a_change_that_somebody_else_makes_at_the_same_moment_is_not_lost(shop: OpenSearch, tmp_path: Path) -> None:
    class Slow(StandIn):
        """While it embeds, somebody else writes."""

        def embed_products(self, products: Sequence[Any]) -> Any:
            if not self.embedded:
                shop.update(index=NAME, id="p1", body={"doc": {"version": 5, "title": "Newer"}})
            return super().embed_products(products)

    counts = feed(shop, tmp_path, [upsert(4, "p1", "Older"), upsert(4, "p3", "Third")], Slow())
    assert (counts.applied, counts.superseded) == (1, 1)
    assert (there(shop, "p1") or {})["title"] == "Newer"
    assert (there(shop, "p3") or {})["title"] == "Third"


def reindex(client: OpenSearch, folder: Path, models: StandIn, **chosen: Any) -> None:
    live = aliases.live(client, NAME)
    assert live is not None
    origin = FromStored(client, live.index, Patience(30.0))
    Reindex(client, origin, models, models, SETTINGS, ReindexOptions(NAME, folder / "r.jsonl"), **chosen).start()


@pytest.mark.node
def test_a_feed_that_runs_through_a_switch_loses_nothing(shop: OpenSearch, tmp_path: Path) -> None:
    """Updates, new products and deletions all the time; afterwards the index is what the events say, id by id."""
    stop, failures = threading.Event(), []
    sent: dict[str, Any] = {}
    models = StandIn()

    def batches() -> Iterator[Any]:
        version = 100
        while not stop.is_set():
            version += 1
            name = f"p{version % 31}"  # each has all three kinds, one after the other
            line = [
                upsert(version, name, f"Text {version}", stock=version),
                update(version, name, stock=version),
                delete(version, name),
            ][version % 3]
            event = parse(json.dumps(line).encode(), version, PLAIN)
            sent.setdefault(name, []).append(line)
            yield [event]

    def run() -> None:
        with DeadLetters(tmp_path / "through.jsonl") as letters:
            try:
                Feed(shop, NAME, models, models, SETTINGS, letters).run(batches())
            except ClusterError as error:
                failures.append(str(error))

    thread = threading.Thread(target=run)
    thread.start()

    def so_far() -> int:
        return sum(len(lines) for lines in list(sent.values()))

    try:
        for _ in range(4):
            reindex(shop, tmp_path, StandIn())
            before = so_far()
            until(lambda: failures or so_far() > before + 13, "the feed did not go on")  # noqa: B023 - called here
    finally:
        stop.set()
        thread.join()
    assert failures == []
    assert so_far() > 50
    expected = {f"p{number}": {"title": f"Lamp number {number} 台灯"} for number in range(20)}
    for name, lines in sent.items():
        for line in lines:
            if line["op"] == "upsert":
                expected[name] = {"title": line["product"]["title"], "stock": line["product"]["stock"]}
            elif line["op"] == "delete":
                expected.pop(name, None)
            elif name in expected:
                expected[name]["stock"] = line["set"]["stock"]
    shop.indices.refresh(index=NAME)
    hits = shop.search(index=NAME, body={"size": 100, "query": {"match_all": {}}})["hits"]["hits"]
    found = {
        hit["_id"]: {key: hit["_source"][key] for key in ("title", "stock") if key in hit["_source"]} for hit in hits
    }
    assert found == expected


@pytest.mark.node
def test_what_waits_for_a_write_block_is_not_embedded_again_and_again(shop: OpenSearch, tmp_path: Path) -> None:
    shop.indices.put_settings(index=NAME, body={"index.blocks.write": True})
    models = StandIn()
    opening = threading.Timer(2.0, lambda: shop.indices.put_settings(index=NAME, body={"index.blocks.write": None}))
    opening.start()
    counts = feed(
        shop, tmp_path, [{"op": "upsert", "version": 1, "product": {"id": "p1", "title": "Fresh", "price": 1}}], models
    )
    opening.join()
    assert counts.applied == 1
    assert models.embedded == ["p1", "p1"]  # before the block was met, and when it was gone


@pytest.mark.node
def test_an_upsert_of_what_is_there_brings_its_version_and_takes_older_offers_away(
    shop: OpenSearch, tmp_path: Path
) -> None:
    def stored() -> dict[str, Any]:
        shop.indices.refresh(index=NAME)
        found = shop.get(index=NAME, id="p1")["_source"]
        return {key: found.get(key) for key in ("title", "price", "version", "offer")}

    lamp = {"id": "p1", "title": "Lamp", "price": 7}
    feed(shop, tmp_path, [{"op": "upsert", "version": 1, "product": lamp}])
    feed(shop, tmp_path, [{"op": "upsert", "version": 2, "product": lamp}])
    assert stored() == {"title": "Lamp", "price": 7.0, "version": 2, "offer": None}
    feed(shop, tmp_path, [update(3, "p1", price=7)])
    assert stored()["offer"] == {"price": 3}
    models = StandIn()
    feed(shop, tmp_path, [{"op": "upsert", "version": 4, "product": lamp}], models)
    assert stored() == {"title": "Lamp", "price": 7.0, "version": 4, "offer": None}
    assert models.embedded == []


@pytest.mark.node
def test_a_file_without_a_single_change_is_an_error(
    shop: OpenSearch, node: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = StandIn()
    for kind in (Encoder, CrossEncoder):
        monkeypatch.setattr(kind, "load", classmethod(lambda *_: models))
    (tmp_path / "broken.jsonl").write_text("{broken\n[]\n", "utf-8")
    done = run("feed", "broken.jsonl", "--index", NAME, folder=tmp_path, OPENSEARCH_URL=node)
    assert done.returncode == 1
    assert "None of the 2 lines is a change" in " ".join(done.stderr.split())
    (tmp_path / "late.jsonl").write_text('{"op":"update","version":1,"id":"unknown","set":{"price":1}}\n', "utf-8")
    assert run("feed", "late.jsonl", "--index", NAME, folder=tmp_path, OPENSEARCH_URL=node).returncode == 0
