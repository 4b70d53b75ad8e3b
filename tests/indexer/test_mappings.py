"""The catalogue index does for English and Chinese what a shop expects, on a real node."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from opensearchpy import OpenSearch, RequestError

from indexer.client import Capabilities
from indexer.errors import ClusterError, ConfigError
from indexer.mappings import MAX_KEYWORD_BYTES, check_vector, index_body, made, vector_fields
from indexer.settings import Index

EMBEDDED = Capabilities("3.6.0", embedded=True, knn=True, neural_search=True, plugins=())
BARE = Capabilities("3.6.0", embedded=False, knn=False, neural_search=False, plugins=())
FULL = Capabilities("3.6.0", embedded=False, knn=True, neural_search=True, plugins=())


def body(**chosen: Any) -> dict[str, Any]:
    settings = Index(**chosen)
    return index_body(settings, made(settings, "encoder-1", 3))


@pytest.fixture(scope="module")
def index(client: OpenSearch) -> Iterator[str]:
    name = "test-mappings"
    client.indices.delete(index=name, params={"ignore_unavailable": "true"})
    client.indices.create(index=name, body=body())
    yield name
    client.indices.delete(index=name)


def add(client: OpenSearch, index: str, name: str, **fields: Any) -> None:
    client.index(index=index, id=name, body={"id": name, **fields}, params={"refresh": "true"})


def found(client: OpenSearch, index: str, query: dict[str, Any]) -> set[str]:
    hits = client.search(index=index, body={"query": query, "size": 100})["hits"]["hits"]
    return {hit["_id"] for hit in hits}


def tokens(client: OpenSearch, index: str, text: str, analyzer: str = "shop_query") -> str:
    answer = client.indices.analyze(index=index, body={"analyzer": analyzer, "text": text})
    return " ".join(token["token"] for token in answer["tokens"])


@pytest.mark.node
@pytest.mark.parametrize(
    ("title", "query"),
    [
        ("Women's Running Shoes", "woman's shoe run"),
        ("Pack of 3 Batteries", "battery"),
        ("Café Crème Cups", "cafe creme"),
        ("USB-C Cable", "usb c cable"),
        ("T-Shirt", "t shirt"),
        ("不锈钢保温杯", "杯"),
        ("不锈钢保温杯", "保温"),
        ("Lumora 保温杯 500ml 黑色", "lumora 保温杯"),
        ("iPhone手机壳", "iphone 手机壳"),
        ("保温杯 ＡＢＣ", "abc"),
        ("ワイヤレス", "ﾜｲﾔﾚｽ"),
        ("bottle 500ml", "500 ml"),
        ("bottle 500 ml", "500毫升"),
        ("保温杯500毫升", "５００ｍｌ"),
        ("tumbler 16-ounce", "16 fl oz"),
        ("笔记本 15.6英寸", '15.6" laptop'),
        ("移动电源 10,000mAh", "10000毫安"),
        ("bottle without straw", "without"),
    ],
)
def test_a_query_finds_the_title_it_means(client: OpenSearch, index: str, title: str, query: str) -> None:
    add(client, index, "1", title=title)
    words = tokens(client, index, query).split()
    assert words
    stored = tokens(client, index, title, "shop").split()
    assert set(words) & set(stored), (words, stored)
    assert found(client, index, {"match": {"title": query}}) == {"1"}


@pytest.mark.node
@pytest.mark.parametrize(
    ("title", "query"),
    [
        ("bottle 500ml", "50 ml"),
        ("bottle 500ml", "500 g"),
        ("茶杯", "保温杯"),
        ("保温杯", "温保"),
        ("5 in 1 tool", "5 inch"),
    ],
)
def test_a_query_does_not_match_all_its_words_in_another_title(
    client: OpenSearch, index: str, title: str, query: str
) -> None:
    add(client, index, "1", title=title)
    assert found(client, index, {"match": {"title": {"query": query, "operator": "and"}}}) == set()


@pytest.mark.node
def test_a_long_chinese_query_does_not_match_by_single_characters(client: OpenSearch, index: str) -> None:
    assert tokens(client, index, "保温杯") == "保温 温杯"
    assert tokens(client, index, "杯") == "杯"
    assert tokens(client, index, "保温杯", "shop") == "保 保温 温 温杯 杯"


@pytest.mark.node
def test_brand_and_colour_filter_by_their_folded_name_and_search_as_text(client: OpenSearch, index: str) -> None:
    add(client, index, "1", brand="Café Lumora", color="Sky Blue")
    assert found(client, index, {"term": {"brand": "cafe LUMORA"}}) == {"1"}
    assert found(client, index, {"term": {"color": "sky blue"}}) == {"1"}
    assert found(client, index, {"term": {"brand": "lumora"}}) == set()
    assert found(client, index, {"match": {"brand.text": "lumora"}}) == {"1"}


@pytest.mark.node
def test_categories_filter_at_every_level_and_search_as_text(client: OpenSearch, index: str) -> None:
    add(client, index, "1", category=["家居", "杯子"], category_path=["家居", "家居 > 杯子"])
    assert found(client, index, {"term": {"category_path": "家居"}}) == {"1"}
    assert found(client, index, {"term": {"category_path": "家居 > 杯子"}}) == {"1"}
    assert found(client, index, {"match": {"category_path.text": "杯子"}}) == {"1"}


@pytest.mark.node
def test_attributes_of_any_name_filter_by_name_and_value(client: OpenSearch, index: str) -> None:
    add(client, index, "1", attributes={"容量": "500ml", "Straw": "no"})
    assert found(client, index, {"term": {"attributes.容量": "500ml"}}) == {"1"}
    assert found(client, index, {"term": {"attributes.Straw": "yes"}}) == set()


@pytest.mark.node
def test_a_field_that_the_mapping_does_not_know_is_refused(client: OpenSearch, index: str) -> None:
    with pytest.raises(RequestError, match="strict_dynamic_mapping_exception"):
        add(client, index, "1", colour="red")


@pytest.mark.node
def test_the_longest_values_that_cleaning_lets_through_are_taken(client: OpenSearch, index: str) -> None:
    add(client, index, "1", brand="杯" * 200, category=["杯" * 200] * 12, category_path=["杯" * 2436], image="i" * 2000)
    add(client, index, "2", description="长" * 50_000, attributes={"名" * 200: "值" * 1000})
    assert len(("杯" * 8000).encode()) < MAX_KEYWORD_BYTES


@pytest.mark.node
@pytest.mark.parametrize("encoding", ["float", "byte"])
@pytest.mark.parametrize("space", ["cosinesimil", "innerproduct", "l2"])
def test_nearest_vectors_are_found_and_the_source_stays_whole(client: OpenSearch, space: str, encoding: str) -> None:
    name = f"test-vectors-{space}-{encoding}"
    client.indices.delete(index=name, params={"ignore_unavailable": "true"})
    client.indices.create(index=name, body=body(space=space, encoding=encoding))
    vectors = {"x": [1.0, 0.0, 0.0], "y": [0.0, 1.0, 0.0], "z": [0.0, 0.0, 1.0]}
    for key, vector in vectors.items():
        add(client, name, key, vector=vector)
    answer = client.search(index=name, body={"query": {"knn": {"vector": {"vector": [0.1, 0.9, 0.0], "k": 3}}}})
    assert answer["hits"]["hits"][0]["_id"] == "y"
    copy = f"{name}-copy"
    client.indices.delete(index=copy, params={"ignore_unavailable": "true"})
    client.indices.create(index=copy, body=body(space=space, encoding=encoding))
    client.reindex(body={"source": {"index": name}, "dest": {"index": copy}}, params={"refresh": "true"})
    assert {key: client.get(index=copy, id=key)["_source"]["vector"] for key in vectors} == vectors
    client.indices.delete(index=f"{name},{copy}")


@pytest.mark.node
@pytest.mark.parametrize(
    ("engine", "encoding"), [("lucene", "binary"), ("faiss", "float"), ("faiss", "half"), ("faiss", "binary")]
)
def test_mappings_for_a_full_cluster_are_valid(client: OpenSearch, engine: str, encoding: str) -> None:
    # Making the index loads no native library; writing to it would.
    name = f"test-vectors-{engine}-{encoding}"
    client.indices.delete(index=name, params={"ignore_unavailable": "true"})
    client.indices.create(index=name, body=body(engine=engine, encoding=encoding))
    client.indices.delete(index=name)


@pytest.mark.node
def test_the_index_says_what_made_it(client: OpenSearch, index: str) -> None:
    meta = client.indices.get_mapping(index=index)[index]["mappings"]["_meta"]["shelfrank"]
    assert meta == msgspec.to_builtins(made(Index(), "encoder-1", 3))


@pytest.mark.parametrize(
    ("chosen", "capabilities", "error", "message"),
    [
        ({"engine": "faiss"}, EMBEDDED, ClusterError, "embedded node .* index.engine faiss"),
        ({"encoding": "binary"}, EMBEDDED, ClusterError, "embedded node .* index.encoding binary"),
        ({"encoding": "half"}, FULL, ConfigError, "half exists in the faiss engine only"),
        ({"engine": "faiss", "encoding": "byte"}, FULL, ConfigError, "byte exists in the lucene engine only"),
        ({"m": 1}, FULL, ConfigError, "index.m is 1"),
        ({"ef_construction": 0}, FULL, ConfigError, "index.ef_construction is 0"),
        ({}, BARE, ClusterError, "no k-NN plugin"),
    ],
)
def test_vector_settings_that_do_not_exist_are_refused(
    chosen: dict[str, Any], capabilities: Capabilities, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        check_vector(Index(**chosen), capabilities)


@pytest.mark.parametrize(
    ("chosen", "version", "message"),
    [
        ({"encoding": "binary"}, "3.5.0", "needs OpenSearch 3.6"),
        ({"engine": "faiss", "space": "cosinesimil"}, "2.18.0", "needs OpenSearch 2.19"),
    ],
)
def test_older_clusters_are_told_what_they_lack(chosen: dict[str, Any], version: str, message: str) -> None:
    with pytest.raises(ClusterError, match=message):
        check_vector(Index(**chosen), Capabilities(version, False, True, True, ()))


@pytest.mark.parametrize(
    "chosen",
    [{}, {"encoding": "byte"}, {"encoding": "binary"}, {"engine": "faiss", "encoding": "half"}, {"engine": "faiss"}],
)
def test_what_a_full_cluster_has_is_allowed(chosen: dict[str, Any]) -> None:
    check_vector(Index(**chosen), FULL)


def test_a_second_encoder_has_a_field_and_a_dimension_of_its_own() -> None:
    one, two = made(Index(), "encoder-1", 3), made(Index(), "encoder-1", 3, "encoder-2", 5)
    alone, both = (index_body(Index(), each)["mappings"] for each in (one, two))
    assert (both["properties"]["vector"]["dimension"], both["properties"]["vector_b"]["dimension"]) == (3, 5)
    assert both["properties"].keys() - alone["properties"].keys() == {"vector_b", "vector_b_bundle"}
    assert vector_fields(both["_meta"]["shelfrank"]) == {"encoder-1": "vector", "encoder-2": "vector_b"}
    assert vector_fields(alone["_meta"]["shelfrank"]) == {"encoder-1": "vector"}
    assert vector_fields(None) == vector_fields({"of": "others"}) == {}
