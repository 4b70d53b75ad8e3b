"""Let a base model read the catalogue before it is fine-tuned: masked words, and whether two texts are one product's.

An input is a product's title with a text about it, its own or, half the time, another product's. Some of its tokens
are hidden, and the model says which they were (Devlin et al. 2019: of those chosen 80 % become the mask, 10 % another
token, 10 % stay) and whether title and text belong together. Both losses are measured on products that are held out,
before and after.
"""

from __future__ import annotations

import hashlib
import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn import functional

from indexer.errors import InputError
from reranker.bundle import layout_of
from reranker.scoring import pair
from reranker.text import MAX_FIELD_CHARACTERS, field_text
from reranker.training import checkpoint, export, finetune
from reranker.training.finetune import Pair, collate, multiplies_bfloat16

_BODY = ("bullets", "description")
_MASKED, _IGNORED = 0.15, -100
_MIN_PRODUCTS = 8


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Settings of one pre-training run."""

    epochs: int = 1
    batch: int = 16  # products to a step
    max_tokens: int = 96
    learning_rate: float = 5e-5
    warmup: float = 0.06
    weight_decay: float = 0.01
    held_out: float = 0.05  # share of the products that is only measured on
    seed: int = 13


class Losses(msgspec.Struct, frozen=True):
    """Means over the held-out products: nats a hidden token, nats a pair, and the share of pairs told right."""

    masked: float
    pair: float
    pair_right: float


class Example(msgspec.Struct, frozen=True):
    """One input: token ids with their types, what each hidden token was (else -100), whether both are one product's."""

    ids: tuple[int, ...]
    types: tuple[int, ...]
    labels: tuple[int, ...]
    own: bool


class Reader(nn.Module):
    """A base model with a head for hidden words, tied to its word embeddings, and one for pairs."""

    def __init__(self, base: Path) -> None:
        from transformers import AutoModel

        super().__init__()
        self.body = AutoModel.from_pretrained(str(base))
        size = int(self.body.config.hidden_size)
        self.words = nn.Sequential(nn.Linear(size, size), nn.GELU(), nn.LayerNorm(size))
        self.bias = nn.Parameter(torch.zeros(int(self.body.config.vocab_size)))
        self.pairs = nn.Linear(size, 1)
        self.body.get_input_embeddings().requires_grad_(False)

    def forward(self, batch: Mapping[str, Tensor], labels: Tensor, own: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Loss of hidden words, loss of pairs, and the pairs' logits float32 [batch]."""
        hidden = self.body(**batch).last_hidden_state
        asked = labels != _IGNORED
        spoken = functional.linear(self.words(hidden[asked]), self.body.get_input_embeddings().weight, self.bias)
        mask = batch["attention_mask"].unsqueeze(-1)
        logits = self.pairs((hidden * mask).sum(1) / mask.sum(1))[:, 0].float()
        return (
            functional.cross_entropy(spoken.float(), labels[asked]),
            functional.binary_cross_entropy_with_logits(logits, own),
            logits,
        )


def pretrain(
    base: Path,
    products: Sequence[Mapping[str, Any]],
    out: Path,
    options: Options,
    on_step: Callable[[int, int, float], None] = lambda step, steps, loss: None,
) -> dict[str, Losses]:
    """Train `base` on the products, write it to `out` as another base, and return held-out losses before and after.

    A stopped run goes on from its checkpoint in `out`. Raises InputError when there is too little text.
    """
    torch.manual_seed(options.seed)
    rng = np.random.default_rng(options.seed)
    tokenizer = Tokenizer.from_file(str(base / "tokenizer.json"))
    maker = Maker(tokenizer, export.pad_id(base), options.max_tokens)
    texts = [parts for product in products if (parts := _parts(product))]
    if len(texts) < _MIN_PRODUCTS:
        raise InputError(f"{len(texts)} products have a title and a text about it; pre-training needs {_MIN_PRODUCTS}.")
    order = rng.permutation(len(texts))
    count = max(1, round(len(texts) * options.held_out))
    held, kept = [texts[at] for at in order[:count]], [texts[at] for at in order[count:]]
    checked = maker.examples(held, np.random.default_rng(options.seed))
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = Reader(base).to(device)
    before = measure(model, checked, maker.pad, device, options.batch)
    each = math.ceil(len(kept) / options.batch)

    @lru_cache(1)
    def drawn(epoch: int) -> list[Example]:
        """What is hidden and which pairs are mixed, from a seed of the epoch's own so that a run can go on."""
        rng = np.random.default_rng([options.seed, epoch])
        return maker.examples([kept[at] for at in rng.permutation(len(kept))], rng)

    def loss_of(step: int) -> Tensor:
        epoch, at = divmod(step, each)
        part = drawn(epoch)[at * options.batch : (at + 1) * options.batch]
        masked, told, _ = _losses(model, part, maker.pad, device)
        return masked + told

    key = hashlib.sha256(msgspec.json.encode([texts, options])).hexdigest()
    model.train()
    finetune.descend(model, each * options.epochs, loss_of, options, key, out, on_step)
    after = measure(model, checked, maker.pad, device, options.batch)
    model.to("cpu").eval()
    model.body.save_pretrained(out)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        if (base / name).is_file():
            shutil.copyfile(base / name, out / name)
    checkpoint.remove(out)
    return {"before": before, "after": after}


class Maker:
    """Makes examples of products' texts with a base's tokenizer."""

    def __init__(self, tokenizer: Tokenizer, pad: int, max_tokens: int) -> None:
        self.pad = pad
        self._tokenizer = tokenizer
        self._layout = layout_of(tokenizer, pad)
        self._limit = max_tokens
        self._pieces = tokenizer.get_vocab_size()
        mask = next(
            (found for name in ("<mask>", "[MASK]") if (found := tokenizer.token_to_id(name)) is not None), None
        )
        # A tokenizer without a mask has an unknown token, which says as little.
        self._mask = (
            mask
            if mask is not None
            else next((found for name in ("<unk>", "[UNK]") if (found := tokenizer.token_to_id(name)) is not None), pad)
        )
        self._special = {*self._layout.begin, *self._layout.between, *self._layout.end, pad, self._mask}

    def examples(self, texts: Sequence[tuple[str, str]], rng: np.random.Generator) -> list[Example]:
        """One example for each title with its text; every other one gets another product's text."""
        titles = self._encode([title for title, _ in texts])
        bodies = self._encode([body for _, body in texts])
        found = []
        for at, title in enumerate(titles):
            own = len(texts) == 1 or bool(rng.random() < 0.5)
            other = at if own else (at + 1 + int(rng.integers(len(texts) - 1))) % len(texts)
            ids, types = pair(title[: self._limit // 2], bodies[other], self._layout, self._limit)
            hidden, labels = self._hide(ids, rng)
            found.append(Example(tuple(hidden), tuple(types), tuple(labels), own))
        return found

    def _encode(self, texts: Sequence[str]) -> list[list[int]]:
        return [list(item.ids) for item in self._tokenizer.encode_batch(list(texts), add_special_tokens=False)]

    def _hide(self, ids: Sequence[int], rng: np.random.Generator) -> tuple[list[int], list[int]]:
        words = [at for at, token in enumerate(ids) if token not in self._special]
        chosen: list[int] = rng.permutation(np.array(words, np.int64))[: max(1, round(len(words) * _MASKED))].tolist()
        hidden, labels = list(ids), [_IGNORED] * len(ids)
        for at in chosen:
            labels[at] = ids[at]
            dice = rng.random()
            if dice < 0.8:
                hidden[at] = self._mask
            elif dice < 0.9:
                hidden[at] = int(rng.integers(self._pieces))
        return hidden, labels


def measure(model: Reader, examples: Sequence[Example], pad: int, device: torch.device, batch: int) -> Losses:
    """Losses over some examples, without training."""
    model.eval()
    masked = told = right = 0.0
    with torch.no_grad():
        for start in range(0, len(examples), batch):
            part = examples[start : start + batch]
            words, pairs, logits = _losses(model, part, pad, device)
            masked += float(words) * len(part)
            told += float(pairs) * len(part)
            right += sum((logit > 0) == each.own for logit, each in zip(logits.tolist(), part, strict=True))
    count = len(examples)
    return Losses(round(masked / count, 4), round(told / count, 4), round(right / count, 4))


def _losses(
    model: Reader, examples: Sequence[Example], pad: int, device: torch.device
) -> tuple[Tensor, Tensor, Tensor]:
    batch = collate([Pair(list(each.ids), list(each.types)) for each in examples], pad, device)
    labels = torch.full(batch["input_ids"].shape, _IGNORED, device=device)
    for at, each in enumerate(examples):
        labels[at, : len(each.labels)] = torch.tensor(each.labels, device=device)
    own = torch.tensor([float(each.own) for each in examples], device=device)
    with torch.autocast(device.type, dtype=torch.bfloat16, enabled=multiplies_bfloat16(device)):
        found: tuple[Tensor, Tensor, Tensor] = model(batch, labels, own)
    return found


def _parts(product: Mapping[str, Any]) -> tuple[str, str] | None:
    """Title and text of a product, or None where it has only one of them."""
    title = field_text(product.get("title")).strip()
    body = " ".join(text for name in _BODY if (text := field_text(product.get(name)).strip()))
    return (title[:MAX_FIELD_CHARACTERS], body[:MAX_FIELD_CHARACTERS]) if title and body else None
