"""Fit the weights of the last mile on judged windows that the reranker was not trained on.

Loss of a window: the cross entropy between its gains, made a distribution, and the softmax of the weighted features
(ListNet; Cao et al. 2007), plus a small ridge penalty. It is convex, so the same windows give the same weights.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray

from reranker.blend import COLUMNS
from reranker.evaluation.metrics import ndcg

RIDGE = 0.01
_STEPS = 100
_DECIMALS = 4


class Window(msgspec.Struct, frozen=True):
    """A query's candidates in first-stage order: ids, features float64 [n, len(COLUMNS)], gains of judged ids."""

    ids: tuple[str, ...]
    features: NDArray[np.float64]
    gains: Mapping[str, float]

    def targets(self) -> NDArray[np.float64]:
        """Gain of each candidate, NaN where nobody judged it."""
        return np.array([self.gains.get(key, np.nan) for key in self.ids])

    def value(self, scores: NDArray[np.float64]) -> float:
        """nDCG@10 of the candidates ordered by some scores; equal scores keep first-stage order."""
        order = np.argsort(-np.round(scores, 6), kind="stable")
        return ndcg([self.ids[at] for at in order], self.gains, 10)


def fit(windows: Sequence[Window], ridge: float = RIDGE, columns: Sequence[str] = COLUMNS) -> dict[str, float]:
    """Weight of each of some columns of `COLUMNS`. What nobody judged says nothing and is left out.

    Empty when no window has two judged candidates, one of them with a gain.
    """
    at = [COLUMNS.index(name) for name in columns]
    parts = []
    for window in windows:
        targets = window.targets()
        known = np.isfinite(targets)
        if known.sum() > 1 and targets[known].sum() > 0:
            wanted = torch.tensor(targets[known])
            parts.append((torch.tensor(window.features[known][:, at]), wanted / wanted.sum()))
    if not parts:
        return {}
    weights = torch.zeros(len(at), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([weights], max_iter=_STEPS, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        losses = [-(wanted * torch.log_softmax(rows @ weights, 0)).sum() for rows, wanted in parts]
        total = torch.stack(losses).mean() + ridge * (weights**2).mean()
        total.backward()  # type: ignore[no-untyped-call]
        return total

    optimizer.step(loss)  # type: ignore[no-untyped-call]
    return dict(zip(columns, np.round(weights.detach().numpy(), _DECIMALS).tolist(), strict=True))


def values(windows: Sequence[Window], weights: Mapping[str, float]) -> NDArray[np.float64]:
    """nDCG@10 of each window under some weights: float64 [windows]."""
    row = np.array([weights.get(name, 0.0) for name in COLUMNS])
    return np.array([window.value(window.features @ row) for window in windows])


def held_out_values(windows: Sequence[Window], folds: int = 5, seed: int = 13) -> NDArray[np.float64]:
    """nDCG@10 of each window under weights that were fitted without it: float64 [windows]."""
    order = np.random.default_rng(seed).permutation(len(windows))
    found = np.zeros(len(windows))
    for part in (order[at::folds] for at in range(folds)):
        others = np.setdiff1d(order, part)
        found[part] = values([windows[at] for at in part], fit([windows[at] for at in others]))
    return found
