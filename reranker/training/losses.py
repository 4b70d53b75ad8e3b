"""Losses of one list: logits of a query's candidates against their gains.

| name | what it asks for | source |
|---|---|---|
| `listnet` | the softmax of the logits to be the distribution of the gains | Cao et al. 2007, top-one |
| `lambda` | each pair in the right order, weighed by what swapping it would change in nDCG | Burges 2010 |
| `pairwise` | each pair in the right order, weighed by the difference of its gains | Burges et al. 2005 |
| `pointwise` | each logit's sigmoid to be the gain | binary cross entropy |
| `teacher` | the softmax of the logits to be that of a teacher's, and each to be near it | Hinton et al. 2015 |

The first three say nothing of how logits of different queries compare; `list_loss` adds a share of the last for that.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

Loss = Literal["listnet", "lambda", "pairwise", "pointwise", "teacher"]
_NEAR = 0.1  # weight of the squared distance to a teacher's logits


def list_loss(logits: Tensor, targets: Tensor, loss: Loss = "listnet", pointwise: float = 0.5) -> Tensor:
    """Loss of one list, a scalar: logits and targets (gains 0 to 1) float32 [list size].

    A list whose gains are all alike has no order to learn: only the pointwise share counts. The targets of `teacher`
    are its logits.
    """
    if loss == "teacher":
        return _as_teacher(logits, targets)
    share = pointwise if loss != "pointwise" else 1.0
    total = share * functional.binary_cross_entropy_with_logits(logits, targets)
    if loss == "pointwise" or bool((targets == targets[0]).all()):
        return total
    return total + _ORDERS[loss](logits, targets)


def _as_teacher(logits: Tensor, targets: Tensor) -> Tensor:
    order = -(functional.softmax(targets, dim=0) * functional.log_softmax(logits, dim=0)).sum()
    return order + _NEAR * (logits - targets).square().mean()


def _listnet(logits: Tensor, targets: Tensor) -> Tensor:
    return -(targets / targets.sum() * functional.log_softmax(logits, dim=0)).sum()


def _pairwise(logits: Tensor, targets: Tensor) -> Tensor:
    gaps = (targets[:, None] - targets[None, :]).clamp(min=0)
    return _weighed(logits, gaps)


def _lambda(logits: Tensor, targets: Tensor) -> Tensor:
    ranks = logits.detach().argsort(descending=True).argsort() + 1
    discounts = 1 / torch.log2(ranks.float() + 1)
    ideal = (
        targets.sort(descending=True).values / torch.log2(torch.arange(len(targets), device=logits.device) + 2.0)
    ).sum()
    gaps = (targets[:, None] - targets[None, :]).clamp(min=0)
    return _weighed(logits, gaps * (discounts[:, None] - discounts[None, :]).abs() / ideal)


def _weighed(logits: Tensor, weights: Tensor) -> Tensor:
    """Logistic loss of each pair (row better than column), a mean by weight; float32 [n], [n, n]."""
    losses = functional.softplus(logits[None, :] - logits[:, None])
    return (losses * weights).sum() / weights.sum().clamp(min=1e-9)


_ORDERS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"listnet": _listnet, "lambda": _lambda, "pairwise": _pairwise}
