"""A catalogue embedded on Ray workers: the same documents as of a local run, whatever dies meanwhile."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec
import pytest
from opensearchpy import OpenSearch

from indexer import changes
from indexer.bulk import Document
from indexer.errors import WorkerError
from indexer.patience import Patience
from indexer.settings import Ingest, Models, Settings
from ingest import sample_shop
from ingest.documents import Entry, Maker, Stream
from ingest.products import Products
from ingest.reindex.job import Options, Reindex
from ingest.reindex.origins import FromFile
from ingest.report import DeadLetters, Report
from ingest.schema import load_mapping
from ingest.sources import open_catalogue
from reranker.encoder import Encoder
from reranker.scoring import CrossEncoder

ray = pytest.importorskip("ray", reason="the extra `distributed` is not installed")

from ingest.distributed import Workers, _start  # noqa: E402
from ingest.worker import Shipped  # noqa: E402

SHOP = Path(sample_shop.__file__).parent
SETTINGS = Settings(ingest=Ingest(batch=16, patience_s=60.0))
PRODUCTS = 120


@pytest.fixture(scope="module")
def workers(encoder: Encoder, reranker: CrossEncoder) -> Iterator[Workers]:
    """Two workers of a Ray cluster of the tests' own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("RAY_ADDRESS", raising=False)
        patch.setenv("RAY_worker_niceness", "0")  # else they wait for all that runs beside them
        with Workers(encoder.bundle, reranker.bundle, Models(), 2) as found:
            yield found


@pytest.fixture(scope="module")
def entries(tmp_path_factory: pytest.TempPathFactory) -> list[Entry]:
    """Products of the sample shop."""
    catalogue = open_catalogue(SHOP / "catalog.csv", load_mapping(str(SHOP / "catalog.toml")))
    with DeadLetters(tmp_path_factory.mktemp("shop") / "rejected.jsonl") as letters:
        return list(islice(Products(catalogue, Report()).entries(letters), PRODUCTS))


@pytest.fixture(scope="module")
def wanted(entries: list[Entry], encoder: Encoder, reranker: CrossEncoder) -> dict[str, bytes]:
    """What a local run makes of them."""
    return made(Maker(encoder, reranker).stream(iter(cut(entries))))


def cut(entries: list[Entry]) -> list[list[Entry]]:
    size = SETTINGS.ingest.batch
    return [entries[at : at + size] for at in range(0, len(entries), size)]


def bare(document: Document) -> bytes:
    """A document's bytes, but for the moment at which it was made."""
    source = msgspec.json.decode(document.source)
    assert source.pop("ingested_at")
    return msgspec.json.encode([document.id, document.op, dict(document.condition), source])


def made(pairs: Iterator[tuple[list[Entry], list[Document]]]) -> dict[str, bytes]:
    """Product id -> document; every one once."""
    found: dict[str, bytes] = {}
    for batch, documents in pairs:
        assert [document.id for document in documents] == [entry.id for entry in batch]
        for document in documents:
            assert document.id not in found
            found[document.id] = bare(document)
    return found


def actors(kind: str) -> list[int]:
    """Process ids of this process's Ray actors of a kind."""
    parents: dict[int, int] = {}
    titles: dict[int, str] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            titles[int(folder.name)] = (folder / "cmdline").read_text().replace("\0", " ")
        except OSError:
            continue  # it has just ended

    def ours(process: int) -> bool:
        while process in parents and process != os.getpid():
            process = parents[process]
        return process == os.getpid()

    return sorted(number for number, title in titles.items() if title.startswith(f"ray::{kind}") and ours(number))


def test_what_a_worker_cannot_load_is_told(workers: Workers, entries: list[Entry]) -> None:
    sound = workers._shared
    files = workers._work.encoder.files | {"tokenizer.json": b"{}"}
    workers._end()  # workers that began before have loaded what they need
    workers._shared = ray.put(msgspec.structs.replace(workers._work, encoder=Shipped("x", "encoder", files)))
    try:
        with pytest.raises(WorkerError, match=r"tokenizer\.json is corrupt"):
            list(workers.stream(iter([entries[:3]])))
    finally:
        workers._shared = sound


def test_documents_are_those_of_a_local_run(workers: Workers, entries: list[Entry], wanted: dict[str, bytes]) -> None:
    batches = cut(entries)
    assert made(workers.stream(iter([[], *batches, []]))) == wanted


def test_a_worker_that_is_killed_loses_and_doubles_nothing(
    workers: Workers, entries: list[Entry], wanted: dict[str, bytes]
) -> None:
    killed: list[int] = []

    def pairs() -> Iterator[tuple[list[Entry], list[Document]]]:
        for pair in workers.stream(iter(cut(entries))):
            if not killed:
                killed.append(actors("MapWorker")[0])
                os.kill(killed[0], signal.SIGKILL)
            yield pair

    assert made(pairs()) == wanted
    assert killed[0] not in actors("MapWorker")


def test_a_pipeline_that_breaks_is_made_anew(workers: Workers, entries: list[Entry], wanted: dict[str, bytes]) -> None:
    killed: list[int] = []

    def pairs() -> Iterator[tuple[list[Entry], list[Document]]]:
        for pair in workers.stream(iter(cut(entries))):
            if not killed:
                killed.extend(actors("Feed"))
                os.kill(killed[0], signal.SIGKILL)
            yield pair

    assert made(pairs()) == wanted


def test_no_more_of_a_catalogue_is_read_than_workers_need(workers: Workers, entries: list[Entry]) -> None:
    read = 0

    def batches() -> Iterator[list[Entry]]:
        nonlocal read
        for entry in entries:
            read += 1
            yield [entry]

    for done, _ in enumerate(workers.stream(batches())):
        assert read <= done + 6  # three for each worker
        if done == 20:
            break


@pytest.mark.node
@pytest.mark.parametrize("kind", ["shop", "esci"])
def test_a_reindex_on_workers_gives_the_index_of_a_local_one(
    kind: str, client: OpenSearch, encoder: Encoder, reranker: CrossEncoder, workers: Workers, tmp_path: Path
) -> None:
    file, mapping = catalogue(kind, tmp_path)

    def index(stream: Stream | None) -> dict[str, Any]:
        name = f"test-workers-{kind}-{'ray' if stream else 'local'}"
        options = Options(name, tmp_path / "rejected.jsonl", sample=10)
        origin = FromFile(file, mapping)
        report = Reindex(client, origin, encoder, reranker, SETTINGS, options, stream=stream).start()
        try:
            return documents(client, name)
        finally:
            client.indices.delete(index=report.index)

    local = index(None)
    assert len(local) > 40
    assert index(workers.stream) == local


def catalogue(kind: str, folder: Path) -> tuple[Path, str]:
    """The first rows of a catalogue, as a file with its mapping."""
    if kind == "shop":
        source, mapping = SHOP / "catalog.csv", str(SHOP / "catalog.toml")
    else:
        data = os.environ.get("SHELFRANK_DATA")
        source, mapping = Path(data or "") / "esci" / "products.jsonl", "esci"
        if not data or not source.is_file():
            pytest.skip("SHELFRANK_DATA names no folder with esci/products.jsonl")
    file = folder / source.name
    with source.open(encoding="utf-8") as lines:
        file.write_text("".join(islice(lines, 60)), "utf-8")
    return file, mapping


def documents(client: OpenSearch, name: str) -> dict[str, Any]:
    """Everything that an index holds: id -> source, vector included, without the moment of making."""
    found: dict[str, Any] = {}
    for hits in changes.everything(client, name, Patience(60.0)):
        for hit in hits:
            assert hit["_id"] not in found
            assert len(hit["_source"]["vector"]) > 0
            del hit["_source"]["ingested_at"]
            found[hit["_id"]] = hit["_source"]
    return found


def test_without_ray_the_cure_is_told() -> None:
    probe = (
        "import sys; sys.modules['ray'] = None\n"
        "from indexer.settings import Models\n"
        "from ingest.stream import opened\n"
        "with opened(None, None, Models(), 2): pass"
    )
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=False)
    assert "pip install 'shelfrank[distributed]'" in done.stderr


@pytest.mark.parametrize(
    ("address", "told"),
    [
        ("127.0.0.1:1", "RAY_ADDRESS=127.0.0.1:1 does not answer: .*refused"),
        ("ray://127.0.0.1:10001", "Run this on a node of the cluster"),
    ],
)
def test_a_ray_cluster_that_cannot_be_used_is_told(address: str, told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(WorkerError, match=told):
        _start(2)


def test_a_local_run_imports_no_ray() -> None:
    probe = (
        "import sys\n"
        "from ingest import commands\n"
        "from ingest.reindex import command\n"
        "from ingest import stream\n"
        "print('ray' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
