"""Whoever wants to read what other shoppers searched for, by every name and every way around."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from opensearchpy import OpenSearch

from indexer.errors import ClusterError
from indexer.settings import Cluster, Settings
from reranker.serving.keys import VARIABLE, new
from reranker.serving.limits.hidden import Hidden
from reranker.serving.passing import Answer, Passage
from tests.reranker.serving.service import Running, running, with_serve

pytestmark = pytest.mark.node

SECRET = "what another shopper searched for"
SEARCH = {"query": {"match_all": {}}, "size": 100}
# Indexes of this test's own beside the service's, so that no other test's are touched.
KEPT, ALIAS = "test-hidden-kept", "Other-Shoppers"


@pytest.fixture(scope="module")
def kept(client: OpenSearch) -> Iterator[list[str]]:
    """Names of indexes with the secret in them, an alias among them."""
    names = ["ubi_queries-test", "ubi_events-test", "shelfrank-deleted-test-hidden", KEPT]
    for name in names:
        client.index(index=name, id="1", body={"text": SECRET, "title": SECRET}, params={"refresh": "true"})
    client.indices.put_alias(index=names[0], name=ALIAS)
    yield [*names, ALIAS]
    for name in names:
        client.indices.delete(index=name)


@pytest.fixture(scope="module")
def guarded(patient: Settings, shop: str, kept: list[str]) -> Iterator[Running]:
    """A service with an index of its own to hide."""
    limits = patient.limits.__class__(hidden=f"{KEPT}*")
    settings = Settings(**{name: getattr(patient, name) for name in patient.__struct_fields__} | {"limits": limits})
    with running(with_serve(settings, index=shop, forward="write"), wait=False) as found:
        yield found


def shows(answer: httpx.Response) -> bool:
    return SECRET in answer.text


def test_by_name_it_is_refused_at_every_endpoint(guarded: Running, kept: list[str], shop: str) -> None:
    for name in [*kept, ".opendistro_security", "shelfrank-jobs", f"{shop},{kept[0]}", f"nothing,{ALIAS}"]:
        for method, path in [
            ("POST", "_search"),
            ("GET", "_count"),
            ("GET", "_doc/1"),
            ("GET", "_source/1"),
            ("GET", "_termvectors/1"),
            ("POST", "_explain/1"),
            ("GET", "_mapping"),
            ("GET", "_alias"),
            ("GET", "_field_caps?fields=*"),
            ("POST", "_search/point_in_time?keep_alive=1m"),
            ("POST", "_delete_by_query"),
            ("POST", "_refresh"),
            ("PUT", "_doc/2"),
            ("POST", "_update/1"),
        ]:
            body = SEARCH if "search" in path or "query" in path else {"query": SEARCH["query"]}
            answer = guarded.http.request(method, f"/{name}/{path}", json=body if method == "POST" else None)
            assert answer.status_code in (400, 403), (name, path, answer.text)
            assert not shows(answer)


def test_the_services_own_search_is_no_way_around(guarded: Running, kept: list[str], shop: str) -> None:
    for name in [*kept, "shelfrank-jobs"]:
        for path in ("/v1/search", "/v1/explain"):
            for query in ("", SECRET):
                answer = guarded.http.post(path, json={"index": name, "query": query, "mode": "bm25"})
                assert answer.status_code == 403, (name, path, answer.text)
    assert guarded.http.post("/v1/search", json={"index": shop, "query": "cup", "mode": "bm25"}).status_code == 200


SIDEWAYS = [
    "/_search",
    "/*/_search",
    "/_all/_search",
    "/u*/_search",
    "/ubi_queries*/_search",
    "/Other*/_search",
    "/test-*/_search",
    "/%2A/_search",
    "/ubi%5Fqueries-test/_search",
    "/%3Cubi_queries-test%3E/_search",
    "/%3C%7Bubi_queries-test%7D%3E/_search",
    "/x:ubi_queries-test/_search",
    "/{shop},u*/_search",
    "/{shop},-x,u*/_search",
    "/-x,u*/_search",
    "/*,-{shop}/_search?expand_wildcards=all",
    "/{shop}/_search?index=ubi_queries-test",
    "/ ubi_queries-test/_search",
    "/ubi_queries-test%20/_search",
    "/UBI_QUERIES-TEST/_search",
    "/{shop},%20ubi_queries-test/_search?ignore_unavailable=true",
    "/{shop},,ubi_queries-test/_search?ignore_unavailable=true",
]


@pytest.mark.parametrize("path", SIDEWAYS)
def test_no_pattern_and_no_writing_of_a_name_reaches_it(
    guarded: Running, kept: list[str], shop: str, path: str
) -> None:
    for size in ("?size=100", ""):
        target = path.format(shop=shop) + (size if "?" not in path else "")
        answer = guarded.http.post(target, json=SEARCH)
        assert not shows(answer), answer.text
        assert answer.status_code < 500


def test_an_honest_pattern_goes_on_working(guarded: Running, client: OpenSearch, kept: list[str], shop: str) -> None:
    query = {"query": {"match": {"title": "bottle"}}}
    alone = client.search(index=shop, body={**query, "size": 0})["hits"]["total"]["value"]
    for path in ("/_search", f"/{shop[:-1]}*/_search", "/_all/_search", f"/{shop},nothing*/_search"):
        answer = guarded.http.post(path, json={**query, "ext": {"shelfrank": {"rerank": False}}})
        assert answer.status_code == 200, answer.text
        assert answer.json()["hits"]["total"]["value"] >= alone > 0
    assert guarded.http.post(f"/{shop[:-1]}*/_count", json=query).json()["count"] == alone
    for path in ("/_cat/indices", "/_mapping", "/_alias", "/_field_caps?fields=title", "/_cat/count", "/_count"):
        answer = guarded.http.get(path)
        assert answer.status_code == 200, (path, answer.text)
        assert not [name for name in kept[:4] if name in answer.text], path
    for path in ("/", "/_cluster/health", "/_cat/health"):
        assert guarded.http.get(path).status_code == 200, path
    for path in ("/_cat/aliases", "/_cluster/health?level=indices", "/_cluster/health?level=shards"):
        assert guarded.http.get(path).status_code in (400, 403), path


def lines(*pairs: tuple[Any, Any]) -> bytes:
    return "".join(f"{json.dumps(each)}\n" for pair in pairs for each in pair).encode()


def test_headers_of_several_searches_reach_it_no_more_than_a_path(guarded: Running, kept: list[str], shop: str) -> None:
    headers = {"content-type": "application/x-ndjson"}
    for name in kept:
        for header in ({"index": name}, {"index": [shop, name]}, {"indices": [name]}, {"index": f"{shop},{name}"}):
            answer = guarded.http.post("/_msearch", content=lines((header, SEARCH)), headers=headers)
            assert answer.status_code == 403, (header, answer.text)
    given: list[Any] = [{}, {"index": "u*"}, {"index": ["*"]}, {"index": None}, {"index": "_all"}, {"indices": "Oth*"}]
    content = lines(*((header, SEARCH) for header in given))
    for path in ("/_msearch", "/*/_msearch", f"/{shop}/_msearch"):
        answer = guarded.http.post(path, content=content, headers=headers)
        assert answer.status_code == 200, answer.text
        assert not shows(answer)
        assert len(answer.json()["responses"]) == len(given)
    both = lines(({"index": shop, "indices": ["u*"]}, SEARCH))
    assert guarded.http.post("/_msearch", content=both, headers=headers).status_code == 400


INSIDE: list[Any] = [
    {"query": {"terms": {"title": {"index": "{name}", "id": "1", "path": "text"}}}},
    {"query": {"bool": {"filter": [{"terms": {"title": {"index": "{name}", "id": "1", "path": "text"}}}]}}},
    {"query": {"more_like_this": {"fields": ["title"], "like": [{"_index": "{name}", "_id": "1"}]}}},
    {"query": {"more_like_this": {"fields": ["title"], "like": "x", "unlike": {"_index": "{name}", "_id": "1"}}}},
    {"query": {"percolate": {"field": "q", "index": "{name}", "id": "1"}}},
    {"query": {"geo_shape": {"a": {"indexed_shape": {"index": "{name}", "id": "1", "path": "s"}}}}},
    {"query": {"plugin": {"deep": [{"index": "{name}"}]}}},
    {"aggs": {"a": {"filter": {"terms": {"title": {"index": "{name}", "id": "1", "path": "text"}}}}}},
]


@pytest.mark.parametrize("body", INSIDE, ids=[str(at) for at in range(len(INSIDE))])
def test_a_query_names_it_no_more_than_a_path(guarded: Running, kept: list[str], shop: str, body: Any) -> None:
    for name in [*kept, "u*"]:
        answer = guarded.http.post(f"/{shop}/_search", json=json.loads(json.dumps(body).replace("{name}", name)))
        assert answer.status_code in (400, 403), answer.text
        assert not shows(answer)


def test_documents_by_id_are_not_given_out_and_not_written(guarded: Running, kept: list[str], shop: str) -> None:
    for name in kept:
        asked = {"docs": [{"_index": shop, "_id": "1"}, {"_index": name, "_id": "1"}]}
        for path in ("/_mget", f"/{shop}/_mget"):
            assert guarded.http.post(path, json=asked).status_code == 403
        assert guarded.http.post(f"/{name}/_mget", json={"ids": ["1"]}).status_code == 403
        content = lines(({"index": {"_index": name, "_id": "9"}}, {"text": "forged"}))
        for path in ("/_bulk", f"/{shop}/_bulk", f"/{quote(name)}/_bulk"):
            assert (
                guarded.http.post(path, content=content, headers={"content-type": "application/x-ndjson"}).status_code
                == 403
            )


def test_a_point_in_time_holds_nothing_hidden(guarded: Running, kept: list[str]) -> None:
    made = guarded.http.post("/*/_search/point_in_time?keep_alive=1m")
    assert made.status_code == 200, made.text
    pit = {"id": made.json()["pit_id"], "keep_alive": "1m"}
    answer = guarded.http.post("/_search", json={**SEARCH, "pit": pit})
    assert answer.status_code == 200, answer.text
    assert not shows(answer)
    content = lines(({}, {**SEARCH, "pit": pit}))
    answer = guarded.http.post("/_msearch", content=content, headers={"content-type": "application/x-ndjson"})
    assert not shows(answer)
    assert answer.json()["responses"][0]["status"] == 200
    ended = guarded.http.request("DELETE", "/_search/point_in_time", json={"pit_id": [pit["id"]]})
    assert ended.status_code == 200


def test_who_may_all_sees_all(patient: Settings, kept: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    (admin, first), (other, second) = new("operator", "admin,search"), new("shop", "search,write")
    monkeypatch.setenv(VARIABLE, f"{first};{second}")
    with running(with_serve(patient, forward="all"), wait=False) as found:
        for key, seen in ((admin, True), (other, False)):
            answer = found.http.post(f"/{kept[0]}/_search", json=SEARCH, headers={"x-api-key": key})
            assert shows(answer) is seen


def test_a_name_to_hide_that_is_not_there_opens_nothing_and_stops_nothing(
    patient: Settings, shop: str, kept: list[str]
) -> None:
    """It may be made again right now."""
    limits = patient.limits.__class__(hidden="test-hidden-not-there, test-hidden-nor-this*")
    settings = Settings(**{name: getattr(patient, name) for name in patient.__struct_fields__} | {"limits": limits})
    with running(with_serve(settings, index=shop), wait=False) as found:
        assert found.http.post(f"/{ALIAS}/_search", json=SEARCH).status_code == 403
        for path in ("/_search", "/*/_search", f"/{shop[:-1]}*/_search", "/_cat/indices"):
            answer = found.http.get(path)
            assert answer.status_code == 200, (path, answer.text)
            assert not [name for name in kept[:3] if name in answer.text], path


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_cluster_that_does_not_tell_now_forgets_no_alias(status: int) -> None:
    answers = [Answer(200, {}, b'{"ubi_queries": {"aliases": {"behaviour": {}}}}'), Answer(status, {}, b"{}")]

    class Telling(Passage):
        async def send(self, *_: Any, **__: Any) -> Answer:
            return answers.pop(0)

    async def asked() -> frozenset[str]:
        hidden = Hidden(Telling(Cluster(url="http://127.0.0.1:1")))
        assert await hidden.aliases() == {"behaviour"}
        hidden._aliases.clear()
        return await hidden.aliases()

    assert asyncio.run(asked()) == {"behaviour"}
    answers[:] = [Answer(status, {}, b"{}")]
    with pytest.raises(ClusterError, match="does not say"):
        asyncio.run(Hidden(Telling(Cluster(url="http://127.0.0.1:1"))).aliases())


def test_empty_parts_of_an_expression_are_passed_over() -> None:
    hidden = Hidden(Passage(Cluster(url="http://127.0.0.1:1")))
    assert hidden.shown(["a,,b"], frozenset()) == "a,b"
    assert hidden.shown(["a", ""], frozenset()) == "a"
    assert hidden.shown([","], frozenset()).startswith("*,-")
