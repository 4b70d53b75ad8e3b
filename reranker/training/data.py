"""What a reranker learns from: judged queries with negatives from the catalogue, and queries made of titles.

Judged pairs alone teach little: a model that has met only a judge's pool has never seen an easy negative. So every
judged query also gets unjudged first-stage hits and products drawn at random, and the catalogue's own titles give
queries whose right answer is known.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec
import numpy as np

_HAN = re.compile(r"[一-鿿]")
_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9'./%-]*")

_SHARPNESS = 0.03  # cosine distance at which a hit counts 1/e as right as the best

FirstStage = Callable[[str], list[str]]
"""A query to the ids of its first-stage hits, best first."""

Teacher = Callable[[str], list[tuple[str, float]]]
"""A query to its nearest products by the encoder: ids and cosines, nearest first."""


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How many negatives a judged query gets, and how many queries are made of titles."""

    first_stage_negatives: int = 30
    random_negatives: int = 8
    title_queries: int = 3000
    title_negatives: int = 12
    seed: int = 13


class Group(msgspec.Struct, frozen=True):
    """One query with products (ids) and targets 0 to 1; `judged` counts the leading products a judge has seen."""

    query: str
    products: tuple[str, ...]
    targets: tuple[float, ...]
    judged: int


def judged_groups(
    queries: Mapping[str, str],
    gains: Mapping[str, Mapping[str, float]],
    catalog: Sequence[str],
    first_stage: FirstStage,
    options: Options,
) -> list[Group]:
    """Groups of judged queries: query id -> text, query id -> product id -> gain, all product ids of the shop."""
    rng = np.random.default_rng(options.seed)
    known = set(catalog)
    groups = []
    for query_id, query in queries.items():
        judged = {product: gain for product, gain in gains.get(query_id, {}).items() if product in known}
        if not judged:
            continue
        found = first_stage(query) if options.first_stage_negatives else []
        near = [product for product in found if product not in judged]
        drawn = rng.choice(len(catalog), size=min(options.random_negatives, len(catalog)), replace=False)
        far = [catalog[at] for at in drawn if catalog[at] not in judged]
        negatives = list(dict.fromkeys(near[: options.first_stage_negatives] + far))
        products = (*judged, *negatives)
        targets = (*judged.values(), *[0.0] * len(negatives))
        groups.append(Group(query, products, targets, len(judged)))
    return groups


def title_groups(products: Mapping[str, Mapping[str, Any]], teacher: Teacher, options: Options) -> list[Group]:
    """Groups of made queries: a few words of a title, its product as the answer, its neighbours beside it.

    A neighbour may be just as right, so it is not called wrong: the encoder is the teacher and says by its cosine how
    right it is. One whose own title holds every word of the query is left out.
    """
    rng = np.random.default_rng(options.seed + 1)
    ids = list(products)
    chosen = rng.permutation(len(ids))[: options.title_queries]
    groups = []
    for at in chosen:
        product = products[ids[at]]
        words = _made_query(str(product["title"]), str(product.get("brand") or ""), rng)
        if not words:
            continue
        query = "".join(words) if _HAN.search(words[0]) else " ".join(words)
        near = {hit: cosine for hit, cosine in teacher(query) if hit in products}
        best = max(near.values(), default=1.0)
        targets = {ids[at]: 1.0}
        for hit, cosine in list(near.items())[: 2 * options.title_negatives : 2]:
            if hit != ids[at] and not _holds(str(products[hit]["title"]), words):
                targets[hit] = round(math.exp((cosine - best) / _SHARPNESS), 4)
        for other in (ids[drawn] for drawn in rng.integers(len(ids), size=3)):
            if not _holds(str(products[other]["title"]), words):
                targets.setdefault(other, 0.0)
        groups.append(Group(query, tuple(targets), tuple(targets.values()), 1))
    return groups


def _made_query(title: str, brand: str, rng: np.random.Generator) -> list[str]:
    """Two to five words of the title in their order, mostly from its front, as shoppers name things."""
    words = [word for word in title_words(title) if len(word) > 1 or word.isdigit()][:14]
    if len(words) < 2:
        return words
    count = int(rng.integers(2, min(5, len(words)) + 1))
    weights = np.linspace(1.5, 0.5, len(words))
    if rng.random() < 0.5:
        weights = weights * [0.1 if word.casefold() in brand.casefold() else 1.0 for word in words]
    picked = rng.choice(len(words), size=count, replace=False, p=weights / weights.sum())
    return [words[at].casefold() for at in sorted(picked)]


def title_words(title: str) -> list[str]:
    """Words of a title; Han text is segmented, as nothing separates its words."""
    if not _HAN.search(title):
        return _WORD.findall(title)
    import jieba

    jieba.setLogLevel("WARNING")
    return [word for word in jieba.cut(title) if _HAN.search(word) or _WORD.fullmatch(word)]


def _holds(title: str, words: Sequence[str]) -> bool:
    folded = title.casefold()
    return all(word in folded for word in words)
