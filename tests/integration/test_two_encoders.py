"""Two encoders in one index, on a real node: made, kept current, searched by either, and dropped again.

Two real encoders: the one that ships, and the same cut to its first 96 dimensions and turned round, so that a query
that is asked in the wrong field is refused by the server, or finds what is farthest.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray
from opensearchpy import OpenSearch

from indexer import aliases
from indexer import client as clusters
from indexer.errors import ClusterError, UsageError
from indexer.patience import Patience
from indexer.settings import Settings
from ingest.documents import Maker
from ingest.feed.command import PLAIN
from ingest.feed.events import parse
from ingest.feed.job import Counts, Feed
from ingest.job import Job
from ingest.job import Options as IngestOptions
from ingest.reindex import operations
from ingest.reindex.job import Options, Reindex
from ingest.reindex.origins import FromStored
from ingest.report import DeadLetters, Report
from ingest.schema import load_mapping
from ingest.sources import open_catalogue
from reranker import bundle as bundles
from reranker.encoder import Encoder
from reranker.retrieval import Retriever
from reranker.scoring import CrossEncoder
from reranker.search import Searcher
from tests import commands
from tests.integration.clearing import remove
from tests.integration.test_promote import copied

NAME = "test-two"
TITLES = ("steel bottle", "wool blanket", "garden hose", "保温杯", "desk lamp", "running shoes")


class Cut:
    """The encoder's first 96 dimensions, turned round; counts what it embeds."""

    bundle_id, dimension = "cut-1", 96

    def __init__(self, encoder: Encoder) -> None:
        self._encoder, self.fields = encoder, encoder.fields
        self.embedded: list[str] = []

    def embed_products(self, products: Sequence[Any]) -> NDArray[np.float32]:
        self.embedded += [product["title"] for product in products]
        return self._cut(self._encoder.embed_products(products))

    def embed_queries(self, queries: Sequence[str]) -> NDArray[np.float32]:
        return self._cut(self._encoder.embed_queries(queries))

    def _cut(self, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
        short = -vectors[:, : self.dimension]
        return np.asarray(short / np.linalg.norm(short, axis=1, keepdims=True), np.float32)


@pytest.fixture
def empty(client: OpenSearch) -> Iterator[OpenSearch]:
    remove(client, NAME)
    yield client
    remove(client, NAME)


@pytest.fixture
def cut(encoder: Encoder) -> Any:
    return Cut(encoder)


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    catalogue, mapping = tmp_path / "shop.csv", tmp_path / "shop.toml"
    rows = [f"p{number},{title},{number + 5}" for number, title in enumerate(TITLES)]
    catalogue.write_text("\n".join(["id,title,price", *rows, ""]), "utf-8")
    mapping.write_text('[columns]\nid = "id"\ntitle = "title"\nprice = "price"\n')
    return catalogue, mapping


def ingest(client: OpenSearch, files: tuple[Path, Path], encoder: Any, tokens: CrossEncoder, second: Any) -> Report:
    options = IngestOptions(NAME, files[0].with_suffix(".rejected.jsonl"))
    catalogue = open_catalogue(files[0], load_mapping(str(files[1])))
    return Job(client, catalogue, encoder, tokens, Settings(), options, second=second).run()


def reindex(client: OpenSearch, folder: Path, encoder: Any, tokens: CrossEncoder, second: Any = None) -> Reindex:
    live = aliases.live(client, NAME)
    assert live is not None
    origin = FromStored(client, live.index, Patience(30.0))
    job = Reindex(client, origin, encoder, tokens, Settings(), Options(NAME, folder / "r.jsonl"), second=second)
    job.start()
    return job


def feed(
    client: OpenSearch, folder: Path, encoder: Any, tokens: CrossEncoder, second: Any, *lines: dict[str, Any]
) -> Counts:
    events = [parse(json.dumps(line).encode(), number, PLAIN) for number, line in enumerate(lines, start=1)]
    with DeadLetters(folder / "feed.jsonl") as letters:
        return Feed(client, NAME, encoder, tokens, Settings(), letters, second=second).run([events])


def first(client: OpenSearch, encoder: Any, query: str) -> str:
    """The title of what a vector search finds first."""
    retriever = Retriever(client, clusters.capabilities(client), Settings().search, encoder)
    [hit] = Searcher(retriever, None, Settings()).search(NAME, query, mode="vector", size=1).hits
    assert not {"vector", "vector_b", "vector_bundle", "vector_b_bundle"} & hit.source.keys()
    return str(hit.source["title"])


def sources(client: OpenSearch) -> dict[str, dict[str, Any]]:
    client.indices.refresh(index=NAME)
    hits = client.search(index=NAME, body={"size": 100, "query": {"match_all": {}}})["hits"]["hits"]
    return {hit["_id"]: hit["_source"] for hit in hits}


@pytest.mark.node
def test_a_reindex_adds_a_second_encoder_and_each_is_searched_in_its_own_field(
    empty: OpenSearch, files: tuple[Path, Path], encoder: Encoder, reranker: CrossEncoder, cut: Any, tmp_path: Path
) -> None:
    ingest(empty, files, encoder, reranker, None)
    before = sources(empty)
    with pytest.raises(ClusterError, match=r"holds vectors of the encoder .*, and cut-1 is loaded"):
        first(empty, cut, "garden hose")
    job = reindex(empty, tmp_path, encoder, reranker, cut)
    after = sources(empty)
    assert {source["vector_bundle"] for source in after.values()} == {encoder.bundle_id}
    assert {source["vector_b_bundle"] for source in after.values()} == {"cut-1"}
    assert all(len(source["vector_b"]) == 96 for source in after.values())
    assert {name: source["vector"] for name, source in after.items()} == {
        name: source["vector"] for name, source in before.items()
    }
    assert {"second vectors", "second vector values", "second neighbours"} <= {check.name for check in job.checks}
    for title in TITLES:
        assert first(empty, encoder, title) == title
        assert first(empty, cut, title) == title
    other: Any = Cut(encoder)
    other.bundle_id = "other-1"
    with pytest.raises(ClusterError, match=r"holds vectors of the encoder .* and cut-1, and other-1 is loaded"):
        first(empty, other, "garden hose")


@pytest.mark.node
def test_ingest_and_feed_keep_both_vectors_or_refuse(
    empty: OpenSearch, files: tuple[Path, Path], encoder: Encoder, reranker: CrossEncoder, cut: Any, tmp_path: Path
) -> None:
    ingest(empty, files, encoder, reranker, cut)
    assert first(empty, cut, "desk lamp") == "desk lamp"
    cut.embedded.clear()
    kettle = {"op": "upsert", "version": 2, "product": {"id": "p9", "title": "tea kettle"}}
    price = {"op": "update", "version": 3, "id": "p1", "set": {"price": 3.5}}
    assert feed(empty, tmp_path, encoder, reranker, cut, kettle, price).applied == 2
    assert cut.embedded == ["tea kettle"]
    empty.indices.refresh(index=NAME)
    assert (first(empty, encoder, "tea kettle"), first(empty, cut, "tea kettle")) == ("tea kettle", "tea kettle")
    # With one of them: what needs no vector goes on, what needs one is refused.
    gone = {"op": "delete", "version": 4, "id": "p9"}
    cheap = {"op": "update", "version": 4, "id": "p1", "set": {"price": 2.5}}
    assert feed(empty, tmp_path, encoder, reranker, None, gone, cheap).applied == 2
    renamed = {"op": "upsert", "version": 5, "product": {"id": "p1", "title": "silk blanket"}}
    told = r"vectors of the encoder .* and cut-1, and .* is loaded. Set models.encoder and models.second_encoder"
    for attempt in (
        lambda: feed(empty, tmp_path, encoder, reranker, None, renamed),
        lambda: ingest(empty, files, encoder, reranker, None),
    ):
        with pytest.raises(ClusterError, match=told):
            attempt()
    assert sources(empty)["p1"]["title"] == "wool blanket"
    # In whichever order they are given, and nothing is made again.
    cut.embedded.clear()
    assert feed(empty, tmp_path, cut, reranker, encoder, renamed).applied == 1
    assert cut.embedded == ["silk blanket"]
    stored = sources(empty)["p1"]
    assert (stored["vector_bundle"], stored["vector_b_bundle"]) == (encoder.bundle_id, "cut-1")


@pytest.mark.node
def test_the_winner_stays_without_being_made_again(
    empty: OpenSearch, files: tuple[Path, Path], encoder: Encoder, reranker: CrossEncoder, cut: Any, tmp_path: Path
) -> None:
    report = ingest(empty, files, encoder, reranker, cut)
    cut.embedded.clear()
    live = aliases.live(empty, NAME)
    assert live is not None
    origin = FromStored(empty, live.index, Patience(30.0))
    Reindex(empty, origin, cut, reranker, Settings(), Options(NAME, tmp_path / "r.jsonl", sample=0)).start()
    assert cut.embedded == []
    stored = sources(empty)
    assert {source["vector_bundle"] for source in stored.values()} == {"cut-1"}
    assert not any("vector_b" in source for source in stored.values())
    assert all(first(empty, cut, title) == title for title in TITLES)
    with pytest.raises(ClusterError, match="and cut-1, and cut-1 is loaded"):
        operations.rollback(empty, NAME, cut, reranker, Settings())
    assert operations.rollback(empty, NAME, cut, reranker, Settings(), encoder)[0] == report.index


def test_the_same_encoder_twice_is_wrong_use(encoder: Encoder, reranker: CrossEncoder) -> None:
    with pytest.raises(UsageError, match=r"Both encoders are .*--second-encoder"):
        Maker(encoder, reranker, encoder)


@pytest.mark.node
def test_an_operator_compares_two_bundles(
    node: str, empty: OpenSearch, files: tuple[Path, Path], encoder: Encoder, tmp_path: Path
) -> None:
    recipe = msgspec.structs.replace(bundles.read_description(bundles.SHIPPED / "encoder").recipe, max_tokens=24)
    shorter = copied("encoder", tmp_path / "shorter", name="shorter", recipe=recipe)

    def run(*arguments: str | Path, code: int = 0, **environ: str) -> Any:
        done = commands.run(*arguments, "--json", folder=tmp_path, OPENSEARCH_URL=node, **environ)
        assert done.returncode == code, done.stderr
        return json.loads(done.stdout) if code == 0 else done.stderr

    file = ("--file", files[0], "--mapping", files[1])
    built = run("reindex", "start", NAME, *file, "--second-encoder", shorter.folder)
    live = aliases.live(empty, NAME)
    assert live is not None
    assert live.made.vector_fields == {encoder.bundle_id: "vector", shorter.id: "vector_b"}
    assert [check["name"] for check in built["checks"] if not check["ok"]] == []
    for flags in ([], ["--encoder", shorter.folder]):
        page = run("search", "garden hose", "--index", NAME, "--mode", "vector", "--no-rerank", *flags)
        assert page["hits"][0]["title"] == "garden hose"
    told = run("reindex", "start", NAME, "--second-encoder", shorter.folder, "--workers", "2", code=2)
    assert "Workers make vectors of one encoder" in told
    assert run("ingest", files[0], "--mapping", files[1], "--index", NAME, code=1)
    again = {"SHELFRANK_MODELS_SECOND_ENCODER": str(shorter.folder)}
    assert run("ingest", files[0], "--mapping", files[1], "--index", NAME, **again)["unchanged"] == len(TITLES)
