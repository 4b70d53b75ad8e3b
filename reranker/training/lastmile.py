"""Fit the weights of the last mile on judged windows that the reranker was not trained on.

Loss of a window: the cross entropy between its gains, made a distribution, and the softmax of the weighted features
(ListNet; Cao et al. 2007), plus a small ridge penalty for leaving the weights it starts from. It is convex, so the
same windows give the same weights, and Newton's method finds them in a few steps without a training library.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial

import msgspec
import numpy as np
from numpy.typing import NDArray

from reranker.blend import COLUMNS, VECTOR, WITHOUT_VECTOR, weighted
from reranker.bundle import Description
from reranker.evaluation.metrics import ndcg

RIDGE = 0.01
RIDGES = (0.03, 0.1, 0.3, 1.0, 3.0)  # how firmly a refit may hold on to the weights that it starts from
_STEPS = 50
_ENOUGH = 1e-9  # a step whose loss falls by less is the last one
_DECIMALS = 4


class Window(msgspec.Struct, frozen=True):
    """A query's candidates in first-stage order: ids, features float64 [n, len(COLUMNS)], gains of judged ids.

    Windows of the same `query` are held out together; an empty one is no other window's.
    """

    ids: tuple[str, ...]
    features: NDArray[np.float64]
    gains: Mapping[str, float]
    query: str = ""

    def targets(self) -> NDArray[np.float64]:
        """Gain of each candidate, NaN where nobody judged it."""
        return np.array([self.gains.get(key, np.nan) for key in self.ids])

    def value(self, scores: NDArray[np.float64]) -> float:
        """nDCG@10 of the candidates ordered by some scores; equal scores keep first-stage order."""
        order = np.argsort(-scores, kind="stable")
        return ndcg([self.ids[at] for at in order], self.gains, 10)


def fit(
    windows: Sequence[Window],
    ridge: float = RIDGE,
    columns: Sequence[str] = COLUMNS,
    start: Mapping[str, float] | None = None,
) -> dict[str, float]:
    """Weight of each of some columns of `COLUMNS`. What nobody judged says nothing and is left out.

    `ridge` pulls towards the weights of `start`, or towards 0. Empty when no window has two judged candidates, one of
    them with a gain.
    """
    at = [COLUMNS.index(name) for name in columns]
    judged = _Judged.of(windows, at)
    if judged is None:
        return {}
    origin = np.array([(start or {}).get(name, 0.0) for name in columns])
    weights = origin.copy()
    penalty = ridge / len(at)
    loss = judged.loss(weights) + penalty * float(((weights - origin) ** 2).sum())
    for _ in range(_STEPS):
        gradient, curvature = judged.slopes(weights)
        gradient += 2 * penalty * (weights - origin)
        step = np.linalg.solve(curvature + 2 * penalty * np.eye(len(at)), gradient)
        length = 1.0
        while True:
            tried = weights - length * step
            found = judged.loss(tried) + penalty * float(((tried - origin) ** 2).sum())
            if found <= loss or length < 1e-6:
                break
            length /= 2
        gained = loss - found
        if gained > 0:
            weights, loss = tried, found
        if gained < _ENOUGH:
            break
    return dict(zip(columns, np.round(weights, _DECIMALS).tolist(), strict=True))


def refit(
    windows: Sequence[Window],
    start: Mapping[str, float],
    columns: Sequence[str] = COLUMNS,
    folds: int = 5,
    seed: int = 13,
) -> dict[str, float]:
    """Weights that hold on to `start` as firmly as held-out windows allow, `start` itself where they allow that.

    Of all degrees of firmness whose held-out loss lies within one standard error of the least one, over folds, it is
    the firmest: a dozen queries must not throw away what hundreds have taught. For a shop with some dozen judged
    queries of its own, and weights that many other queries gave.
    """
    usable = [window for window in windows if _Judged.of([window], range(len(COLUMNS))) is not None]
    if len(_by_query(usable)) < 2 * folds:
        return dict(start)
    parts = [
        ([usable[at] for at in others], [usable[at] for at in part]) for others, part in _folds(usable, folds, seed)
    ]
    firmest_first = (None, *sorted(RIDGES, reverse=True))  # None: not at all free
    losses = np.array(
        [
            [_loss(part, start if ridge is None else fit(others, ridge, columns, start)) for others, part in parts]
            for ridge in firmest_first
        ]
    )
    sizes = np.array([len(part) for _, part in parts])
    more = losses - losses[int(np.argmin(losses @ sizes))]  # than the best degree, fold by fold
    allowed = more @ sizes / sizes.sum() <= more.std(axis=1, ddof=1) / np.sqrt(folds)
    ridge = firmest_first[int(np.argmax(allowed))]
    return dict(start) if ridge is None else fit(usable, ridge, columns, start)


def fitter(before: Description | None, cosines: bool) -> Callable[[Sequence[Window]], dict[str, float]]:
    """What fits weights, one for cosines among them or not: from nothing, or holding on to those of `before`."""
    columns = COLUMNS if cosines else WITHOUT_VECTOR
    if before is None:
        return partial(fit, columns=columns)
    return partial(refit, start=before.last_mile(cosines), columns=columns)


def know_cosines(windows: Sequence[Window]) -> bool:
    """Whether some window can tell what a cosine is worth."""
    return any(bool(window.features[:, COLUMNS.index(VECTOR)].any()) for window in windows)


def values(windows: Sequence[Window], weights: Mapping[str, float]) -> NDArray[np.float64]:
    """nDCG@10 of each window under some weights: float64 [windows]."""
    return np.array([window.value(weighted(window.features, weights)) for window in windows])


def held_out_values(
    windows: Sequence[Window],
    folds: int = 5,
    seed: int = 13,
    fitted: Callable[[Sequence[Window]], dict[str, float]] = fit,
) -> NDArray[np.float64]:
    """nDCG@10 of each window under weights that were `fitted` without it: float64 [windows]."""
    found = np.zeros(len(windows))
    for others, part in _folds(windows, folds, seed):
        found[part] = values([windows[at] for at in part], fitted([windows[at] for at in others]))
    return found


def _by_query(windows: Sequence[Window]) -> list[list[int]]:
    """Positions of each query's windows."""
    found: dict[str | int, list[int]] = {}
    for at, window in enumerate(windows):
        found.setdefault(window.query or at, []).append(at)
    return list(found.values())


def _folds(windows: Sequence[Window], folds: int, seed: int) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Positions to fit on and positions left out, for each fold over queries."""
    queries = _by_query(windows)
    order = np.random.default_rng(seed).permutation(len(queries))
    for part in (order[at::folds] for at in range(folds)):
        left_out = np.array([at for query in part for at in queries[query]], np.int64)
        yield np.setdiff1d(np.arange(len(windows)), left_out), left_out


class _Judged(msgspec.Struct, frozen=True):
    """Judged candidates of all windows, padded: features [windows, n, columns], targets and there [windows, n]."""

    features: NDArray[np.float64]
    targets: NDArray[np.float64]
    there: NDArray[np.bool_]

    @classmethod
    def of(cls, windows: Sequence[Window], columns: Sequence[int]) -> _Judged | None:
        parts = []
        for window in windows:
            targets = window.targets()
            known = np.isfinite(targets)
            if known.sum() > 1 and targets[known].sum() > 0:
                parts.append((window.features[known][:, list(columns)], targets[known] / targets[known].sum()))
        if not parts:
            return None
        most = max(len(rows) for rows, _ in parts)
        features = np.zeros((len(parts), most, len(columns)))
        wanted, there = np.zeros((len(parts), most)), np.zeros((len(parts), most), bool)
        for at, (rows, targets) in enumerate(parts):
            features[at, : len(rows)], wanted[at, : len(rows)], there[at, : len(rows)] = rows, targets, True
        return cls(features, wanted, there)

    def _log_shares(self, weights: NDArray[np.float64]) -> NDArray[np.float64]:
        scores = np.where(self.there, self.features @ weights, -np.inf)
        scores -= scores.max(1, keepdims=True)
        return np.asarray(scores - np.log(np.exp(scores).sum(1, keepdims=True)), np.float64)

    def loss(self, weights: NDArray[np.float64]) -> float:
        shares = np.where(self.there, self._log_shares(weights), 0.0)
        return float(-(self.targets * shares).sum() / len(self.targets))

    def slopes(self, weights: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Gradient [columns] and Hessian [columns, columns] of the loss."""
        shares = np.exp(self._log_shares(weights))
        gradient = np.einsum("wn,wnc->c", shares - self.targets, self.features)
        means = np.einsum("wn,wnc->wc", shares, self.features)
        hessian = np.einsum("wn,wnc,wnd->cd", shares, self.features, self.features) - means.T @ means
        return gradient / len(shares), hessian / len(shares)


def _loss(windows: Sequence[Window], weights: Mapping[str, float]) -> float:
    judged = _Judged.of(windows, range(len(COLUMNS)))
    return judged.loss(np.array([weights.get(name, 0.0) for name in COLUMNS])) if judged else 0.0
