"""Searches go on, and are asked with the right vectors, while a catalogue moves to another encoder; and the commands.

Two real encoders: the one that ships, and the same with another name and its vectors turned round, so that a query
that is asked with the wrong one finds what is farthest.
"""

from __future__ import annotations

import json
import threading
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from opensearchpy import OpenSearch

from indexer import aliases
from indexer import client as clusters
from indexer.errors import ClusterError
from indexer.patience import Patience
from indexer.settings import Settings
from ingest.job import Job
from ingest.job import Options as IngestOptions
from ingest.reindex.job import Options, Reindex
from ingest.reindex.origins import FromStored
from ingest.schema import load_mapping
from ingest.sources import open_catalogue
from reranker.encoder import Encoder
from reranker.retrieval import Retriever
from reranker.scoring import CrossEncoder
from reranker.search import Searcher
from tests.commands import Done, run
from tests.waiting import until

TITLES = ("steel bottle", "wool blanket", "garden hose", "保温杯", "desk lamp", "running shoes")


class Turned:
    """Products as the encoder makes them, turned round; queries too, so that the two agree with each other alone."""

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder
        self.bundle_id, self.dimension, self.fields = "turned-1", encoder.dimension, encoder.fields

    def embed_products(self, products: Sequence[Any]) -> NDArray[np.float32]:
        return -self._encoder.embed_products(products)

    def embed_queries(self, queries: Sequence[str]) -> NDArray[np.float32]:
        return -self._encoder.embed_queries(queries)


@pytest.fixture
def name(client: OpenSearch) -> Iterator[str]:
    chosen = f"test-switch-{uuid.uuid4().hex[:6]}"
    yield chosen
    for index in client.indices.get(index=f"{chosen}*,shelfrank-deleted-{chosen}*", params={"expand_wildcards": "all"}):
        client.indices.delete(index=index)


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    catalogue, mapping = tmp_path / "shop.csv", tmp_path / "shop.toml"
    catalogue.write_text(
        "id,title,price\n" + "".join(f"p{n},{title},{n + 5}\n" for n, title in enumerate(TITLES)), "utf-8"
    )
    mapping.write_text('[columns]\nid = "id"\ntitle = "title"\nprice = "price"\n')
    return catalogue, mapping


@pytest.fixture
def shop(client: OpenSearch, name: str, files: tuple[Path, Path], encoder: Encoder, reranker: CrossEncoder) -> str:
    options = IngestOptions(name, files[0].with_suffix(".rejected.jsonl"))
    catalogue = open_catalogue(files[0], load_mapping(str(files[1])))
    Job(client, catalogue, encoder, reranker, Settings(), options).run()
    return name


def move(client: OpenSearch, name: str, folder: Path, encoder: Any, reranker: CrossEncoder) -> None:
    live = aliases.live(client, name)
    assert live is not None
    origin = FromStored(client, live.index, Patience(30.0))
    Reindex(client, origin, encoder, reranker, Settings(), Options(name, folder / "r.jsonl")).start()


def searcher(client: OpenSearch, encoder: Any, following: Any = None) -> Searcher:
    retriever = Retriever(client, clusters.capabilities(client), Settings().search, encoder)
    return Searcher(retriever, None, Settings(), following)


@pytest.mark.node
def test_an_index_is_asked_with_vectors_of_its_own_encoder_through_the_switch(
    client: OpenSearch, shop: str, tmp_path: Path, encoder: Encoder, reranker: CrossEncoder
) -> None:
    turned: Any = Turned(encoder)
    both, old = searcher(client, encoder, turned), searcher(client, encoder)
    end, bad, answers = threading.Event(), list[str](), list[str]()

    def shopping() -> None:
        while not end.is_set():
            for title in TITLES:
                page = both.search(shop, title, mode="vector", size=1)
                answers.append(page.hits[0].source["title"])
                if answers[-1] != title:
                    bad.append(f"{title}: {answers[-1]}")

    assert old.search(shop, "garden hose", mode="vector", size=1).hits[0].source["title"] == "garden hose"
    thread = threading.Thread(target=shopping)
    thread.start()
    try:
        for chosen in (turned, encoder, turned):
            move(client, shop, tmp_path, chosen, reranker)
            seen = len(answers)
            until(lambda: len(answers) > seen + 8)  # noqa: B023 - called here
    finally:
        end.set()
        thread.join()
    assert bad == []
    assert len(answers) > 20
    with pytest.raises(ClusterError, match=r"encoder turned-1, and .* is loaded"):
        old.search(shop, "garden hose", mode="vector")
    assert old.search(shop, "garden hose", mode="bm25", size=1).hits[0].source["title"] == "garden hose"


@pytest.fixture
def shelfrank(node: str, tmp_path: Path) -> Callable[..., Done]:
    return lambda *arguments, given="": run(*arguments, folder=tmp_path, given=given, OPENSEARCH_URL=node)


@pytest.mark.node
def test_an_operator_builds_feeds_looks_rolls_back_and_cleans_up(
    shelfrank: Callable[..., Done], client: OpenSearch, name: str, files: tuple[Path, Path]
) -> None:
    catalogue, mapping = files
    queries, qrels = catalogue.with_name("queries.tsv"), catalogue.with_name("qrels.tsv")
    queries.write_text("query_id\tquery\n1\tgarden hose\n2\t保温杯\n", "utf-8")
    qrels.write_text("query_id\tproduct_id\tgrade\n1\tp2\t3\n2\tp3\t3\n", "utf-8")

    def answer(*arguments: str | Path, given: str = "", code: int = 0) -> Any:
        done = shelfrank(*arguments, "--json", given=given)
        assert done.returncode == code, done.stderr
        return json.loads(done.stdout)

    built = answer("reindex", "start", name, "--file", catalogue, "--mapping", mapping)
    assert (built["written"], built["index"]) == (6, aliases.live(client, name).index)  # type: ignore[union-attr]
    lines = [
        {"op": "update", "version": 5, "id": "p1", "set": {"price": 3.5}},
        {"op": "delete", "version": 6, "id": "p0"},
        {"op": "upsert", "version": 7, "product": {"id": "new", "title": "tea kettle"}},
        {"op": "update", "version": 7, "id": "p1", "set": {"title": "no"}},
    ]
    given = "".join(json.dumps(line) + "\n" for line in lines)
    fed = answer("feed", "-", "--index", name, given=given)
    assert (fed["applied"], fed["rejected"], fed["embedded"]) == (3, 1, 1)
    again = answer("reindex", "start", name, "--queries", queries, "--qrels", qrels)
    assert [check["name"] for check in again["checks"] if not check["ok"]] == []
    assert "judged queries" in [check["name"] for check in again["checks"]]
    [status] = answer("reindex", "status", name)
    assert (status["live"], status["kept"], status["documents"]) == (again["index"], [built["index"]], 6)
    assert answer("reindex", "rollback", name)["index"] == built["index"]
    assert answer("reindex", "clean", name, "--keep", "0")["deleted"] == [again["index"]]
    said = shelfrank("reindex", "status", name)
    assert f"{built['index']} is live, 6 products." in said.stdout
    for arguments, message in (
        (("reindex", "pause", name), "No reindex of"),
        (("reindex", "resume", name), "Begin one with `start`"),
        (("reindex", "rollback", name), "nothing to roll back to"),
        (("reindex", "start", "nobody"), "There is no catalogue nobody"),
        (("reindex", "start", name, "--file", catalogue), "--file and --mapping go together"),
        (("feed", catalogue.parent, "--index", name), "add --watch"),
    ):
        failed = shelfrank(*arguments)
        assert (failed.returncode, failed.stdout) == (2, "")
        assert message in " ".join(failed.stderr.split())
