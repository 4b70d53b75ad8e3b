"""Bodies too large or too slow, odd ones, half-closed connections: a right answer to each, and memory stays flat."""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from indexer.settings import Settings
from reranker.serving import protocol
from tests.reranker.serving.service import Running, running, with_serve

pytestmark = pytest.mark.node

MAIN = "from indexer.cli import main; main()"
HEAD = "POST /v1/rerank HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"


@pytest.fixture(scope="module")
def tight(patient: Settings) -> Iterator[Running]:
    """A service that is soon out of patience."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(protocol, "HEAD_TIMEOUT_S", 1.0)
        with running(with_serve(patient, max_body_bytes=100_000, read_timeout_s=1.0)) as found:
            yield found


def raw(service: Running, *parts: bytes, close: bool = False) -> bytes:
    """What comes back on a connection of its own, until the other side closes it or says no more."""
    port = int(service.url.rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port), timeout=15) as connection:
        for part in parts:
            connection.sendall(part)
        if close:
            connection.shutdown(socket.SHUT_WR)
        found = b""
        while chunk := connection.recv(65536):
            found += chunk
            if b"\r\n\r\n" in found and b"connection: close" not in found.lower():
                break
        return found


def status(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1]) if answer else 0


def test_a_body_that_is_too_large_is_refused_before_it_is_read(tight: Running) -> None:
    declared = raw(tight, f"{HEAD}content-length: 100000000000\r\n\r\n".encode())
    assert status(declared) == 413
    chunk = b"%x\r\n%s\r\n" % (50_000, b" " * 50_000)
    chunked = raw(tight, f"{HEAD}transfer-encoding: chunked\r\n\r\n".encode(), chunk, chunk, chunk)
    assert status(chunked) == 413
    assert b"100000 bytes" in chunked


def test_a_body_that_does_not_come_is_not_waited_for(tight: Running) -> None:
    assert status(raw(tight, f"{HEAD}content-length: 100\r\n\r\n".encode(), b"{")) == 408
    assert status(raw(tight, b"POST /x/_search HTTP/1.1\r\nhost: localhost\r\ncontent-length: 9\r\n\r\n")) == 408


def test_a_head_that_does_not_come_is_not_waited_for(tight: Running) -> None:
    began = time.monotonic()
    assert raw(tight, b"POST /v1/rerank HT") == b""
    assert raw(tight) == b""
    assert time.monotonic() - began < 14


@pytest.mark.parametrize(
    "sent",
    [
        b"\x16\x03\x01\x02\x00\x01\x00",
        b"GET / HTTP/9.9\r\n\r\n",
        b"\x00" * 100,
        b"GET /" + b"a" * 200_000 + b" HTTP/1.1\r\n",
    ],
)
def test_what_is_not_http_is_refused(tight: Running, sent: bytes) -> None:
    assert status(raw(tight, sent)) in (0, 400, 413, 414, 431)
    assert tight.http.get("/healthz").status_code == 200


def test_a_half_closed_connection_gets_its_answer_or_nothing(tight: Running) -> None:
    body = b'{"query": "cup", "documents": ["cup"]}'
    whole = raw(tight, f"{HEAD}content-length: {len(body)}\r\n\r\n".encode(), body, close=True)
    assert status(whole) in (0, 200)
    assert status(raw(tight, f"{HEAD}content-length: 500\r\n\r\n".encode(), body, close=True)) in (0, 400, 408)
    assert tight.http.get("/healthz").status_code == 200


def test_a_request_id_is_passed_through_and_an_odd_one_replaced(service: Running, shop: str) -> None:
    answer = service.search(shop, {"size": 0}, **{"x-request-id": "abc-1", "x-opaque-id": "me"})
    assert answer.headers["x-request-id"] == "abc-1"
    assert answer.headers["x-opaque-id"] == "me"  # by the cluster
    odd = service.http.get("/healthz", headers={"x-request-id": 'a"b{}' * 50})
    assert len(odd.headers["x-request-id"]) == 32


def test_other_origins_are_told_nothing_unless_they_are_allowed(service: Running, patient: Settings) -> None:
    asking = {"origin": "https://shop.example.com", "access-control-request-method": "POST"}
    assert "access-control-allow-origin" not in service.http.options("/v1/search", headers=asking).headers
    with running(with_serve(patient, cors_origins="https://shop.example.com"), wait=False) as found:
        allowed = found.http.options("/v1/search", headers=asking).headers
        assert allowed["access-control-allow-origin"] == "https://shop.example.com"
        other = found.http.options("/v1/search", headers={**asking, "origin": "https://evil.example.com"}).headers
        assert "access-control-allow-origin" not in other


@pytest.fixture
def process(node: str, shop: str, tmp_path: Path) -> Iterator[tuple[subprocess.Popen[bytes], str, Path]]:
    """`shelfrank serve` as it is run, and its log."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log = tmp_path / "log"
    command = [sys.executable, "-c", MAIN, "serve", "--port", str(port), "--index", shop]
    with log.open("wb") as stream:
        found = subprocess.Popen(command, env={**os.environ, "OPENSEARCH_URL": node}, stderr=stream, stdout=stream)
    url = f"http://127.0.0.1:{port}"
    over = time.monotonic() + 60
    while time.monotonic() < over:
        try:
            if httpx.get(f"{url}/readyz", timeout=10).status_code == 200:
                break
        except httpx.TransportError:
            time.sleep(0.1)
    yield found, url, log
    if found.poll() is None:
        found.kill()
        found.wait()


def memory_mb(pid: int) -> float:
    text = Path(f"/proc/{pid}/status").read_text("ascii")
    return next(int(line.split()[1]) / 1024 for line in text.splitlines() if line.startswith("VmRSS"))


def odd_body(rng: random.Random) -> bytes:
    """A body that is wrong, or right, in one of many ways."""
    scraps = [
        b"{",
        b"}",
        b"[",
        b'"query"',
        b":",
        b"null",
        b"1e999",
        b'"\\ud800"',
        "杯".encode(),
        b"\x00",
        b",",
        b"-",
        b"true",
    ]
    whole = [
        b'{"query":{"match":{"title":"cup"}},"size":%d}' % rng.randint(-5, 20_000),
        b'{"query":' + b'{"bool":{"must":[' * rng.randint(1, 2000) + b"}",
        b'{"query":{"match":{"title":"' + b"a" * rng.randint(1, 20_000) + b'"}}}',
        b'{"query":"cup","documents":[' + b",".join([b'"cup"'] * rng.randint(1, 50)) + b"]}",
        b'{"query":"cup","texts":["\\u0000","\\ud83d\\ude42"]}',
    ]
    return rng.choice(whole) if rng.random() < 0.5 else b"".join(rng.choices(scraps, k=rng.randint(0, 40)))


def test_odd_bodies_never_break_it_and_memory_stays_flat(process: Any, shop: str) -> None:
    found, url, log = process
    rng = random.Random(11)
    paths = [
        f"/{shop}/_search",
        f"/{shop}/_msearch",
        "/v1/rerank",
        "/v2/rerank",
        "/rerank",
        "/v1/search",
        "/v1/embeddings",
    ]
    seen: dict[int, int] = {}
    with httpx.Client(base_url=url, timeout=60, headers={"content-type": "application/json"}) as client:

        def round_of(requests: int) -> None:
            for _ in range(requests):
                answer = client.post(rng.choice(paths), content=odd_body(rng))
                seen[answer.status_code] = seen.get(answer.status_code, 0) + 1
                assert answer.status_code != 500 or "shelfrank" not in answer.text, answer.text

        round_of(150)
        before = memory_mb(found.pid)
        round_of(300)
        assert memory_mb(found.pid) < before + 40
    assert set(seen) <= {200, 400, 404, 422, 500, 503}
    assert seen.get(200, 0) > 20
    assert seen.get(400, 0) > 20
    assert "Traceback" not in log.read_text("utf-8")


def test_a_stop_finishes_what_was_taken(process: Any, shop: str) -> None:
    found, url, log = process
    with httpx.Client(base_url=url, timeout=60) as client:
        body = {"query": "cup", "texts": [f"a cup {number}" for number in range(200)]}
        with ThreadPoolExecutor(1) as pool:
            future = pool.submit(client.post, "/rerank", json=body)
            time.sleep(0.15)
            found.send_signal(signal.SIGTERM)
            answer = future.result()
    assert answer.status_code == 200
    assert len(answer.json()) == 200
    assert found.wait(30) == 0
    text = log.read_text("utf-8")
    assert "a cup" not in text  # no query text in the log unless it is asked for
    assert '"route": "/rerank"' in text
