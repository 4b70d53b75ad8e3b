from __future__ import annotations

import time
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reranker.bundle import Layout
from reranker.encoder import Encoder
from reranker.scoring import CrossEncoder, pair

TITLES = (
    "Insulated steel bottle 500 ml, navy",
    "保温杯 316不锈钢 大容量 750ml 商务 黑色",
    "Replacement straw lid for insulated bottle",
    "cup",
    "Wireless keyboard with quiet keys, compact layout for small desks, 2.4 GHz receiver and USB-C charging",
    "无线键盘",
    "",
)
# What float32 leaves between batch shapes; a whole rank is far larger.
TOLERANCE = 1e-4


def tokens(reranker: CrossEncoder) -> list[list[int]]:
    return [reranker.product_tokens({"title": title}) for title in TITLES]


def test_a_pair_is_laid_out_as_the_tokenizer_does_it(reranker: CrossEncoder) -> None:
    tokenizer, layout = reranker.bundle.tokenizer(), reranker.bundle.description.layout
    expected = tokenizer.encode("red cup", "steel cup")
    query = tokenizer.encode("red cup", add_special_tokens=False).ids
    product = tokenizer.encode("steel cup", add_special_tokens=False).ids
    found, types = pair(query, product, layout, max_tokens=64)
    assert found == expected.ids
    assert types == expected.type_ids


def test_a_long_product_is_cut_and_the_query_never() -> None:
    layout = Layout(begin=(0,), between=(2, 2), end=(2,), pad=1, typed=True)
    ids, types = pair([5, 6], list(range(10, 100)), layout, max_tokens=10)
    assert ids == [0, 5, 6, 2, 2, 10, 11, 12, 13, 2]
    assert types == [0, 0, 0, 0, 0, 1, 1, 1, 1, 1]


@settings(max_examples=15)
@given(order=st.permutations(range(len(TITLES))))
def test_the_order_of_candidates_changes_no_score(order: list[int], reranker: CrossEncoder) -> None:
    products = tokens(reranker)
    expected = reranker.score("保温杯 bottle", products).values
    found = reranker.score("保温杯 bottle", [products[at] for at in order]).values
    assert found.tolist() == expected[order].tolist()


@settings(max_examples=15)
@given(chosen=st.lists(st.integers(0, len(TITLES) - 1), min_size=1, max_size=12))
def test_neighbours_in_a_batch_change_no_score(chosen: list[int], reranker: CrossEncoder) -> None:
    products = tokens(reranker)
    alone = np.array([reranker.score("quiet keyboard", [product]).values[0] for product in products])
    together = reranker.score("quiet keyboard", [products[at] for at in chosen]).values
    np.testing.assert_allclose(together, alone[chosen], atol=TOLERANCE)


def test_the_same_input_gives_the_same_output(reranker: CrossEncoder) -> None:
    products = tokens(reranker)
    again = CrossEncoder.load().score("quiet keyboard", products).values
    assert reranker.score("quiet keyboard", products).values.tolist() == again.tolist()


def test_a_deadline_that_has_passed_scores_nothing(reranker: CrossEncoder) -> None:
    scores = reranker.score("cup", tokens(reranker), deadline=time.monotonic() - 1)
    assert scores.timed_out
    assert scores.scored == 0
    assert np.isnan(scores.values).all()


def test_a_deadline_is_looked_at_between_micro_batches(reranker: CrossEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = []
    real = reranker.session.run

    def counted(*arguments):  # type: ignore[no-untyped-def]
        runs.append(1)
        return real(*arguments)

    monkeypatch.setattr(reranker.session, "run", counted)
    readings = iter([0.0, 0.0, 10.0, 10.0, 10.0])
    monkeypatch.setattr("reranker.pace.time", SimpleNamespace(monotonic=lambda: next(readings)))
    scores = reranker.score("cup", tokens(reranker) * 40, deadline=5.0)
    assert len(runs) == 2
    assert scores.timed_out
    assert 0 < scores.scored < len(TITLES) * 40


def test_nothing_to_score_is_no_error(reranker: CrossEncoder) -> None:
    scores = reranker.score("cup", [])
    assert scores.values.shape == (0,)
    assert not scores.timed_out


@pytest.mark.parametrize("query", ["", "杯", "x" * 10_000, "保温杯 " * 2_500, "\x00\u200b🙂"])
def test_any_query_gets_finite_scores(query: str, reranker: CrossEncoder) -> None:
    assert np.isfinite(reranker.score(query, tokens(reranker)).values).all()


def test_vectors_have_length_one_and_do_not_depend_on_neighbours(encoder: Encoder) -> None:
    products = [{"title": title} for title in TITLES]
    together = encoder.embed_products(products)
    assert together.shape == (len(TITLES), encoder.dimension)
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1, atol=1e-5)
    alone = np.concatenate([encoder.embed_products([product]) for product in products])
    np.testing.assert_allclose(together, alone, atol=1e-5)


def test_vectors_bring_a_query_near_to_its_product_in_both_languages(encoder: Encoder) -> None:
    products = encoder.embed_products([{"title": TITLES[1]}, {"title": TITLES[4]}])
    queries = encoder.embed_queries(["适合爸爸的水杯", "silent keyboard"])
    assert (queries @ products.T).argmax(axis=1).tolist() == [0, 1]


def test_embedding_nothing_gives_an_empty_array(encoder: Encoder) -> None:
    assert encoder.embed_queries([]).shape == (0, encoder.dimension)
