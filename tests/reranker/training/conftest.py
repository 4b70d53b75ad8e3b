"""Base models: one that is small enough to train in a test, and the one that is packaged."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import BertConfig, BertForSequenceClassification

from reranker import bundle as bundles
from reranker.training import base
from tests.shared import one_at_a_time


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base of two small layers with random weights and the shipped tokenizer: the real path in seconds."""
    folder = tmp_path_factory.mktemp("base")
    tokenizer = bundles.load("", "reranker").tokenizer()
    tokenizer.save(str(folder / "tokenizer.json"))
    config = BertConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        pad_token_id=1,
        num_labels=1,
    )
    BertForSequenceClassification(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def packaged(together: Path) -> Path:
    """The packaged base as a folder, written by the first process that needs it."""
    folder = together / "packaged"
    with one_at_a_time(together / "packaged.lock"):
        if not (folder / "tokenizer_config.json").is_file():
            base.write_packaged_e5(folder)
    return folder
