"""A disk that fills up in the middle of a reindex: told with the cure, and with room again the job goes on.

The node looks at its disk every ten seconds and takes no writes below 60 MB of free space. A job that is to meet that
must be at work for so long, so it takes its time.
"""

from __future__ import annotations

import os
import random
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest
from opensearchpy.exceptions import TransportError

from indexer import aliases, jobs
from indexer import client as clusters
from indexer import node as nodes
from indexer.errors import ClusterError
from indexer.settings import Cluster, Ingest, Node, Settings
from ingest.reindex.job import Options, Reindex
from ingest.reindex.origins import FromFile
from tests.conftest import HEAP_MB
from tests.integration.standin import StandIn
from tests.waiting import until

NAME = "test-disk"
SIZE_MB = 300
PRODUCTS, BATCH, BATCH_S = 600, 30, 0.9


@pytest.fixture(scope="module")
def small_disk() -> Iterator[Path]:
    """A file system of its own, of 300 MB."""
    folder = Path("/var/tmp") / f"shelfrank-disk-{os.getpid()}"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={SIZE_MB}m", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        folder.rmdir()
        pytest.skip("only root may mount a small file system")
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=False)
        folder.rmdir()


@pytest.fixture(scope="module")
def small_node(small_disk: Path, loaded: Settings) -> Iterator[Node]:
    chosen = msgspec.structs.replace(loaded.node, data_dir=str(small_disk / "node"), port=0, heap_mb=HEAP_MB)
    nodes.start(chosen)
    try:
        yield chosen
    finally:
        nodes.stop(chosen)


def free_mb(folder: Path) -> float:
    found = os.statvfs(folder)
    return found.f_bavail * found.f_frsize / 1e6


def catalogue(folder: Path, count: int) -> tuple[Path, str]:
    path, mapping = folder / f"shop-{count}.csv", folder / "shop.toml"
    mapping.write_text('[columns]\nid = "id"\ntitle = "title"\n')
    path.write_text("id,title\n" + "".join(f"p{number},Lamp number {number}\n" for number in range(count)), "utf-8")
    return path, str(mapping)


def fill(small_disk: Path, left_mb: float) -> None:
    """Leave so much space."""
    with (small_disk / "ballast").open("ab") as ballast:
        ballast.write(os.urandom(max(0, int((free_mb(small_disk) - left_mb) * 1e6))))


@pytest.mark.node
def test_a_full_disk_stops_the_job_with_the_cure_and_room_lets_it_go_on(
    small_disk: Path, small_node: Node, tmp_path: Path
) -> None:
    client = clusters.connect(Settings(node=small_node))
    models = StandIn()

    def job(file: tuple[Path, str], patience_s: float = 30.0, **chosen: Any) -> Reindex:
        settings = Settings(node=small_node, ingest=Ingest(batch=BATCH, patience_s=patience_s))
        return Reindex(client, FromFile(*file), models, models, settings, Options(NAME, tmp_path / "x.jsonl"), **chosen)

    def filling(phase: str, at: int, total: int | None) -> None:
        if phase == "Build" and at:
            if at == BATCH:
                fill(small_disk, 50)
            time.sleep(BATCH_S)

    old = job(catalogue(tmp_path, 50)).start().index
    whole = catalogue(tmp_path, PRODUCTS)
    with pytest.raises(ClusterError, match=r"taken nothing for 3 s.*(disk|space)"):
        job(whole, patience_s=3.0, on_progress=filling).start()
    found = aliases.live(client, NAME)
    assert found is not None
    assert found.index == old
    assert client.search(index=NAME, body={"query": {"match": {"title": "lamp"}}})["hits"]["total"]["value"] == 50
    (small_disk / "ballast").unlink()
    report = job(whole, patience_s=120.0).resume()
    assert client.count(index=NAME)["count"] == PRODUCTS
    assert (report.clean, report.failed) == (PRODUCTS, 0)
    assert report.unchanged > 0
    assert jobs.Board(client).read(NAME).phase == "done"


@pytest.mark.node
def test_a_disk_that_is_full_to_its_last_byte_takes_writes_soon_after_there_is_room(
    small_disk: Path, small_node: Node
) -> None:
    client = clusters.connect(Settings(node=small_node, cluster=Cluster(timeout_s=5.0)))
    client.index(index="things", id="1", body={"title": "cup"}, params={"refresh": "true"})

    def refused() -> bool:
        try:
            client.cluster.put_settings(body={"persistent": {"cluster.max_shards_per_node": random.randint(900, 999)}})
        except TransportError:
            return True
        return False

    with suppress(OSError), (small_disk / "ballast").open("wb") as ballast:
        while True:
            ballast.write(bytes(1 << 20))
    assert free_mb(small_disk) == 0
    until(refused, "the node did not mind a full disk")
    (small_disk / "ballast").unlink()
    began = time.monotonic()
    until(lambda: not refused(), "the node did not come back", limit_s=120)
    # A minute is what OpenSearch takes by itself, at best.
    assert time.monotonic() - began < 45
    assert client.count(index="things")["count"] == 1
