"""What may be asked of a cluster through the gateway, from the side of who wants too much, and of who does not."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from starlette.exceptions import HTTPException

from indexer.errors import InputError
from indexer.settings import Limits
from reranker.serving.access import DeniedError
from reranker.serving.limits import requests

LIMITS = Limits()


def check(body: Any, path: str = "/shop/_search", query: str = "", limits: Limits = LIMITS) -> requests.Asked:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return requests.check(path, query, content, limits)


def search(query: Any, **more: Any) -> dict[str, Any]:
    return {"query": query, **more}


def many(count: int, part: Any) -> dict[str, Any]:
    return search({"bool": {"should": [part] * count}})


def nested(levels: int, leaf: Any) -> dict[str, Any]:
    found: dict[str, Any] = {"inner": leaf}
    for at in range(levels):
        found = {f"a{at}": {"filter": {"match_all": {}}, "aggs": found}}
    return {"aggs": found}


SCRIPT = {"source": "while (true) {}"}
HIDDEN = {"bool": {"must": [{"nested": {"path": "a", "query": {"dis_max": {"queries": [{"script": SCRIPT}]}}}}]}}
OFF: list[tuple[str, Any]] = [
    ("script", search({"script": {"script": SCRIPT}})),
    ("within other clauses", search(HIDDEN)),
    ("script_score", search({"script_score": {"query": {"match_all": {}}, "script": SCRIPT}})),
    ("function_score", search({"function_score": {"functions": [{"script_score": {"script": SCRIPT}}]}})),
    ("filter of a function", search({"function_score": {"functions": [{"filter": {"script": SCRIPT}}]}})),
    ("terms_set", search({"terms_set": {"a": {"terms": ["x"], "minimum_should_match_script": SCRIPT}}})),
    ("intervals", search({"intervals": {"a": {"match": {"query": "x", "filter": {"script": SCRIPT}}}}})),
    ("script_fields", {"script_fields": {"a": {"script": SCRIPT}}}),
    ("derived", {"derived": {"a": {"type": "keyword", "script": SCRIPT}}}),
    ("sort", {"sort": [{"_script": {"type": "number", "script": SCRIPT}}]}),
    ("sort's nested filter", {"sort": [{"a": {"nested": {"path": "b", "filter": {"script": SCRIPT}}}}]}),
    ("scripted_metric", {"aggs": {"a": {"scripted_metric": {"map_script": "1"}}}}),
    ("an aggregation named as a clause", {"aggs": {"match": {"scripted_metric": {"map_script": "1"}}}}),
    ("an aggregation named as a script", {"aggs": {"script": {"filter": {"script": {"script": SCRIPT}}}}}),
    ("a value's script", {"aggs": {"a": {"terms": {"script": SCRIPT}}}}),
    ("bucket_script", {"aggs": {"a": {"bucket_script": {"buckets_path": {"x": "y"}, "script": "1"}}}}),
    ("composite", {"aggs": {"a": {"composite": {"sources": [{"b": {"terms": {"script": SCRIPT}}}]}}}}),
    ("top_hits", {"aggs": {"a": {"top_hits": {"script_fields": {"b": {"script": SCRIPT}}}}}}),
    ("inner_hits", search({"nested": {"path": "a", "query": {}, "inner_hits": {"script_fields": {"b": {}}}}})),
    ("collapse", {"collapse": {"field": "a", "inner_hits": {"name": "x", "script_fields": {"b": {}}}}}),
    ("highlight", {"highlight": {"fields": {"a": {"highlight_query": {"script": SCRIPT}}}}}),
    ("rescore", {"rescore": {"query": {"rescore_query": {"script": SCRIPT}}}}),
    ("post_filter", {"post_filter": {"script": SCRIPT}}),
    ("a neighbour's filter", search({"knn": {"v": {"vector": [1], "k": 5, "filter": {"script": SCRIPT}}}})),
    ("an unknown clause", search({"plugin_clause": {"a": {"b": [{"script": SCRIPT}]}}})),
    ("collate", {"suggest": {"a": {"text": "x", "phrase": {"field": "t", "collate": {"query": SCRIPT}}}}}),
    ("a template in a query", search({"template": {"match_all": {}}})),
    ("wrapper", search({"wrapper": {"query": "eyJtYXRjaF9hbGwiOnt9fQ=="}})),
    ("wrapper in a filter", search({"bool": {"filter": {"wrapper": {"query": "e30="}}}})),
    ("wrapper in an aggregation", {"aggs": {"a": {"filters": {"filters": {"b": {"wrapper": {"query": "e30="}}}}}}}),
    ("a pipeline's script", {"search_pipeline": {"request_processors": [{"script": {"source": "1"}}]}}),
]


@pytest.mark.parametrize("body", [row[1] for row in OFF], ids=[row[0] for row in OFF])
def test_what_runs_or_hides_something_is_off(body: Any) -> None:
    with pytest.raises((DeniedError, HTTPException)):
        check(body)


@pytest.mark.parametrize("path", ["/_search/template", "/shop/_search/template", "/_msearch/template"])
def test_templates_are_filled_in_after_the_look_and_off(path: str) -> None:
    with pytest.raises(DeniedError, match=r"limits\.templates"):
        check({"source": "{}"}, path)
    check(b'{"index": "shop"}\n{"source": "{}"}\n', path, limits=Limits(templates=True))


REGEXP = "((a{99}){99}){99}"
TOO_MUCH: list[tuple[str, Any]] = [
    ("text_characters", search({"match": {"title": "a " * 6_000}})),
    ("text_characters", search({"multi_match": {"query": "杯" * 10_001, "fields": ["title"]}})),
    ("query_string_characters", search({"query_string": {"query": "a" * 10_001}})),
    ("operators", search({"query_string": {"query": "(" * 4_000 + "a" + ")" * 4_000}})),
    ("operators", search({"simple_query_string": {"query": "-" * 4_000 + "a"}})),
    ("operators", search({"query_string": {"query": "NOT " * 600 + "a"}})),
    ("operators", many(60, {"query_string": {"query": "(((((a)))))"}})),
    ("regexp_characters", search({"regexp": {"title": "a" * 251}})),
    ("regexp_characters", search({"regexp": {"title": {"value": "(" * 200 + ")" * 200}}})),
    ("regexp_repeats", search({"regexp": {"title": REGEXP}})),
    ("regexp_repeats", search({"query_string": {"query": f"/{REGEXP}/"}})),
    ("regexp_repeats", {"aggs": {"a": {"terms": {"field": "b", "include": REGEXP}}}}),
    ("regexp_repeats", {"suggest": {"a": {"regex": REGEXP, "completion": {"field": "b"}}}}),
    ("regexp_repeats", search({"intervals": {"a": {"regexp": {"pattern": REGEXP}}}})),
    ("regexps", many(11, {"regexp": {"title": "a.*"}})),
    ("determinized_states", search({"regexp": {"a": {"value": "a", "max_determinized_states": 10**9}}})),
    ("wildcards", many(51, {"wildcard": {"title": "*a"}})),
    ("wildcards", search({"query_string": {"query": "*a " * 51}})),
    ("pattern_characters", search({"wildcard": {"title": {"value": "a" * 501}}})),
    ("pattern_characters", search({"prefix": {"title": "a" * 501}})),
    ("fuzzy_characters", search({"match": {"title": {"query": "a " * 501, "fuzziness": "AUTO"}}})),
    ("expansions", search({"fuzzy": {"title": {"value": "a", "max_expansions": 10**6}}})),
    ("slop", search({"match_phrase": {"title": {"query": "a b", "slop": 10**6}}})),
    ("clauses", many(1_025, {"term": {"a": "b"}})),
    ("clauses", search({"more_like_this": {"like": "a", "max_query_terms": 10**6}})),
    ("terms", search({"terms": {"id": ["a"] * 10_001}})),
    ("terms", search({"ids": {"values": ["a"] * 10_001}})),
    ("size", {"size": 10_001}),
    ("size", {"size": "20000"}),
    ("reach", {"from": 9_999, "size": 100}),
    ("inner_hits", search({"nested": {"path": "a", "query": {}, "inner_hits": {"size": 101}}})),
    ("hits_per_request", {"size": 1_000, "collapse": {"field": "a", "inner_hits": {"size": 100}}}),
    ("hits_per_request", {"aggs": {"a": {"terms": {"size": 1_000}, "aggs": {"b": {"top_hits": {"size": 100}}}}}}),
    ("neighbours", search({"knn": {"v": {"vector": [1], "k": 10_001}}})),
    ("neighbours", search({"knn": {"v": {"vector": [1], "k": 5, "method_parameters": {"ef_search": 10**6}}}})),
    ("rescore_window", {"rescore": {"window_size": 1_001, "query": {"rescore_query": {}}}}),
    ("aggregation_depth", nested(6, {"avg": {"field": "a"}})),
    ("aggregations", {"aggs": {f"a{at}": {"avg": {"field": "a"}} for at in range(101)}}),
    ("buckets", {"aggs": {"a": {"terms": {"size": 1_000}, "aggs": {"b": {"terms": {"size": 1_000}}}}}}),
    ("buckets", {"aggs": {"a": {"terms": {"shard_size": 10**9}}}}),
    ("keep_alive_s", {"pit": {"id": "x", "keep_alive": "24h"}}),
    ("parts", {"slice": {"id": 0, "max": 10_000}}),
    ("parts", {"highlight": {"fields": {f"f{at}": {} for at in range(300)}}}),
    ("search_bytes", {"ext": {"x": ["a"] * 400_000}}),
]


@pytest.mark.parametrize(("limit", "body"), TOO_MUCH, ids=[f"{at} {row[0]}" for at, row in enumerate(TOO_MUCH)])
def test_what_asks_for_too_much_is_refused_by_the_limits_name(limit: str, body: Any) -> None:
    with pytest.raises(InputError, match=rf"limits\.{limit}\b"):
        check(body)


@pytest.mark.parametrize(
    ("limit", "query"),
    [
        ("operators", "q=" + "(" * 501),
        ("size", "size=10001"),
        ("size", "from=5&size=20000"),
        ("reach", "from=10000&size=1"),
        ("keep_alive_s", "scroll=24h"),
        ("keep_alive_s", "keep_alive=1d"),
        ("parts", "slices=1000"),
        ("regexp_repeats", "q=/" + REGEXP + "/&x=y"),
    ],
)
def test_an_address_asks_for_no_more_than_a_body(limit: str, query: str) -> None:
    with pytest.raises(InputError, match=rf"limits\.{limit}\b"):
        check(b"", query=query)
    with pytest.raises(InputError, match=r"limits\.size\b"):
        check(b"", query="source=%7B%22size%22%3A20000%7D&source_content_type=application/json")


@pytest.mark.parametrize("path", ["/_count", "/shop/_validate/query", "/shop/_explain/1", "/shop/_delete_by_query"])
def test_a_query_is_looked_at_wherever_it_goes(path: str) -> None:
    with pytest.raises(DeniedError):
        check(search({"script": SCRIPT}), path)
    with pytest.raises(DeniedError):
        check({"index_filter": {"wrapper": {"query": "e30="}}}, "/shop/_field_caps")
    with pytest.raises(InputError, match="operators"):
        check(search({"query_string": {"query": "(" * 9_000}}), path)


def test_searches_together_bring_no_more_than_one_may() -> None:
    pair = b'{"index": "shop"}\n{"size": 1000}\n'
    check(pair * 10, "/_msearch")
    with pytest.raises(InputError, match=r"limits\.hits_per_request"):
        check(pair * 11, "/_msearch")
    with pytest.raises(InputError, match=r"limits\.searches"):
        check(b"{}\n{}\n" * 101, "/_msearch")
    with pytest.raises(DeniedError):
        check(b"{}\n" + json.dumps(search(HIDDEN)).encode() + b"\n", "/_msearch")


@pytest.mark.parametrize(
    "body",
    [
        {"tokenizer": {"type": "pattern", "pattern": "(a+)+$"}, "text": "a"},
        {"filter": ["lowercase", {"type": "pattern_replace"}], "text": "a"},
        {"char_filter": [{"type": "mapping"}], "text": ["a"]},
    ],
)
def test_an_analysis_is_by_what_the_index_has(body: Any) -> None:
    with pytest.raises(DeniedError):
        check(body, "/shop/_analyze")
    with pytest.raises(InputError, match="text_characters"):
        check({"text": "a" * 10_001}, "/shop/_analyze")
    check({"analyzer": "cjk", "text": ["保温杯", "steel cup"]}, "/shop/_analyze")


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/shop/_update/1", b'{"script": {"source": "1"}}'),
        ("/shop/_update_by_query", b'{"script": {"source": "1"}}'),
        ("/_bulk", b'{"update": {"_index": "shop", "_id": "1"}}\n{"script": {"source": "1"}}\n'),
        ("/_bulk", b'{"delete": {"_id": "1"}}\n{"update": {"_id": "1"}}\n{"scripted_upsert": true}\n'),
    ],
)
def test_documents_are_changed_without_scripts(path: str, body: bytes) -> None:
    with pytest.raises(DeniedError, match=r"limits\.scripts"):
        check(body, path)


UNREADABLE = [
    b'\xef\xbb\xbf{"size": 0}',
    '{"size": 0}'.encode("utf-16"),
    '{"size": 0}'.encode("utf-32-le"),
    b'{"size": 0} {"size": 1}',
    b"{size: 0}",
    b"{'size': 0}",
    b'{"size": 0} // more',
    b'{"size": 01}',
    b'{"a": "\xff"}',
    b'{"size": 0}\x00',
]


@pytest.mark.parametrize("body", UNREADABLE)
@pytest.mark.parametrize("path", ["/_search", "/_count", "/_mget", "/shop/_analyze", "/_field_caps", "/shop/_doc/1"])
def test_what_two_readers_could_read_in_two_ways_is_not_passed_on(body: bytes, path: str) -> None:
    with pytest.raises(InputError):
        check(body, path)
    with pytest.raises(InputError):
        check(b"{}\n" + body.replace(b"\n", b"") + b"\n", "/_msearch")


HONEST: list[Any] = [
    {},
    search({"match": {"title": "quiet mechanical keyboard under 80"}}, size=100, highlight={"fields": {"title": {}}}),
    search({"multi_match": {"query": "适合送爸爸的保温杯", "fields": ["title^3", "bullets"], "fuzziness": "AUTO"}}),
    search({"match": {"script": "a field of a product"}}),
    search({"term": {"script": {"value": "x"}}}),
    search({"range": {"price": {"gte": 10, "lt": "80"}}}),
    search({"query_string": {"query": 'title:(steel AND "water bottle"~3) -straw^2 brand:ri*'}}),
    search({"regexp": {"sku": "ab-[0-9]{4}"}}),
    search({"bool": {"must": {"match": {"title": "杯"}}, "filter": [{"terms": {"brand": ["a"] * 500}}]}}),
    search({"hybrid": {"queries": [{"match": {"title": "cup"}}, {"knn": {"v": {"vector": [0.1] * 384, "k": 100}}}]}}),
    search({"neural": {"v": {"query_text": "保温杯", "model_id": "m", "k": 50}}}),
    search({"function_score": {"query": {"match": {"title": "cup"}}, "functions": [{"random_score": {"seed": 1}}]}}),
    search({"more_like_this": {"fields": ["title"], "like": ["cup", {"_index": "shop", "_id": "1"}]}}),
    search({"nested": {"path": "offers", "query": {"match": {"offers.name": "x"}}, "inner_hits": {}}}),
    search({"intervals": {"title": {"all_of": {"intervals": [{"match": {"query": "steel cup"}}]}}}}),
    {"aggs": {"match": {"terms": {"field": "brand", "size": 100}, "aggs": {"script": {"avg": {"field": "price"}}}}}},
    {"aggs": {"prices": {"histogram": {"field": "price", "interval": 10}}}},
    {"aggs": {"p": {"percentiles": {"field": "price", "percents": [50, 99]}}}},
    {"suggest": {"a": {"text": "stel botle", "term": {"field": "title"}}}},
    {"sort": ["_score", {"price": "asc"}, {"_geo_distance": {"location": [0, 0], "order": "asc"}}]},
    {"rescore": {"window_size": 100, "query": {"rescore_query": {"match_phrase": {"title": "steel cup"}}}}},
    {"collapse": {"field": "brand", "inner_hits": {"name": "more", "size": 3}}, "track_total_hits": True},
    {"pit": {"id": "x", "keep_alive": "1m"}, "search_after": [1, "a"], "size": 1000, "sort": ["_doc"]},
    {"_source": ["title", "price"], "fields": [{"field": "a*"}], "docvalue_fields": ["b"], "min_score": 0.1},
    {"ext": {"shelfrank": {"window": 50, "query": "保温杯"}}, "timeout": "2s", "profile": False, "explain": True},
]


@pytest.mark.parametrize("body", HONEST, ids=[str(at) for at in range(len(HONEST))])
def test_honest_searches_pass(body: Any) -> None:
    index = "" if "pit" in body else "shop"
    asked = check(body, f"/{index}/_search".replace("//", "/"))
    assert (asked.endpoint, asked.index) == ("_search", index)
    check(b"{}\n" + json.dumps(body).encode() + b"\n", "/_msearch")


def test_a_text_of_ten_thousand_characters_passes_and_an_operator_decides() -> None:
    check(search({"match": {"title": "保温杯 " * 2_500}}))
    check({"size": 0}, limits=Limits(size=0))
    with pytest.raises(InputError, match=r"limits\.size"):
        check({"size": 1}, limits=Limits(size=0))
    check(search({"script": SCRIPT}), limits=Limits(scripts=True))
    with pytest.raises(DeniedError):
        check(search({"wrapper": {"query": "e30="}}), limits=Limits(scripts=True, templates=True))


DANGEROUS = st.sampled_from(
    [
        {"script": {"script": SCRIPT}},
        {"wrapper": {"query": "e30="}},
        {"query_string": {"query": "(" * 600}},
        {"regexp": {"a": REGEXP}},
        {"bool": {"should": [{"term": {"a": "b"}}] * 1_100}},
        {"script_score": {"query": {"match_all": {}}, "script": SCRIPT}},
    ]
)


def around(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """A query with another within it, where the language has room for one."""
    places = st.sampled_from(
        [
            lambda q: {"bool": {"must": [{"match": {"title": "cup"}}, q]}},
            lambda q: {"bool": {"filter": q}},
            lambda q: {"bool": {"must_not": [q]}},
            lambda q: {"constant_score": {"filter": q}},
            lambda q: {"dis_max": {"queries": [{"match_all": {}}, q]}},
            lambda q: {"boosting": {"positive": {"match_all": {}}, "negative": q, "negative_boost": 0.5}},
            lambda q: {"nested": {"path": "a", "query": q}},
            lambda q: {"function_score": {"query": q}},
            lambda q: {"function_score": {"functions": [{"filter": q, "weight": 2}]}},
            lambda q: {"hybrid": {"queries": [q]}},
            lambda q: {"knn": {"v": {"vector": [1.0], "k": 3, "filter": q}}},
            lambda q: {"has_child": {"type": "a", "query": q}},
            lambda q: {"plugin": {"deep": [{"query": q}]}},
            lambda q: {"span_multi": {"match": q}},
        ]
    )
    return st.builds(lambda place, query: place(query), places, inner)


@hypothesis_settings(max_examples=150, deadline=None)
@given(
    query=st.recursive(DANGEROUS, around, max_leaves=6),
    place=st.sampled_from(
        [
            lambda q: {"query": q},
            lambda q: {"post_filter": q},
            lambda q: {"aggs": {"match": {"filter": q}}},
            lambda q: {"aggs": {"a": {"terms": {"field": "b"}, "aggs": {"c": {"filters": {"filters": [q]}}}}}},
            lambda q: {"rescore": [{"window_size": 10, "query": {"rescore_query": q}}]},
            lambda q: {"highlight": {"highlight_query": q, "fields": {}}},
            lambda q: {"sort": [{"a": {"nested": {"path": "b", "filter": q}}}]},
        ]
    ),
)
def test_nothing_hides_wherever_the_language_has_room(query: Any, place: Any) -> None:
    with pytest.raises((InputError, DeniedError)):
        check(place(query))


@given(body=st.binary(max_size=60))
@hypothesis_settings(max_examples=200, deadline=None)
def test_bytes_are_read_or_refused(body: bytes) -> None:
    for path in ("/_search", "/_msearch", "/_bulk", "/_mget", "/x/_analyze", "/_field_caps", "/x/_doc/1"):
        try:
            check(body, path)
        except InputError:
            continue
        assert not body.strip() or msgspec.json.decode(body.split(b"\n")[0] or b"{}") is not ...


@pytest.mark.parametrize(
    ("path", "query", "body"),
    [
        ("/u*/_search", "source=%7B%22pit%22%3A%7B%22id%22%3A%22x%22%7D%7D&source=%7B%7D", b""),
        ("/shop/_search", "size=1&size=10001", b""),
        ("/shop/_search", "q=a&q=b", b""),
        ("/shop/_count", "source=%7B%7D&source=%7B%7D", b""),
        ("/shop/_search", "source=%7B%7D&source_content_type=application/json", b"{}"),
        ("/_msearch", "source=%7B%7D%0A%7B%7D%0A&source_content_type=application/x-ndjson", b""),
        ("/_bulk", "source=%7B%7D%0A", b""),
        ("/u*/_search", "", b'{"pit": {"id": "x"}}'),
        ("/u*/_msearch", "", b'{}\n{"pit": {"id": "x"}}\n'),
        ("/_msearch", "", b'{"index": "u*"}\n{"pit": {"id": "x"}}\n'),
        ("/_msearch", "", b'{"indices": null}\n{"pit": {"id": "x"}}\n'),
        ("/_search", "", b'{"pit": null}'),
        ("/_search", "", b'{"pit": {}}'),
        ("/_search", "", b'{"pit": []}'),
        ("/_search", "", b'{"pit": {"id": 5}}'),
    ],
)
def test_what_a_node_might_read_in_another_way_is_refused(path: str, query: str, body: bytes) -> None:
    with pytest.raises(InputError, match=r"more than once|not passed on|names no index|point in time"):
        check(body, path, query)


def test_a_point_in_time_without_an_index_is_none_of_these() -> None:
    assert check(b'{"pit": {"id": "x"}}', "/_search").is_pinned
    assert check(b'{}\n{"pit": {"id": "x"}}\n', "/_msearch").pins == [True]
    assert not check(b"{}", "/u*/_search").is_pinned


@pytest.mark.parametrize("empty", [b"", b" ", b"\r", b"\t"])
def test_an_empty_line_of_a_bulk_hides_no_action(empty: bytes) -> None:
    """A node takes it for the document, and the line behind it for an action that nobody has looked at."""
    lines = [b'{"index": {"_index": "a"}}', empty, b'{"delete": {"_index": "ubi_queries", "_id": "1"}}']
    lines += [b'{"delete": {"_index": "a", "_id": "2"}}', b""]
    with pytest.raises(InputError, match="Line 2 is empty"):
        check(b"\n".join(lines), "/_bulk")
    between = [lines[3], empty, lines[2], empty, lines[0], b"{}", empty, b""]
    assert check(b"\n".join(between), "/_bulk").indexes == ["a", "ubi_queries", "a"]


LONG = "A" * 11_000
ECHOES: list[Any] = [
    search({"bool": {"must": [{"match_all": {}}], "_name": LONG}}),
    search({"bool": {"must": [{"match": {"a": {"query": "b", "_name": LONG[:6_000]}}}] * 2}}),
    search({"nested": {"path": "a", "query": {"term": {"a.b": {"value": 1, "_name": LONG}}}}}),
    {"highlight": {"pre_tags": [LONG], "fields": {"title": {}}}},
    {"highlight": {"fields": {"title": {"post_tags": LONG}}}},
    {"docvalue_fields": [{"field": "price", "format": LONG}]},
    {"fields": [{"field": "price", "format": LONG}]},
    {"sort": [{"price": {"missing": LONG}}]},
    {"collapse": {"field": "brand", "inner_hits": {"name": LONG}}},
    {"aggs": {LONG: {"terms": {"field": "a"}}}},
    {"aggs": {"a": {"terms": {"field": "a"}, "meta": {"b": [LONG]}}}},
    {"aggs": {"a": {"filters": {"filters": {LONG: {"match_all": {}}}}}}},
    {"aggs": {"a": {"range": {"field": "a", "ranges": [{"key": LONG, "to": 1}]}}}},
    {"aggs": {"a": {"date_histogram": {"field": "d", "interval": "1d", "min_doc_count": 1, "format": LONG}}}},
    {"aggs": {"a": {"composite": {"sources": [{LONG: {"terms": {"field": "a"}}}]}}}},
]


@pytest.mark.parametrize("body", ECHOES, ids=[str(at) for at in range(len(ECHOES))])
def test_what_a_client_writes_once_does_not_come_back_with_each_hit_at_length(body: Any) -> None:
    """Two searches with a name of 900,000 characters end a node."""
    with pytest.raises(InputError, match=r"limits\.echo"):
        check(body)
    with pytest.raises(InputError, match=r"limits\.echo"):
        check(b"{}\n" + json.dumps(body).encode() + b"\n", "/_msearch")


def test_the_product_of_names_and_hits_has_a_limit() -> None:
    named = {"match": {"a": {"query": "b", "_name": "A" * 9_000}}}
    check(search(named, size=1_000))
    with pytest.raises(InputError, match=r"limits\.echoes"):
        check(search(named, size=10_000))
    inner = {"terms": {"field": "a", "size": 60_000}, "aggs": {"B" * 5_000: {"avg": {"field": "b"}}}}
    with pytest.raises(InputError, match=r"limits\.echoes"):
        check({"size": 0, "aggs": {"a": inner}})


def test_groups_of_searches_are_few() -> None:
    """A node copies all that it has for each new one, under a lock, and forgets none."""
    check({"stats": ["shop", "web"]})
    for body, query in [({"stats": [hex(at) for at in range(11)]}, ""), ({}, "stats=" + ",".join(map(hex, range(11))))]:
        with pytest.raises(InputError, match=r"limits\.groups"):
            check(body, query=query)
    with pytest.raises(InputError, match="The length of a group"):
        check({"stats": ["a" * 501]})


def test_a_scroll_named_in_the_path_is_kept_no_longer() -> None:
    with pytest.raises(InputError, match=r"limits\.keep_alive_s"):
        check({"scroll": "10h"}, "/_search/scroll/abc")


@pytest.mark.parametrize(
    ("kind", "body", "expected"),
    [
        ("histogram", {"interval": 10}, 10.0),
        ("histogram", {"interval": "0.5"}, 0.5),
        ("histogram", {"interval": 10, "min_doc_count": 1}, None),
        ("histogram", {"interval": 10, "hard_bounds": {"min": 0, "max": 100}}, None),
        ("histogram", {"interval": 10, "hard_bounds": {"min": 0}}, 10.0),
        ("date_histogram", {"calendar_interval": "month"}, 2.4192e9),
        ("date_histogram", {"fixed_interval": "12h"}, 4.32e7),
        ("date_histogram", {"interval": "1ms", "min_doc_count": "1"}, None),
        (
            "date_histogram",
            {"interval": "1d", "hard_bounds": {"min": "2026-01-01", "max": "2026-02-01T00:00:00Z"}},
            None,
        ),
    ],
)
def test_a_histogram_without_bounds_depends_on_its_fields_values(kind: str, body: Any, expected: float | None) -> None:
    found = check({"aggs": {"b": {"terms": {"field": "c", "size": 7}, "aggs": {"a": {kind: {"field": "f"} | body}}}}})
    assert found.histograms == ([] if expected is None else [("shop", "f", expected, 7)])
    several = b'{"index": "other"}\n' + json.dumps({"aggs": {"a": {kind: {"field": "f"} | body}}}).encode() + b"\n"
    assert [each.indexes for each in check(several, "/_msearch").histograms] == ([] if expected is None else ["other"])
    assert check({"aggs": {"a": {kind: {"field": "f"} | body}}}, limits=Limits(open_histograms=True)).histograms == []


@pytest.mark.parametrize(
    "body",
    [
        {"interval": "1ms", "hard_bounds": {"min": "1970-01-01", "max": "2970-01-01"}},
        {"interval": "1m", "extended_bounds": {"min": 0, "max": 1e13}},
        {"interval": "soon"},
        {"interval": "1d", "hard_bounds": {"min": "now-1y", "max": "now"}},
    ],
)
def test_dates_have_no_more_buckets_than_numbers(body: Any) -> None:
    with pytest.raises(InputError, match=r"limits\.buckets|is not known"):
        check({"aggs": {"a": {"date_histogram": {"field": "f"} | body}}})


def test_whether_there_is_an_index_does_not_show() -> None:
    assert check({"indices_boost": [{"ubi_queries": 2}, {"a*": 1}]}).indexes == ["ubi_queries"]
    with pytest.raises(InputError, match="cluster alone"):
        check(b"", "/_cluster/health", "level=indices")


def test_a_bitmap_hides_no_billions_of_terms() -> None:
    with pytest.raises(DeniedError, match="bitmap"):
        check(search({"terms": {"stock": ["OjAAAAEAAAAAAAIAEAAAAAAAAQACAA=="], "value_type": "bitmap"}}))
    check(search({"terms": {"stock": [1, 2], "value_type": "default", "boost": 2}}))
