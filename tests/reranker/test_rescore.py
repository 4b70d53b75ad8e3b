from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import msgspec
import numpy as np
import pytest

from reranker.encoder import Encoder, QueryVectors
from reranker.rescore import TOKENS_FIELD, TOKENS_NAME_FIELD, Candidate, Outcome, rescore, stored_tokens
from reranker.retrieval import Hit
from reranker.scoring import CrossEncoder, Scores
from reranker.search import arrange
from reranker.text import pack_ids


def candidates(*titles: str) -> list[Candidate]:
    """Hits in first-stage order with scores 3, 2, 1 …"""
    return [Candidate(f"p{at}", float(len(titles) - at), {"title": title}) for at, title in enumerate(titles)]


def scoring(reranker: CrossEncoder, monkeypatch: pytest.MonkeyPatch, *values: float, timed_out: bool = False) -> None:
    """Force the scores, to reach faults that a good model does not show."""
    forced = Scores(np.array(values), int(np.isfinite(values).sum()), timed_out)
    monkeypatch.setattr(reranker, "score", lambda *arguments: forced)


def test_blend_one_orders_by_the_reranker_and_zero_by_the_first_stage(
    reranker: CrossEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    scoring(reranker, monkeypatch, -1.0, 0.0, 5.0)
    assert rescore("cup", candidates("a", "b", "c"), reranker, blend=1.0).order == [2, 1, 0]
    assert rescore("cup", candidates("a", "b", "c"), reranker, blend=0.0).order == [0, 1, 2]


def test_the_blend_weighs_both_scores_on_one_scale(reranker: CrossEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    scoring(reranker, monkeypatch, 0.0, 10.0, 4.0)
    outcome = rescore("cup", candidates("a", "b", "c"), reranker, blend=0.5)
    assert outcome.final == [0.5, 0.75, 0.2]
    assert outcome.order == [1, 0, 2]
    assert outcome.status == "applied"


def test_ties_keep_first_stage_order(reranker: CrossEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    scoring(reranker, monkeypatch, 1.0, 1.0, 1.0)
    assert rescore("cup", candidates("a", "b", "c"), reranker, blend=1.0).order == [0, 1, 2]


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_one_bad_score_leaves_the_whole_window_as_it_was(
    bad: float, reranker: CrossEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    scoring(reranker, monkeypatch, 1.0, bad, 3.0)
    outcome = rescore("cup", candidates("a", "b", "c"), reranker)
    assert (outcome.status, outcome.order) == ("error", [0, 1, 2])
    assert "p1" in outcome.reason
    assert outcome.final == [3.0, 2.0, 1.0]
    assert outcome.rerank == [None, None, None]


def test_a_deadline_leaves_the_whole_window_as_it_was(reranker: CrossEncoder) -> None:
    outcome = rescore("cup", candidates("a", "b"), reranker, deadline=time.monotonic() - 1)
    assert (outcome.status, outcome.order, outcome.scored) == ("timeout", [0, 1], 0)
    assert "0 of 2" in outcome.reason


def test_a_model_that_fails_leaves_the_whole_window_as_it_was(
    reranker: CrossEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*arguments):  # type: ignore[no-untyped-def]
        raise RuntimeError("out of memory")

    monkeypatch.setattr(reranker.session, "run", fails)
    outcome = rescore("cup", candidates("a", "b"), reranker)
    assert (outcome.status, outcome.order) == ("error", [0, 1])
    assert "out of memory" in outcome.reason


@pytest.mark.parametrize("query", ["", "   ", "\u3000"])
def test_an_empty_query_is_skipped(query: str, reranker: CrossEncoder) -> None:
    assert rescore(query, candidates("a"), reranker).status == "skipped"


def test_an_empty_window_is_skipped(reranker: CrossEncoder) -> None:
    outcome = rescore("cup", [], reranker)
    assert (outcome.status, outcome.order) == ("skipped", [])


def test_missing_fields_lose_no_hit(reranker: CrossEncoder) -> None:
    window = [Candidate("a", 2.0, {}), Candidate("b", 1.0, {"title": None}), Candidate("c", 0.5, {"title": "cup"})]
    outcome = rescore("cup", window, reranker)
    assert outcome.status == "applied"
    assert sorted(outcome.order) == [0, 1, 2]


def test_stored_token_ids_are_used_only_when_they_are_of_this_bundle(reranker: CrossEncoder) -> None:
    title = {"title": "steel cup"}
    fresh = reranker.product_tokens(title)
    stored = {**title, TOKENS_FIELD: pack_ids([7, 8]), TOKENS_NAME_FIELD: reranker.tokens_id}
    assert stored_tokens(stored, reranker) == [7, 8]
    assert stored_tokens({**stored, TOKENS_NAME_FIELD: "another"}, reranker) == fresh
    assert stored_tokens({**stored, TOKENS_FIELD: "broken"}, reranker) == fresh
    assert stored_tokens(title, reranker) == fresh


def test_the_tail_comes_after_the_window_in_first_stage_order() -> None:
    hits = [Hit(name, score, {}) for name, score in (("a", 9.0), ("b", 8.0), ("c", 7.0), ("d", 6.0))]
    outcome = Outcome("applied", "", 2, 2, "m", 1.0, [1, 0], [0.1, 0.9], [0.0, 1.0])
    ranked = arrange(hits, outcome)
    assert [hit.id for hit in ranked] == ["b", "a", "c", "d"]
    assert [hit.rank for hit in ranked] == [1, 2, 3, 4]
    assert [hit.first_stage_rank for hit in ranked] == [2, 1, 3, 4]
    finals = [hit.scores["final"] for hit in ranked]
    assert finals == sorted(finals, reverse=True)  # type: ignore[type-var]
    assert ranked[2].scores["rerank"] is None


class Near(QueryVectors):
    """Reads the cosine from the product."""

    def cosine(self, product: Mapping[str, Any]) -> float | None:
        return product.get("cosine")


def test_cosines_decide_only_where_every_hit_has_one(reranker: CrossEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    card = msgspec.structs.replace(
        reranker.bundle.description, weights={"first_stage": 1.0}, vector_weights={"vector": 1.0}
    )
    monkeypatch.setattr(reranker, "bundle", msgspec.structs.replace(reranker.bundle, description=card))
    scoring(reranker, monkeypatch, 0.0, 0.0)
    near, window = Near("cup", []), [Candidate("a", 2.0, {"cosine": 0.1}), Candidate("b", 1.0, {"cosine": 0.2})]
    found = rescore("cup", window, reranker, vectors=near)
    assert (found.order, found.cosines) == ([1, 0], [0.1, 0.2])
    assert rescore("cup", window, reranker).order == [0, 1]
    assert rescore("cup", window, reranker, blend=0.0, vectors=near).order == [0, 1]
    window[0].fields = {}
    assert rescore("cup", window, reranker, vectors=near).order == [0, 1]


def test_an_encoder_that_fails_leaves_the_whole_window_as_it_was(reranker: CrossEncoder) -> None:
    class Failing(Near):
        def cosine(self, product: Mapping[str, Any]) -> float | None:
            raise RuntimeError("no such graph")

    found = rescore("cup", candidates("a", "b"), reranker, vectors=Failing("cup", []))
    assert (found.status, found.order) == ("error", [0, 1])
    assert "no such graph" in found.reason


def test_a_cosine_is_of_the_first_encoder_that_made_a_vector_of_the_product(encoder: Encoder) -> None:
    [vector] = encoder.embed_products([{"title": "steel cup"}])
    [query] = encoder.embed_queries(["cup"])
    expected = pytest.approx(float(vector.astype(float) @ query.astype(float)), abs=1e-6)
    stored = {"vector": vector.tolist(), "vector_bundle": encoder.bundle_id}
    second = {
        "vector": [0.5],
        "vector_bundle": "another",
        "vector_b": stored["vector"],
        "vector_b_bundle": encoder.bundle_id,
    }
    near = QueryVectors("cup", [encoder])
    assert near.cosine(stored) == expected
    assert near.cosine(second) == expected
    assert near.cosine({}) is None
    assert near.cosine({"vector_bundle": encoder.bundle_id}) is None
    assert near.cosine({**stored, "vector_bundle": "another"}) is None
    assert near.cosine({**stored, "vector": [0.5]}) is None
    assert QueryVectors("cup", []).cosine(stored) is None
