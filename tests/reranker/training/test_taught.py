"""What teachers make of pairs: each pair of theirs, whatever is stopped, and nothing of another run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from indexer.settings import Models
from reranker import bundle as bundles
from reranker.scoring import CrossEncoder, Scores
from reranker.training import finetune, taught

PRODUCTS = {f"shop/{number}": {"title": title} for number, title in enumerate(("steel bottle", "保温杯", "desk lamp"))}
LISTS = [
    [("bottle", "shop/0", 1.0), ("bottle", "shop/1", 0.0), ("bottle", "shop/2", 0.0)],
    [("台灯", "shop/2", 0.0), ("台灯", "shop/0", 0.0)],
]


@pytest.fixture(scope="module")
def teacher() -> CrossEncoder:
    return CrossEncoder(bundles.load("", "reranker"), Models())


def test_the_targets_are_what_the_teacher_says(teacher: CrossEncoder, tmp_path: Path) -> None:
    made = taught.taught(LISTS, [teacher], PRODUCTS, tmp_path / "taught.npz")
    assert [[(query, name) for query, name, _ in part] for part in made] == [
        [(query, name) for query, name, _ in part] for part in LISTS
    ]
    for part in made:
        alone = [teacher.score(query, [teacher.product_tokens(PRODUCTS[name])]).values[0] for query, name, _ in part]
        assert [target for _, _, target in part] == pytest.approx(alone, abs=2e-5)


def test_of_several_teachers_it_is_the_mean(teacher: CrossEncoder, tmp_path: Path) -> None:
    one = taught.taught(LISTS, [teacher], PRODUCTS, tmp_path / "one.npz")
    two = taught.taught(LISTS, [teacher, teacher], PRODUCTS, tmp_path / "two.npz")
    assert one == two


def test_a_stopped_run_goes_on_and_another_begins_anew(
    teacher: CrossEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = tmp_path / "taught.npz"
    whole = taught.taught(LISTS, [teacher], PRODUCTS, kept)
    asked: list[str] = []
    score = teacher.score

    def counted(query: str, products: list[list[int]]) -> Scores:
        asked.append(query)
        return score(query, products)

    monkeypatch.setattr(teacher, "score", counted)
    assert taught.taught(LISTS, [teacher], PRODUCTS, kept) == whole
    assert asked == []
    kept.write_bytes(kept.read_bytes()[:100])
    assert taught.taught(LISTS, [teacher], PRODUCTS, kept) == whole
    assert asked == ["bottle", "台灯"]
    taught.taught(LISTS[::-1], [teacher], PRODUCTS, kept)
    assert len(asked) == 4


def test_a_query_without_judgments_has_its_best_hits_and_some_others() -> None:
    catalog = [str(number) for number in range(100)]
    hits = catalog[:40]
    first, again = (taught.unjudged_groups(["a", "b"], catalog, lambda query: hits, 12, 5) for _ in range(2))
    assert first == again
    for group in first:
        assert group.products[:4] == tuple(hits[:4])
        assert len(set(group.products)) == 12
        assert group.judged == 0
    drawn = finetune.draw_lists(first, finetune.Options(list_size=12))
    assert sorted(len(part) for part in drawn) == [12, 12]
    nothing = taught.unjudged_groups(["a"], catalog[:3], lambda query: [], 12, 5)
    assert 1 <= len(nothing[0].products) <= 3


def test_layers_are_the_first_ones_or_spread_from_first_to_last(tiny: Path) -> None:
    whole = finetune.load_base(tiny, 0, 1)
    for spread, kept in ((False, 0), (True, 0)):
        cut = finetune.load_base(tiny, 1, 1, spread)
        ours = cut.base_model.encoder.layer[0].output.dense.weight  # type: ignore[union-attr,index]
        theirs = whole.base_model.encoder.layer[kept].output.dense.weight  # type: ignore[union-attr,index]
        assert np.array_equal(ours.detach().numpy(), theirs.detach().numpy())
