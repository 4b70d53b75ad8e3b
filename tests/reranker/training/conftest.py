"""A base model small enough to train in a test."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import BertConfig, BertForSequenceClassification

from reranker import bundle as bundles


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
