"""What an encoder finds of held-out queries, for its card."""

from __future__ import annotations

import msgspec
import pytest

from reranker import bundle as bundles
from reranker.bundle import Bundle
from reranker.training.mining import Judged
from reranker.training.nearest import measure

PRODUCTS = {
    "shop/lamp": {"title": "LED desk lamp with a dimmer"},
    "shop/mug": {"title": "Stoneware coffee mug"},
    "shop/rug": {"title": "Woven cotton rug"},
    "shop/杯": {"title": "不锈钢保温杯 500ml"},
    "other/mug": {"title": "Stoneware coffee mug, the other shop's"},
}
HELD = {"shop": [Judged("coffee mug", {"shop/mug": 1.0, "shop/rug": 0.0}), Judged("保温杯", {"shop/杯": 1.0})]}


@pytest.fixture(scope="module")
def shipped() -> Bundle:
    return bundles.load("", "encoder")


def test_it_finds_what_was_judged_among_the_shops_own_products(shipped: Bundle) -> None:
    found = measure(shipped, shipped, HELD, PRODUCTS)
    assert found == {
        "shop": {
            "queries": 2,
            "products": 4,
            "ndcg@10": 1.0,
            "ndcg@10 before": 1.0,
            "gain": {"mean": 0.0, "low": 0.0, "high": 0.0},
        }
    }


def test_what_it_gained_is_told_beside_what_it_was_made_from(shipped: Bundle) -> None:
    recipe = msgspec.structs.replace(shipped.description.recipe, fields=())  # reads nothing of a product
    blind = msgspec.structs.replace(shipped, description=msgspec.structs.replace(shipped.description, recipe=recipe))
    found = measure(shipped, blind, HELD, PRODUCTS)["shop"]
    assert found["ndcg@10"] == 1.0
    assert found["gain"]["mean"] == pytest.approx(1.0 - found["ndcg@10 before"], abs=1e-4)
    assert found["gain"]["mean"] > 0


def test_of_a_large_shop_all_judged_products_and_some_others_are_searched(shipped: Bundle) -> None:
    many = {**PRODUCTS, **{f"shop/{at}": {"title": f"table {at}"} for at in range(30)}}
    assert measure(shipped, shipped, HELD, many, most=12)["shop"]["products"] == 12
    assert measure(shipped, shipped, HELD, many, most=1)["shop"]["products"] == 3
