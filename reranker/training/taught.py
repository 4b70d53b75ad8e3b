"""A reranker learns from others that know more: their scores are the targets, of judged pairs or not.

So queries without judgments teach too, as many as there are, and a small model may read another language or tokenizer
than its teachers: they have the text of a pair in common and nothing else.
"""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from reranker.retrieval import bounded
from reranker.scoring import CrossEncoder
from reranker.training.data import FirstStage, Group

Lists = Sequence[Sequence[tuple[str, str, float]]]
_BEST = 4  # first-stage hits that every list has; the others are drawn from those behind them


def unjudged_groups(
    queries: Sequence[str], catalog: Sequence[str], first_stage: FirstStage, size: int, seed: int
) -> list[Group]:
    """A group of `size` products for each query: the best hits, some of those behind, and one at random."""
    rng = np.random.default_rng(seed)
    groups = []
    for query in queries:
        found = first_stage(query)
        behind = [found[_BEST + int(at)] for at in rng.permutation(max(0, len(found) - _BEST))[: size - _BEST - 1]]
        far = [catalog[int(at)] for at in rng.integers(len(catalog), size=size)]
        products = tuple(dict.fromkeys([*found[:_BEST], *behind, *far]))[:size]
        groups.append(Group(query, products, (0.0,) * len(products), 0))
    return groups


def taught(
    lists: Lists,
    teachers: Sequence[CrossEncoder],
    products: Mapping[str, Mapping[str, Any]],
    kept: Path,
    on_list: Callable[[int, int], None] = lambda done, lists: None,
) -> list[list[tuple[str, str, float]]]:
    """The lists with the mean of the teachers' logits as targets. What is scored is kept in the file `kept`, so that a
    run that was stopped goes on from there."""
    tokens = [_Tokens(teacher, products) for teacher in teachers]
    key = hashlib.sha256(msgspec.json.encode([list(map(list, lists)), [each.bundle_id for each in teachers]])).digest()
    known = _read(kept, key)
    made = []
    for at, part in enumerate(lists):
        if at < len(known):
            values = known[at]
        else:
            query = bounded(part[0][0])
            values = np.mean([each.scores(query, [name for _, name, _ in part]) for each in tokens], axis=0)
            known.append(values)
            if len(known) % 500 == 0 or len(known) == len(lists):
                _write(kept, key, known)
        made.append([(query, name, float(value)) for (query, name, _), value in zip(part, values, strict=True)])
        on_list(at + 1, len(lists))
    return made


class _Tokens:
    """A teacher, and the token ids that it makes of each product, once."""

    def __init__(self, teacher: CrossEncoder, products: Mapping[str, Mapping[str, Any]]) -> None:
        self._teacher, self._products = teacher, products
        self._known: dict[str, list[int]] = {}

    def scores(self, query: str, names: Sequence[str]) -> NDArray[np.float64]:
        for name in names:
            if name not in self._known:
                self._known[name] = self._teacher.product_tokens(self._products[name])
        return self._teacher.score(query, [self._known[name] for name in names]).values


def _read(kept: Path, key: bytes) -> list[NDArray[np.float64]]:
    try:
        with np.load(kept, allow_pickle=False) as file:
            if file["key"].tobytes() != key:
                return []
            return list(np.split(file["values"], np.cumsum(file["lengths"])[:-1]))
    except (OSError, ValueError, KeyError, zipfile.BadZipFile):
        return []


def _write(kept: Path, key: bytes, known: Sequence[NDArray[np.float64]]) -> None:
    kept.parent.mkdir(parents=True, exist_ok=True)
    half = kept.with_suffix(".half.npz")
    lengths = np.array([len(values) for values in known])
    np.savez(half, key=np.frombuffer(key, np.uint8), values=np.concatenate(known), lengths=lengths)
    half.replace(kept)
