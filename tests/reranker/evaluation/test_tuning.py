"""Tuning by folds: every query measured once, with what the others chose."""

from __future__ import annotations

import numpy as np
import pytest

from indexer.errors import UsageError
from reranker.evaluation.tuning import CHOICES, FIELDS, Choice, Lists, best, make_folds, ranking


def test_folds_hold_every_query_once_and_are_seeded() -> None:
    folds = make_folds(23, 5, seed=3)
    assert sorted(np.concatenate(folds).tolist()) == list(range(23))
    assert {len(fold) for fold in folds} == {4, 5}
    assert all((a == b).all() for a, b in zip(folds, make_folds(23, 5, seed=3), strict=True))


@pytest.mark.parametrize("folds", [0, 1, 6])
def test_impossible_folds_are_told(folds: int) -> None:
    with pytest.raises(UsageError, match="--folds"):
        make_folds(5, folds, seed=0)


def test_the_choice_of_a_fold_never_sees_its_own_queries() -> None:
    """The last choice is perfect on query 0 alone, the first one on all others."""
    values = np.zeros((len(CHOICES), 4))
    values[0, 1:] = 1.0
    values[len(FIELDS) - 1, 0] = 1.0
    assert best(values, np.array([1, 2, 3]), [""]) == CHOICES[0]
    assert best(values, np.array([0]), [""]) == CHOICES[len(FIELDS) - 1]


def test_only_choices_of_the_kind_are_considered() -> None:
    values = np.ones((len(CHOICES), 2))
    assert best(values, np.array([0, 1]), ["rrf"]).fusion == "rrf"
    assert best(values, np.array([0, 1]), ["min_max", "rrf"]).fusion == "min_max"


def test_lists_are_fused_as_chosen_and_equal_scores_go_by_id() -> None:
    lists = Lists({FIELDS[0]: {"b": 2.0, "a": 2.0, "c": 1.0}}, {"c": 0.9, "a": 0.5})
    assert list(ranking(lists, Choice(FIELDS[0]))) == ["a", "b", "c"]
    assert next(iter(ranking(lists, Choice(FIELDS[0], "min_max", vector_weight=0.8)))) == "c"
    assert set(ranking(lists, Choice(FIELDS[0], "rrf", rank_constant=60))) == {"a", "b", "c"}
