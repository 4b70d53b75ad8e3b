from __future__ import annotations

import pytest

from reranker.fusion import min_max, reciprocal_rank


def test_min_max_is_the_weighted_mean_of_normalised_scores() -> None:
    fused = min_max([{"a": 10.0, "b": 6.0, "c": 2.0}, {"b": 0.9, "d": 0.5}], [0.25, 0.75])
    assert fused == pytest.approx({"a": 0.25, "b": 0.125 + 0.75, "c": 0.00025, "d": 0.00075})


def test_a_single_hit_and_a_list_of_equal_scores_count_fully() -> None:
    assert min_max([{"a": 3.0}, {"b": 1.0, "c": 1.0}], [0.5, 0.5]) == {"a": 0.5, "b": 0.5, "c": 0.5}


def test_an_empty_list_takes_no_part_but_keeps_its_weight() -> None:
    assert min_max([{}, {"a": 2.0}], [0.4, 0.6]) == {"a": 0.6}


def test_reciprocal_rank_adds_up_over_lists() -> None:
    fused = reciprocal_rank([["a", "b"], ["b"]], rank_constant=60)
    assert fused == pytest.approx({"a": 1 / 61, "b": 1 / 62 + 1 / 61})
