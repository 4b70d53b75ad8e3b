"""Packed bodies: every way of packing the same bytes means the same, and no damage passes for an end."""

from __future__ import annotations

import gzip
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from indexer.errors import InputError
from reranker.serving.bodies import gunzipped
from reranker.serving.guard import TooLargeError
from tests.reranker.serving.service import Running

LIMIT = 200_000
PARTS = st.lists(st.binary(max_size=300), min_size=1, max_size=8)


@given(PARTS, st.integers(0, 9), st.integers(0, 600))
def test_members_are_one_body(parts: list[bytes], level: int, padding: int) -> None:
    body = b"".join(gzip.compress(part, level) for part in parts) + bytes(padding)
    assert gunzipped(body, LIMIT) == b"".join(parts)


@given(PARTS, st.data())
def test_a_body_that_is_cut_is_refused_or_has_whole_members(parts: list[bytes], data: st.DataObject) -> None:
    members = [gzip.compress(part) for part in parts]
    body = b"".join(members)
    kept = data.draw(st.integers(1, len(body) - 1))
    whole = [b"".join(members[:count]) for count in range(1, len(members))]
    if body[:kept] in whole:
        assert gunzipped(body[:kept], LIMIT) == b"".join(parts[: whole.index(body[:kept]) + 1])
        return
    with pytest.raises(InputError):
        gunzipped(body[:kept], LIMIT)


@given(PARTS, st.binary(min_size=1, max_size=50).filter(lambda rest: rest.strip(b"\0") and rest[:1] != b"\x1f"))
def test_what_follows_the_end_is_refused(parts: list[bytes], rest: bytes) -> None:
    with pytest.raises(InputError):
        gunzipped(gzip.compress(b"".join(parts)) + rest, LIMIT)


@given(PARTS, st.data())
def test_damage_is_refused_or_changes_nothing(parts: list[bytes], data: st.DataObject) -> None:
    plain = b"".join(parts) + b"!"
    body = bytearray(gzip.compress(plain))
    at = data.draw(st.integers(10, len(body) - 1))  # behind the header, whose fields mean nothing here
    body[at] ^= data.draw(st.integers(1, 255))
    try:
        found = gunzipped(bytes(body), LIMIT)
    except (InputError, TooLargeError):
        return
    assert found == plain  # a bit that means nothing


@pytest.mark.parametrize("size", [LIMIT - 1, LIMIT, LIMIT + 1])
@pytest.mark.parametrize("members", [1, 3])
def test_the_limit_is_of_all_members_together(size: int, members: int) -> None:
    plain = b"a" * size
    step = -(-size // members)
    body = b"".join(gzip.compress(plain[at : at + step]) for at in range(0, size, step))
    if size > LIMIT:
        with pytest.raises(TooLargeError):
            gunzipped(body, LIMIT)
    else:
        assert gunzipped(body, LIMIT) == plain


def test_an_empty_body_is_empty_and_members_without_end_are_refused() -> None:
    assert gunzipped(b"", LIMIT) == b""
    assert gunzipped(gzip.compress(b""), LIMIT) == b""
    with pytest.raises(InputError, match="more than 1000 members"):
        gunzipped(gzip.compress(b"") * 100_000, LIMIT)


@pytest.mark.node
def test_a_search_in_two_members_is_one_search(service: Running, shop: str) -> None:
    body = json.dumps({"query": {"match": {"title": "bottle"}}, "size": 3}).encode()
    headers = {"content-type": "application/json", "content-encoding": "gzip"}
    packed = gzip.compress(body[:20]) + gzip.compress(body[20:])
    assert len(service.http.post(f"/{shop}/_search", content=packed, headers=headers).json()["hits"]["hits"]) == 3
    answer = service.http.post(f"/{shop}/_search", content=packed[:-9], headers=headers)
    assert answer.status_code == 400
    assert "cut off" in answer.text
