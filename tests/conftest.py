"""The real OpenSearch that tests talk to: `OPENSEARCH_URL` where it is set, else the embedded node."""

from __future__ import annotations

import gc
import os
import signal
import uuid
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import msgspec
import onnxruntime as ort
import pytest
from opensearchpy import OpenSearch

from indexer import client as clusters
from indexer import node as nodes
from indexer import settings
from indexer.embedded import process
from ingest.job import Job, Options
from ingest.products import Products
from ingest.report import DeadLetters, Report
from ingest.schema import load_mapping
from ingest.sources import Catalogue, open_catalogue
from reranker import bundle as bundles
from reranker.encoder import Encoder
from reranker.retrieval import Retriever
from reranker.scoring import CrossEncoder
from reranker.search import Searcher
from tests import recorded
from tests.paths import SAMPLE_SHOP, temporary_folder
from tests.shared import KnownVectors, SharedSessions, one_at_a_time

pytest_plugins = ["tests.workers"]

# A shell that starts the tests in the background has them ignore Ctrl-C, and so would every command that they start.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Of torch, and before it is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# A busy machine is slow, which is no fault of the code.
hypothesis.settings.register_profile("shelfrank", deadline=None)
hypothesis.settings.load_profile("shelfrank")

# Small enough for several nodes at once on a laptop.
HEAP_MB = 512


@pytest.fixture(scope="session", autouse=True)
def _environment(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The tests' own data folder, so that the models that ship are meant, whatever the user has promoted; nodes that
    start at once and do not live long enough to be compiled well; models that leave the other cores to the other
    processes, for threads that wait for each other's steps do so at full speed, and that are built once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_DATA_HOME", str(tmp_path_factory.mktemp("data")))
        patch.setenv("SHELFRANK_NODE_JAVA_OPTIONS", recorded.JAVA_OPTIONS)
        if any(item.get_closest_marker("node") for item in request.session.items):
            with temporary_folder() as folder:
                patch.setenv("SHELFRANK_NODE_JAVA_OPTIONS", recorded.options(settings.load().node, folder))
        patch.setenv("SHELFRANK_MODELS_THREADS", "1")
        patch.setattr(ort, "InferenceSession", SharedSessions(ort.InferenceSession))
        yield


@pytest.fixture(scope="module", autouse=True)
def _no_models_left() -> Iterator[None]:
    """Models that are held in cycles alone go with the module that loaded them; Python sees no reason to hurry."""
    yield
    gc.collect()


@pytest.fixture(scope="session")
def loaded(_environment: None) -> settings.Settings:
    return settings.load()


@pytest.fixture(scope="session")
def node_settings(loaded: settings.Settings) -> Iterator[settings.Settings]:
    """Settings that lead to the tests' OpenSearch. An embedded node's data go away at the end."""
    if loaded.cluster.url:
        yield loaded
        return
    with temporary_folder() as folder:
        [port] = process.own_ports(1)
        chosen = msgspec.structs.replace(loaded.node, data_dir=str(folder), port=port, heap_mb=HEAP_MB)
        nodes.start(chosen)
        try:
            yield msgspec.structs.replace(loaded, node=chosen)
        finally:
            # Also a node that a test killed and `ensure` started again.
            nodes.stop(chosen)


@pytest.fixture(scope="session")
def node(node_settings: settings.Settings) -> str:
    """The address of the tests' OpenSearch."""
    return node_settings.cluster.url or nodes.ensure(node_settings.node)


@pytest.fixture(scope="session")
def client(node_settings: settings.Settings) -> Iterator[OpenSearch]:
    connected = clusters.connect(node_settings)
    yield connected
    connected.close()


@pytest.fixture
def own_node(loaded: settings.Settings) -> Iterator[settings.Node]:
    """Settings of a node of the test's own, on an empty data folder; whatever runs there is stopped at the end."""
    with temporary_folder() as folder:
        chosen = msgspec.structs.replace(loaded.node, data_dir=str(folder), port=0, heap_mb=HEAP_MB)
        yield chosen
        nodes.stop(chosen)


@pytest.fixture(scope="session")
def encoder(loaded: settings.Settings) -> Encoder:
    """The encoder that ships."""
    return Encoder.load(loaded.models)


@pytest.fixture(scope="session")
def reranker(loaded: settings.Settings) -> CrossEncoder:
    """The reranker that ships, alone: it reads English too."""
    return CrossEncoder.load(msgspec.structs.replace(loaded.models, reranker_en=bundles.NONE))


@pytest.fixture(scope="session")
def together(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that all processes of this run share."""
    base = tmp_path_factory.getbasetemp()
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


@pytest.fixture(scope="session")
def known_vectors(encoder: Encoder, together: Path) -> KnownVectors:
    """The encoder that ships, with the vectors of the sample shop: made by the first process that needs them, and by
    no other."""
    known = KnownVectors(encoder, together / "shop.npz")
    with (
        one_at_a_time(together / "shop.lock"),
        temporary_folder() as folder,
        DeadLetters(folder / "rejected.jsonl") as letters,
    ):
        entries = Products(sample_catalogue(), Report()).entries(letters)
        known.complete([entry.product for entry in entries])
    return known


def sample_catalogue() -> Catalogue:
    return open_catalogue(SAMPLE_SHOP / "catalog.csv", load_mapping(str(SAMPLE_SHOP / "catalog.toml")))


@pytest.fixture(scope="session")
def shop(
    node_settings: settings.Settings, client: OpenSearch, known_vectors: KnownVectors, reranker: CrossEncoder
) -> Iterator[str]:
    """The sample shop, ingested once into an index of the tests' own; yields its name."""
    name = f"test-shop-{uuid.uuid4().hex[:8]}"
    with temporary_folder() as folder:
        options = Options(name, folder / "rejected.jsonl")
        report = Job(client, sample_catalogue(), known_vectors, reranker, node_settings, options).run()
    yield name
    client.indices.delete(index=report.index)


@pytest.fixture(scope="session")
def searcher(
    node_settings: settings.Settings, client: OpenSearch, encoder: Encoder, reranker: CrossEncoder
) -> Searcher:
    """A searcher on the tests' OpenSearch with the models that ship."""
    retriever = Retriever(client, clusters.capabilities(client), node_settings.search, encoder)
    return Searcher(retriever, reranker, node_settings)
