"""Hard negatives: products that lie near a query and that nobody judged for it, as wrong ones to learn from.

The nearest of them are often right. So those are left out that lie nearer than a share of the cosine that the query's
own best product has (Moreira et al. 2024, "NV-Retriever": a share of the positive's score).
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]


class Judged(msgspec.Struct, frozen=True):
    """A query with the gains of its judged products, by key."""

    query: str
    gains: dict[str, float]


def pool(judged: Sequence[Judged], catalogue: Sequence[str], most: int, rng: np.random.Generator) -> list[str]:
    """Keys of the products that are looked through: all judged ones, and others at random up to `most`."""
    wanted = {key for each in judged for key in each.gains}
    others = [key for key in sorted(catalogue) if key not in wanted]
    return sorted({*wanted, *(others[at] for at in rng.permutation(len(others))[: max(0, most - len(wanted))])})


def mined(
    judged: Sequence[Judged], keys: Sequence[str], asked: Floats, found: Floats, count: int, margin: float
) -> list[Judged]:
    """The queries, each with `count` negatives more at most, their gain 0.

    `asked` and `found` are unit vectors of the queries and of the products `keys`: float32 [queries, size] and
    [products, size]. A negative's cosine is below `1 - margin` of that of the query's nearest best product.
    """
    place = {key: at for at, key in enumerate(keys)}
    rows = []
    for each, vector in zip(judged, asked, strict=True):
        near = found @ vector
        most = max(each.gains.values(), default=0.0)
        best = [near[place[key]] for key, gain in each.gains.items() if gain == most > 0]
        below = (1 - margin) * max(best) if best else -np.inf
        order = np.argsort(-near, kind="stable")
        wrong = [keys[at] for at in order[near[order] < below] if keys[at] not in each.gains][:count]
        rows.append(Judged(each.query, each.gains | dict.fromkeys(wrong, 0.0)))
    return rows
