"""What a reranker learns from: judged queries with negatives from the catalogue.

Judged pairs alone teach little: a model that has met only a judge's pool has never seen an easy negative. So every
judged query also gets unjudged first-stage hits and products drawn at random. `made` has the queries that come from the
catalogue itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import msgspec
import numpy as np

FirstStage = Callable[[str], list[str]]
"""A query to the ids of its first-stage hits, best first."""


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How many negatives a judged query gets, and how many queries of each kind are made from the catalogue."""

    first_stage_negatives: int = 30
    random_negatives: int = 8
    title_queries: int = 3000  # words of a title
    title_negatives: int = 12  # neighbours beside a made query's product
    attribute_queries: int = 0  # a thing with a brand, a colour or both
    exclusion_queries: int = 0  # "... without ..."
    price_queries: int = 0  # "... under 50"
    accessory_queries: int = 0  # a thing, beside what is only sold for it
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
