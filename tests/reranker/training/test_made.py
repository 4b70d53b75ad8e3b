"""Queries made from a catalogue: that what is right and wrong of them is what their words say."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from reranker.training.data import Options
from reranker.training.made import made_groups, title_groups, title_words

NONE = Options(title_queries=0, seed=5)
PARTS = ("straw", "handle", "filter")
COLORS = ("Red", "Blue", "Green")
BRANDS = ("Rill", "Ostra")


def bottle(at: int) -> dict[str, Any]:
    part, color, brand = PARTS[at % 3], COLORS[at % 2], BRANDS[at % 2]
    title = f"{brand} water bottle with {part}" if at % 4 else f"{brand} water bottle"
    return {
        "title": title,
        "brand": brand,
        "color": color,
        "price": 10.0 + at,
        "category": ["Kitchen", "Water Bottles"],
    }


def lamp(at: int) -> dict[str, Any]:
    title = f"光漪 台灯 带{'底座' if at % 2 else '夹子'} {'黑色' if at % 3 else '白色'}"
    return {"title": title, "brand": "光漪", "price": 100.0 + 10 * at, "category": ["灯饰", "台灯"]}


SHOP = {f"b{at}": bottle(at) for at in range(24)}
SHOP |= {f"l{at}": lamp(at) for at in range(12)}
SHOP |= {f"p{at}": {"title": f"Nimbus phone {at}"} for at in range(3)}
SHOP |= {f"c{at}": {"title": f"Leather case for Nimbus phone {at}"} for at in range(3)}


def near(query: str) -> list[tuple[str, float]]:
    """All products, those with more of the query's characters first."""
    wanted = set(query)
    found = {key: len(wanted & set(product["title"].casefold())) for key, product in SHOP.items()}
    return [(key, 0.9 - 0.001 * at) for at, key in enumerate(sorted(found, key=lambda key: (-found[key], key)))]


@pytest.mark.parametrize("kind", ["attribute_queries", "exclusion_queries", "price_queries", "accessory_queries"])
def test_a_kind_is_off_until_it_is_asked_for(kind: str) -> None:
    assert made_groups(SHOP, near, NONE) == []
    groups = made_groups(SHOP, near, Options(**{"title_queries": 0, "seed": 5, kind: 3}))
    assert 0 < len(groups) <= 3
    for group in groups:
        assert group.judged == 1
        assert group.targets[0] == max(group.targets) == 1.0
        assert min(group.targets) < 0.2
        assert len(set(group.products)) == len(group.products) == len(group.targets)
    assert groups == made_groups(SHOP, near, Options(**{"title_queries": 0, "seed": 5, kind: 3}))


def test_a_brand_or_a_color_must_agree() -> None:
    for group in made_groups(SHOP, near, Options(title_queries=0, attribute_queries=20)):
        for key, target in zip(group.products, group.targets, strict=True):
            asked = [brand for brand in BRANDS if brand.casefold() in group.query]
            brand = SHOP[key].get("brand")
            if target > 0.1 and asked:
                assert brand in asked, (group.query, SHOP[key])


def test_what_is_excluded_is_wrong_and_what_lacks_it_is_right() -> None:
    groups = made_groups(SHOP, near, Options(title_queries=0, exclusion_queries=40))
    english = [
        group
        for group in groups
        if any(f"{word} {part}" in group.query for word in ("without", "no") for part in PARTS)
    ]
    chinese = [group for group in groups if any(word in group.query for word in ("不带", "不要", "无"))]
    assert english
    assert chinese
    for group in english:
        (part,) = (part for part in PARTS if part in group.query)
        for key, target in zip(group.products, group.targets, strict=True):
            assert not (part in SHOP[key]["title"] and target), (group.query, SHOP[key])


def test_a_price_above_the_limit_is_wrong() -> None:
    for group in made_groups(SHOP, near, Options(title_queries=0, price_queries=20)):
        limit = float(group.query.split()[-1].removesuffix("元以内"))
        for key, target in zip(group.products, group.targets, strict=True):
            assert not (SHOP[key].get("price", 0) > limit and target), (group.query, SHOP[key])


def test_what_is_sold_for_a_thing_is_not_the_thing() -> None:
    groups = made_groups(SHOP, near, Options(title_queries=0, accessory_queries=5))
    assert groups
    for group in groups:
        assert group.query.startswith("nimbus phone")
        by_kind = {key[0]: target for key, target in zip(group.products, group.targets, strict=True) if key[0] in "pc"}
        assert by_kind == {"p": 1.0, "c": 0.0}


def test_a_catalogue_without_a_kind_is_not_searched_for_ever() -> None:
    shop = {f"a{at}": {"title": f"Case for phone {at}", "price": 1.0, "category": ["Cases"]} for at in range(500)}
    asked: list[str] = []

    def teacher(query: str) -> list[tuple[str, float]]:
        asked.append(query)
        return [(key, 0.9) for key in list(shop)[:5]]

    assert made_groups(shop, teacher, Options(title_queries=0, accessory_queries=2, price_queries=2)) == []
    assert 0 < len(asked) < 100


def test_whom_a_product_is_for_is_no_thing() -> None:
    shop = SHOP | {"x": {"title": "Vitamins for women"}, "y": {"title": "Women shirt"}}
    queries = [group.query for group in made_groups(shop, near, Options(title_queries=0, accessory_queries=50))]
    assert queries
    assert "women" not in queries


def test_a_query_that_is_held_out_is_not_made() -> None:
    options = Options(title_queries=0, accessory_queries=5)
    held_out = made_groups(SHOP, near, options)[0].query.upper()
    assert held_out.casefold() not in {group.query for group in made_groups(SHOP, near, options, [held_out])}


def test_a_made_query_is_taught_by_the_encoder_and_never_calls_an_equal_wrong() -> None:
    products = {
        "a": {"title": "steel cup blue handle"},
        "b": {"title": "blue steel cup with a handle"},
        "c": {"title": "lamp shade"},
        "d": {"title": "garden chair"},
    }
    teacher: Callable[[str], list[tuple[str, float]]] = lambda _: [("a", 0.9), ("c", 0.87), ("b", 0.86), ("d", 0.5)]  # noqa: E731
    for group in title_groups(products, teacher, Options(title_queries=4, title_negatives=2, seed=3)):
        answer = group.products[0]
        assert group.targets[0] == 1.0
        assert all(0 <= target <= 1 for target in group.targets)
        if answer == "a" and "b" in group.products:
            assert set(group.query.split()) - set(str(products["b"]["title"]).split())


def test_a_catalogue_of_titles_alone_is_enough() -> None:
    bare = {key: {"title": product["title"]} for key, product in SHOP.items()}
    options = Options(title_queries=5, attribute_queries=5, exclusion_queries=5, price_queries=5, accessory_queries=5)
    assert made_groups(bare, near, options)
    assert made_groups({"a": {"title": ""}, "b": {}}, lambda _: [], NONE) == []


def test_chinese_titles_are_cut_into_words() -> None:
    words = title_words("屿禾 316不锈钢保温杯 750ml 黑色")
    assert "不锈钢" in words
    assert "750ml" in words
    assert all(" " not in word for word in words)
