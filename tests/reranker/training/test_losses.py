"""Every loss falls as the order gets better and says nothing wrong of lists without an order."""

from __future__ import annotations

from typing import get_args

import pytest
import torch

from reranker.training.losses import Loss, list_loss

LOSSES = get_args(Loss)
TARGETS = torch.tensor([1.0, 0.1, 0.0])


@pytest.mark.parametrize("loss", LOSSES)
def test_the_right_order_costs_less_than_the_wrong_one(loss: Loss) -> None:
    right, wrong = torch.tensor([2.0, 0.0, -2.0]), torch.tensor([-2.0, 0.0, 2.0])
    assert list_loss(right, TARGETS, loss) < list_loss(wrong, TARGETS, loss)


@pytest.mark.parametrize("loss", LOSSES)
def test_a_step_against_the_gradient_moves_the_best_product_up(loss: Loss) -> None:
    logits = torch.tensor([0.0, 0.1, 0.2], requires_grad=True)
    list_loss(logits, TARGETS, loss).backward()
    assert logits.grad is not None
    assert logits.grad[0] < 0 < logits.grad[2]


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("gain", [0.0, 1.0])
def test_a_list_of_equal_gains_keeps_a_finite_loss(loss: Loss, gain: float) -> None:
    value = list_loss(torch.tensor([3.0, -3.0]), torch.tensor([gain, gain]), loss)
    assert torch.isfinite(value)


@pytest.mark.parametrize("loss", ["listnet", "lambda", "pairwise"])
def test_without_a_pointwise_share_only_the_order_counts(loss: Loss) -> None:
    logits = torch.tensor([1.0, 0.0, -1.0])
    torch.testing.assert_close(list_loss(logits, TARGETS, loss, 0.0), list_loss(logits + 5, TARGETS, loss, 0.0))


def test_lambda_cares_most_for_the_top_of_the_list() -> None:
    """The same mistake between neighbours, at the top and at the bottom of four."""
    targets = torch.tensor([1.0, 0.0, 1.0, 0.0])
    at_the_top, at_the_bottom = torch.tensor([3.0, 4.0, 2.0, 1.0]), torch.tensor([4.0, 2.0, 1.0, 3.0])
    top = torch.autograd.functional.jacobian(lambda x: list_loss(x, targets, "lambda", 0.0), at_the_top)
    assert top[0] < 0 < top[1]
    assert torch.isfinite(list_loss(at_the_bottom, targets, "lambda", 0.0))
