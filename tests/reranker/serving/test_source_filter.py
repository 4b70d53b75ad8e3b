"""Fields that are brought without being shown: what is left is what the client's own filter would have brought."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reranker.serving.source_filter import SourceFilter

NAMES = ("title", "price", "vector", "vector_bundle", "vec", "v[0]")
PATTERNS = st.lists(st.sampled_from([*NAMES, "*", "v*", "*e", "v*r", "t*", "vec?or", "v[0]*"]), max_size=3)
DOCUMENT = dict.fromkeys(NAMES, 1)
ADDED = {"vector", "vector_bundle"}


def brought(chosen: SourceFilter) -> dict[str, Any]:
    return {name: value for name, value in DOCUMENT.items() if chosen.passes(name)}


@given(shown=st.booleans(), includes=PATTERNS, excludes=PATTERNS)
def test_what_is_added_is_brought_and_taken_out_again(shown: bool, includes: list[str], excludes: list[str]) -> None:
    theirs = SourceFilter(shown, tuple(includes), tuple(excludes))
    ours = theirs.with_fields(ADDED)
    assert set(brought(ours)) >= ADDED
    assert theirs.without(brought(ours), ADDED) == brought(theirs)


@pytest.mark.parametrize(
    ("raw", "params", "expected"),
    [
        (None, {}, SourceFilter()),
        (b"false", {}, SourceFilter(False)),
        (b'"title"', {}, SourceFilter(True, ("title",))),
        (b'{"include": "a", "excludes": ["b"]}', {}, SourceFilter(True, ("a",), ("b",))),
        (b"false", {"_source": "title,price"}, SourceFilter(True, ("title", "price"))),
        (b"false", {"_source_excludes": "v*"}, SourceFilter(True, (), ("v*",))),
        (None, {"_source": "false"}, SourceFilter(False)),
    ],
)
def test_a_filter_is_read_as_the_cluster_reads_it(
    raw: bytes | None, params: dict[str, str], expected: SourceFilter
) -> None:
    assert SourceFilter.read(raw, params) == expected


@pytest.mark.parametrize("raw", [b"7", b'{"only": ["a"]}', b"[1]", b"{"])
def test_what_is_no_filter_is_left_to_the_cluster_to_refuse(raw: bytes) -> None:
    with pytest.raises(msgspec.DecodeError):
        SourceFilter.read(raw, {})


def test_time_grows_with_the_stars_and_no_faster() -> None:
    """A pattern of a client's must not stop the service: with a matcher that goes back this one never ends."""
    worst = SourceFilter(True, ("*" * 200 + "\x01", "*v" * 200 + "\x01"), ("*e*c" * 100 + "x",))
    assert worst.with_fields(ADDED).passes("vector")
    assert worst.without(DOCUMENT, ADDED) == {name: 1 for name in NAMES if name not in ADDED}
