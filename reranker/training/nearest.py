"""How well an encoder finds what was judged, for its card: exact search among a shop's products."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from indexer.settings import Models
from reranker.bundle import Bundle
from reranker.encoder import Encoder
from reranker.evaluation.metrics import bootstrap_interval, ndcg
from reranker.retrieval import bounded
from reranker.training.mining import Judged, pool

MOST = 10_000  # products of a shop that are searched: the judged ones, and others at random
_CUT = 10
Products = Mapping[str, Mapping[str, Any]]


def measure(
    new: Bundle, before: Bundle, held: Mapping[str, Sequence[Judged]], products: Products, most: int = MOST
) -> dict[str, Any]:
    """Of each shop nDCG@10 of the products nearest to its held-out queries, by `new` and by what it was made from.

    `held` has a shop's queries by its index; products have the keys INDEX/ID, as the queries' gains do.
    """
    return {
        index: _measure(new, before, queries, sample(index, queries, products, most)) for index, queries in held.items()
    }


def _measure(new: Bundle, before: Bundle, queries: Sequence[Judged], products: Products) -> dict[str, Any]:
    now, then = (values(bundle, queries, products) for bundle in (new, before))
    gained = bootstrap_interval(now - then, np.random.default_rng(0))
    return {
        "queries": len(queries),
        "products": len(products),
        "ndcg@10": round(float(now.mean()), 4),
        "ndcg@10 before": round(float(then.mean()), 4),
        "gain": {name: round(getattr(gained, name), 4) for name in ("mean", "low", "high")},
    }


def sample(index: str, queries: Sequence[Judged], products: Products, most: int) -> Products:
    """The products of a shop that its queries judge, and others at random up to `most`. Seeded."""
    own = [key for key in products if key.startswith(f"{index}/")]
    return {key: products[key] for key in pool(queries, own, most, np.random.default_rng(0))}


def values(bundle: Bundle, queries: Sequence[Judged], products: Products) -> NDArray[np.float64]:
    """nDCG@10 of the products nearest to each query by exact search, float64 [queries]."""
    encoder = Encoder(bundle, Models())
    keys = list(products)
    found = encoder.embed_products([products[key] for key in keys])
    asked = encoder.embed_queries([bounded(each.query) for each in queries])
    nearest = np.argsort(-(asked @ found.T), axis=1, kind="stable")[:, :_CUT]
    rankings = [[keys[at] for at in row] for row in nearest]
    return np.array([ndcg(ranking, each.gains, _CUT) for ranking, each in zip(rankings, queries, strict=True)])
