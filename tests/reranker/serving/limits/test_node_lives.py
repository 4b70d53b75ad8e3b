"""Requests that ended an OpenSearch node, sent through the gateway to a node that goes on."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from opensearchpy import OpenSearch

from tests.reranker.serving.service import Running

pytestmark = pytest.mark.node

OPEN, SHUT = "(" * 15_000, ")" * 15_000
ENDINGS: list[tuple[str, str, bytes, str]] = [
    ("_search", "application/cbor", b"\xa1equery" + b"\xa1dbool\xa1dmust" * 700, ""),
    ("_search", "application/yaml", b"query: " + b"{bool: {must: " * 700, ""),
    ("_search", "application/json", json.dumps({"query": {"query_string": {"query": f"{OPEN}a{SHUT}"}}}).encode(), ""),
    ("_count", "application/json", json.dumps({"query": {"query_string": {"query": f"{OPEN}a{SHUT}"}}}).encode(), ""),
    (
        "_search",
        "application/json",
        json.dumps({"query": {"simple_query_string": {"query": f"{OPEN}a{SHUT}"}}}).encode(),
        "",
    ),
    ("_search", "application/json", b'{"query":' + b'{"bool":{"must":' * 1300 + b"{}" + b"}}" * 1300 + b"}", ""),
    ("_search", "", b"", "?source_content_type=application/cbor&source=%A1"),
    ("_search", "application/json", json.dumps({"query": {"regexp": {"title": "(" * 900 + ")" * 900}}}).encode(), ""),
    ("_search/template", "application/json", b'{"source": {"query": {"match_all": {}}}}', ""),
    ("_search", "application/json", b'{"query":{"wrapper":{"query":"eyJtYXRjaF9hbGwiOnt9fQ=="}}}', ""),
]


@pytest.mark.parametrize(("path", "kind", "body", "query"), ENDINGS, ids=[str(at) for at in range(len(ENDINGS))])
def test_no_request_ends_the_node(
    service: Running, client: OpenSearch, shop: str, path: str, kind: str, body: bytes, query: str
) -> None:
    headers = {"content-type": kind} if kind else {}
    answer = service.http.post(f"/{shop}/{path}{query}", content=body, headers=headers)
    assert answer.status_code in (400, 403, 415), answer.text
    assert client.cluster.health()["status"] in ("green", "yellow")


def test_the_most_that_the_limits_allow_does_not_end_it_either(service: Running, client: OpenSearch, shop: str) -> None:
    texts = [
        "(" * 250 + "a" + ")" * 250,
        "NOT " * 499 + "a",
        "-" * 500 + "a",
        "a~ " * 400,
        '"a b"~900 ' * 40,
        "a:(" * 200,
    ]
    texts += ["[a TO b] " * 100, "\\" * 500, "*a* " * 25, "a^2 " * 400, "/(a{9}b?)*/ " * 9]
    for text in texts:
        for kind in ("query_string", "simple_query_string"):
            body = {"query": {kind: {"query": text, "fields": ["title"]}}, "ext": {"shelfrank": {"rerank": False}}}
            assert service.http.post(f"/{shop}/_search", json=body).status_code in (200, 400), text[:20]
    for pattern in ("(" * 125 + ")" * 125, "(a|b)*c" * 35, "[a-z]{1,900}", ".*.*.*.*.*.*"):
        body = {"query": {"regexp": {"brand": pattern}}}
        assert service.http.post(f"/{shop}/_search", json=body).status_code in (200, 400), pattern[:20]
    assert client.cluster.health()["status"] in ("green", "yellow")


def test_many_large_answers_at_once_do_not_exhaust_it(service: Running, client: OpenSearch, shop: str) -> None:
    def ask(size: int) -> Any:
        lines = "\n".join([json.dumps({"index": shop}), json.dumps({"size": size})] * 60) + "\n"
        headers = {"content-type": "application/x-ndjson"}
        return service.http.post("/_msearch", content=lines.encode(), headers=headers).status_code

    with ThreadPoolExecutor(6) as clients:
        assert set(clients.map(ask, [1_000] * 6)) == {400}
        assert set(clients.map(ask, [20] * 2)) == {200}  # the node is small, and other tests ask it too
    assert client.cluster.health()["status"] in ("green", "yellow")


def test_a_histogram_fills_no_more_buckets_than_the_limit(service: Running, client: OpenSearch, shop: str) -> None:
    """Between values that are far apart; what its field holds decides."""

    def asked(body: Any) -> tuple[int, str]:
        answer = service.http.post(f"/{shop}/_search", json={"size": 0, "aggs": {"a": body}})
        return answer.status_code, answer.text

    status, text = asked({"histogram": {"field": "price", "interval": 0.0001}})
    assert (status, "limits.buckets" in text) == (400, True)
    status, text = asked({"histogram": {"field": "price", "interval": 100}})
    assert (status, "buckets" in text) == (200, True)
    assert asked({"histogram": {"field": "price", "interval": 0.0001, "min_doc_count": 1}})[0] == 200
    assert asked({"histogram": {"field": "nothing", "interval": 0.0001}})[0] == 200
    status, text = asked({"histogram": {"field": "title", "interval": 1}})
    assert (status, "does not tell" in text) == (400, True)
    lines = "\n".join(
        [json.dumps({"index": shop}), '{"aggs":{"a":{"histogram":{"field":"price","interval":1e-9}}}}', ""]
    )
    answer = service.http.post("/_msearch", content=lines, headers={"content-type": "application/x-ndjson"})
    assert answer.status_code == 400
    assert client.cluster.health()["status"] in ("green", "yellow")
