"""A disk that fills up in the middle of a reindex: told with the cure, and with room again the job goes on."""

from __future__ import annotations

import os
import random
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from indexer import aliases, jobs
from indexer import client as clusters
from indexer import node as nodes
from indexer.errors import ClusterError
from indexer.settings import Ingest, Node, Settings
from ingest.reindex.job import Options, Reindex
from ingest.reindex.origins import FromFile
from tests.conftest import HEAP_MB
from tests.integration.standin import StandIn

NAME = "test-disk"
SIZE_MB = 300
PRODUCTS = 2500


@pytest.fixture
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


@pytest.fixture
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


def catalogue(folder: Path, count: int, characters: int) -> tuple[Path, str]:
    """Products whose descriptions nothing can compress."""
    path, mapping = folder / f"shop-{count}.csv", folder / "shop.toml"
    mapping.write_text('[columns]\nid = "id"\ntitle = "title"\ndescription = "text"\n')
    chance = random.Random(1)
    with path.open("w", encoding="utf-8") as file:
        file.write("id,title,text\n")
        for number in range(count):
            file.write(f"p{number},Lamp number {number},{chance.randbytes(characters // 2).hex()}\n")
    return path, str(mapping)


@pytest.mark.node
def test_a_full_disk_stops_the_job_with_the_cure_and_room_lets_it_go_on(
    small_disk: Path, small_node: Node, tmp_path: Path
) -> None:
    settings = Settings(node=small_node, ingest=Ingest(batch=100, patience_s=15.0))
    client = clusters.connect(settings)
    models = StandIn()

    def job(file: tuple[Path, str]) -> Reindex:
        return Reindex(client, FromFile(*file), models, models, settings, Options(NAME, tmp_path / "x.jsonl"))

    old = job(catalogue(tmp_path, 50, 100)).start().index
    ballast = small_disk / "ballast"
    ballast.write_bytes(os.urandom(int((free_mb(small_disk) - 115) * 1e6)))
    whole = catalogue(tmp_path, PRODUCTS, 24_000)
    with pytest.raises(ClusterError, match=r"taken nothing for 15 s.*(disk|space)"):
        job(whole).start()
    found = aliases.live(client, NAME)
    assert found is not None
    assert found.index == old
    assert client.search(index=NAME, body={"query": {"match": {"title": "lamp"}}})["hits"]["total"]["value"] == 50
    ballast.unlink()
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        try:
            report = job(whole).resume()
            break
        except ClusterError:
            time.sleep(2)  # the node looks at its disk every ten seconds
    assert client.count(index=NAME)["count"] == PRODUCTS
    assert (report.clean, report.failed) == (PRODUCTS, 0)
    assert report.unchanged > 0
    assert jobs.Board(client).read(NAME).phase == "done"
