"""Whose request the cluster sees: a client's own, the service's where a key earned it, and nobody's otherwise."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from indexer.settings import Cluster, Models, Settings
from reranker.serving.keys import new
from tests.reranker.serving.service import running, with_serve

PATH = "/shop/_count"


def basic(user: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:secret".encode()).decode()


KEY, LINE = new("shop", "search")
BY_HEADER, BY_BEARER, WRONG = {"x-api-key": KEY}, {"authorization": f"Bearer {KEY}"}, {"x-api-key": "wrong"}
NOBODY: dict[str, str] = {}
LI = {"authorization": basic("li")}


@contextmanager
def cluster() -> Iterator[tuple[str, list[str]]]:
    """A cluster's address, and as whom it was asked to count: the `Authorization` of each request, or "nobody"."""
    seen: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path == PATH:
                seen.append(self.headers.get("Authorization", "nobody"))
            self.send_response(200)
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"{}")

        def log_message(self, *arguments: object) -> None:
            """Quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", seen
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def asked_as(headers: dict[str, str], keys_file: str, decides: bool) -> list[str] | int:
    """As whom the cluster is asked what a client asks with these headers, or the status that refuses the client."""
    none = Models(encoder="/nowhere", reranker="/nowhere")
    with cluster() as (url, seen):
        settings = Settings(cluster=Cluster(url=url, user="service", password="secret"), models=none)
        with running(with_serve(settings, keys_file=keys_file, cluster_decides=decides), wait=False) as found:
            status = found.http.get(PATH, headers=headers).status_code
    assert status == 200 or not seen
    return seen if status == 200 else status


@pytest.fixture
def keys_file(tmp_path: Path) -> str:
    file = tmp_path / "keys"
    file.write_text(LINE, "utf-8")
    return str(file)


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        (NOBODY, 401),
        (WRONG, 401),
        (LI, 401),
        (BY_HEADER, [basic("service")]),
        (BY_BEARER, [basic("service")]),
        (BY_HEADER | LI, [basic("li")]),
    ],
)
def test_a_key_earns_the_services_user_unless_the_client_has_one(
    headers: dict[str, str], expected: list[str] | int, keys_file: str
) -> None:
    assert asked_as(headers, keys_file, decides=False) == expected


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        (NOBODY, ["nobody"]),
        (WRONG, 401),
        (LI, [basic("li")]),
        (BY_HEADER, [basic("service")]),
    ],
)
def test_where_the_cluster_decides_it_is_asked_as_the_client_is(
    headers: dict[str, str], expected: list[str] | int, keys_file: str
) -> None:
    assert asked_as(headers, keys_file, decides=True) == expected


@pytest.mark.parametrize(("headers", "expected"), [(NOBODY, "nobody"), (LI, basic("li"))])
def test_without_keys_nobody_is_lent_a_user(headers: dict[str, str], expected: str) -> None:
    assert asked_as(headers, "", decides=False) == [expected]
