"""Whoever has no key, from the attacker's side: other sites' pages, other names, and a cluster that is to decide."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from indexer.errors import ConfigError, UsageError
from indexer.settings import Cluster, Settings
from reranker.serving.command import _check
from reranker.serving.keys import VARIABLE, new
from tests.reranker.serving.service import Running, running, with_serve

pytestmark = pytest.mark.node

OWN_USER = [
    ("POST", "/v1/search", {"index": "shop", "query": "cup"}),
    ("POST", "/v1/explain", {"index": "shop", "query": "cup"}),
    ("POST", "/v1/events", {"action_name": "click", "query_id": "q", "client_id": "c"}),
    ("GET", "/v1/about", None),
    ("GET", "/metrics", None),
]


@pytest.fixture(scope="module")
def deciding(patient: Settings, shop: str) -> Iterator[Running]:
    """A service without keys that leaves it to the cluster whom to answer."""
    with running(with_serve(patient, index=shop, cluster_decides=True)) as found:
        yield found


@pytest.mark.parametrize(("method", "path", "body"), OWN_USER, ids=[row[1] for row in OWN_USER])
@pytest.mark.parametrize("headers", [{}, {"authorization": "Basic bGk6c2VjcmV0"}, {"x-api-key": "sr_guess"}])
def test_where_the_cluster_decides_nobody_is_lent_the_services_own_user(
    deciding: Running, method: str, path: str, body: Any, headers: dict[str, str]
) -> None:
    answer = deciding.http.request(method, path, json=body, headers=headers)
    assert answer.status_code == 401
    assert "key" in answer.json()["message"]


def test_where_the_cluster_decides_its_own_users_search_through_the_gateway(deciding: Running, shop: str) -> None:
    assert deciding.search(shop, {"query": {"match": {"title": "cup"}}}).status_code == 200


NAMES = [
    "evil.example.com",
    "evil.example.com:8100",
    "localhost.evil.example.com",
    "127.0.0.1.evil.example.com",
    "[::2]",
]
NAMES += ["192.168.0.7:8100", "localhost@evil.example.com:80", "0.0.0.0", "", "2130706433"]
OUTSIDE = [
    ("POST", "/v1/search"),
    ("GET", "/metrics"),
    ("GET", "/_shelfrank/"),
    ("POST", "/rerank"),
    ("GET", "/healthz"),
]


@pytest.mark.parametrize("name", NAMES)
def test_a_name_that_others_may_answer_for_is_not_answered_to(service: Running, shop: str, name: str) -> None:
    for method, path in [*OUTSIDE, ("GET", f"/{shop}/_search")]:
        answer = service.http.request(method, path, headers={"host": name})
        assert answer.status_code in (400, 403), (path, name)
        assert "hits" not in answer.text


@pytest.mark.parametrize("name", ["127.0.0.1", "localhost:1", "LOCALHOST", "a.localhost", "[::1]:8100", "127.9.9.9"])
def test_names_of_this_machine_are_answered_to(service: Running, name: str) -> None:
    assert service.http.get("/v1/about", headers={"host": name}).status_code == 200


FOREIGN = [
    {"origin": "https://evil.example.com"},
    {"origin": "null"},
    {"origin": "http://localhost:3000"},
    {"sec-fetch-site": "cross-site"},
    {"sec-fetch-site": "same-site"},
    {"sec-fetch-site": "cross-site", "origin": "https://evil.example.com"},
]


@pytest.mark.parametrize("headers", FOREIGN, ids=str)
@pytest.mark.parametrize("content_type", ["application/json", "text/plain", "application/x-www-form-urlencoded"])
def test_other_sites_pages_write_and_read_nothing(
    service: Running, shop: str, headers: dict[str, str], content_type: str
) -> None:
    given = {**headers, "content-type": content_type}
    for method, path in [
        ("POST", "/v1/events"),
        ("POST", "/v1/search"),
        ("POST", "/rerank"),
        ("POST", f"/{shop}/_search"),
        ("GET", f"/{shop}/_search?source_content_type=application/json&source=%7B%7D"),
        ("DELETE", "/_search/scroll"),
        ("OPTIONS", "/v1/search"),
    ]:
        assert service.http.request(method, path, headers=given, content=b"{}").status_code == 403, (method, path)


def test_a_link_from_another_site_opens_the_page(service: Running) -> None:
    followed = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}
    assert service.http.get("/_shelfrank/", headers=followed).status_code == 200


def test_the_services_own_page_and_allowed_sites_ask(service: Running, patient: Settings, shop: str) -> None:
    asked = {"index": shop, "query": "cup", "mode": "bm25"}
    own = service.url
    for headers in ({"origin": own}, {"origin": own, "sec-fetch-site": "same-origin"}, {"sec-fetch-site": "none"}):
        assert service.http.post("/v1/search", json=asked, headers=headers).status_code == 200
    site = "https://shop.example.com"
    with running(with_serve(patient, cors_origins=site), wait=False) as found:
        for headers in ({"origin": site}, {"origin": site, "sec-fetch-site": "cross-site"}):
            assert found.http.get("/v1/about", headers=headers).status_code == 200
        assert found.http.get("/v1/about", headers={"origin": f"{site}.evil.example.com"}).status_code == 403


def test_with_keys_any_name_is_answered_to(patient: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    key, line = new("shop", "search")
    monkeypatch.setenv(VARIABLE, line)
    with running(with_serve(patient), wait=False) as found:
        headers = {"host": "search.example.com", "x-api-key": key, "origin": "https://shop.example.com"}
        assert found.http.get("/v1/about", headers=headers).status_code == 200
        assert found.http.get("/v1/about", headers={"host": "search.example.com"}).status_code == 401


@contextmanager
def cluster(status: int) -> Iterator[str]:
    """The address of a cluster that gives everybody without a user this status."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"{}")

        def log_message(self, *arguments: object) -> None:
            """Quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_beyond_this_machine_it_takes_keys_and_a_cluster_that_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    with cluster(401) as asking, cluster(200) as open_to_all:

        def settings(url: str, **more: Any) -> Settings:
            return with_serve(Settings(cluster=Cluster(url=url, **more)), host="0.0.0.0", cluster_decides=True)

        with pytest.raises(UsageError, match="without API keys"):
            _check(settings(asking))
        monkeypatch.setenv(VARIABLE, new("shop", "search")[1])
        _check(settings(asking))
        for url in (open_to_all, ""):
            with pytest.raises(UsageError, match="answers whoever asks"):
                _check(settings(url))
        with pytest.raises(ConfigError, match="client_cert"):
            _check(settings(asking, client_cert="cert.pem", client_key="key.pem"))


RIGHTS = [
    ("GET", "/_count", "search"),
    ("POST", "/_msearch", "search"),
    ("DELETE", "/_search/scroll", "search"),
    ("PUT", "/{index}/_doc/1", "write"),
    ("POST", "/{index}/_update/1", "write"),
    ("POST", "/_bulk", "write"),
    ("POST", "/{index}/_delete_by_query", "write"),
    ("POST", "/{index}/_refresh", "write"),
    ("DELETE", "/{index}", "admin"),
    ("PUT", "/_cluster/settings", "admin"),
    ("GET", "/_nodes", "admin"),
    ("PUT", "/{index}/_mapping", "admin"),
]


@pytest.mark.parametrize(("method", "path", "right"), RIGHTS, ids=[f"{row[0]} {row[1]}" for row in RIGHTS])
@pytest.mark.parametrize("given", ["search", "write", "rerank", "events", "admin"])
def test_each_right_goes_as_far_as_its_name(
    everything: tuple[Running, dict[str, str]], method: str, path: str, right: str, given: str
) -> None:
    found, keys = everything
    answer = found.http.request(method, path.format(index="no-such-index"), headers={"x-api-key": keys[given]})
    if given == right:
        assert answer.status_code not in (401, 403)
    else:
        assert answer.status_code == 403
        assert f"lacks the right {right}" in answer.text


@pytest.fixture(scope="module")
def everything(patient: Settings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Running, dict[str, str]]]:
    """A service that passes everything on, and a key of each right."""
    made = {right: new(right, right) for right in ("search", "write", "rerank", "events", "admin")}
    file = tmp_path_factory.mktemp("keys") / "keys"
    file.write_text("\n".join(line for _, line in made.values()), "utf-8")
    with running(with_serve(patient, keys_file=str(file), forward="all"), wait=False) as found:
        yield found, {right: key for right, (key, _) in made.items()}


def test_no_key_ever_reaches_the_cluster(tmp_path: Path) -> None:
    mine, line = new("mine", "search")
    other, second = new("other", "rerank")
    (tmp_path / "keys").write_text(f"{line}\n{second}", "utf-8")
    gone, _ = new("gone", "search")
    li = "Basic " + base64.b64encode(b"li:secret").decode()
    seen: list[tuple[str, str]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path == "/shop/_count":
                seen.append((self.headers.get("Authorization", ""), self.headers.get("X-API-Key", "")))
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
        url = f"http://127.0.0.1:{server.server_port}"
        settings = Settings(cluster=Cluster(url=url, user="service", password="secret"))
        for decides in (False, True):
            with running(
                with_serve(settings, keys_file=str(tmp_path / "keys"), cluster_decides=decides), wait=False
            ) as found:
                basics = [base64.b64encode(pair.encode()).decode() for pair in (f"li:{other}", f"{other}:", other)]
                for sent in (
                    *(
                        f"{scheme} {token}"
                        for scheme in ("Bearer", "ApiKey", "Token ")
                        for token in (mine, other, gone)
                    ),
                    *(f"Basic {each}" for each in basics),
                    mine,
                ):
                    headers = {"x-api-key": mine, "authorization": sent}
                    assert found.http.get("/shop/_count", headers=headers).status_code == 200
                found.http.get("/shop/_count", headers={"authorization": f"bearer  {gone}"})
                found.http.get("/shop/_count", headers={"x-api-key": mine, "authorization": li})
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
    assert len(seen) >= 28
    assert not [pair for pair in seen if any(each in "".join(pair) for each in ("sr_", *basics))]
    assert (li, "") in seen
