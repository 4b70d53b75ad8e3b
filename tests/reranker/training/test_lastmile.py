"""Weights of the last mile: fitted on what was judged, the same each time, and honest about queries left out."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np
import pytest

from reranker.blend import COLUMNS
from reranker.training.lastmile import Window, fit, held_out_values, refit, values


def window(seed: int, told_by: str = "rerank", judged: int = 8) -> Window:
    """Eight candidates whose best one is told by one column alone, beside noise."""
    rng = np.random.default_rng(seed)
    features = rng.random((8, len(COLUMNS)))
    column = features[:, COLUMNS.index(told_by)]
    best = int(np.argmax(column))
    gains = {f"p{at}": float(at == best) for at in range(judged)}
    return Window(tuple(f"p{at}" for at in range(8)), features, gains)


@pytest.mark.parametrize("column", ["first_stage", "rerank", "brand"])
def test_the_column_that_tells_gets_the_weight(column: str) -> None:
    weights = fit([window(seed, column) for seed in range(60)])
    assert max(weights, key=lambda name: weights[name]) == column


def test_a_column_that_speaks_against_a_product_gets_a_negative_weight() -> None:
    made = [window(seed) for seed in range(60)]
    for each in made:
        each.features[:, COLUMNS.index("excluded")] = 1 - each.features[:, COLUMNS.index("rerank")]
    assert fit(made)["excluded"] < 0


def test_the_same_windows_give_the_same_weights_in_any_order() -> None:
    made = [window(seed) for seed in range(20)]
    ahead, back = fit(made), fit(made[::-1])
    assert fit(made) == ahead
    assert [*ahead.values()] == pytest.approx([*back.values()], abs=1e-4)


def test_what_nobody_judged_says_nothing() -> None:
    """Candidates behind the judged ones may hold anything."""
    some = [window(seed, judged=5) for seed in range(30)]
    other = [Window(each.ids, each.features.copy(), each.gains) for each in some]
    for each in other:
        each.features[5:] = 0.0
    assert fit(some) == fit(other)


def test_only_the_columns_that_are_asked_for_get_a_weight() -> None:
    weights = fit([window(seed) for seed in range(20)], columns=("rerank", "first_stage"))
    assert set(weights) == {"rerank", "first_stage"}
    assert weights["rerank"] > weights["first_stage"]


def test_windows_without_a_gain_fit_nothing() -> None:
    assert fit([]) == {}
    assert fit([Window(("a", "b"), np.zeros((2, len(COLUMNS))), {"a": 0.0, "b": 0.0})]) == {}


def test_held_out_values_come_from_weights_that_never_saw_the_query() -> None:
    """Labels at random: fitting them looks good on themselves and no better than chance on others."""
    rng = np.random.default_rng(5)
    made = []
    for _ in range(40):
        features = rng.random((8, len(COLUMNS)))
        gains = {f"p{at}": float(at == rng.integers(8)) for at in range(8)}
        made.append(Window(tuple(f"p{at}" for at in range(8)), features, gains | {"p0": 1.0}))
    flattered, honest = values(made, fit(made, ridge=1e-6)).mean(), held_out_values(made).mean()
    assert honest < flattered


def test_a_refit_leaves_weights_that_are_right_and_mends_those_that_are_wrong() -> None:
    made = [window(seed) for seed in range(40)]
    right = fit(made)
    wrong = {"brand": 8.0}
    mended = refit(made, wrong)
    unseen = [window(seed) for seed in range(100, 140)]
    assert values(unseen, mended).mean() > values(unseen, wrong).mean() + 0.2
    assert values(unseen, refit(made, right)).mean() >= values(unseen, right).mean() - 0.01


def test_a_refit_on_noise_or_on_a_handful_keeps_what_it_started_from() -> None:
    start = {"rerank": 3.0}
    assert refit([window(seed, "brand") for seed in range(9)], start) == start
    rng = np.random.default_rng(1)
    noise = [
        Window(each.ids, each.features, {key: float(rng.random() < 0.3) for key in each.ids})
        for each in map(window, range(30))
    ]
    kept = refit(noise, {"rerank": 0.1})
    assert max(abs(value) for value in kept.values()) < 1.0


def test_a_refit_pulls_less_the_more_it_is_told_to_hold_on() -> None:
    made = [window(seed) for seed in range(30)]
    start = dict.fromkeys(COLUMNS, 0.0)
    moved = [fit(made, ridge, start=start)["rerank"] for ridge in (0.01, 1.0, 100.0)]
    assert moved == sorted(moved, reverse=True)
    assert moved[2] < 0.5


def test_held_on_to_firmly_the_weights_stay_where_they_started() -> None:
    held = fit([window(seed) for seed in range(30)], 1e6, start={"brand": 2.0, "rerank": -1.0})
    assert (held["brand"], held["rerank"]) == pytest.approx((2.0, -1.0), abs=1e-3)
    assert held["title_match"] == pytest.approx(0.0, abs=1e-3)


def test_windows_of_one_query_are_held_out_together() -> None:
    made = [msgspec.structs.replace(window(seed), query=f"q{seed}") for seed in range(12)]
    names = {each.query for each in made}
    left_out: list[set[str]] = []

    def fitted(others: Sequence[Window]) -> dict[str, float]:
        left_out.append(names - {each.query for each in others})
        return {"rerank": 1.0}

    assert len(held_out_values([*made, *made], fitted=fitted)) == 24
    assert sorted(map(len, left_out)) == [2, 2, 2, 3, 3]
    assert set.union(*left_out) == names
