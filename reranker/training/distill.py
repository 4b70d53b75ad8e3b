"""Teach an encoder what another one knows, from bare texts: no query needs a judgment.

What is taught of a text is its vector by the student as it is and its vector by the teacher, side by side and weighed
by `share`: the cosine of two such pairs is the weighed mean of both models' cosines. The pairs are cut to the student's
size along the directions in which most texts differ (Eckart & Young 1936), and turned so that they lie as near to the
student's own vectors as a rotation brings them (Schönemann 1966). The student then learns them by regression (Reimers &
Gurevych 2020), and how near the batch's products are to its queries by the KL divergence of both models' softmax.

A teacher of one language does not take the others away: where it cannot read a text, its vector is the one that a
linear map from the student's vector gives, fitted to the texts that it can read.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
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
from reranker.bundle import layout_of
from reranker.retrieval import bounded
from reranker.text import Recipe, field_text
from reranker.training import checkpoint, export, finetune
from reranker.training.contrastive import OnRead, Texts, embed, framed, vectors
from reranker.training.finetune import multiplies_bfloat16

_MAP_RIDGE = 1.0
_SAMPLE = 20_000  # texts that the directions are taken from
_TITLE_WORDS = 14  # of a title, as far as made queries reach
_PUNCTUATION = re.compile(r"[,()\[\]|]+")
Floats = NDArray[np.float32]


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Settings of one run. A step takes `queries` texts that are read as queries, and `products` products."""

    share: float = 0.35  # of the teacher in what is taught
    unread: str = ""  # regular expression: a text in which it is found is none that the teacher can read
    query_prefix: str = ""  # what the teacher wants before a query
    teacher_fields: tuple[str, ...] = ("title", "brand")  # of a product, as the teacher reads it
    spans: int = 5  # texts like queries, made of each title
    rounds: int = 2  # times that each text is read
    queries: int = 64
    products: int = 24
    temperature: float = 0.05
    regression: float = 10.0  # weight of the regression beside the divergence
    learning_rate: float = 1e-4
    warmup: float = 0.03
    weight_decay: float = 0.01
    max_tokens: int = 64  # of a product while training
    seed: int = 13


def made_queries(titles: Sequence[str], spans: int, rng: np.random.Generator) -> Iterator[str]:
    """Texts like queries: a title's first words, some that stand together, and some that are picked from it."""
    for title in titles:
        words = _PUNCTUATION.sub(" ", title).lower().split()[:_TITLE_WORDS]
        if len(words) < 3:
            continue
        for span in range(spans):
            size = int(rng.integers(1, 6))
            at = 0 if span == 0 else int(rng.integers(max(1, len(words) - size + 1)))
            picked = sorted(rng.permutation(len(words))[:size]) if span == spans - 1 else range(at, at + size)
            yield " ".join(words[place] for place in picked if place < len(words))


class Teacher:
    """Another encoder's vectors, read from a Hugging Face folder as sentence-transformers lays it out.

    Raises InputError when the folder holds no tokenizer of the kind that is read here.
    """

    def __init__(self, folder: Path, query_prefix: str, device: torch.device) -> None:
        from transformers import AutoModel

        if not (folder / "tokenizer.json").is_file():
            raise InputError(
                f"The teacher {folder} has no tokenizer.json; name a folder or a model with a fast tokenizer."
            )
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._layout = layout_of(self._tokenizer, export.pad_id(folder))
        self._model = AutoModel.from_pretrained(str(folder)).to(device)
        self._prefix = query_prefix
        self._first = reads_first_token(folder)

    def vectors(self, texts: Sequence[str], max_tokens: int, on_read: OnRead = lambda read, texts: None) -> Floats:
        """Unit vectors of texts: float32 [texts, size]."""
        encoded = self._tokenizer.encode_batch(list(texts), add_special_tokens=False)
        rows = [framed(each.ids, self._layout, max_tokens) for each in encoded]
        return vectors(self._model, rows, self._layout.pad, on_read, self._first)

    def as_query(self, text: str) -> str:
        """The text as the teacher wants a query."""
        return f"{self._prefix}{text}"


def reads_first_token(folder: Path) -> bool:
    """Whether a model's vector is that of its first token (sentence-transformers' `cls` pooling), not the mean."""
    pooling = folder / "1_Pooling" / "config.json"
    return pooling.is_file() and bool(json.loads(pooling.read_text("utf-8")).get("pooling_mode_cls_token"))


def targets(own: Floats, theirs: Floats, legible: NDArray[np.bool_], share: float, rng: np.random.Generator) -> Floats:
    """What is taught of each text: unit vectors float32 [texts, own size] from the student's and the teacher's.

    Of a text that is not `legible` to the teacher, its vector is what a linear map gives for the student's.
    """
    if not legible.all():
        seen = own[legible]
        bridge = np.linalg.solve(seen.T @ seen + _MAP_RIDGE * np.eye(own.shape[1]), seen.T @ theirs[legible])
        theirs = theirs.copy()
        theirs[~legible] = _unit(own[~legible] @ bridge)
    both = np.concatenate([np.sqrt(1 - share) * own, np.sqrt(share) * theirs], axis=1)
    sample = both[rng.permutation(len(both))[:_SAMPLE]].astype(np.float64)
    directions = np.linalg.eigh(sample.T @ sample)[1][:, -own.shape[1] :]
    left, _, right = np.linalg.svd((both @ directions).T @ own)
    return _unit(both @ (directions @ (left @ right)))


def distillation_loss(asked: Tensor, found: Tensor, wanted: tuple[Tensor, Tensor], options: Options) -> Tensor:
    """Loss of a batch, a scalar: vectors of queries and products as they are and as they should be, [texts, size]."""
    away = (1 - (asked * wanted[0]).sum(1)).mean() + (1 - (found * wanted[1]).sum(1)).mean()
    mine, theirs = (
        functional.log_softmax(queries @ products.T / options.temperature, dim=1)
        for queries, products in ((asked, found), wanted)
    )
    return options.regression * away + functional.kl_div(mine, theirs, log_target=True, reduction="batchmean")


class Lesson(msgspec.Struct, frozen=True):
    """What is read in a run: texts as queries, and products by their keys."""

    queries: tuple[str, ...]
    products: tuple[str, ...]

    def taught(
        self,
        own: Floats,
        teacher: Teacher,
        products: Mapping[str, Mapping[str, Any]],
        options: Options,
        on_read: OnRead = lambda read, texts: None,
    ) -> Floats:
        """`targets` of all queries and then of all products."""
        sold = [
            ", ".join(filter(None, (field_text(products[key].get(name)) for name in options.teacher_fields)))
            for key in self.products
        ]
        theirs = teacher.vectors([*map(teacher.as_query, self.queries), *sold], options.max_tokens, on_read)
        read = [not (options.unread and re.search(options.unread, text)) for text in (*self.queries, *sold)]
        if not any(read):
            raise InputError(f"The teacher can read no text: each of the {len(read)} has {options.unread} in it.")
        return targets(own, theirs, np.array(read), options.share, np.random.default_rng(options.seed))


def draw(queries: int, products: int, options: Options) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """The run's steps: positions of queries and of products. Each query is read once a round. Seeded."""
    rng = np.random.default_rng(options.seed)
    order = np.concatenate([rng.permutation(queries) for _ in range(options.rounds)])
    steps = [order[at : at + options.queries] for at in range(0, len(order), options.queries)]
    rounds = -(-len(steps) * options.products // products)
    shelf = np.concatenate([rng.permutation(products) for _ in range(rounds)])
    return [(part, shelf[at * options.products : (at + 1) * options.products]) for at, part in enumerate(steps)]


def distill(
    student: Path,
    teacher: Path,
    products: Mapping[str, Mapping[str, Any]],
    texts: Sequence[str],
    recipe: Recipe,
    out: Path,
    options: Options,
    on_step: Callable[[int, int, float], None] = lambda step, steps, loss: None,
    on_read: OnRead = lambda read, texts: None,
) -> Path:
    """Train `student` towards `teacher` and write it to `out` as a Hugging Face folder.

    `texts` are read as queries, beside those made of the products' titles. Both models read them all first, and
    `on_read` is told how many. A stopped run goes on from its checkpoint. Raises InputError when there is no product or
    no text that the teacher can read.
    """
    from transformers import AutoModel

    titles = [field_text(product.get("title")) for product in products.values()]
    made = made_queries(titles, options.spans, np.random.default_rng(options.seed))
    lesson = Lesson(tuple(dict.fromkeys(map(bounded, (*texts, *made)))), tuple(sorted(products)))
    if not lesson.queries:
        raise InputError("There is no product with a title of three words: there is nothing for the encoder to read.")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(options.seed)
    model = AutoModel.from_pretrained(str(student)).to(device)
    read = Texts(student, products, recipe, options.max_tokens)
    asked, found = [read.query(text) for text in lesson.queries], [read.product(key) for key in lesson.products]
    key = hashlib.sha256(msgspec.json.encode([lesson, options, teacher.name])).hexdigest()

    def taught() -> Floats:
        rows = [*asked, *found]
        own = vectors(model, rows, read.layout.pad, on_read)
        return lesson.taught(own, Teacher(teacher, options.query_prefix, device), products, options, on_read)

    wanted = torch.tensor(checkpoint.array(out, "targets", (checkpoint.fingerprint(model), key), taught))
    model.train()
    model.get_input_embeddings().requires_grad_(False)
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0  # what is taught has no noise to be averaged out
    steps = draw(len(asked), len(found), options)

    def loss_of(step: int) -> Tensor:
        here, there = steps[step]
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=multiplies_bfloat16(device)):
            mine = embed(model, [asked[at] for at in here], read.layout.pad, device)
            near = embed(model, [found[at] for at in there], read.layout.pad, device)
        goal = wanted[here].to(device), wanted[there + len(asked)].to(device)
        return distillation_loss(mine, near, goal, options)

    finetune.descend(model, len(steps), loss_of, options, key, out, on_step)
    finetune.save(model, out, student)
    checkpoint.remove(out)
    return out


def _unit(vectors: NDArray[np.floating[Any]]) -> Floats:
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), np.float32)
