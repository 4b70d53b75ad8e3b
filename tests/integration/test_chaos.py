"""A reindex of a whole catalogue under faults, one kind at a time, while a shopper searches.

Afterwards source and index are compared id by id and hash by hash. The catalogue is the beginning of ESCI's where
SHELFRANK_DATA names it, else of the sample shop; `make test-long` takes all of it, kills more often and fails in more
ways. What is drawn differs from day to day (`tests/workers.py`), and moments of a kill with the machine's speed.
"""

from __future__ import annotations

import logging
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import msgspec
import pytest
from opensearchpy import OpenSearch

from indexer import aliases, changes, jobs
from indexer import client as clusters
from indexer import node as nodes
from indexer.patience import Patience
from indexer.settings import Cluster, Node, Settings
from ingest.documents import Maker
from ingest.products import Products
from ingest.reindex import operations
from ingest.report import DeadLetters, Report
from ingest.schema import load_mapping
from ingest.sources import open_catalogue
from tests.integration.faults import Proxy, start_again
from tests.integration.shopper import shopping
from tests.integration.standin import StandIn
from tests.paths import SAMPLE_SHOP
from tests.waiting import until
from tests.workers import LONG, SEED

# Shown with --log-cli-level=INFO: what was injected, and what was seen.
log = logging.getLogger("chaos")

NAME = "test-chaos"
# (products, kills, seeds of the network)
PRODUCTS, KILLS, SEEDS = (100_000, 10, [1, 2, SEED, SEED + 1]) if LONG else (1_000, 3, [SEED])


@pytest.fixture(scope="module")
def catalogue(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The catalogue file and its mapping."""
    folder = tmp_path_factory.mktemp("chaos")
    data = os.environ.get("SHELFRANK_DATA")
    if data and (Path(data) / "esci" / "products.jsonl").is_file():
        whole, mapping = Path(data) / "esci" / "products.jsonl", "esci"
    else:
        whole, mapping = SAMPLE_SHOP / "catalog.csv", str(SAMPLE_SHOP / "catalog.toml")
    with whole.open(encoding="utf-8") as lines:
        (folder / whole.name).write_text("".join(islice(lines, PRODUCTS)), "utf-8")
    return folder / whole.name, mapping


@pytest.fixture(scope="module")
def wanted(catalogue: tuple[Path, str]) -> dict[str, str]:
    """What the index should hold: product id -> content hash."""
    file, mapping = catalogue
    models = StandIn()
    maker = Maker(models, models)
    with DeadLetters(file.with_suffix(".wanted.jsonl")) as letters:
        entries = Products(open_catalogue(file, load_mapping(mapping)), Report()).entries(letters)
        return {entry.id: maker.digest(entry) for entry in entries}


@pytest.fixture(scope="module")
def chaos_node(loaded: Settings) -> Iterator[Node]:
    """A node of these tests' own: it is killed."""
    with tempfile.TemporaryDirectory(prefix="shelfrank-chaos-", dir="/var/tmp") as folder:
        chosen = msgspec.structs.replace(loaded.node, data_dir=folder, port=0, heap_mb=512)
        nodes.start(chosen)
        yield chosen
        nodes.stop(chosen)


@pytest.fixture
def direct(chaos_node: Node, catalogue: tuple[Path, str]) -> OpenSearch:
    """A client of that node with a catalogue live on it: the one that the reindex is to replace."""
    client = clusters.connect(Settings(node=chaos_node))
    if aliases.live(client, NAME) is None:
        run(client, nodes.status(chaos_node).url, catalogue, "start")
    if jobs.Board(client).read(NAME).is_open:
        operations.cancel(client, NAME)
    return client


def process(url: str, catalogue: tuple[Path, str], what: str) -> subprocess.Popen[str]:
    file, mapping = catalogue
    command = [sys.executable, "-m", "tests.integration.faults", url, NAME, str(file), mapping, what]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def run(client: OpenSearch, url: str, catalogue: tuple[Path, str], what: str) -> None:
    """Run a job to its end, in a process of its own."""
    running = process(url, catalogue, what)
    _, err = running.communicate(timeout=300)
    assert running.returncode == 0, err[-3000:]


def check(client: OpenSearch, wanted: dict[str, str]) -> None:
    """Zero lost, zero doubled, and every document the one that the source makes."""
    client.indices.refresh(index=NAME)
    patience = Patience(60.0)
    found: dict[str, str] = {}
    for hits in changes.everything(client, NAME, patience, source=["content_hash"]):
        for hit in hits:
            assert hit["_id"] not in found
            found[hit["_id"]] = hit["_source"]["content_hash"]
    assert found == wanted
    assert int(client.count(index=NAME)["count"]) == len(wanted)


def resume(client: OpenSearch, url: str, catalogue: tuple[Path, str]) -> subprocess.Popen[str]:
    """What an operator, or a supervisor, does after a crash: the same job goes on."""
    record = jobs.Board(client).read(NAME)
    return process(url, catalogue, "resume" if record.is_open else "start")


@pytest.mark.node
def test_a_job_that_is_killed_again_and_again_ends_with_every_product_once(
    direct: OpenSearch, chaos_node: Node, catalogue: tuple[Path, str], wanted: dict[str, str]
) -> None:
    url = nodes.status(chaos_node).url
    before = aliases.live(direct, NAME)
    assert before is not None
    moments = random.Random(SEED)
    with shopping(url, NAME) as shopper:
        started = time.monotonic()
        running = process(url, catalogue, "start")
        took = 0.0
        for kill in range(KILLS):
            # Later and later: from before the first request to the switch.
            time.sleep(moments.uniform(0.3, 1.0) + 3.5 * kill / KILLS)
            took = time.monotonic() - started
            running.kill()
            running.communicate()
            running = resume(direct, url, catalogue)
        _, err = running.communicate(timeout=300)
        assert running.returncode == 0, err[-3000:]
        until(lambda: shopper.answers > 100)
    assert took > 1
    check(direct, wanted)
    after = aliases.live(direct, NAME)
    assert after is not None
    assert after.index != before.index
    assert shopper.bad == []
    log.info("%s kills; %s products, each once; %s searches, none failed", KILLS, len(wanted), shopper.answers)


@pytest.mark.node
@pytest.mark.parametrize("seed", SEEDS)
def test_a_network_that_fails_at_random_loses_nothing(
    direct: OpenSearch, chaos_node: Node, catalogue: tuple[Path, str], wanted: dict[str, str], seed: int
) -> None:
    url = nodes.status(chaos_node).url
    with shopping(url, NAME) as shopper, Proxy(url, seed, 0.25).running() as proxy:
        run(direct, proxy.url, catalogue, "start")
        until(lambda: shopper.answers > 20)
    assert sum(proxy.made.values()) > 20
    check(direct, wanted)
    assert shopper.bad == []
    made = ", ".join(f"{count} {kind}" for kind, count in sorted(proxy.made.items()))
    log.info("%s; %s products, each once; %s searches, none failed", made, len(wanted), shopper.answers)


def building(client: OpenSearch, url: str, catalogue: tuple[Path, str]) -> tuple[subprocess.Popen[str], str]:
    """A job that has begun to build, and its new index."""
    running = process(url, catalogue, "start")
    target = ""
    while not target and running.poll() is None:
        record = jobs.Board(client).read(NAME)
        target = record.target if record.is_open and record.done > 0 else ""
        time.sleep(0.05)
    assert target, "the job ended before anything could be done to it"
    return running, target


@pytest.mark.node
def test_a_job_that_is_stopped_and_wakes_when_another_has_ended_it_changes_nothing(
    direct: OpenSearch, chaos_node: Node, catalogue: tuple[Path, str], wanted: dict[str, str]
) -> None:
    url = nodes.status(chaos_node).url
    running, target = building(direct, url, catalogue)
    os.kill(running.pid, signal.SIGSTOP)
    try:
        run(direct, url, catalogue, "resume")  # when it has seen for a while that nothing is heard of the other
        found = aliases.live(direct, NAME)
        assert found is not None
        assert found.index == target
    finally:
        os.kill(running.pid, signal.SIGCONT)
    _, err = running.communicate(timeout=120)
    assert running.returncode != 0
    assert "LostError" in err
    check(direct, wanted)
    assert aliases.live(direct, NAME) == found
    assert jobs.Board(direct).read(NAME).phase == "done"


@pytest.mark.node
def test_a_node_that_dies_and_comes_back_loses_nothing(
    direct: OpenSearch, chaos_node: Node, catalogue: tuple[Path, str], wanted: dict[str, str]
) -> None:
    status = nodes.status(chaos_node)
    running, target = building(direct, status.url, catalogue)
    os.kill(status.pid, signal.SIGKILL)
    start_again(chaos_node, status.port)
    _, err = running.communicate(timeout=300)
    assert running.returncode == 0, err[-3000:]
    again = clusters.connect(Settings(cluster=Cluster(url=status.url)))
    check(again, wanted)
    found = aliases.live(again, NAME)
    assert found is not None
    assert found.index == target
    log.info("node killed and started again; %s products, each once", len(wanted))
