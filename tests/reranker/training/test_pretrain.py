"""Reading the catalogue before fine-tuning: what is hidden, what is measured, and going on after a stop."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer

from indexer.errors import InputError
from reranker.training import finetune, pretrain
from reranker.training.pretrain import Example, Maker, Options

PRODUCTS = [
    {"title": f"{color} {thing}", "bullets": f"a {thing} in {color} for the kitchen, easy to clean"}
    for color in ("red", "blue", "green", "black", "white", "grey")
    for thing in ("cup", "kettle", "towel", "lamp")
] + [{"title": f"{color}保温杯", "bullets": f"不锈钢，{color}，不含吸管"} for color in ("红色", "蓝色", "黑色", "白色")]
TEXTS = [(product["title"], product["bullets"]) for product in PRODUCTS]


@pytest.fixture
def maker(tiny: Path) -> Maker:
    return Maker(Tokenizer.from_file(str(tiny / "tokenizer.json")), 1, 48)


def made(maker: Maker, seed: int = 1) -> list[Example]:
    return maker.examples(TEXTS, np.random.default_rng(seed))


def test_hidden_tokens_are_some_of_the_words_and_never_the_frame(maker: Maker) -> None:
    for example in made(maker):
        hidden = [at for at, label in enumerate(example.labels) if label != -100]
        assert 1 <= len(hidden) <= round(len(example.ids) * 0.15) + 1
        assert 0 not in hidden
        assert len(example.ids) - 1 not in hidden
        assert len(example.ids) == len(example.types) == len(example.labels) <= 48


def test_about_half_of_the_texts_are_another_products(maker: Maker) -> None:
    own = [example.own for seed in range(10) for example in made(maker, seed)]
    assert 0.4 < np.mean(own) < 0.6


def test_the_seed_decides_everything(maker: Maker) -> None:
    assert made(maker, 3) == made(maker, 3)
    assert made(maker, 3) != made(maker, 4)


def test_reading_lowers_the_held_out_loss_and_makes_a_base(tiny: Path, tmp_path: Path) -> None:
    options = Options(epochs=30, batch=4, max_tokens=32, learning_rate=3e-3, held_out=0.2)
    losses = pretrain.pretrain(tiny, PRODUCTS, tmp_path, options)
    assert losses["after"].masked < losses["before"].masked - 0.5
    from transformers import AutoModelForSequenceClassification

    assert AutoModelForSequenceClassification.from_pretrained(str(tmp_path), num_labels=1) is not None
    assert (tmp_path / "tokenizer.json").read_bytes() == (tiny / "tokenizer.json").read_bytes()
    assert not (tmp_path / "checkpoint.safetensors").exists()


def test_a_stopped_run_goes_on_and_ends_as_one_that_was_not_stopped(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(finetune, "CHECKPOINT_STEPS", 5)
    options = Options(epochs=2, batch=4, max_tokens=32)
    whole = pretrain.pretrain(tiny, PRODUCTS, tmp_path / "whole", options)

    def stop(step: int, steps: int, loss: float) -> None:
        if step == 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pretrain.pretrain(tiny, PRODUCTS, tmp_path / "cut", options, stop)
    steps: list[int] = []
    again = pretrain.pretrain(tiny, PRODUCTS, tmp_path / "cut", options, lambda step, *_: steps.append(step))
    assert steps[0] == 6
    # Dropout draws anew after a stop, so the two agree closely and not exactly.
    assert again["before"] == whole["before"]
    assert again["after"].masked == pytest.approx(whole["after"].masked, abs=0.05)


def test_too_little_text_is_told(tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="2 products have a title"):
        pretrain.pretrain(tiny, [*PRODUCTS[:2], {"title": "alone"}, {}], tmp_path, Options())
