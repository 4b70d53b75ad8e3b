"""Jobs that would change the shop too much stop before anybody sees it, on a real node; a flag lets them go on."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from opensearchpy import OpenSearch

from indexer import aliases, jobs
from indexer.errors import InputError
from indexer.settings import Ingest, Settings
from ingest.feed.command import PLAIN, read
from ingest.feed.job import Counts, Feed
from ingest.guards import GuardError
from ingest.job import Job
from ingest.job import Options as IngestOptions
from ingest.reindex.job import Options, Reindex
from ingest.reindex.origins import FromFile
from ingest.report import DeadLetters
from ingest.schema import load_mapping
from ingest.sources import open_catalogue
from tests.integration.clearing import remove
from tests.integration.standin import StandIn

NAME = "test-guards"
SETTINGS = Settings(ingest=Ingest(batch=10, patience_s=20.0))
MAPPING = '[columns]\nid = "id"\ntitle = "title"\nprice = "price"\nimage = "image"\ncategory = "category"\n'
COUNT = 40
HEADER = "id,title,price,image,category"


def lines(count: int = COUNT, price: int = 10, image: str = "http://x/a.jpg", category: str = "Lamps") -> list[str]:
    return [f"p{number},Lamp {number},{price},{image},{category}" for number in range(count)]


class Shop:
    """A catalogue of forty lamps, and jobs that change it."""

    def __init__(self, client: OpenSearch, folder: Path) -> None:
        self.client, self.folder = client, folder
        self.mapping = folder / "shop.toml"
        self.mapping.write_text(MAPPING)

    def file(self, rows: list[str], header: str = HEADER) -> Path:
        path = self.folder / "shop.csv"
        path.write_text("\n".join([header, *rows, ""]), "utf-8")
        return path

    def ingest(self, rows: list[str], *allow: str, header: str = HEADER) -> None:
        models, options = StandIn(), IngestOptions(NAME, self.folder / "x.jsonl", allow=frozenset(allow))
        catalogue = open_catalogue(self.file(rows, header), load_mapping(str(self.mapping)))
        Job(self.client, catalogue, models, models, SETTINGS, options).run()

    def reindex(self, rows: list[str], *allow: str, resume: bool = False) -> None:
        models, options = StandIn(), Options(NAME, self.folder / "y.jsonl", allow=frozenset(allow))
        job = Reindex(self.client, FromFile(self.file(rows), str(self.mapping)), models, models, SETTINGS, options)
        job.resume() if resume else job.start()

    def feed(self, events: list[dict[str, Any]], *allow: str, at_once: int = 10) -> Counts:
        models, path = StandIn(), self.folder / "feed.jsonl"
        path.write_text("".join(json.dumps(event) + "\n" for event in events), "utf-8")
        with DeadLetters(self.folder / "z.jsonl") as letters:
            job = Feed(self.client, NAME, models, models, SETTINGS, letters, allow=frozenset(allow))
            return job.run(read(path, PLAIN, at_once, False))

    def live(self) -> str:
        found = aliases.live(self.client, NAME)
        assert found is not None
        return found.index

    def count(self) -> int:
        self.client.indices.refresh(index=NAME)
        return int(self.client.count(index=NAME)["count"])


@pytest.fixture
def shop(client: OpenSearch, tmp_path: Path) -> Iterator[Shop]:
    remove(client, NAME)
    made = Shop(client, tmp_path)
    made.ingest(lines())
    yield made
    remove(client, NAME)


@pytest.mark.node
def test_an_empty_file_never_goes_live(shop: Shop) -> None:
    before = shop.live()
    with pytest.raises(GuardError, match="never put live"):
        shop.reindex([], "fewer", "missing", "prices")
    with pytest.raises(GuardError, match="has no products"):
        shop.ingest([])
    assert (shop.live(), shop.count()) == (before, COUNT)


def deletions(count: int, first: int = 0) -> list[dict[str, Any]]:
    return [{"op": "delete", "version": 100 + at, "id": f"p{at}"} for at in range(first, first + count)]


@pytest.mark.node
def test_a_feed_that_was_stopped_has_done_nothing_however_often_it_is_tried(shop: Shop) -> None:
    for _ in range(3):
        with pytest.raises(GuardError, match="20 of the last 20 events delete a product, in a catalogue of 40"):
            shop.feed(deletions(20), at_once=50)
    assert shop.count() == COUNT
    stocks = [{"op": "update", "version": 200 + at, "id": f"p{at}", "set": {"stock": 1}} for at in range(5)]
    assert shop.feed(stocks).applied == 5  # somebody has mended the file
    assert shop.feed(deletions(12)).deletes == 12
    with pytest.raises(GuardError, match="20 of the last"):  # of which 12 were applied
        shop.feed(deletions(8, first=12))


@pytest.mark.node
def test_the_file_is_named_and_the_command_that_takes_it_alone(shop: Shop) -> None:
    with pytest.raises(GuardError, match=r"before line 1 of \S+feed.jsonl.*`shelfrank feed \S+feed.jsonl --index"):
        shop.feed(deletions(20), at_once=50)


@pytest.mark.node
def test_rows_that_are_older_than_what_is_stored_stop_no_ingest(shop: Shop) -> None:
    shop.mapping.write_text(MAPPING + 'version = "version"\n')
    header = f"{HEADER},version"
    shop.ingest([f"{line},5" for line in lines()], header=header)
    shop.ingest([f"{line},3" for line in lines(price=1000)], header=header)
    with pytest.raises(GuardError, match="factor of 2 or more"):
        shop.ingest([f"{line},6" for line in lines(price=1000)], header=header)


@pytest.mark.node
def test_a_first_ingest_of_an_empty_file_makes_no_catalogue(client: OpenSearch, tmp_path: Path) -> None:
    remove(client, NAME)
    shop = Shop(client, tmp_path)
    with pytest.raises(InputError):
        shop.ingest([])
    assert aliases.live(client, NAME) is None
    assert not jobs.Board(client).read(NAME).is_open
    assert aliases.leftovers(client, NAME) == []
    shop.ingest(lines(3))
    assert shop.count() == 3
    remove(client, NAME)


SMALLER = lines(10)
BARE = [*lines(20), *(line.replace("http://x/a.jpg", "") for line in lines()[20:])]
CENTS = lines(price=1000)


@pytest.mark.node
@pytest.mark.parametrize(
    ("rows", "allow", "seen"),
    [
        (SMALLER, "fewer", "10 products would stand where 40 do, 75 % fewer"),
        (BARE, "missing", "50 % of the products would have an image, where 100 % do"),
        (CENTS, "prices", "100 % of the prices would change by a factor of 2 or more"),
    ],
    ids=["fewer", "missing", "prices"],
)
def test_a_reindex_stops_before_the_switch_and_goes_on_by_name(
    shop: Shop, rows: list[str], allow: str, seen: str
) -> None:
    before = shop.live()
    with pytest.raises(GuardError, match=rf"{seen} \(guards.{allow} is 0.2\).*resume {NAME} --allow-{allow}"):
        shop.reindex(rows)
    assert (shop.live(), shop.count()) == (before, COUNT)
    record = jobs.Board(shop.client).read(NAME)
    assert record.is_open
    assert seen in record.problem
    shop.reindex(rows, allow, resume=True)
    assert shop.live() == record.target
    assert shop.count() == len(rows)


@pytest.mark.node
def test_a_mended_file_goes_on_without_a_flag(shop: Shop) -> None:
    with pytest.raises(GuardError):
        shop.reindex(SMALLER)
    shop.reindex(lines(39), resume=True)
    assert shop.count() == 39


@pytest.mark.node
@pytest.mark.parametrize(("rows", "allow"), [(BARE, "missing"), (CENTS, "prices")], ids=["missing", "prices"])
def test_an_ingest_stops_before_its_first_write(shop: Shop, rows: list[str], allow: str) -> None:
    before = shop.client.indices.stats(index=NAME)["_all"]["primaries"]["indexing"]["index_total"]
    with pytest.raises(GuardError, match=f"--allow-{allow}"):
        shop.ingest(rows)
    assert shop.client.indices.stats(index=NAME)["_all"]["primaries"]["indexing"]["index_total"] == before
    shop.ingest(rows, allow)


@pytest.mark.node
def test_a_feed_of_deletions_stops_and_starting_again_is_no_way_round(shop: Shop) -> None:
    deletions = [{"op": "delete", "version": 10 + number, "id": f"p{number}"} for number in range(COUNT)]
    with pytest.raises(GuardError, match=r"of the last \d+ events delete a product.*--allow-deletions"):
        shop.feed(deletions)
    left = shop.count()
    assert left >= COUNT * 0.6
    for _ in range(2):
        with pytest.raises(GuardError):
            shop.feed(deletions)
        assert shop.count() == left
    assert shop.feed(deletions, "deletions").deletes == left
    assert shop.count() == 0
    # What was allowed is not held against the next feed.
    shop.feed([{"op": "upsert", "version": 99, "product": {"id": "new", "title": "New"}}])
    shop.feed([{"op": "delete", "version": 100, "id": "new"}])


@pytest.mark.node
def test_a_feed_of_prices_stops_and_a_sale_does_not(shop: Shop) -> None:
    def updates(price: float, version: int) -> list[dict[str, Any]]:
        return [{"op": "update", "version": version, "id": f"p{n}", "set": {"price": price}} for n in range(COUNT)]

    shop.feed(updates(7.5, 10))
    with pytest.raises(GuardError, match="--allow-prices"):
        shop.feed(updates(750, 11))
    assert shop.feed(updates(750, 11), "prices").updates > 0
