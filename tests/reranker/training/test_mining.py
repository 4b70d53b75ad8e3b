"""Hard negatives of an encoder: near, unjudged, and not so near that they may be right."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from reranker.training import contrastive
from reranker.training.contrastive import Options, finetune_encoder
from reranker.training.mining import Judged, mined, pool
from reranker.training.recipes import ENCODER

KEYS = ["cup", "twin", "near", "far", "wrong"]
FOUND = np.array([[1.0, 0.0], [0.995, 0.0999], [0.9, 0.436], [0.0, 1.0], [0.8, 0.6]], np.float32)
QUERY = np.array([[1.0, 0.0]], np.float32)


def negatives(each: Judged, count: int = 5, margin: float = 0.05) -> list[str]:
    (found,) = mined([each], KEYS, QUERY, FOUND, count, margin)
    assert found.query == each.query
    assert all(found.gains[key] == gain for key, gain in each.gains.items())
    new = [key for key in found.gains if key not in each.gains]
    assert all(found.gains[key] == 0.0 for key in new)
    return new


def test_negatives_are_the_nearest_that_nobody_judged_and_are_not_as_near_as_the_answer() -> None:
    asked = Judged("cup", {"cup": 1.0, "wrong": 0.0})
    assert negatives(asked) == ["near", "far"]
    assert negatives(asked, count=1) == ["near"]
    assert negatives(asked, margin=0.0) == ["twin", "near", "far"]
    assert negatives(asked, margin=0.2) == ["far"]


def test_the_margin_is_of_the_nearest_of_the_best_products() -> None:
    assert negatives(Judged("cup", {"near": 1.0, "far": 1.0, "cup": 0.1})) == ["wrong"]


@pytest.mark.parametrize("gains", [{}, {"cup": 0.0}])
def test_a_query_without_an_answer_gets_none(gains: dict[str, float]) -> None:
    assert negatives(Judged("cup", gains)) == []


def test_all_judged_products_are_looked_through_and_others_up_to_a_number() -> None:
    judged = [Judged("a", {"p3": 1.0, "p1": 0.0}), Judged("b", {"p3": 0.1})]
    catalogue = [f"p{at}" for at in range(50)]
    some = pool(judged, catalogue, 10, np.random.default_rng(13))
    assert len(set(some)) == len(some) == 10
    assert {"p1", "p3"} <= set(some) <= set(catalogue)
    assert some == pool(judged, catalogue[::-1], 10, np.random.default_rng(13))
    assert pool(judged, catalogue, 1, np.random.default_rng(13)) == ["p1", "p3"]
    assert pool(judged, catalogue, 99, np.random.default_rng(13)) == sorted(catalogue)


def test_a_stopped_run_mines_once(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("steel cup", "red cup", "lid for a cup", "desk lamp", "lamp shade", "不锈钢保温杯", "蓝色保温杯")
    products = {f"shop/{at}": {"title": name} for at, name in enumerate(names)}
    judged = [Judged("cup", {"shop/0": 1.0}), Judged("lamp", {"shop/3": 1.0}), Judged("保温杯", {"shop/5": 1.0})]
    options = Options(rounds=20, queries=3, products=3, learning_rate=3e-3, mined_negatives=3, mined_margin=0.0)
    monkeypatch.setattr(contrastive.finetune, "CHECKPOINT_STEPS", 5)
    read: list[tuple[int, int]] = []

    def stopped(step: int, steps: int, loss: float) -> None:
        assert steps == 20
        if step == 7:
            raise KeyboardInterrupt

    def run(on_step: contrastive.OnStep) -> None:
        finetune_encoder(
            tiny, judged, products, ENCODER, tmp_path, options, on_step, lambda done, texts: read.append((done, texts))
        )

    with pytest.raises(KeyboardInterrupt):
        run(stopped)
    assert read == [(10, 10)]
    seen: list[int] = []
    run(lambda step, _, __: seen.append(step))
    assert seen[0] == 6
    assert read == [(10, 10)]
    assert not list(tmp_path.glob("checkpoint*"))


def test_mined_negatives_stand_in_the_batch_and_count_as_wrong(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With one query in a step, all that it is told apart from is what was mined."""
    products = {"shop/cup": {"title": "steel cup"}, "shop/lid": {"title": "lid for a cup"}}
    targets: list[list[list[float]]] = []
    found = contrastive.contrastive_loss

    def watched(asked: object, near: object, wanted: object, temperature: float) -> object:
        targets.append(wanted.tolist())  # type: ignore[attr-defined]
        return found(asked, near, wanted, temperature)  # type: ignore[arg-type]

    monkeypatch.setattr(contrastive, "contrastive_loss", watched)
    judged = [Judged("cup", {"shop/cup": 1.0})]
    for negatives in (0, 1):
        options = Options(queries=1, products=2, mined_negatives=negatives, mined_margin=-1.0)
        finetune_encoder(tiny, judged, products, ENCODER, tmp_path / str(negatives), options)
    assert targets == [[[1.0]], [[1.0, 0.0]]]
