"""Metrics equal what a reader computes by hand and what trec_eval says; intervals behave as intervals must."""

from __future__ import annotations

import math

import numpy as np
import pytest
import pytrec_eval
from hypothesis import given
from hypothesis import strategies as st

from reranker.evaluation import metrics
from reranker.evaluation.metrics import (
    average_precision,
    bootstrap_interval,
    dcg,
    exponential_gain,
    gains_of,
    judged,
    linear_gain,
    ndcg,
    precision,
    randomisation_test,
    recall,
    reciprocal_rank,
    relevant_of,
    split_half_share,
)

# Judged: a is best, b and c follow, d is judged irrelevant. x, y and z have no judgment.
GRADES = {"a": 3, "b": 2, "c": 1, "d": 0}
RELEVANT = relevant_of(GRADES, 1)


def test_a_perfect_order_has_ndcg_1_and_its_reverse_less() -> None:
    gains = gains_of(GRADES, linear_gain)
    assert ndcg(["a", "b", "c", "d"], gains, 10) == 1.0
    assert ndcg(["d", "c", "b", "a"], gains, 10) == pytest.approx(
        (1 / math.log2(3) + 2 / 2 + 3 / math.log2(5)) / (3 + 2 / math.log2(3) + 1 / 2)
    )


def test_dcg_discounts_by_the_logarithm_of_the_rank() -> None:
    assert dcg([1.0]) == 1.0
    assert dcg([0.0, 0.0, 1.0]) == 0.5  # rank 3: 1 / log2(4)


def test_the_ideal_is_made_of_all_judged_products_not_of_those_found() -> None:
    gains = gains_of(GRADES, linear_gain)
    assert ndcg(["c"], gains, 10) == pytest.approx(1 / (3 + 2 / math.log2(3) + 1 / 2))
    assert ndcg(["c"], gains, 1) == pytest.approx(1 / 3)


def test_the_two_gain_conventions_differ_in_what_the_best_grade_is_worth() -> None:
    assert [linear_gain(grade) for grade in (0, 1, 2, 3)] == [0, 1, 2, 3]
    assert [exponential_gain(grade) for grade in (0, 1, 2, 3)] == [0, 1, 3, 7]
    assert ndcg(["b"], gains_of(GRADES, linear_gain), 1) == pytest.approx(2 / 3)
    assert ndcg(["b"], gains_of(GRADES, exponential_gain), 1) == pytest.approx(3 / 7)


def test_unjudged_hits_gain_nothing_but_take_their_place() -> None:
    gains = gains_of(GRADES, linear_gain)
    assert ndcg(["x", "y", "a"], gains, 3) == ndcg(["d", "z", "a"], gains, 3) < ndcg(["a", "x", "y"], gains, 3)


def test_reciprocal_rank_counts_to_the_first_relevant_hit() -> None:
    assert reciprocal_rank(["x", "d", "c", "a"], RELEVANT) == 1 / 3
    assert reciprocal_rank(["x", "d", "c", "a"], relevant_of(GRADES, 3)) == 1 / 4
    assert reciprocal_rank(["x", "d"], RELEVANT) == 0


def test_recall_divides_by_all_relevant_products_and_precision_by_k() -> None:
    assert recall(["a", "x", "b"], RELEVANT, 100) == 2 / 3
    assert recall(["a", "x", "b"], RELEVANT, 1) == 1 / 3
    assert precision(["a", "x", "b"], RELEVANT, 2) == 1 / 2
    assert precision(["a"], RELEVANT, 10) == 1 / 10


def test_average_precision_averages_over_relevant_products_found_or_not() -> None:
    assert average_precision(["a", "x", "b"], RELEVANT) == pytest.approx((1 / 1 + 2 / 3) / 3)


def test_coverage_is_the_judged_share_of_the_first_hits() -> None:
    assert judged(["a", "x", "d", "y"], GRADES, 4) == 1 / 2  # d is judged, though irrelevant
    assert judged(["a"], GRADES, 10) == 1
    assert judged([], GRADES, 10) == 0


def test_without_a_relevant_product_every_metric_is_0() -> None:
    none = {"d": 0}
    assert ndcg(["d"], gains_of(none, linear_gain), 10) == 0
    assert recall(["d"], set(), 10) == average_precision(["d"], set()) == 0


ids = st.sampled_from([f"p{at}" for at in range(12)])


@given(
    ranking=st.lists(ids, unique=True, min_size=1),
    grades=st.dictionaries(ids, st.integers(0, 3), min_size=1),
    k=st.sampled_from([1, 3, 5, 10]),
)
def test_every_value_is_that_of_trec_eval(ranking: list[str], grades: dict[str, int], k: int) -> None:
    names = {f"ndcg_cut.{k}", f"recall.{k}", f"P.{k}", "recip_rank", "map"}
    scores = {product: float(len(ranking) - at) for at, product in enumerate(ranking)}
    theirs = pytrec_eval.RelevanceEvaluator({"q": grades}, names).evaluate({"q": scores})["q"]
    relevant = relevant_of(grades, 1)
    assert ndcg(ranking, gains_of(grades, linear_gain), k) == pytest.approx(theirs[f"ndcg_cut_{k}"])
    assert recall(ranking, relevant, k) == pytest.approx(theirs[f"recall_{k}"])
    assert precision(ranking, relevant, k) == pytest.approx(theirs[f"P_{k}"])
    assert reciprocal_rank(ranking, relevant) == pytest.approx(theirs["recip_rank"])
    assert average_precision(ranking, relevant) == pytest.approx(theirs["map"])


def test_a_difference_that_is_the_same_everywhere_has_an_interval_of_no_width() -> None:
    found = bootstrap_interval(np.full(20, 0.25), np.random.default_rng(1))
    assert (found.mean, found.low, found.high) == (0.25, 0.25, 0.25)


def test_the_interval_is_near_the_normal_one_for_many_queries() -> None:
    differences = np.random.default_rng(7).normal(0.1, 0.5, size=400)
    found = bootstrap_interval(differences, np.random.default_rng(1))
    half = 1.96 * differences.std() / math.sqrt(400)
    assert found.low == pytest.approx(differences.mean() - half, abs=0.005)
    assert found.high == pytest.approx(differences.mean() + half, abs=0.005)


def test_a_95_percent_interval_holds_the_truth_about_95_times_of_100() -> None:
    rng = np.random.default_rng(3)
    held = 0
    for _ in range(200):
        found = bootstrap_interval(rng.normal(0.1, 0.5, size=60), rng, resamples=500)
        held += found.low <= 0.1 <= found.high
    assert 180 <= held <= 198


def test_p_is_that_of_counting_all_signs() -> None:
    # Of the 8 sign choices only +++ and --- are as far from 0: p = 2/8.
    p = randomisation_test(np.array([0.1, 0.2, 0.3]), np.random.default_rng(1), resamples=20_000)
    assert p == pytest.approx(2 / 8, abs=0.01)


def test_p_is_1_without_a_difference_and_never_0() -> None:
    assert randomisation_test(np.zeros(5), np.random.default_rng(1)) == 1
    assert randomisation_test(np.full(200, 0.3), np.random.default_rng(1), resamples=999) == 1 / 1000


def test_the_same_seed_gives_the_same_figures() -> None:
    differences = np.array([0.1, -0.2, 0.3, 0.05])
    first = bootstrap_interval(differences, np.random.default_rng(5))
    assert first == bootstrap_interval(differences, np.random.default_rng(5))
    assert first != bootstrap_interval(differences, np.random.default_rng(6))


def test_resampling_in_parts_covers_every_resample(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "_CHUNK", 7)  # parts of two rows and a last one of a single row
    found = bootstrap_interval(np.full(3, 0.5), np.random.default_rng(1), resamples=5)
    assert (found.low, found.high) == (0.5, 0.5)
    assert randomisation_test(np.zeros(3), np.random.default_rng(1), resamples=5) == 1


def test_split_halves_count_the_halvings_won_twice() -> None:
    # Of the 3 ways to halve four queries, the 2 that part the winners win both halves.
    share = split_half_share(np.array([3.0, 3.0, -1.0, -1.0]), np.random.default_rng(1), halvings=10_000)
    assert share == pytest.approx(2 / 3, abs=0.02)


def test_a_gain_that_rests_on_one_query_wins_no_halving_and_one_on_all_wins_every() -> None:
    one = np.array([2.0, *[-0.01] * 20])
    assert one.mean() > 0
    assert split_half_share(one, np.random.default_rng(1)) == 0
    assert split_half_share(np.full(7, 0.1), np.random.default_rng(1)) == 1
    assert split_half_share(np.zeros(7), np.random.default_rng(1)) == 0


def test_one_query_cannot_be_halved() -> None:
    assert split_half_share(np.array([1.0]), np.random.default_rng(1)) is None


def test_no_query_is_refused() -> None:
    with pytest.raises(ValueError, match="one difference a query"):
        bootstrap_interval(np.array([]), np.random.default_rng(1))
