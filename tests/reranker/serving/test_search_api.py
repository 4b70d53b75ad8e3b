"""shelfrank's own endpoints give what the Python calls give."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from opensearchpy import OpenSearch

from indexer import client as clusters
from indexer.errors import ClusterError
from indexer.settings import Settings
from reranker import Filters, Searcher
from reranker.explaining.explainer import explain
from reranker.serving.search_api import Shop
from tests.reranker.serving.service import Running, running, with_serve
from tests.waiting import until

pytestmark = pytest.mark.node

QUERIES = ["water bottle without straw", "适合送爸爸的保温杯"]


@pytest.fixture
def unhurried(searcher: Searcher, patient: Settings) -> Searcher:
    return Searcher(searcher.retriever, searcher.reranker, patient)


@pytest.mark.parametrize("query", QUERIES)
def test_a_search_is_that_of_python(service: Running, unhurried: Searcher, shop: str, query: str) -> None:
    body = {"index": shop, "query": query, "window": 20, "size": 5, "from": 2, "filters": {"max_price": 60}}
    answer = service.http.post("/v1/search", json=body).json()
    page = unhurried.search(shop, query, window=20, size=5, start=2, filters=Filters(max_price=60))
    assert [(hit["id"], hit["rank"], hit["first_stage_rank"], hit["scores"]) for hit in answer["hits"]] == [
        (hit.id, hit.rank, hit.first_stage_rank, hit.scores) for hit in page.hits
    ]
    assert answer["rerank"] == page.rerank
    assert answer["total"] == page.total
    assert all(hit["price"] <= 60 for hit in answer["hits"])
    assert service.app.state.query_ids.fault(answer["query_id"], "") == ""


def test_the_weight_of_the_reranker_can_be_chosen(service: Running, shop: str) -> None:
    body = {"index": shop, "query": QUERIES[0], "size": 50}
    alone = service.http.post("/v1/search", json={**body, "weight": 1.0}).json()
    scores = [hit["scores"]["rerank"] for hit in alone["hits"] if hit["scores"]["rerank"] is not None]
    assert scores == sorted(scores, reverse=True)
    none = service.http.post("/v1/search", json={**body, "weight": 0.0}).json()
    assert [hit["rank"] for hit in none["hits"]] == [hit["first_stage_rank"] for hit in none["hits"]]


@pytest.mark.parametrize(("query", "language"), [(QUERIES[0], "en"), (QUERIES[1], "zh")])
def test_an_explanation_is_that_of_python(
    service: Running, unhurried: Searcher, shop: str, query: str, language: Any
) -> None:
    body = {"index": shop, "query": query, "size": 2, "window": 15, "language": language, "time_limit_ms": 10_000}
    answer = service.http.post("/v1/explain", json=body).json()
    told = explain(unhurried, shop, query, size=2, window=15, language=language, time_limit_ms=10_000)
    assert answer["reading"] == told.reading
    assert answer["hits"] == msgspec.to_builtins(told.hits)
    one = service.http.post("/v1/explain", json={**body, "ids": [told.hits[1].id, "no-such"]}).json()
    assert [hit["id"] for hit in one["hits"]] == [told.hits[1].id]
    assert one["not_found"] == ["no-such"]


def test_the_gateway_explains_its_page(service: Running, shop: str) -> None:
    body = {"query": {"match": {"title": QUERIES[0]}}, "size": 2, "_source": False}
    asked = {"explain": True, "window": 10, "language": "zh"}
    word = service.search(shop, {**body, "ext": {"shelfrank": asked}}).json()["ext"]["shelfrank"]
    told = word["explained"]
    assert [hit["id"] for hit in told["hits"]] == [hit["_id"] for hit in word["hits"]]
    for hit, scored in zip(told["hits"], word["hits"], strict=True):
        assert (hit["rank"], hit["first_stage_rank"], hit["scores"]) == (
            scored["rank"],
            scored["first_stage_rank"],
            scored["scores"],
        )
        assert hit["terms"]
        assert any("一" <= letter <= "鿿" for letter in "".join(hit["text"]))


@pytest.mark.parametrize(
    ("body", "named"),
    [
        ({"query": "cup"}, "index"),
        ({"index": "_all", "query": "cup"}, "index"),
        ({"index": "a,b", "query": "cup"}, "index"),
        ({"index": "shop", "window": 5000}, "window"),
        ({"index": "shop", "windw": 5}, "windw"),
        ({"index": "shop", "mode": "magic"}, "mode"),
        ({"index": "shop", "filters": {"brands": "x"}}, "brands"),
        ({"index": "shop", "query": "a" * 10_001}, "query"),
    ],
)
def test_bad_requests_are_named(service: Running, body: dict[str, Any], named: str) -> None:
    for path in ("/v1/search", "/v1/explain"):
        answer = service.http.post(path, json=body)
        assert answer.status_code == 422
        assert named in answer.json()["message"]


def test_an_index_that_is_not_there(service: Running) -> None:
    answer = service.http.post("/v1/search", json={"index": "no-such-shop", "query": "cup"})
    assert answer.status_code == 404
    assert "no-such-shop" in answer.json()["message"]


def test_about_says_what_there_is(service: Running, shop: str) -> None:
    about = service.http.get("/v1/about").json()
    assert about["index"] == shop
    assert about["indexes"] == [shop]
    assert about["missing"] == {}
    assert set(about["bundles"]) == {"default"}


def test_searches_and_clicks_are_written_to_ubi_where_it_is_on(
    service: Running, patient: Settings, client: OpenSearch, shop: str
) -> None:
    event = {"action_name": "click", "query_id": "q", "client_id": "c", "object_id": "a1", "position": 2}
    assert service.http.post("/v1/events", json=event).json() == {"kept": False}
    for name in ("ubi_queries", "ubi_events"):
        client.indices.delete(index=name, ignore_unavailable=True)
    with running(with_serve(patient, ubi=True)) as found:
        asked = {"index": shop, "query": "保温杯", "client_id": "c", "size": 3}
        page = found.http.post("/v1/search", json=asked).json()
        sent = {**event, "query_id": page["query_id"], "object_id": page["hits"][1]["id"]}
        assert found.http.post("/v1/events", json=sent).json() == {"kept": True}
        query, click = row(client, "ubi_queries"), row(client, "ubi_events")
    assert query["user_query"] == "保温杯"
    assert query["query_id"] == click["query_id"] == page["query_id"]
    assert query["query_response_hit_ids"] == [hit["id"] for hit in page["hits"]]
    assert click["action_name"] == "click"
    assert click["event_attributes"]["object"]["object_id"] == page["hits"][1]["id"]
    assert click["event_attributes"]["position"]["ordinal"] == 2
    for name in ("ubi_queries", "ubi_events"):
        client.indices.delete(index=name)


def row(client: OpenSearch, index: str) -> dict[str, Any]:
    """The one row of an index, when it is there."""
    over = time.monotonic() + 30
    while True:
        client.indices.refresh(index=index, params={"ignore_unavailable": "true"})
        hits = client.search(index=index, params={"ignore_unavailable": "true"})["hits"]["hits"]
        if hits or time.monotonic() > over:
            found: dict[str, Any] = hits[0]["_source"]
            return found
        time.sleep(0.1)


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity", "1e400", "-1e400"])
@pytest.mark.parametrize("place", ["min_price", "max_price", "min_rating"])
def test_what_is_no_number_narrows_nothing(service: Running, shop: str, place: str, value: str) -> None:
    content = f'{{"index": "{shop}", "query": "cup", "filters": {{"{place}": {value}}}}}'.encode()
    answer = service.http.post("/v1/search", content=content, headers={"content-type": "application/json"})
    assert (answer.status_code, place in answer.text) == (422, True), answer.text


class Counted:
    """A lock that counts who wants it."""

    def __init__(self) -> None:
        self._lock, self.wanted = threading.Lock(), 0

    def __enter__(self) -> None:
        self.wanted += 1
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()


def test_who_waited_for_a_cluster_that_hangs_does_not_try_it_again(monkeypatch: pytest.MonkeyPatch) -> None:
    tried, over = [], threading.Event()

    def connect(settings: Settings) -> OpenSearch:
        tried.append(settings)
        over.wait(60)
        raise ClusterError("made by the test")

    monkeypatch.setattr(clusters, "connect", connect)
    shop = Shop(SimpleNamespace(settings=Settings(), encoder=None))  # type: ignore[arg-type]
    lock = shop._lock = Counted()  # type: ignore[assignment]
    with ThreadPoolExecutor(5) as pool:
        asked = [pool.submit(shop.retriever) for _ in range(5)]
        until(lambda: lock.wanted == 5)
        over.set()
        assert all(isinstance(each.exception(60), ClusterError) for each in asked)
    assert len(tried) == 1
    with pytest.raises(ClusterError):
        shop.retriever()
    assert len(tried) == 2  # who comes later tries anew
