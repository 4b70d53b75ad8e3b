"""Sequences that nobody thought of, drawn: feeds, files, deaths, write blocks, reindexes and rollbacks in any order, on
the real node, against a model in memory."""

from __future__ import annotations

import json
import tempfile
import threading
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
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
from ingest.reindex.origins import FromStored
from ingest.report import DeadLetters
from ingest.schema import load_mapping
from ingest.sources import open_catalogue
from tests.integration.clearing import remove
from tests.integration.mortal import DiedError, Mortal
from tests.integration.standin import StandIn
from tests.workers import LONG, SEED

NAME = "test-sequences"
SETTINGS = Settings(ingest=Ingest(batch=50, patience_s=20.0), guards=Guards(fewer=1, missing=1, prices=1, deletions=1))
MAPPING = '[columns]\nid = "id"\ntitle = "title"\nprice = "price"\nversion = "version"\n'
IDS = ("a", "b", "c", "d")
MODELS = ("stand-in-1", "stand-in-2")


def named(event: dict[str, Any]) -> str:
    """The id of the product that an event is about."""
    return str(event.get("id") or event["product"]["id"])


@dataclass
class Known:
    """What the model knows of a product that is there."""

    title: str
    price: int | None
    version: int | None
    stock: int | None = None
    offer: dict[str, int] = field(default_factory=dict)


@dataclass
class Model:
    """The rules, as the documents tell them."""

    there: dict[str, Known] = field(default_factory=dict)
    deleted: dict[str, int] = field(default_factory=dict)

    def known(self, name: str) -> int:
        product = self.there.get(name)
        version = -1 if product is None or product.version is None else product.version
        return max(version, self.deleted.get(name, -1))

    def feed(self, events: Iterable[dict[str, Any]]) -> None:
        """A batch: of one product the older version first, whatever order they come in."""
        for event in sorted(events, key=lambda event: event["version"]):
            version = event["version"]
            name = named(event)
            product = self.there.get(name)
            match event["op"]:
                case "upsert" if version > self.known(name):
                    self.put(name, event["product"]["title"], event["product"]["price"], version)
                case "delete" if version > self.known(name):
                    self.there.pop(name, None)
                    self.deleted[name] = version
                case "update" if product is not None:
                    for key, value in event["set"].items():
                        if version > max(product.version or -1, product.offer.get(key, -1)):
                            product.offer[key] = version
                            setattr(product, key, value)

    def put(self, name: str, title: str, price: int | None, version: int) -> None:
        """A whole product; what updates newer than it have set stays."""
        held, fresh = self.there.get(name), Known(title, price, version)
        for key, set_at in (held.offer if held else {}).items():
            if set_at > version:
                fresh.offer[key] = set_at
                setattr(fresh, key, getattr(held, key))
        self.there[name] = fresh

    def file(self, rows: Iterable[tuple[str, str, int, int | None]]) -> None:
        for name, title, price, version in rows:
            held = self.there.get(name)
            if held is None and name in self.deleted and (version is None or version <= self.deleted[name]):
                continue
            if version is None:
                known = (held.version, held.offer) if held else (None, {})
                self.there[name] = Known(title, price, known[0], None, dict(known[1]))
            elif held is None or version >= (held.version if held.version is not None else -1):
                self.put(name, title, price, version)


versions = st.integers(0, 15).map(lambda number: 2 * number)
events = st.one_of(
    st.builds(
        lambda name, version, title, price: {
            "op": "upsert",
            "version": version,
            "product": {"id": name, "title": title, "price": price},
        },
        st.sampled_from(IDS),
        versions,
        st.sampled_from(["Lamp", "Desk", "台灯"]),
        st.integers(1, 9),
    ),
    st.builds(
        lambda name, version, chosen: {"op": "update", "version": version, "id": name, "set": chosen},
        st.sampled_from(IDS),
        versions,
        st.dictionaries(st.sampled_from(["price", "stock"]), st.integers(1, 9), min_size=1),
    ),
    st.builds(
        lambda name, version: {"op": "delete", "version": version, "id": name},
        st.sampled_from(IDS),
        versions,
    ),
)
feeds = st.lists(events, min_size=1, max_size=6, unique_by=lambda each: each["version"])
rows = st.lists(
    st.tuples(st.sampled_from(IDS), st.sampled_from(["Lamp", "Desk"]), st.integers(1, 9), st.none() | versions),
    min_size=1,
    max_size=4,
    unique_by=lambda row: row[0],
)
deaths = st.none() | st.tuples(st.integers(1, 12), st.booleans())


class Catalogue(RuleBasedStateMachine):
    """A catalogue on the node and its model, side by side."""

    client: OpenSearch

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="shelfrank-sequence-"))
        (self.folder / "shop.toml").write_text(MAPPING)
        self.model, self.models = Model(), MODELS[0]
        self.can_roll_back = False
        remove(self.client, NAME)

    def teardown(self) -> None:
        remove(self.client, NAME)

    # What is done

    @initialize(rows=rows)
    def begin(self, rows: list[tuple[str, str, int, int | None]]) -> None:
        self._ingest(rows)
        self.model.file(rows)

    @rule(events=feeds, death=deaths, again=st.booleans())
    def feed(self, events: list[dict[str, Any]], death: tuple[int, bool] | None, again: bool) -> None:
        self._with_death(death, lambda: self._feed(events), between=again)
        self.model.feed(events)
        if again:
            self._feed(events[::-1])
            self.model.feed(events)

    @rule(rows=rows, death=deaths)
    def ingest(self, rows: list[tuple[str, str, int, int | None]], death: tuple[int, bool] | None) -> None:
        self._with_death(death, lambda: self._ingest(rows))
        self.model.file(rows)

    @rule(events=feeds)
    def feed_while_writes_are_blocked(self, events: list[dict[str, Any]]) -> None:
        index = self._live()
        self.client.indices.add_block(index=index, block="write")
        body = {"index": {"blocks": {"write": None}}}
        opening = threading.Timer(0.2, lambda: self.client.indices.put_settings(index=index, body=body))
        opening.start()
        try:
            self._feed(events)
        finally:
            opening.join()
        self.model.feed(events)

    @rule(first=feeds, second=feeds)
    def feed_beside_a_file(self, first: list[dict[str, Any]], second: list[dict[str, Any]]) -> None:
        """Two writers, of products whose prices and stocks nobody has updated: then versions alone decide."""
        free = {name for name in IDS if not (name in self.model.there and self.model.there[name].offer)}
        events = [
            each for each in first if each["op"] != "update" and (each.get("id") or each["product"]["id"]) in free
        ]
        chosen = {each["product"]["id"]: each for each in second if each["op"] == "upsert"}
        upserts = [{**each, "version": each["version"] + 1} for name, each in chosen.items() if name in free]
        if not events or not upserts:
            return
        products = [(each["product"], each["version"]) for each in upserts]
        rows = [(product["id"], product["title"], product["price"], version) for product, version in products]
        with ThreadPoolExecutor(1) as beside:
            ingesting = beside.submit(self._ingest, rows)
            self._feed(events)
            ingesting.result()
        self.model.feed(events)
        self.model.file(rows)

    @rule(death=deaths)
    def reindex(self, death: tuple[int, bool] | None) -> None:
        self.models = MODELS[1 - MODELS.index(self.models)]
        self._with_death(death, self._reindex)
        self.can_roll_back = True

    @precondition(lambda self: self.can_roll_back)
    @rule(death=deaths)
    def rollback(self, death: tuple[int, bool] | None) -> None:
        self.models = MODELS[1 - MODELS.index(self.models)]
        self._with_death(death, self._rollback)

    # What must hold

    @invariant()
    def the_index_is_what_the_rules_say(self) -> None:
        if not aliases.live(self.client, NAME):
            return
        self.client.indices.refresh(index=NAME)
        hits = self.client.search(index=NAME, body={"size": 100})["hits"]["hits"]
        names = ("title", "price", "version", "stock", "offer")
        found = {hit["_id"]: {name: hit["_source"].get(name) for name in names} for hit in hits}
        wanted = {key: {**vars(each), "offer": each.offer or None} for key, each in self.model.there.items()}
        assert found == wanted
        assert {hit["_source"]["vector_bundle"] for hit in hits} <= {self.models}
        found_deleted = tombstones.versions(self.client, NAME, IDS, Patience(10.0))
        gone = self.model.deleted.keys() - self.model.there.keys()
        assert {key: found_deleted.get(key) for key in gone} == {key: self.model.deleted[key] for key in gone}

    # How it is done

    def _with_death(self, death: tuple[int, bool] | None, run: Any, between: bool = False) -> None:
        """Do it; where it dies on the way, somebody gives the command again, perhaps after a reindex."""
        if death:
            with Mortal(self.client, *death), suppress(DiedError):
                run()
                return
            if between and not jobs.Board(self.client).read(NAME).is_open:
                self.models = MODELS[1 - MODELS.index(self.models)]
                self._reindex()
                self.can_roll_back = True
        run()

    def _live(self) -> str:
        found = aliases.live(self.client, NAME)
        assert found is not None
        return found.index

    def _feed(self, events: list[dict[str, Any]]) -> None:
        path, models = self.folder / "feed.jsonl", StandIn(self.models)
        path.write_text("".join(json.dumps(event) + "\n" for event in events), "utf-8")
        with DeadLetters(self.folder / "feed.rejected.jsonl") as letters:
            Feed(self.client, NAME, models, models, SETTINGS, letters).run(read(path, PLAIN, 50, False))

    def _ingest(self, rows: list[tuple[str, str, int, int | None]]) -> None:
        path, models = self.folder / "shop.csv", StandIn(self.models)
        lines = [f"{name},{title},{price},{'' if version is None else version}" for name, title, price, version in rows]
        path.write_text("\n".join(["id,title,price,version", *lines, ""]), "utf-8")
        catalogue = open_catalogue(path, load_mapping(str(self.folder / "shop.toml")))
        options = IngestOptions(NAME, self.folder / "rejected.jsonl")
        Job(self.client, catalogue, models, models, SETTINGS, options).run()

    def _reindex(self) -> None:
        record, models = jobs.Board(self.client).read(NAME), StandIn(self.models)
        live = aliases.live(self.client, NAME)
        assert live is not None
        if not record.is_open and live.made.encoder == self.models:
            return  # it had ended before it died
        index = record.source["stored"] if record.is_open else live.index
        origin, options = FromStored(self.client, index, Patience(20.0)), Options(NAME, self.folder / "x.jsonl", 5)
        job = Reindex(self.client, origin, models, models, SETTINGS, options)
        job.resume() if record.is_open else job.start()

    def _rollback(self) -> None:
        live = aliases.live(self.client, NAME)
        assert live is not None
        if live.made.encoder != self.models:
            first, second = (StandIn(name) for name in MODELS)
            operations.rollback(self.client, NAME, first, first, SETTINGS, second)


@pytest.mark.node
def test_drawn_sequences_leave_what_the_rules_say(client: OpenSearch) -> None:
    machine = type("Drawn", (Catalogue,), {"client": client})
    chosen = settings(
        max_examples=60 if LONG else 7,
        stateful_step_count=40 if LONG else 10,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    run_state_machine_as_test(seed(SEED)(machine), settings=chosen)
