"""A cluster of three on loopback: nodes die during a reindex and during searches, and come back."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import pytest
from opensearchpy import OpenSearch

from indexer import changes, jobs
from indexer import client as clusters
from indexer import node as nodes
from indexer.patience import Patience
from indexer.settings import Cluster, Index, Ingest, Settings
from ingest.reindex.job import Options, Reindex
from ingest.reindex.origins import FromFile
from tests.conftest import HEAP_MB
from tests.integration.shopper import shopping
from tests.integration.standin import StandIn
from tests.waiting import until
from tests.workers import LONG

NAME = "test-three"
COUNT = 1500 if LONG else 600


@pytest.fixture(scope="module")
def three(loaded: Settings) -> Iterator[list[nodes.ClusterNode]]:
    with tempfile.TemporaryDirectory(prefix="shelfrank-three-", dir="/var/tmp") as folder:
        Path(folder).chmod(0o755)
        chosen = msgspec.structs.replace(loaded.node, heap_mb=HEAP_MB)
        with nodes.cluster(folder, 3, chosen) as started:
            yield started


@pytest.fixture
def settings(three: list[nodes.ClusterNode]) -> Settings:
    """Through the first node, with a copy of every shard on another one."""
    url = nodes.status(three[0].settings).url
    return Settings(
        cluster=Cluster(url=url), ingest=Ingest(batch=50, patience_s=120.0), index=Index(replicas=1, shards=2)
    )


def catalogue(folder: Path) -> tuple[Path, str]:
    path, mapping = folder / "shop.csv", folder / "shop.toml"
    mapping.write_text('[columns]\nid = "id"\ntitle = "title"\n')
    path.write_text("id,title\n" + "".join(f"p{n},Lamp number {n} 台灯\n" for n in range(COUNT)), "utf-8")
    return path, str(mapping)


def where(client: OpenSearch, index: str, primary: bool = True) -> set[str]:
    """The nodes that hold an index's primaries, or its copies."""
    rows: list[Any] = client.cat.shards(index=index, params={"format": "json", "h": "prirep,node,state"})
    return {row["node"] for row in rows if row["state"] == "STARTED" and (row["prirep"] == "p") == primary}


def check(client: OpenSearch) -> None:
    client.indices.refresh(index=NAME)
    found = list(changes.ids(client, NAME, Patience(60.0)))
    assert found == sorted(f"p{n}" for n in range(COUNT))
    assert client.count(index=NAME)["count"] == COUNT


def green(client: OpenSearch) -> str:
    health = client.cluster.health(params={"wait_for_status": "green", "timeout": "90s"}, request_timeout=100)
    return str(health["status"])


@pytest.mark.node
def test_nodes_that_die_during_reindex_and_search_and_come_back_lose_nothing(
    three: list[nodes.ClusterNode], settings: Settings, tmp_path: Path
) -> None:
    client = clusters.connect(settings)
    assert client.cluster.health()["number_of_nodes"] == 3
    models, file = StandIn(), catalogue(tmp_path)

    def job(**chosen: Any) -> Reindex:
        options = Options(NAME, tmp_path / "x.jsonl")
        return Reindex(client, FromFile(*file), models, models, settings, options, **chosen)

    first = job().start().index
    assert green(client) == "green"
    assert where(client, first) | where(client, first, primary=False) != {three[0].member.name}
    check(client)

    # A node that holds the new index's shards, of which there is one copy while it is built, dies and comes back.
    killed: list[str] = []
    again: list[Future[nodes.NodeInfo]] = []

    def kill_a_holder(phase: str, at: int, total: int | None) -> None:
        if phase == "Build" and at >= COUNT // 3 and not killed:
            holders = where(client, jobs.Board(client).read(NAME).target) - {three[0].member.name}
            victim = next(each for each in three[1:] if each.member.name in holders or not holders)
            killed.append(victim.member.name)
            victim.kill()
            again.append(starter.submit(victim.start))

    with shopping(settings.cluster.url, NAME) as shopper, ThreadPoolExecutor(1) as starter:
        second = job(on_progress=kill_a_holder).start().index
        again[0].result(120)
        assert green(client) == "green"
        # And one while nothing is built: its shards' copies answer.
        three[2].kill()
        check(client)
        three[2].start()
        assert green(client) == "green"
        until(lambda: shopper.answers > 50)
    assert killed
    assert second != first
    check(client)
    assert client.cluster.health()["number_of_nodes"] == 3
    assert shopper.bad == []
