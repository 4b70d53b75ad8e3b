"""A process ends at any of its requests to the cluster, and the same command is given again: what stands in the end is
what an undisturbed run leaves, document by document, with nothing lost, doubled or stale."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from opensearchpy import OpenSearch

from indexer import aliases, jobs, tombstones
from indexer.errors import UsageError
from indexer.patience import Patience
from indexer.settings import Guards, Ingest, Settings
from ingest.feed.command import PLAIN, read
from ingest.feed.job import Feed
from ingest.job import Job
from ingest.job import Options as IngestOptions
from ingest.reindex import operations
from ingest.reindex.job import Options, Reindex
from ingest.reindex.origins import FromFile, FromStored
from ingest.report import DeadLetters
from ingest.schema import load_mapping
from ingest.sources import open_catalogue
from tests.integration.clearing import remove
from tests.integration.mortal import DiedError, Mortal
from tests.integration.standin import StandIn
from tests.workers import LONG, SEED

NAME = "test-crash"
SETTINGS = Settings(ingest=Ingest(batch=5, patience_s=20.0), guards=Guards(fewer=1.0))
MAPPING = '[columns]\nid = "sku"\ntitle = "name"\nprice = "price"\nversion = "version"\n'
# Points of each job that one run tries; a long one tries all.
POINTS = 3

State = dict[str, Any]


class Shop:
    """The jobs of one catalogue, each with the files that it reads."""

    def __init__(self, client: OpenSearch, folder: Path) -> None:
        self.client, self.folder = client, folder
        self.mapping = folder / "shop.toml"
        self.mapping.write_text(MAPPING)

    def file(self, rows: Mapping[str, tuple[str, int, str]]) -> Path:
        path = self.folder / "shop.csv"
        lines = [f"{key},{title},{price},{version}" for key, (title, price, version) in rows.items()]
        path.write_text("\n".join(["sku,name,price,version", *lines, ""]), "utf-8")
        return path

    def models(self) -> StandIn:
        """Those of the live index."""
        live = aliases.live(self.client, NAME)
        return StandIn(live.made.encoder) if live else StandIn()

    def ingest(self, rows: Mapping[str, tuple[str, int, str]]) -> None:
        models, options = self.models(), IngestOptions(NAME, self.folder / "x.jsonl")
        catalogue = open_catalogue(self.file(rows), load_mapping(str(self.mapping)))
        Job(self.client, catalogue, models, models, SETTINGS, options).run()

    def feed(self, lines: list[dict[str, Any]]) -> None:
        models, path = self.models(), self.folder / "feed.jsonl"
        path.write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")
        with DeadLetters(self.folder / "y.jsonl") as letters:
            Feed(self.client, NAME, models, models, SETTINGS, letters).run(read(path, PLAIN, 5, False))

    def reindex(self, models: StandIn, rows: Mapping[str, tuple[str, int, str]] | None = None) -> None:
        def job() -> Reindex:
            live = aliases.live(self.client, NAME)
            assert live is not None
            record = jobs.Board(self.client).read(NAME)
            index = record.source.get("stored", live.index) if record.is_open else live.index
            origin: Any = FromStored(self.client, index, Patience(20.0))
            if rows is not None:
                origin = FromFile(self.file(rows), str(self.mapping))
            return Reindex(
                self.client, origin, models, models, SETTINGS, Options(NAME, self.folder / "z.jsonl", sample=5)
            )

        # As an operator goes on: with the open job where there is one; and not again where it has ended.
        record = jobs.Board(self.client).read(NAME)
        if record.is_open and record.phase != "ingest":
            job().resume()
        elif record.phase != "done" or record.encoder != models.bundle_id:
            job().start()

    def rollback(self, back_to: str) -> None:
        live = aliases.live(self.client, NAME)
        assert live is not None
        if live.made.encoder != back_to:
            first, second = StandIn(back_to), StandIn("stand-in-2")
            operations.rollback(self.client, NAME, first, first, SETTINGS, second)

    def clean(self) -> None:
        operations.clean(self.client, NAME, 0)

    def state(self) -> State:
        self.client.indices.refresh(index=NAME)
        hits = self.client.search(index=NAME, body={"size": 1000, "version": True})["hits"]["hits"]
        kept = ("title", "price", "version", "offer", "content_hash", "vector_bundle")
        documents = {hit["_id"]: {key: hit["_source"].get(key) for key in kept} for hit in hits}
        graves = tombstones.versions(self.client, NAME, [*map(str, range(40))], Patience(10.0))
        return {"documents": documents, "tombstones": graves}


LAMPS = {str(number): (f"Lamp {number}", 10 + number, "") for number in range(12)}
NEWER = {**{key: value for key, value in LAMPS.items() if int(key) > 2}, "20": ("New", 5, ""), "4": ("Other", 9, "")}
EVENTS: list[dict[str, Any]] = [
    {"op": "delete", "version": 5, "id": "1"},
    {"op": "upsert", "version": 6, "product": {"id": "2", "title": "Changed", "price": 3}},
    {"op": "update", "version": 7, "id": "3", "set": {"price": 99.5}},
    {"op": "upsert", "version": 8, "product": {"id": "30", "title": "Fresh", "price": 4}},
    {"op": "delete", "version": 9, "id": "2"},
    {"op": "upsert", "version": 10, "product": {"id": "1", "title": "Back", "price": 4}},
    {"op": "delete", "version": 11, "id": "31"},
    {"op": "delete", "version": 12, "id": "5"},
    {"op": "update", "version": 13, "id": "4", "set": {"stock": 2}},
    {"op": "delete", "version": 14, "id": "6"},
]


def with_deletion_left(shop: Shop) -> None:
    """A shop in which a feed has died between a tombstone and its deletion."""
    shop.ingest(LAMPS)
    tombstones.write(shop.client, NAME, {"7": 3}, Patience(10.0))


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
    yield Shop(client, tmp_path)
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


def writable(shop: Shop) -> None:
    """Nothing that died has left a write block on the live index."""
    shop.feed([{"op": "upsert", "version": 99, "product": {"id": "99", "title": "Last", "price": 1}}])


@pytest.mark.node
def test_there_is_no_job_to_go_on_with_before_the_first(shop: Shop) -> None:
    with pytest.raises(UsageError):
        shop.feed(EVENTS)
