"""A deletion is one, however it comes about: begun by a process that died, blocked, or passed by another writer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from opensearchpy import OpenSearch

from indexer import aliases, tombstones
from indexer.bulk import BulkWriter
from indexer.patience import Patience
from indexer.settings import Guards, Ingest, Settings
from ingest.feed.command import PLAIN
from ingest.feed.events import Event, parse
from ingest.feed.job import Counts, Feed
from ingest.job import Job
from ingest.job import Options as IngestOptions
from ingest.reindex import operations
from ingest.reindex.job import Options, Reindex
from ingest.reindex.origins import FromFile, FromStored
from ingest.report import DeadLetters, Report
from ingest.schema import load_mapping
from ingest.sources import open_catalogue
from tests.integration.clearing import remove
from tests.integration.standin import StandIn

NAME = "test-deletions"
SETTINGS = Settings(ingest=Ingest(batch=50, patience_s=20.0), guards=Guards(fewer=1))
MAPPING = '[columns]\nid = "id"\ntitle = "title"\nversion = "version"\n'
ROWS = {"none": "", "below": "3", "equal": "5", "above": "6", "other": ""}


class Shop:
    """A catalogue whose products have each another version."""

    def __init__(self, client: OpenSearch, folder: Path) -> None:
        self.client, self.folder = client, folder
        self.file, self.mapping = folder / "shop.csv", folder / "shop.toml"
        self.mapping.write_text(MAPPING)
        lines = [f"{name},Lamp {name},{version}" for name, version in ROWS.items()]
        self.file.write_text("\n".join(["id,title,version", *lines, ""]), "utf-8")

    def ingest(self) -> Report:
        models, options = StandIn(), IngestOptions(NAME, self.folder / "rejected.jsonl")
        catalogue = open_catalogue(self.file, load_mapping(str(self.mapping)))
        return Job(self.client, catalogue, models, models, SETTINGS, options).run()

    def feed(self, *lines: bytes) -> Counts:
        models = StandIn()
        events = [parse(line, number, PLAIN) for number, line in enumerate(lines, 1)]
        with DeadLetters(self.folder / "feed.jsonl") as letters:
            return Feed(self.client, NAME, models, models, SETTINGS, letters).run([events])

    def reindex(self, stored: bool) -> None:
        live = aliases.live(self.client, NAME)
        assert live is not None
        file = FromFile(self.file, str(self.mapping))
        origin = FromStored(self.client, live.index, Patience(20.0)) if stored else file
        models, options = StandIn(), Options(NAME, self.folder / "x.jsonl")
        Reindex(self.client, origin, models, models, SETTINGS, options).start()

    def there(self) -> set[str]:
        self.client.indices.refresh(index=NAME)
        hits = self.client.search(index=NAME, body={"size": 100})["hits"]["hits"]
        return {hit["_id"] for hit in hits}


@pytest.fixture
def shop(client: OpenSearch, tmp_path: Path) -> Iterator[Shop]:
    remove(client, NAME)
    made = Shop(client, tmp_path)
    made.ingest()
    yield made
    remove(client, NAME)


def bury(shop: Shop) -> None:
    """What a feed leaves that died between its tombstones and its deletions."""
    tombstones.write(shop.client, NAME, dict.fromkeys(("none", "below", "equal", "above"), 5), Patience(10.0))


DELETES = [b'{"op":"delete","version":5,"id":"%s"}' % name.encode() for name in ("none", "below", "equal", "above")]
ENDS: dict[str, Callable[[Shop], object]] = {
    "the same feed": lambda shop: shop.feed(*DELETES),
    "a feed of something older": lambda shop: shop.feed(*(line.replace(b"5", b"2") for line in DELETES)),
    "an ingest": lambda shop: shop.ingest(),
    "a reindex from what is stored": lambda shop: shop.reindex(stored=True),
    "a reindex from the file": lambda shop: shop.reindex(stored=False),
}


@pytest.mark.node
@pytest.mark.parametrize("end", ENDS)
def test_whoever_comes_next_ends_a_deletion_that_was_begun(shop: Shop, end: str) -> None:
    bury(shop)
    assert shop.there() == set(ROWS)
    ENDS[end](shop)
    assert shop.there() == {"above", "other"}
    shop.ingest()  # the file still has them
    assert shop.there() == {"above", "other"}


@pytest.mark.node
def test_a_rollback_ends_it_too(shop: Shop) -> None:
    shop.reindex(stored=True)
    bury(shop)
    models = StandIn()
    operations.rollback(shop.client, NAME, models, models, SETTINGS)
    assert shop.there() == {"above", "other"}


@pytest.mark.node
def test_the_same_feed_counts_what_it_ends(shop: Shop) -> None:
    bury(shop)
    counts = shop.feed(*DELETES)
    assert (counts.deletes, counts.superseded) == (3, 1)
    counts = shop.feed(*DELETES)
    assert (counts.deletes, counts.superseded) == (0, 4)


@pytest.mark.node
def test_what_is_written_while_a_deletion_looks_stays(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    write = BulkWriter.write

    def passed_by(self: BulkWriter, *given: Any, **named: Any) -> Any:
        monkeypatch.setattr(BulkWriter, "write", write)  # once
        if self._index != tombstones.index_name(NAME):
            newer = b'{"op":"upsert","version":9,"product":{"id":"below","title":"Newer"}}'
            event = parse(newer, 1, PLAIN)
            assert isinstance(event, Event)
            source = shop.client.get(index=NAME, id="below")["_source"] | {"version": 9, "title": "Newer"}
            shop.client.index(index=NAME, id="below", body=source)
        else:
            monkeypatch.setattr(BulkWriter, "write", passed_by)
        return write(self, *given, **named)

    monkeypatch.setattr(BulkWriter, "write", passed_by)
    counts = shop.feed(b'{"op":"delete","version":5,"id":"below"}')
    assert "below" in shop.there()
    assert counts.superseded == 1


@pytest.mark.node
def test_what_is_created_while_a_deletion_looks_goes(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other had looked for a tombstone before there was one; each looks once more when it has written."""
    written = tombstones.write

    def meanwhile(client: OpenSearch, *given: Any) -> None:
        monkeypatch.setattr(tombstones, "write", written)  # once
        source = client.get(index=NAME, id="other")["_source"] | {"id": "late", "version": 4}
        client.index(index=NAME, id="late", body=source)
        written(client, *given)

    monkeypatch.setattr(tombstones, "write", meanwhile)
    shop.feed(b'{"op":"delete","version":5,"id":"late"}')
    assert "late" not in shop.there()


@pytest.mark.node
def test_what_is_deleted_while_a_file_creates_it_goes(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    shop.feed(b'{"op":"delete","version":7,"id":"above"}')
    shop.client.delete(index=tombstones.index_name(NAME), id="above")
    write = BulkWriter.write

    def meanwhile(self: BulkWriter, *given: Any, **named: Any) -> Any:
        monkeypatch.setattr(BulkWriter, "write", write)
        tombstones.write(shop.client, NAME, {"above": 7}, Patience(10.0))
        return write(self, *given, **named)

    monkeypatch.setattr(BulkWriter, "write", meanwhile)
    report = shop.ingest()
    assert "above" not in shop.there()
    assert (report.written, report.deleted) == (0, 1)


@pytest.mark.node
def test_a_tombstone_never_gets_older(shop: Shop) -> None:
    patience = Patience(10.0)
    tombstones.write(shop.client, NAME, {"a": 9}, patience)
    tombstones.write(shop.client, NAME, {"a": 4, "b": 2}, patience)
    assert tombstones.versions(shop.client, NAME, ["a", "b"], patience) == {"a": 9, "b": 2}


@pytest.mark.node
def test_a_reindex_reads_what_was_written_just_before_it_began(shop: Shop) -> None:
    live = aliases.live(shop.client, NAME)
    assert live is not None
    shop.client.indices.put_settings(index=live.index, body={"index": {"refresh_interval": "1h"}})
    shop.feed(b'{"op":"upsert","version":9,"product":{"id":"new","title":"New"}}')
    shop.reindex(stored=True)
    assert shop.there() == {*ROWS, "new"}
