"""Fine-tune a cross-encoder on groups of one query and several products; `losses` says by which loss."""

from __future__ import annotations

import functools
import hashlib
import math
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import msgspec
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from indexer.errors import ConfigError
from reranker.bundle import Layout
from reranker.training import checkpoint
from reranker.training.data import Group
from reranker.training.losses import Loss, list_loss

CHECKPOINT_STEPS = 100


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Settings of one fine-tuning run. A step takes `lists` lists of `list_size` pairs."""

    layers: int = 0  # keep this many of the base's layers, the first ones; 0 keeps all
    spread: bool = False  # keep layers from the first to the last, at like distances
    judged_rounds: int = 24  # lists drawn from every judged query
    list_size: int = 12
    judged_share: float = 0.67  # of a list; the rest are negatives that nobody judged
    lists: int = 4
    learning_rate: float = 5e-5
    warmup: float = 0.06
    weight_decay: float = 0.01
    loss: Loss = "listnet"
    pointwise: float = 0.5  # share of the pointwise loss beside another
    seed: int = 13


class Pair(msgspec.Struct, frozen=True):
    """Token ids of a query and a product, with token types, as the session takes them."""

    ids: list[int]
    types: list[int]


Paired = Callable[[str, str], Pair]
"""Query text and product id to a pair."""


def draw_lists(groups: Sequence[Group], options: Options) -> list[list[tuple[str, str, float]]]:
    """The whole run's lists in order, shuffled: `judged_rounds` from a judged group, one from a made query."""
    rng = np.random.default_rng(options.seed)
    lists = []
    for group in groups:
        rounds = options.judged_rounds if group.judged > 1 else 1
        lists += [_draw(group, options, rng) for _ in range(rounds)]
    order = rng.permutation(len(lists))
    return [lists[at] for at in order]


def _draw(group: Group, options: Options, rng: np.random.Generator) -> list[tuple[str, str, float]]:
    """One of the best products, judged ones up to their share of the list, and the rest from all others."""
    size = options.list_size
    if not group.judged:
        return [(group.query, product, 0.0) for product in group.products[:size]]
    judged = np.arange(group.judged)
    best = judged[np.asarray(group.targets[: group.judged]) >= max(group.targets)]
    first = [int(rng.choice(best))]
    others = rng.permutation(np.setdiff1d(judged, first))[: round(size * options.judged_share) - 1]
    negatives = group.judged + rng.permutation(len(group.products) - group.judged)
    chosen = [*first, *map(int, others), *map(int, negatives)][:size]
    return [(group.query, group.products[at], group.targets[at]) for at in chosen]


def load_base(base: str | Path, layers: int, seed: int, spread: bool = False) -> nn.Module:
    """A sequence classifier with one output over some of the base's layers; word embeddings stay as they are.

    A base without an output gets one whose weights are drawn with `seed`.
    """
    from transformers import AutoModelForSequenceClassification

    torch.manual_seed(seed)
    model = AutoModelForSequenceClassification.from_pretrained(str(base), num_labels=1)
    body = model.base_model
    if layers:
        if not hasattr(getattr(body, "encoder", None), "layer"):
            raise ConfigError(f"finetune.layers cuts BERT-like encoders only, and {base} is none. Leave it out.")
        every = body.encoder.layer
        chosen = np.linspace(0, len(every) - 1, layers).round() if spread else np.arange(layers)
        body.encoder.layer = nn.ModuleList(every[int(at)] for at in chosen)
        model.config.num_hidden_layers = layers
    body.embeddings.requires_grad_(False)
    return model  # type: ignore[no-any-return]


def finetune(
    model: nn.Module,
    lists: Sequence[Sequence[tuple[str, str, float]]],
    paired: Paired,
    layout: Layout,
    options: Options,
    on_step: Callable[[int, int, float], None] = lambda step, steps, loss: None,
    folder: Path | None = None,
) -> None:
    """Train in place over all lists once, on CUDA where there is one; in bfloat16 where the processor multiplies it.

    With a `folder`, a run that was stopped goes on from its last checkpoint there, given the same lists and options.
    """
    torch.manual_seed(options.seed)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model.to(device).train()
    steps = math.ceil(len(lists) / options.lists)

    def loss_of(step: int) -> Tensor:
        chosen = lists[step * options.lists : (step + 1) * options.lists]
        rows = [row for part in chosen for row in part]
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=multiplies_bfloat16(device)):
            logits = _logits(model, [paired(query, product) for query, product, _ in rows], layout.pad, device)
        targets = torch.tensor([target for _, _, target in rows], device=device)
        ends = np.cumsum([len(part) for part in chosen])
        losses = [
            list_loss(logits[start:end].float(), targets[start:end], options.loss, options.pointwise)
            for start, end in zip([0, *ends[:-1]], ends, strict=True)
        ]
        return torch.stack(losses).mean()

    descend(model, steps, loss_of, options, _key(lists, options), folder, on_step)


class Descent(Protocol):
    """What the options of every kind of training say about its steps."""

    @property
    def learning_rate(self) -> float: ...
    @property
    def warmup(self) -> float: ...
    @property
    def weight_decay(self) -> float: ...


def descend(
    model: nn.Module,
    steps: int,
    loss_of: Callable[[int], Tensor],
    options: Descent,
    key: str,
    folder: Path | None,
    on_step: Callable[[int, int, float], None],
) -> None:
    """Take the steps of a run, each down the slope of `loss_of` its number.

    With a `folder`, a run that was stopped goes on from its last checkpoint there where `key` is the same, and the
    weights that it began with are.
    """
    key = f"{key}-{checkpoint.fingerprint(model)}"
    optimizer = torch.optim.AdamW(
        [p for p in model.parameters() if p.requires_grad], options.learning_rate, weight_decay=options.weight_decay
    )
    for step in range(checkpoint.restore(folder, model, optimizer, key) if folder else 0, steps):
        for group in optimizer.param_groups:
            group["lr"] = options.learning_rate * rate(step, steps, options.warmup)
        loss = loss_of(step)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if folder and (step + 1) % CHECKPOINT_STEPS == 0:
            checkpoint.store(folder, model, optimizer, step + 1, key)
        on_step(step + 1, steps, loss.item())


@functools.cache
def multiplies_bfloat16(device: torch.device) -> bool:
    """Whether bfloat16 is the faster one here.

    A CPU without instructions for it is some 40 times slower with it, and one with them may still be slower where it
    shares its machine, so it is tried.
    """
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    able = torch.cpu.get_capabilities()
    if not (able.get("avx512_bf16") or able.get("amx_bf16")):
        return False
    return _multiplying(torch.bfloat16) < _multiplying(torch.float32)


def _multiplying(kind: torch.dtype) -> float:
    """Seconds of a product as a layer has it, the best of some: others may be at work on the machine."""
    rows, weight = torch.ones(1024, 384, dtype=kind), torch.ones(1536, 384, dtype=kind)
    taken = []
    for _ in range(8):
        began = time.perf_counter()
        functional.linear(rows, weight)
        taken.append(time.perf_counter() - began)
    return min(taken)


def _logits(model: nn.Module, pairs: Sequence[Pair], pad: int, device: torch.device) -> Tensor:
    """Logits float32 [pairs]; the longer half goes by itself, so that short pairs are not padded to its length."""
    order = sorted(range(len(pairs)), key=lambda at: len(pairs[at].ids))
    middle = (len(order) + 1) // 2
    parts = [order[:middle], order[middle:]] if len(order) > 1 else [order]
    found = [model(**collate([pairs[at] for at in part], pad, device)).logits[:, 0] for part in parts]
    return torch.cat(found)[torch.tensor(order, device=device).argsort()]


def _key(lists: Sequence[Sequence[tuple[str, str, float]]], options: Options) -> str:
    return hashlib.sha256(msgspec.json.encode([list(map(list, lists)), options])).hexdigest()


def collate(pairs: Sequence[Pair], pad: int, device: torch.device) -> Mapping[str, Tensor]:
    """Padded tensors, int64 [pairs, longest]."""
    longest = max(len(pair.ids) for pair in pairs)
    ids = torch.full((len(pairs), longest), pad)
    mask = torch.zeros_like(ids)
    types = torch.zeros_like(ids)
    for at, pair in enumerate(pairs):
        ids[at, : len(pair.ids)] = torch.tensor(pair.ids)
        types[at, : len(pair.ids)] = torch.tensor(pair.types)
        mask[at, : len(pair.ids)] = 1
    batch: dict[str, Tensor] = {"input_ids": ids, "attention_mask": mask, "token_type_ids": types}
    return {name: value.to(device) for name, value in batch.items()}


def rate(step: int, steps: int, warmup: float) -> float:
    """Part of the learning rate at a step: a linear rise over the first `warmup` of the steps, then a linear fall."""
    rise = max(1, round(steps * warmup))
    return min((step + 1) / rise, max(0.0, (steps - step) / max(1, steps - rise)))


def save(model: nn.Module, folder: Path, base: Path) -> None:
    """Write the trained model as a Hugging Face folder with the base's tokenizer."""
    folder.mkdir(parents=True, exist_ok=True)
    model.to("cpu").eval().save_pretrained(folder)  # type: ignore[operator]
    for name in ("tokenizer.json", "tokenizer_config.json"):
        if (base / name).is_file():
            shutil.copyfile(base / name, folder / name)
