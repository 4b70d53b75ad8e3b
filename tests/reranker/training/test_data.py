from __future__ import annotations

import numpy as np
import pytest

from indexer.errors import UsageError
from reranker.training.command import make_splits
from reranker.training.data import Group, Options, judged_groups
from reranker.training.finetune import Options as TuneOptions
from reranker.training.finetune import draw_lists

CATALOG = [f"p{at}" for at in range(50)]


def test_a_judged_query_gets_unjudged_hits_and_random_products_as_negatives() -> None:
    options = Options(first_stage_negatives=2, random_negatives=3)
    (group,) = judged_groups(
        {"q": "cup"}, {"q": {"p1": 1.0, "p2": 0.1}}, CATALOG, lambda _: ["p1", "p7", "p8", "p9"], options
    )
    assert group.products[:4] == ("p1", "p2", "p7", "p8")
    assert group.targets[:2] == (1.0, 0.1)
    assert set(group.targets[2:]) == {0.0}
    assert group.judged == 2
    assert len(group.products) == len(set(group.products)) > 4


def test_a_query_whose_products_are_not_in_the_shop_is_left_out() -> None:
    assert judged_groups({"q": "cup"}, {"q": {"gone": 1.0}}, CATALOG, lambda _: [], Options()) == []


def test_every_list_has_one_of_the_best_products_and_its_size() -> None:
    group = Group("cup", tuple(CATALOG[:20]), (0.1, 1.0, 1.0, *[0.0] * 17), judged=5)
    lists = draw_lists([group], TuneOptions(judged_rounds=30, list_size=8))
    assert len(lists) == 30
    assert all(len(part) == 8 for part in lists)
    assert all(max(target for _, _, target in part) == 1.0 for part in lists)
    assert lists == draw_lists([group], TuneOptions(judged_rounds=30, list_size=8))


def test_splits_are_by_query_and_seeded() -> None:
    names = make_splits([f"q{at}" for at in range(100)], 0.15, 0.25, seed=1)
    values, counts = np.unique(list(names.values()), return_counts=True)
    assert dict(zip(values.tolist(), counts.tolist(), strict=True)) == {"dev": 15, "test": 25, "train": 60}
    assert names == make_splits([f"q{at}" for at in range(100)], 0.15, 0.25, seed=1)
    with pytest.raises(UsageError, match="nothing to train on"):
        make_splits(["q"], 0.5, 0.5, seed=1)
