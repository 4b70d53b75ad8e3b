"""A score or a vector out of the cache is the one that the model would make, and nothing else."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from indexer.settings import Models
from reranker.cache import Cache, digest
from reranker.encoder import Encoder
from reranker.scoring import CrossEncoder

TITLES = ("steel bottle 500 ml", "保温杯 大容量", "lid for a bottle", "cup", "wireless keyboard with quiet keys", "")
QUERY = "bottle without straw"
rows = st.lists(st.lists(st.integers(0, 300_000), max_size=4), max_size=4)


@pytest.fixture
def looks() -> list[tuple[int, int]]:
    return []


@pytest.fixture
def remembering(reranker: CrossEncoder, looks: list[tuple[int, int]]) -> Iterator[CrossEncoder]:
    reranker.cache = Cache(100, lambda hits, misses: looks.append((hits, misses)))
    yield reranker
    reranker.cache = None


@pytest.fixture
def forward(remembering: CrossEncoder, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of pairs in each forward pass."""
    whole, passes = remembering.session.run, list[int]()

    def counted(ids: Any, *rest: Any) -> Any:
        passes.append(len(ids))
        return whole(ids, *rest)

    monkeypatch.setattr(remembering.session, "run", counted)
    return passes


@given(first=rows, second=rows)
def test_only_the_same_rows_have_the_same_digest(first: list[list[int]], second: list[list[int]]) -> None:
    assert (digest(*first) == digest(*second)) == (first == second)


def test_what_was_used_least_goes_first() -> None:
    cache: Cache[int] = Cache(2)
    cache.keep([(b"a", 1), (b"b", 2)])
    assert cache.find([b"a"]) == [1]
    cache.keep([(b"c", 3)])
    assert cache.find([b"a", b"b", b"c"]) == [1, None, 3]


def test_a_window_that_was_scored_is_not_scored_again(
    remembering: CrossEncoder, forward: list[int], looks: list[tuple[int, int]]
) -> None:
    products = [remembering.product_tokens({"title": title}) for title in TITLES]
    first = remembering.score(QUERY, products)
    count = sum(forward)
    assert count == len(TITLES)
    # Another order and one more product: only that one is scored.
    other = remembering.product_tokens({"title": "Bottle"})
    again = remembering.score(QUERY, [other, *reversed(products)])
    assert again.values[1:].tolist() == first.values[::-1].tolist()
    assert (sum(forward), again.scored, again.timed_out) == (count + 1, len(TITLES) + 1, False)
    assert looks == [(0, len(TITLES)), (len(TITLES), 1)]
    # Another query, or the same text cut elsewhere, is another pair.
    remembering.score("bottle", products)
    assert sum(forward) == 2 * count + 1
    # What takes a pair apart asks for many that never come again.
    remembering.score_pairs([([5, 6], [7])])
    assert sum(forward) == 2 * count + 2
    assert len(looks) == 3


def test_what_was_scored_before_a_deadline_is_not_lost(remembering: CrossEncoder, forward: list[int]) -> None:
    products = [remembering.product_tokens({"title": f"steel bottle number {number} " * 6}) for number in range(30)]
    deadline = time.monotonic() + 2
    # The first batch takes until then.
    remembering.on_batch = lambda tokens: time.sleep(max(0.0, deadline - time.monotonic()))
    try:
        cut = remembering.score(QUERY, products, deadline)
    finally:
        remembering.on_batch = lambda tokens: None
    assert cut.timed_out
    assert 0 < cut.scored < len(products)
    whole = remembering.score(QUERY, products)
    assert sum(forward) == whole.scored == len(products)
    # A deadline that is over is over, whatever is at hand.
    late = remembering.score(QUERY, products, time.monotonic() - 1)
    assert (late.timed_out, late.scored) == (True, 0)


def test_a_fault_of_the_model_is_not_kept(remembering: CrossEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    products = [remembering.product_tokens({"title": title}) for title in TITLES]
    with monkeypatch.context() as patch:
        patch.setattr(remembering.session, "run", lambda ids, *_: np.full((len(ids), 1), np.nan, np.float32))
        assert np.isnan(remembering.score(QUERY, products).values).all()
    assert np.isfinite(remembering.score(QUERY, products).values).all()


def test_threads_share_a_cache(remembering: CrossEncoder) -> None:
    remembering.cache = Cache(3)  # less than a window
    products = [remembering.product_tokens({"title": title}) for title in TITLES]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: remembering.score(QUERY, products).values, range(12)))
    for values in found:
        np.testing.assert_allclose(values, found[0], atol=1e-4)


def test_the_vectors_of_queries(looks: list[tuple[int, int]], encoder: Encoder) -> None:
    own = Encoder.load(Models())
    own.cache = Cache(100, lambda hits, misses: looks.append((hits, misses)))
    first = own.embed_queries(["steel bottle", "保温杯"])
    np.testing.assert_allclose(first, encoder.embed_queries(["steel bottle", "保温杯"]), atol=1e-6)
    first[:] = 0  # whoever gets vectors may change them
    asked = ["保温杯", "cup", "steel bottle", "保温杯"]
    np.testing.assert_allclose(own.embed_queries(asked), encoder.embed_queries(asked), atol=1e-6)
    assert own.embed_queries([]).shape == (0, own.dimension)
    assert looks == [(0, 2), (3, 1), (0, 0)]
