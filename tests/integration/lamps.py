"""A small shop of lamps and the jobs that an operator gives for it: each can be given again after it has died."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
from opensearchpy import OpenSearch

from indexer import aliases, jobs, tombstones
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
from tests.integration.standin import StandIn

SETTINGS = Settings(ingest=Ingest(batch=5, patience_s=20.0), guards=Guards(fewer=1.0))
MAPPING = '[columns]\nid = "sku"\ntitle = "name"\nprice = "price"\nversion = "version"\n'

Rows = Mapping[str, tuple[str, int, str]]  # id -> title, price, version
State = dict[str, Any]


class Shop:
    """The jobs of one catalogue, each with the files that it reads."""

    def __init__(self, client: OpenSearch, folder: Path, name: str, patience_s: float = 20.0) -> None:
        self.client, self.folder, self.name = client, folder, name
        self.settings = msgspec.structs.replace(SETTINGS, ingest=Ingest(batch=5, patience_s=patience_s))
        self.mapping = folder / "shop.toml"
        self.mapping.write_text(MAPPING)

    def file(self, rows: Rows) -> Path:
        path = self.folder / "shop.csv"
        lines = [f"{key},{title},{price},{version}" for key, (title, price, version) in rows.items()]
        path.write_text("\n".join(["sku,name,price,version", *lines, ""]), "utf-8")
        return path

    def models(self) -> StandIn:
        """Those of the live index."""
        live = aliases.live(self.client, self.name)
        return StandIn(live.made.encoder) if live else StandIn()

    def ingest(self, rows: Rows) -> None:
        models, options = self.models(), IngestOptions(self.name, self.folder / "x.jsonl")
        catalogue = open_catalogue(self.file(rows), load_mapping(str(self.mapping)))
        Job(self.client, catalogue, models, models, self.settings, options).run()

    def feed(self, lines: list[dict[str, Any]]) -> None:
        models, path = self.models(), self.folder / "feed.jsonl"
        path.write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")
        with DeadLetters(self.folder / "y.jsonl") as letters:
            Feed(self.client, self.name, models, models, self.settings, letters).run(read(path, PLAIN, 5, False))

    def reindex(self, models: StandIn, rows: Rows | None = None) -> None:
        def job() -> Reindex:
            live = aliases.live(self.client, self.name)
            assert live is not None
            record = jobs.Board(self.client).read(self.name)
            index = record.source.get("stored", live.index) if record.is_open else live.index
            origin: Any = FromStored(self.client, index, Patience(self.settings.ingest.patience_s))
            if rows is not None:
                origin = FromFile(self.file(rows), str(self.mapping))
            options = Options(self.name, self.folder / "z.jsonl", sample=5)
            return Reindex(self.client, origin, models, models, self.settings, options)

        # As an operator goes on: with the open job where there is one; and not again where it has ended.
        record = jobs.Board(self.client).read(self.name)
        if record.is_open and record.phase != "ingest":
            job().resume()
        elif record.phase != "done" or record.encoder != models.bundle_id:
            job().start()

    def rollback(self, back_to: str) -> None:
        live = aliases.live(self.client, self.name)
        assert live is not None
        if live.made.encoder != back_to:
            first, second = StandIn(back_to), StandIn("stand-in-2")
            operations.rollback(self.client, self.name, first, first, self.settings, second)

    def clean(self) -> None:
        operations.clean(self.client, self.name, 0)

    def state(self) -> State:
        self.client.indices.refresh(index=self.name)
        hits = self.client.search(index=self.name, body={"size": 1000, "version": True})["hits"]["hits"]
        kept = ("title", "price", "version", "offer", "content_hash", "vector_bundle")
        documents = {hit["_id"]: {key: hit["_source"].get(key) for key in kept} for hit in hits}
        graves = tombstones.versions(self.client, self.name, [*map(str, range(40))], Patience(10.0))
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
