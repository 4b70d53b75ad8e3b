"""A training run is what its base, data and seed say: the same again, and never the continuation of another."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModel

from reranker.training import checkpoint, finetune


@pytest.fixture(scope="module")
def headless(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base as one fetches it: without the output of a cross-encoder."""
    folder = tmp_path_factory.mktemp("headless")
    AutoModel.from_pretrained(str(tiny)).save_pretrained(folder)
    return folder


def test_the_output_that_a_base_lacks_is_drawn_with_the_seed(headless: Path) -> None:
    first, again, other = (checkpoint.fingerprint(finetune.load_base(headless, 1, seed)) for seed in (13, 13, 14))
    assert first == again != other


def descended(start: float, folder: Path, key: str = "run", stop: int = 0, steps: int = 10) -> list[int]:
    """The steps that a run takes, until one of them."""
    model = nn.Linear(1, 1)
    nn.init.constant_(model.weight, start)
    nn.init.zeros_(model.bias)
    seen: list[int] = []

    def loss_of(step: int) -> Tensor:
        if step + 1 == stop:
            raise KeyboardInterrupt
        loss: Tensor = model(torch.ones(1)).square().mean()
        return loss

    def on_step(step: int, steps: int, loss: float) -> None:
        seen.append(step)

    try:
        finetune.descend(model, steps, loss_of, finetune.Options(), key, folder, on_step)
    except KeyboardInterrupt:
        assert stop
    return seen


@pytest.mark.parametrize(
    ("start", "key", "first"), [(1.0, "run", 5), (2.0, "run", 1), (1.0, "another", 1)], ids=["same", "base", "data"]
)
def test_only_the_same_run_goes_on(
    start: float, key: str, first: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(finetune, "CHECKPOINT_STEPS", 2)
    assert descended(1.0, tmp_path, stop=6) == [1, 2, 3, 4, 5]
    assert descended(start, tmp_path, key)[0] == first


def test_a_run_that_is_stopped_loses_at_most_a_hundred_steps(tmp_path: Path) -> None:
    assert descended(1.0, tmp_path, stop=250, steps=300)[-1] == 249
    assert descended(1.0, tmp_path, steps=300)[0] == 201
