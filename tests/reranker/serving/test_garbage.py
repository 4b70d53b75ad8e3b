"""A cluster that answers what no cluster would: the client gets that or an error that says so, no fault of ours."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from indexer.settings import Cluster, Settings
from tests.reranker.serving.failing import answering
from tests.reranker.serving.service import Running, running, with_serve

HIT = {"_index": "shop", "_id": "1", "_score": 1.5, "_source": {"id": "1", "title": "a red lamp", "price": 3.0}}
FOUND: dict[str, Any] = {
    "took": 1,
    "timed_out": False,
    "_shards": {"total": 1, "successful": 1, "skipped": 0, "failed": 0},
    "hits": {"total": {"value": 2, "relation": "eq"}, "max_score": 1.5, "hits": [HIT, {**HIT, "_id": "2"}]},
}
ABOUT = {"name": "n", "cluster_name": "c", "version": {"distribution": "opensearch", "number": "3.6.0"}}
NOT_JSON = [b"", b"null", b"[]", b"7", b'"hits"', b"<html>", b"{", b"\xff\xfe", b"[" * 5000, b'{"hits":' * 500, b"NaN"]
ODD: list[Any] = [
    None,
    True,
    -1,
    1e308,
    "x",
    "",
    [],
    {},
    [[]],
    [None],
    {"a": {"b": 1}},
    "\u0000",
    "9" * 400,
    [7],
    {"value": "x"},
]
ASK = {"query": {"match": {"title": "lamp"}}, "ext": {"shelfrank": {"explain": True, "deadline_ms": 60000}}}


class Said:
    """What the cluster answers now: to searches, or to everything; of itself it speaks as it should."""

    def __init__(self) -> None:
        self.search = json.dumps(FOUND).encode()
        self.everywhere = False

    def __call__(self, path: str) -> bytes:
        if path == "/":
            return json.dumps(ABOUT).encode()
        if "_search" not in path and "_msearch" not in path and not self.everywhere:
            return b"{}"
        if "_msearch" in path:
            return b'{"took":1,"responses":[' + self.search + b"," + self.search + b"]}"
        return self.search


@pytest.fixture(scope="module")
def said() -> Said:
    return Said()


@pytest.fixture(scope="module")
def service(said: Said) -> Iterator[Running]:
    with (
        answering(200, said) as url,
        running(with_serve(Settings(cluster=Cluster(url=url, timeout_s=20)), forward="read")) as found,
    ):
        yield found


def answers(found: Running) -> list[httpx.Response]:
    """What each entrance makes of it."""
    searches: list[Any] = [{"index": "shop"}, ASK, {}, {"query": {"match_all": {}}}]
    lines = "".join(json.dumps(each) + "\n" for each in searches)
    return [
        found.search("shop", ASK),
        found.search("shop", {"query": {"match": {"title": "lamp"}}}),
        found.http.post("/_msearch", content=lines, headers={"content-type": "application/x-ndjson"}),
        found.http.post("/v1/search", json={"index": "shop", "query": "lamp", "mode": "bm25"}),
        found.http.post("/v1/explain", json={"index": "shop", "query": "lamp", "mode": "bm25"}),
        found.http.get("/shop/_doc/1"),
        found.http.get("/shop/_mapping"),
    ]


def assert_no_fault(found: Running, sent: bytes) -> None:
    for answer in answers(found):
        assert answer.status_code != 500, (answer.request.url, sent[:500], answer.text[:500])
        assert "127.0.0.1" not in answer.text
    assert found.http.get("/healthz").status_code == 200


def test_an_answer_as_it_should_be_is_reranked(service: Running, said: Said) -> None:
    said.search = json.dumps(FOUND).encode()
    assert {answer.status_code for answer in answers(service)} == {200}
    assert service.search("shop", ASK).headers["x-shelfrank-status"] == "applied"


@pytest.mark.parametrize("everywhere", [False, True])
@pytest.mark.parametrize("body", NOT_JSON, ids=range(len(NOT_JSON)))
def test_what_is_no_answer_of_a_cluster(service: Running, said: Said, body: bytes, everywhere: bool) -> None:
    said.search, said.everywhere = body, everywhere
    assert_no_fault(service, body)
    said.everywhere = False


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The way to every value of a document."""
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, each in parts for place in places(each, (*path, key)))]


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.sampled_from(places(FOUND)[1:]), st.sampled_from([*ODD, ...])), min_size=1, max_size=2))
def test_an_answer_with_odd_parts(service: Running, said: Said, changes: list[tuple[tuple[Any, ...], Any]]) -> None:
    made: Any = copy.deepcopy(FOUND)
    for path, odd in changes:
        try:
            there = made
            for key in path[:-1]:
                there = there[key]
            if odd is ...:
                del there[path[-1]]
            else:
                there[path[-1]] = odd
        except (KeyError, IndexError, TypeError):
            """An earlier change took it away."""
    said.search = json.dumps(made).encode()
    assert_no_fault(service, said.search)
