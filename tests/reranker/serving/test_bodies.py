"""What a body may be, from the side of who wants to end a node or to stop the service with it."""

from __future__ import annotations

import json
import time
import tracemalloc
from contextlib import suppress
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.exceptions import HTTPException

from indexer.errors import InputError
from reranker.serving import bodies
from tests.reranker.serving.service import Running

VALUES = st.recursive(
    st.none() | st.integers() | st.text(max_size=12) | st.sampled_from(["[{", '"', '\\"', "\\", "}]", "/* [ */"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=30,
)


def depth(value: Any) -> int:
    if isinstance(value, dict):
        return 1 + max(map(depth, value.values()), default=0)
    return 1 + max(map(depth, value), default=0) if isinstance(value, list) else 0


@given(VALUES, st.booleans(), st.integers(0, 6))
def test_the_depth_is_that_of_the_value(value: Any, plain: bool, most: int) -> None:
    body = json.dumps(value, ensure_ascii=plain).encode("utf-8", "surrogatepass")
    assert bodies.nests_deeper(body, most) == (depth(value) > most)


@given(st.lists(VALUES, min_size=1, max_size=4), st.integers(0, 6))
def test_of_lines_it_is_that_of_the_deepest(values: list[Any], most: int) -> None:
    body = b"\n".join(json.dumps(value).encode() for value in values) + b"\n"
    assert bodies.nests_deeper(body, most) == (max(map(depth, values)) > most)


# Each is read by somebody as deep, whatever it looks like at first.
HIDDEN = {
    "a comment that opens a string": b'{"a": 1 /* " */, "b": ' + b"[" * 900 + b"]" * 900 + b'/* " */}',
    "a string that ends with the line": b'{"a": "\n' + b"[" * 900 + b'\n"}',
    "UTF-16": ("[" * 900 + "]" * 900).encode("utf-16-le"),
    "names without quotes": b"{a:" * 900 + b"1" + b"}" * 900,
    "an end that does not come": b'{"a":' * 900,
    "a backslash where none may be": b'\\"' + b"[" * 900,
    "closed before it opens": b"]" * 900 + b"[" * 900,
}


@pytest.mark.parametrize("name", HIDDEN)
def test_no_disguise_makes_it_flat(name: str) -> None:
    try:
        assert bodies.nests_deeper(HIDDEN[name], 200)
    except InputError as error:
        assert "not JSON" in str(error)  # noqa: PT017


REPEATED = [b'"\\', b"\\", b'"', b"{", b"[", b'{"a":"', b'"\\\\', b"[]", b"/*", b'\\"', b"\n", b"\x00", b"}{", b'"]"[']


@pytest.mark.parametrize("piece", REPEATED)
def test_time_and_memory_grow_with_the_bytes_alone(piece: bytes) -> None:
    def took(size: int) -> float:
        body = b"{" * 201 + piece * (size // len(piece))
        best = float("inf")
        for _ in range(3):
            began = time.process_time()
            with suppress(InputError):
                bodies.nests_deeper(body, 200)
            best = min(best, time.process_time() - began)
        return best

    # Forty times the bytes: quadratic would be 1,600 times the time. What is quick at both ends is quick enough.
    assert took(8_000_000) < 200 * took(200_000) + 0.5
    tracemalloc.start()
    took(8_000_000)
    assert tracemalloc.get_traced_memory()[1] < 10 * 8_000_000
    tracemalloc.stop()


@pytest.mark.parametrize(
    ("kind", "passes"),
    [
        ("", True),
        ("application/json", True),
        ("Application/JSON; charset=utf-8", True),
        ("application/x-ndjson", True),
        ("application/vnd.opensearch+json; compatible-with=7", True),
        ("application/vnd.elasticsearch+x-ndjson;compatible-with=8", True),
        ("application/cbor", False),
        ("application/yaml", False),
        ("application/smile", False),
        ("application/vnd.opensearch+cbor", False),
        ("text/plain", False),
        ("application/json, application/cbor", False),
    ],
)
def test_json_alone_passes_by_header_and_by_parameter(kind: str, passes: bool) -> None:
    def passed(content_type: str, query: str) -> bool:
        try:
            bodies.check(b"{}", content_type, query)
        except HTTPException as error:
            return error.status_code != 415
        return True

    assert passed(kind, "") is passes
    if kind:
        query = str(httpx.QueryParams({"source": "{}", "source_content_type": kind}))
        assert passed("application/json", query) is passes


@pytest.mark.node
@pytest.mark.parametrize("path", ["_search", "_count", "_msearch", "_validate/query", "_explain/1", "_field_caps"])
@pytest.mark.parametrize("kind", ["application/cbor", "application/yaml"])
def test_what_cannot_be_looked_through_never_reaches_the_cluster(
    service: Running, node: str, shop: str, path: str, kind: str
) -> None:
    answer = service.http.post(f"/{shop}/{path}", content=b"\x81" * 700, headers={"content-type": kind})
    assert answer.status_code == 415
    assert kind in answer.json()["error"]["reason"]
    deep = '{"query":' + '{"bool":{"must":[' * 700
    answer = service.http.get(f"/{shop}/{path}", params={"source": deep, "source_content_type": "application/json"})
    assert answer.status_code == 400
    assert "nests deeper" in answer.json()["error"]["reason"]
    assert httpx.get(node).status_code == 200


@pytest.mark.node
def test_a_vendors_name_of_json_is_json(service: Running, shop: str) -> None:
    body = {"query": {"match": {"title": "steel bottle"}}, "size": 3}
    plain = service.http.post(f"/{shop}/_search", json=body)
    kind = {"content-type": "application/json; charset=UTF-8"}
    named = service.http.post(f"/{shop}/_search", content=json.dumps(body), headers=kind)
    assert named.json()["hits"]["hits"] == plain.json()["hits"]["hits"]
