"""Fine-tune an encoder: a query's vector near the products that answer it and far from all others in the batch.

Loss of a query: cross entropy between its gains, made a distribution, and the softmax of its cosines with every
product of the batch over a temperature. With one right product it is InfoNCE (van den Oord et al. 2018); grades make
it a list-wise one. A product that another query brought counts as wrong, unless it is judged for this one too.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn import functional

from indexer.errors import InputError
from reranker.bundle import Layout, layout_of
from reranker.retrieval import bounded
from reranker.text import Recipe, product_ids, query_ids
from reranker.training import checkpoint, export, finetune
from reranker.training.finetune import Pair, collate, multiplies_bfloat16
from reranker.training.mining import Judged, mined, pool

_BATCH = 64  # texts that are embedded at once
OnStep = Callable[[int, int, float], None]
"""Step, steps, loss."""
OnRead = Callable[[int, int], None]
"""How many texts have been read, of how many."""


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Settings of one run. A step takes `queries` queries with `products` judged products each."""

    rounds: int = 1  # times that each query is seen
    queries: int = 16
    products: int = 4
    temperature: float = 0.05
    learning_rate: float = 2e-5
    warmup: float = 0.1
    weight_decay: float = 0.01
    frozen_layers: int = 0  # the lowest layers, which stay as they are
    max_tokens: int = 0  # of a product while training; 0: as many as in serving
    mined_negatives: int = 0  # unjudged products near each query that count as wrong, beside its judged ones
    mined_margin: float = 0.05  # how far below the best product's cosine theirs must be, as a share of it
    mined_from: int = 10_000  # products that are looked through for them: the judged ones, and others at random
    seed: int = 13


def draw(judged: Sequence[Judged], options: Options) -> list[list[tuple[Judged, tuple[str, ...]]]]:
    """The run's steps: queries, each with one of its best products and other judged ones. Seeded."""
    rng = np.random.default_rng(options.seed)
    rows = []
    for _ in range(options.rounds):
        for at in rng.permutation(len(judged)):
            each = judged[at]
            most = max(each.gains.values(), default=0.0)
            if most > 0:
                best = sorted(key for key, gain in each.gains.items() if gain == most)
                first = best[int(rng.integers(len(best)))]
                others = [key for key in sorted(each.gains) if key != first]
                chosen = [others[place] for place in rng.permutation(len(others))[: options.products - 1]]
                rows.append((each, (first, *chosen)))
    return [rows[start : start + options.queries] for start in range(0, len(rows), options.queries)]


def batch_targets(judged: Sequence[Judged], keys: Sequence[str]) -> Tensor:
    """What each query should find among the batch's products: float32 [queries, keys], each row a distribution."""
    targets = torch.tensor([[each.gains.get(key, 0.0) for key in keys] for each in judged])
    return targets / targets.sum(1, keepdim=True)


def contrastive_loss(queries: Tensor, products: Tensor, targets: Tensor, temperature: float) -> Tensor:
    """Mean loss of a batch, a scalar: unit vectors float32 [queries, size] and [products, size], targets [q, p]."""
    return -(targets * functional.log_softmax(queries @ products.T / temperature, dim=1)).sum(1).mean()


def finetune_encoder(
    base: Path,
    judged: Sequence[Judged],
    products: Mapping[str, Mapping[str, Any]],
    recipe: Recipe,
    out: Path,
    options: Options,
    on_step: OnStep = lambda step, steps, loss: None,
    on_read: OnRead = lambda read, texts: None,
) -> Path:
    """Train `base` and write it to `out` as a Hugging Face folder; a stopped run goes on from its checkpoint there.

    Where negatives are mined, queries and products are read first, and `on_read` is told how many. Raises InputError
    when no query has a judged product with a gain.
    """
    from transformers import AutoModel

    torch.manual_seed(options.seed)
    steps = draw(judged, options)
    if not steps:
        raise InputError("No query has a judged product with a gain: there is nothing for the encoder to learn.")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = AutoModel.from_pretrained(str(base)).to(device).train()
    model.get_input_embeddings().requires_grad_(False)
    if options.frozen_layers:
        model.embeddings.requires_grad_(False)
        model.encoder.layer[: options.frozen_layers].requires_grad_(False)
    texts = Texts(base, products, recipe, options.max_tokens)
    if options.mined_negatives:
        steps = draw(_with_negatives(model, judged, texts, out, options, on_read), options)

    def loss_of(step: int) -> Tensor:
        keys = list(dict.fromkeys(key for _, chosen in steps[step] for key in chosen))
        targets = batch_targets([each for each, _ in steps[step]], keys)
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=multiplies_bfloat16(device)):
            asked = embed(model, [texts.query(each.query) for each, _ in steps[step]], texts.layout.pad, device)
            found = embed(model, [texts.product(key) for key in keys], texts.layout.pad, device)
        return contrastive_loss(asked, found, targets.to(device), options.temperature)

    key = hashlib.sha256(msgspec.json.encode([steps, options])).hexdigest()
    finetune.descend(model, len(steps), loss_of, options, key, out, on_step)
    finetune.save(model, out, base)
    checkpoint.remove(out)
    return out


def _with_negatives(
    model: nn.Module,
    judged: Sequence[Judged],
    texts: Texts,
    out: Path,
    options: Options,
    on_read: OnRead,
) -> list[Judged]:
    """The queries with what the untrained model finds near them and nobody judged."""
    keys = pool(judged, texts.keys, options.mined_from, np.random.default_rng(options.seed))
    rows = [*(texts.query(each.query) for each in judged), *map(texts.product, keys)]
    of = checkpoint.fingerprint(model), rows
    read = checkpoint.array(out, "mined", of, lambda: vectors(model, rows, texts.layout.pad, on_read))
    asked, found = read[: len(judged)], read[len(judged) :]
    return mined(judged, keys, asked, found, options.mined_negatives, options.mined_margin)


class Texts:
    """Token ids of queries and products as the encoder reads them in serving; products are made once."""

    def __init__(
        self, base: Path, products: Mapping[str, Mapping[str, Any]], recipe: Recipe, max_tokens: int = 0
    ) -> None:
        self._tokenizer = Tokenizer.from_file(str(base / "tokenizer.json"))
        self.layout: Layout = layout_of(self._tokenizer, export.pad_id(base))
        self._recipe = recipe
        self._max_tokens = min(max_tokens or recipe.max_tokens, recipe.max_tokens)
        self._products = products
        self._made: dict[str, Pair] = {}

    @property
    def keys(self) -> list[str]:
        """Of all products."""
        return list(self._products)

    def query(self, text: str) -> Pair:
        return framed(query_ids(bounded(text), self._recipe, self._tokenizer), self.layout, self._max_tokens)

    def product(self, key: str) -> Pair:
        if key not in self._made:
            ids = product_ids(self._products[key], self._recipe, self._tokenizer)
            self._made[key] = framed(ids, self.layout, self._max_tokens)
        return self._made[key]


def framed(ids: Sequence[int], layout: Layout, max_tokens: int) -> Pair:
    """Token ids of a text between special tokens, all together at most `max_tokens`."""
    room = max_tokens - len(layout.begin) - len(layout.end)
    row = [*layout.begin, *ids[:room], *layout.end]
    return Pair(row, [0] * len(row))


def embed(model: nn.Module, texts: Sequence[Pair], pad: int, device: torch.device, first_token: bool = False) -> Tensor:
    """Unit vectors float32 [texts, size], of the mean over all tokens or of the first one alone.

    The longer half goes by itself, so that less is padded.
    """
    order = sorted(range(len(texts)), key=lambda at: len(texts[at].ids))
    middle = (len(order) + 1) // 2
    parts = [part for part in (order[:middle], order[middle:]) if part]
    found = torch.cat([_pooled(model, collate([texts[at] for at in part], pad, device), first_token) for part in parts])
    return found[torch.tensor(order, device=device).argsort()]


def vectors(
    model: nn.Module,
    rows: Sequence[Pair],
    pad: int,
    on_read: OnRead = lambda read, texts: None,
    first_token: bool = False,
) -> NDArray[np.float32]:
    """Unit vectors of any number of texts, without gradients: float32 [rows, size]."""
    device, training = next(model.parameters()).device, model.training
    model.eval()
    order = sorted(range(len(rows)), key=lambda at: len(rows[at].ids))
    parts = []
    with torch.no_grad(), torch.autocast(device.type, dtype=torch.bfloat16, enabled=multiplies_bfloat16(device)):
        for start in range(0, len(order), _BATCH):
            some = [rows[at] for at in order[start : start + _BATCH]]
            parts.append(embed(model, some, pad, device, first_token).cpu().numpy())
            on_read(start + len(some), len(rows))
    model.train(training)
    found = np.zeros((len(rows), parts[0].shape[1]), np.float32)
    found[order] = np.concatenate(parts)
    return found


def _pooled(model: nn.Module, batch: Mapping[str, Tensor], first_token: bool) -> Tensor:
    hidden = model(**batch).last_hidden_state.float()
    if first_token:
        return functional.normalize(hidden[:, 0], dim=1)
    mask = batch["attention_mask"].unsqueeze(-1)
    return functional.normalize((hidden * mask).sum(1) / mask.sum(1), dim=1)
