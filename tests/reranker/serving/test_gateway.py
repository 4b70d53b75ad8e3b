"""The gateway against the cluster itself: what is not reranked is the cluster's own answer, what is has only moved."""

from __future__ import annotations

import asyncio
import gzip
import http.client
import json
import re
from typing import Any

import httpx
import msgspec
import pytest
from opensearchpy import OpenSearch
from opensearchpy.exceptions import AuthorizationException, NotFoundError, RequestError

from indexer.errors import ClusterError
from indexer.settings import Policy, Settings
from reranker import CrossEncoder, Encoder, rerank_response
from reranker.serving.passing import Answer, Passage
from reranker.serving.stored import StoredVectors
from tests.reranker.serving.service import Running, running, with_serve

ENGLISH = {"query": {"match": {"title": "bottle without straw"}}, "size": 5}
CHINESE = {"query": {"multi_match": {"query": "保温杯 大容量", "fields": ["title", "bullets"]}}, "size": 5}


@pytest.fixture(scope="session")
def through(service: Running) -> OpenSearch:
    """An ordinary client, pointed at the gateway."""
    return OpenSearch(hosts=[service.url], timeout=60, max_retries=0)


def plain(answer: httpx.Response) -> str:
    return re.sub(r'"took":\d+', '"took":0', answer.text)


def ids(answer: Any) -> list[str]:
    return [hit["_id"] for hit in answer["hits"]["hits"]]


@pytest.mark.parametrize("body", [ENGLISH, CHINESE])
def test_an_unmodified_client_gets_reranked_hits(
    through: OpenSearch,
    client: OpenSearch,
    reranker: CrossEncoder,
    encoder: Encoder,
    shop: str,
    body: dict[str, Any],
) -> None:
    answer = through.search(index=shop, body=body)
    word = answer["ext"]["shelfrank"]
    assert word["status"] == "applied"
    assert word["scored"] == word["window"] > 5
    # Just what the Python call makes of the same first stage.
    query = next(iter(body["query"].values()))
    text = query.get("query") or query["title"]
    whole = client.search(index=shop, body={**body, "size": 50})
    wanted = rerank_response(whole, text, reranker, encoder=encoder)
    assert ids(wanted) != ids(rerank_response(whole, text, reranker))  # which knows no cosines
    assert ids(answer) == ids(wanted)[:5]
    assert [each["scores"] for each in word["hits"]] == [hit["_rerank"] for hit in wanted["hits"]["hits"][:5]]
    assert [each["_id"] for each in word["hits"]] == ids(answer)
    # And each hit is what the cluster sent.
    by_id = {hit["_id"]: hit for hit in whole["hits"]["hits"]}
    assert answer["hits"]["hits"] == [by_id[key] for key in ids(answer)]
    assert answer["hits"]["total"] == whole["hits"]["total"]


def test_pages_follow_each_other_without_a_hit_lost_or_repeated(service: Running, shop: str) -> None:
    body = {"query": {"match": {"title": "bottle"}}, "ext": {"shelfrank": {"window": 10}}}
    pages = [service.search(shop, {**body, "from": start, "size": 4}).json() for start in range(0, 20, 4)]
    found = [key for page in pages for key in ids(page)]
    first_stage = ids(service.search(shop, {**body, "size": 20, "ext": {"shelfrank": {"rerank": False}}}).json())
    assert len(set(found)) == 20
    assert set(found[:10]) == set(first_stage[:10])
    assert found[:10] != first_stage[:10]
    assert found[10:] == first_stage[10:]
    assert [page["ext"]["shelfrank"]["status"] for page in pages] == ["applied"] * 3 + ["skipped"] * 2


UNTOUCHED: list[tuple[str, dict[str, Any], str]] = [
    ("", {"query": {"match": {"title": "bottle"}}, "sort": ["price"]}, "a field's order"),
    ("", {"query": {"match": {"title": "bottle"}}, "sort": [{"_score": "asc"}]}, "worst first"),
    ("?sort=price:asc", {"query": {"match": {"title": "bottle"}}}, "order in the address"),
    ("", {"query": {"match_all": {}}}, "no text"),
    ("", {"query": {"bool": {"filter": [{"match": {"title": "bottle"}}]}}}, "text in a filter alone"),
    ("", {"size": 0, "query": {"match": {"title": "cup"}}, "aggs": {"b": {"terms": {"field": "brand"}}}}, "no hits"),
    ("", {"query": {"match": {"title": "cup"}}, "from": 60}, "behind the window"),
    ("", {"query": {"match": {"title": "cup"}}, "sort": ["_score", "id"], "search_after": [9.0, "a"]}, "search_after"),
    ("?filter_path=hits.hits._id", {"query": {"match": {"title": "cup"}}}, "filter_path"),
    ("", {"query": {"match": {"title": "cup"}}, "stored_fields": "_none_"}, "nothing of the hits"),
    ("", {"query": {"no_such_query": {}}}, "an error"),
    ("", {"query": {"match": {"title": "cup"}}, "size": -1}, "an impossible size"),
    ("", {"query": {"match": {"title": "cup"}}, "ext": {"unknown": {}}}, "an unknown extension"),
]


@pytest.mark.parametrize(("params", "body", "why"), UNTOUCHED, ids=[row[2] for row in UNTOUCHED])
def test_what_is_not_reranked_is_the_clusters_answer_byte_for_byte(
    service: Running, node: str, shop: str, params: str, body: dict[str, Any], why: str
) -> None:
    ours = service.http.post(f"/{shop}/_search{params}", json=body)
    theirs = httpx.post(f"{node}/{shop}/_search{params}", json=body)
    assert ours.status_code == theirs.status_code
    assert plain(ours) == plain(theirs)
    assert ours.headers["content-type"] == theirs.headers["content-type"]
    assert ours.headers["x-shelfrank-status"] == "skipped"


@pytest.mark.parametrize("levels", [60, 500, 20_000])
@pytest.mark.parametrize("whole", [True, False])
def test_a_body_that_nests_too_deep_never_reaches_the_cluster(
    service: Running, node: str, shop: str, levels: int, whole: bool
) -> None:
    inner = b'{"match": {"title": "{{[[ \\" ]"}}' + b"]}}" * levels if whole else b""
    content = b'{"query":' + b'{"bool":{"must":[' * levels + inner + b"}"
    headers = {"content-type": "application/json"}
    for path in (f"/{shop}/_search", f"/{shop}/_count"):
        answer = service.http.post(path, content=content, headers=headers)
        assert answer.status_code == (200 if whole and levels == 60 else 400)
        assert levels == 60 or "nests deeper" in answer.json()["error"]["reason"]
    assert httpx.get(node).status_code == 200


@pytest.mark.parametrize("content", [b"{", b"\xff\xfe", b'{"size": 2}{"size": 3}', b'{"from": "x"}'])
def test_what_cannot_be_read_is_not_passed_on(service: Running, shop: str, content: bytes) -> None:
    answer = service.http.post(f"/{shop}/_search", content=content, headers={"content-type": "application/json"})
    assert answer.status_code == answer.json()["status"] == 400
    assert re.search("is not JSON|write a whole number", answer.json()["error"]["reason"])


@pytest.mark.parametrize("content", [b"[1, 2]", b'"x"', b"null"])
def test_a_body_that_is_no_search_is_the_clusters_to_refuse(
    service: Running, node: str, shop: str, content: bytes
) -> None:
    headers = {"content-type": "application/json"}
    ours = service.http.post(f"/{shop}/_search", content=content, headers=headers)
    theirs = httpx.post(f"{node}/{shop}/_search", content=content, headers=headers)
    assert (ours.status_code, plain(ours)) == (theirs.status_code, plain(theirs))


@pytest.mark.parametrize(
    ("body", "named"),
    [
        ({"sort": ["price"]}, "sort"),
        ({"search_after": [1]}, "search_after"),
        ({"ext": {"shelfrank": {"window": -1}}}, "window"),
        ({"ext": {"shelfrank": {"windw": 10}}}, "windw"),
        ({"ext": {"shelfrank": {"deadline_ms": 0}}}, "deadline_ms"),
        ({"ext": {"shelfrank": []}}, "Expected `object`"),
    ],
)
def test_what_cannot_be_done_is_refused_by_name(
    service: Running, through: OpenSearch, shop: str, body: dict[str, Any], named: str
) -> None:
    whole = {"query": {"match": {"title": "cup"}}, "ext": {"shelfrank": {}}, **body}
    answer = service.search(shop, whole)
    assert answer.status_code == 400
    assert named in answer.json()["error"]["reason"]
    with pytest.raises(RequestError, match=re.escape(named)):  # a client of OpenSearch reads it as an error of its own
        through.search(index=shop, body=whole)


def test_a_scroll_is_passed_on_and_reranking_one_refused(through: OpenSearch, shop: str) -> None:
    body = {"query": {"match": {"title": "bottle"}}, "size": 10}
    with pytest.raises(RequestError, match="scroll"):
        through.search(index=shop, body={**body, "ext": {"shelfrank": {}}}, params={"scroll": "1m"})
    first = through.search(index=shop, body=body, params={"scroll": "1m"})
    second = through.scroll(body={"scroll": "1m", "scroll_id": first["_scroll_id"]})
    through.clear_scroll(body={"scroll_id": [first["_scroll_id"]]})
    assert len(set(ids(first)) | set(ids(second))) == len(ids(first)) + len(ids(second))


def test_a_point_in_time_is_reranked(through: OpenSearch, shop: str) -> None:
    pit = through.create_pit(index=shop, params={"keep_alive": "1m"})["pit_id"]
    body = {"query": {"match": {"title": "bottle"}}, "pit": {"id": pit, "keep_alive": "1m"}}
    answer = through.search(body=body)
    through.delete_pit(body={"pit_id": [pit]})
    assert answer["ext"]["shelfrank"]["status"] == "applied"


SHAPES: list[dict[str, Any]] = [
    {"_source": False},
    {"_source": ["title"]},
    {"_source": {"excludes": ["bullets", "title"]}},
    {"_source": {"excludes": ["vec*", "ti*"]}},
    {"_source": {"include": ["*_bundle", "price"], "exclude": "vector"}},
    {"_source": "*"},
    {"_source": False, "fields": ["price", "bran*"]},
    {"_source": False, "docvalue_fields": ["price"]},
    {"collapse": {"field": "brand"}},
    {"collapse": {"field": "brand"}, "_source": False},
    {"highlight": {"fields": {"title": {}}}},
    {"aggs": {"brands": {"terms": {"field": "brand"}}}, "track_total_hits": True},
    {"sort": ["_score"], "version": True, "seq_no_primary_term": True, "explain": True},
    {"min_score": 0.5, "post_filter": {"range": {"price": {"lte": 50}}}},
]


@pytest.mark.parametrize("shape", SHAPES, ids=[json.dumps(shape)[:40] for shape in SHAPES])
def test_each_hit_is_what_the_client_asked_for(
    service: Running, node: str, reranker: CrossEncoder, shop: str, shape: dict[str, Any]
) -> None:
    body = {"query": {"match": {"title": "bottle without straw"}}, **shape}
    ours = service.search(shop, {**body, "size": 8}).json()
    whole = httpx.post(f"{node}/{shop}/_search", json={**body, "size": 50}).json()
    assert ours["ext"]["shelfrank"]["status"] == "applied"
    by_id = {hit["_id"]: hit for hit in whole["hits"]["hits"]}
    assert ours["hits"]["hits"] == [by_id[hit["_id"]] for hit in ours["hits"]["hits"]]
    assert {key: ours[key] for key in ours if key not in ("took", "ext", "hits")} == {
        key: whole[key] for key in whole if key not in ("took", "hits")
    }
    # The order does not depend on what the client wants to see of each hit.
    if not {"collapse", "min_score"} & set(shape):
        assert ids(ours) == ids(service.search(shop, {"query": body["query"], "size": 8}).json())


@pytest.mark.parametrize("path", ["", "{shop}/", "{shop},no-such-*/", "test-sho*/"])
def test_cosines_are_known_however_the_index_is_named(service: Running, shop: str, path: str) -> None:
    body = {**ENGLISH, "_source": False, "ext": {"shelfrank": {"explain": True}}}
    answer = service.http.post(f"/{path.format(shop=shop)}_search", json=body).json()
    told = answer["ext"]["shelfrank"]["explained"]["hits"]
    assert all("vector" in {term["name"] for term in hit["terms"]} for hit in told)
    assert all("fields" not in hit for hit in answer["hits"]["hits"])


class Silent(Passage):
    """A cluster that tells the service nothing of its indexes."""

    status = 403
    asked = 0

    async def send(self, *arguments: Any, **more: Any) -> Answer:
        self.asked += 1
        if self.status == 0:
            raise ClusterError("OpenSearch cannot be reached")
        if self.status == 504:
            await asyncio.sleep(30)
        return Answer(self.status, {}, b"[]")


@pytest.mark.parametrize("status", [403, 200, 0, 504])
def test_a_cluster_that_does_not_tell_what_its_vectors_are_is_asked_once(
    patient: Settings, node: str, service: Running, shop: str, status: int
) -> None:
    async def twice() -> list[frozenset[str]]:
        stored = StoredVectors(passage, service.app.state.engine)
        found = [await stored.fields(shop) for _ in range(2)]
        await passage.close()
        return found

    passage = Silent(msgspec.structs.replace(patient.cluster, url=node))
    passage.status = status
    assert asyncio.run(twice()) == [frozenset(), frozenset()]
    assert passage.asked == 1


@pytest.mark.parametrize(
    "params",
    [
        "_source=false",
        "_source=title,price",
        "_source_excludes=vector,price",
        "_source_includes=ti*&_source_excludes=b*",
    ],
)
def test_fields_chosen_in_the_address_are_those_that_come(service: Running, node: str, shop: str, params: str) -> None:
    ours = service.http.post(f"/{shop}/_search?{params}", json=ENGLISH).json()
    whole = httpx.post(f"{node}/{shop}/_search?{params}", json={**ENGLISH, "size": 50}).json()
    by_id = {hit["_id"]: hit for hit in whole["hits"]["hits"]}
    assert ours["hits"]["hits"] == [by_id[hit["_id"]] for hit in ours["hits"]["hits"]]
    assert ids(ours) == ids(service.search(shop, ENGLISH).json())


def test_many_searches_in_one_request(service: Running, through: OpenSearch, shop: str) -> None:
    lines = [
        {"index": shop},
        ENGLISH,
        {"index": shop},
        {"query": {"match_all": {}}, "size": 1},
        {},
        CHINESE,
        {"index": "no-such-shop"},
        ENGLISH,
    ]
    answer = through.msearch(index=shop, body=lines)
    english, everything, chinese, missing = answer["responses"]
    assert ids(english) == ids(service.search(shop, ENGLISH).json())
    assert ids(chinese) == ids(service.search(shop, CHINESE).json())
    assert "ext" not in everything
    told = through.msearch(index=shop, body=[{}, {"query": {"match_all": {}}, "ext": {"shelfrank": {}}}])
    assert "no text" in told["responses"][0]["ext"]["shelfrank"]["reason"]
    assert "ext" not in told
    assert missing["status"] == 404
    with pytest.raises(RequestError, match="pairs"):
        through.msearch(index=shop, body=lines[:3])


def test_hybrid_queries_are_a_first_stage_like_any_other(through: OpenSearch, searcher: Any, shop: str) -> None:
    vector = [float(value) for value in searcher.retriever.encoder.embed_queries(["water bottle without straw"])[0]]
    queries = [{"match": {"title": "water bottle without straw"}}, {"knn": {"vector": {"vector": vector, "k": 100}}}]
    pipeline = {"phase_results_processors": [searcher.retriever._processor()]}
    body = {"query": {"hybrid": {"queries": queries}}, "search_pipeline": pipeline}
    answer = through.search(index=shop, body=body)
    assert answer["ext"]["shelfrank"]["status"] == "applied"


def test_a_query_in_the_address(service: Running, shop: str) -> None:
    answer = service.http.get(f"/{shop}/_search", params={"q": "title:bottle", "size": 3, "from": 1})
    assert answer.headers["x-shelfrank-status"] == "applied"
    assert len(answer.json()["hits"]["hits"]) == 3
    assert answer.json()["ext"]["shelfrank"]["hits"][0]["rank"] == 2


def test_a_packed_body_is_understood(service: Running, shop: str) -> None:
    packed = OpenSearch(hosts=[service.url], http_compress=True, timeout=60)
    assert packed.search(index=shop, body=ENGLISH)["ext"]["shelfrank"]["status"] == "applied"
    bomb = gzip.compress(b" " * 50_000_000)
    headers = {"content-type": "application/json", "content-encoding": "gzip"}
    assert service.http.post(f"/{shop}/_search", content=bomb, headers=headers).status_code == 413
    assert service.http.post(f"/{shop}/_search", content=b"no gzip", headers=headers).status_code == 400
    headers["content-encoding"] = "br"
    assert service.http.post(f"/{shop}/_search", content=b"x", headers=headers).status_code == 400


def test_what_a_client_reads_is_passed_on_and_what_it_writes_is_not(
    through: OpenSearch, client: OpenSearch, shop: str
) -> None:
    assert through.info()["version"] == client.info()["version"]
    assert through.ping()
    assert through.indices.exists(index=shop)
    assert not through.indices.exists(index="no-such-shop")
    assert through.count(index=shop) == client.count(index=shop)
    key = ids(client.search(index=shop, body={"size": 1}))[0]
    assert through.get(index=shop, id=key) == client.get(index=shop, id=key)
    assert through.mget(index=shop, body={"ids": [key]}) == client.mget(index=shop, body={"ids": [key]})
    assert through.indices.get_mapping(index=shop) == client.indices.get_mapping(index=shop)
    assert through.cluster.health()["status"] in ("green", "yellow")
    with pytest.raises(NotFoundError):
        through.search(index="no-such-shop", body=ENGLISH)
    for write in (
        lambda: through.index(index=shop, id="x", body={}),
        lambda: through.bulk(body=[{"delete": {"_index": shop, "_id": key}}]),
        lambda: through.delete(index=shop, id=key),
        lambda: through.indices.delete(index=shop),
        lambda: through.cluster.put_settings(body={}),
        lambda: through.delete_by_query(index=shop, body={"query": {"match_all": {}}}),
        lambda: (
            through.delete_pit(body={}, params={})
            and through.transport.perform_request("DELETE", "/_search/point_in_time/_all")
        ),
    ):
        with pytest.raises((AuthorizationException, RequestError)):
            write()
    assert client.exists(index=shop, id=key)


@pytest.mark.parametrize(
    "path", ["/%2e%2e/_bulk", "/a/../_bulk", "/a%2fb/_search", "/shop/_search/%2e%2e/_bulk", "/a%0ab/_search"]
)
def test_a_path_that_reads_in_two_ways_is_refused(service: Running, path: str) -> None:
    host = service.url.removeprefix("http://")
    connection = http.client.HTTPConnection(host, timeout=30)
    connection.request("POST", path, body=b"{}", headers={"content-type": "application/json"})
    assert connection.getresponse().status in (400, 403, 404)
    connection.close()


def test_writes_pass_where_the_operator_allows_them(patient: Settings, client: OpenSearch) -> None:
    name = "test-gateway-writes"
    client.indices.delete(index=name, ignore_unavailable=True)
    with running(with_serve(patient, forward="write")) as found:
        through = OpenSearch(hosts=[found.url], timeout=60)
        through.bulk(body=[{"index": {"_index": name, "_id": "1"}}, {"title": "cup"}], params={"refresh": "true"})
        assert client.exists(index=name, id="1")
        through.delete(index=name, id="1", params={"refresh": "true"})
        with pytest.raises(AuthorizationException):
            through.indices.delete(index=name)
    with running(with_serve(patient, forward="all")) as found:
        OpenSearch(hosts=[found.url], timeout=60).indices.delete(index=name)
    assert not client.indices.exists(index=name)


def test_an_index_that_shelfrank_never_saw_is_reranked_by_its_own_field_names(
    patient: Settings, client: OpenSearch
) -> None:
    name = "test-gateway-foreign"
    client.indices.delete(index=name, ignore_unavailable=True)
    rows = ["cup warmer", "steel cup", "cup holder for bikes", "cup"]
    lines: list[Any] = []
    for at, text in enumerate(rows):
        lines += [{"index": {"_index": name, "_id": str(at)}}, {"name": text, "maker": "Rill"}]
    client.bulk(body=lines, params={"refresh": "true"})
    policy = Policy(window=10, fields={"title": "name", "brand": "maker"}, weight=1.0)
    with running(with_serve(patient, indexes={name: policy}, rerank=False)) as found:
        body = {"query": {"match": {"name": "steel cup"}}, "_source": ["maker"]}
        answer = found.search(name, body).json()
        assert answer["ext"]["shelfrank"]["blend"] == 1.0
        scores = [hit["scores"]["rerank"] for hit in answer["ext"]["shelfrank"]["hits"]]
        assert len(set(scores)) == 4
        assert scores == sorted(scores, reverse=True)
        assert all(set(hit) <= {"_index", "_id", "_score", "_source"} for hit in answer["hits"]["hits"])
        assert found.search("test-shop*", ENGLISH).headers["x-shelfrank-status"] == "skipped"
    client.indices.delete(index=name)


def test_a_window_wider_than_the_index_allows_falls_back(
    service: Running, through: OpenSearch, client: OpenSearch, shop: str
) -> None:
    name = "test-gateway-narrow"
    client.indices.delete(index=name, ignore_unavailable=True)
    client.indices.create(index=name, body={"settings": {"index": {"max_result_window": 20}}})
    client.index(index=name, id="1", body={"title": "cup"}, params={"refresh": "true"})
    body = {"query": {"match": {"title": "cup"}}, "ext": {"shelfrank": {}}}
    alone = service.search(name, body).json()
    among = through.msearch(body=[{"index": name}, body, {"index": shop}, ENGLISH])["responses"]
    for answer in (alone, among[0]):
        assert ids(answer) == ["1"]
        assert answer["ext"]["shelfrank"]["status"] == "skipped"
        assert "refused" in answer["ext"]["shelfrank"]["reason"]
    assert among[1]["ext"]["shelfrank"]["status"] == "applied"
    client.indices.delete(index=name)


@pytest.mark.parametrize(
    "shape", ["took", "-responses", "**.took", "responses.hits.hits._id", "responses.hits.hits._source.brand"]
)
def test_what_a_filter_leaves_of_several_searches_is_as_the_cluster_left_it(
    service: Running, node: str, shop: str, shape: str
) -> None:
    """The texts that decide the order may be what it left out."""
    lines = f'{{"index": "{shop}"}}\n{{"query": {{"match": {{"title": "bottle"}}}}}}\n'.encode()
    asked = {"content": lines, "headers": {"content-type": "application/x-ndjson"}, "params": {"filter_path": shape}}
    through = service.http.post("/_msearch", **asked)
    direct = httpx.post(f"{node}/_msearch", **asked)
    assert (through.status_code, through.headers["x-shelfrank-status"]) == (200, "skipped")
    if "took" not in shape:
        assert through.json() | {"took": 0} == direct.json() | {"took": 0}
