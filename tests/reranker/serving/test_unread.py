"""`shelfrank serve` as it is run, and clients that ask for large answers and read none of them."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from indexer import client as clusters
from indexer.settings import Settings
from tests.reranker.serving.raw import connect
from tests.waiting import until

pytestmark = pytest.mark.node

MAIN = "from indexer.cli import main; main()"
CLIENTS = 60
ANSWER_MB = 10


@pytest.fixture
def large(node_settings: Settings) -> Iterator[str]:
    """An index whose search is answered with 10 MB."""
    client = clusters.connect(node_settings)
    name = "unread"
    client.indices.create(index=name, body={"mappings": {"properties": {"filler": {"type": "text", "index": False}}}})
    for number in range(ANSWER_MB * 2):
        client.index(index=name, id=str(number), body={"filler": "a" * 500_000}, params={"refresh": "true"})
    yield name
    client.indices.delete(index=name)


@pytest.fixture
def process(node: str, tmp_path: Path) -> Iterator[tuple[int, str, str]]:
    """Its process, its address, and that of its health and metrics."""
    log = tmp_path / "log"
    environment = {
        **os.environ,
        "OPENSEARCH_URL": node,
        "SHELFRANK_SERVE_UNREAD_BYTES": "40000000",
        "SHELFRANK_SERVE_WRITE_TIMEOUT_S": "600",
    }
    with log.open("wb") as stream:
        found = subprocess.Popen([sys.executable, "-c", MAIN, "serve", "--port", "0"], env=environment, stderr=stream)

    def told(what: str) -> str:
        said = re.search(rf"{what}: (http://[\d.:]+)", log.read_text("utf-8"))
        return said[1] if said else ""

    try:
        ops_url = until(lambda: told("Health and metrics"), "the service did not say where it listens")
        until(lambda: _is_ready(ops_url), log.read_text("utf-8"))
        yield found.pid, told("The page"), ops_url
        found.send_signal(signal.SIGTERM)
        assert found.wait(60) == 0
        assert "Traceback" not in log.read_text("utf-8")
    finally:
        found.kill()
        found.wait()


def _is_ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/readyz", timeout=10, trust_env=False).status_code == 200
    except httpx.TransportError:
        return False


def memory_mb(pid: int) -> float:
    text = Path(f"/proc/{pid}/status").read_text("ascii")
    return next(int(line.split()[1]) / 1024 for line in text.splitlines() if line.startswith("VmRSS"))


def test_answers_that_nobody_reads_do_not_fill_the_memory(large: str, process: Any) -> None:
    pid, url, ops_url = process
    body = b'{"query":{"match_all":{}},"size":%d}' % (ANSWER_MB * 2)
    head = f"POST /{large}/_search HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n"
    sent = f"{head}content-length: {len(body)}\r\n\r\n".encode() + body
    whole = httpx.post(
        f"{url}/{large}/_search", content=body, headers={"content-type": "application/json"}, trust_env=False
    )
    assert len(whole.content) > ANSWER_MB * 1_000_000
    before = memory_mb(pid)
    held = []
    for _ in range(CLIENTS):
        held.append(connect(int(url.rpartition(":")[2]), sent))
        assert held[-1].recv(1) == b"H"  # the rest of it waits
    assert memory_mb(pid) - before < 300
    metrics = httpx.get(f"{ops_url}/metrics", trust_env=False).text
    found = re.search(r'shelfrank_connections_ended_total\{listener="service",why="unread"\} ([\d.]+)', metrics)
    assert found
    assert float(found[1]) >= CLIENTS / 2
    for each in held:
        each.close()
