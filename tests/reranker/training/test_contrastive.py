"""Fine-tuning an encoder: what is drawn, what counts as right, and a query that moves to its product."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from indexer.errors import InputError
from reranker.training.contrastive import Options, Texts, batch_targets, contrastive_loss, draw, embed
from reranker.training.contrastive import finetune_encoder as run
from reranker.training.mining import Judged
from reranker.training.recipes import ENCODER

PRODUCTS = {
    "cup": {"title": "steel cup"},
    "lid": {"title": "lid for a cup"},
    "lamp": {"title": "desk lamp"},
    "杯": {"title": "不锈钢保温杯"},
}
JUDGED = [
    Judged("cup", {"cup": 1.0, "lid": 0.01}),
    Judged("lamp", {"lamp": 1.0, "cup": 0.0}),
    Judged("保温杯", {"杯": 1.0, "cup": 0.1}),
]


def test_each_query_is_drawn_once_a_round_with_one_of_its_best_first() -> None:
    steps = draw(JUDGED, Options(rounds=3, queries=2, products=2))
    rows = [row for step in steps for row in step]
    assert sorted(each.query for each, _ in rows) == sorted(each.query for each in JUDGED * 3)
    assert all(each.gains[chosen[0]] == 1.0 for each, chosen in rows)
    assert all(len(set(chosen)) == len(chosen) == 2 for _, chosen in rows)
    assert steps == draw(JUDGED, Options(rounds=3, queries=2, products=2))


def test_a_product_that_another_query_brought_keeps_its_own_judgment() -> None:
    targets = batch_targets(JUDGED, ["cup", "lamp", "杯"])
    np.testing.assert_allclose(targets, [[1, 0, 0], [0, 1, 0], [0.1 / 1.1, 0, 1 / 1.1]], atol=1e-6)


def test_the_loss_falls_as_a_query_nears_its_product() -> None:
    products = functional.normalize(torch.eye(3), dim=1)
    near, far = products[:1], products[1:2]
    targets = torch.tensor([[1.0, 0.0, 0.0]])
    assert contrastive_loss(near, products, targets, 0.05) < contrastive_loss(far, products, targets, 0.05)


def test_training_brings_queries_to_their_products(tiny: Path, tmp_path: Path) -> None:
    from transformers import AutoModel

    options = Options(rounds=40, queries=3, products=2, learning_rate=3e-3)
    folder = run(tiny, JUDGED, PRODUCTS, ENCODER, tmp_path / "model", options)
    texts = Texts(folder, PRODUCTS, ENCODER)
    model = AutoModel.from_pretrained(str(folder)).eval()
    cpu = torch.device("cpu")
    with torch.no_grad():
        asked = embed(model, [texts.query(each.query) for each in JUDGED], texts.layout.pad, cpu)
        found = embed(model, [texts.product(key) for key in PRODUCTS], texts.layout.pad, cpu)
    nearest = [list(PRODUCTS)[at] for at in (asked @ found.T).argmax(1).tolist()]
    assert nearest == ["cup", "lamp", "杯"]
    assert not (folder / "checkpoint.safetensors").exists()


def test_judgments_without_a_gain_are_told(tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nothing for the encoder to learn"):
        run(tiny, [Judged("cup", {"lid": 0.0})], PRODUCTS, ENCODER, tmp_path, Options())
