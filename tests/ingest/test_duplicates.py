"""The same thing listed twice is recognised; its variants are not."""

from __future__ import annotations

from typing import Any

import pytest

from ingest.duplicates import NearDuplicates


def product(name: str, title: str, **fields: Any) -> dict[str, Any]:
    return {"id": name, "title": title, **fields}


def repeats(first: dict[str, Any], second: dict[str, Any]) -> bool:
    seen = NearDuplicates()
    assert seen.first_like(first) == ""
    return seen.first_like(second) == first["id"]


BOTTLE = "Lumora Stainless Steel Water Bottle with Straw Lid, Leakproof, 750 ml"
CUP = "暖冬 304不锈钢保温杯 大容量男女士便携水杯 500ml 星空黑"


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (BOTTLE, BOTTLE),
        (BOTTLE, "lumora stainless steel water bottle with straw lid - leakproof (750ml)"),
        (BOTTLE, "Lumora Water Bottle with Straw Lid, Stainless Steel, 750 ml, Leakproof"),
        (BOTTLE, "NEW! Lumora Stainless Steel Water Bottle with Straw Lid, Leakproof, 750 ml FREE SHIPPING"),
        (BOTTLE, "Lumora Stainles Steel Water Bottle with Straw Lid, Leakproof, 750 ml"),
        (CUP, "暖冬 304不锈钢保温杯 大容量男女士便携水杯 500ML 星空黑"),
        (CUP, "【正品包邮】暖冬304不锈钢保温杯大容量男女士便携水杯５００ｍｌ星空黑"),
        (CUP, "暖冬 大容量男女士便携水杯 304不锈钢保温杯 500ml 星空黑"),
    ],
)
def test_the_same_title_written_another_way_is_a_near_duplicate(first: str, second: str) -> None:
    assert repeats(product("1", first), product("2", second))


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (BOTTLE, "Lumora Stainless Steel Water Bottle with Straw Lid, Leakproof, 500 ml"),
        (BOTTLE, "Lumora Stainless Steel Water Bottle with Straw Lid, Leakproof, 750 oz"),
        (BOTTLE, "Lumora Stainless Steel Water Bottle without Straw Lid, Leakproof, 750 ml"),
        ("Sony Noise Cancelling Headphones WH-1000XM4", "Sony Noise Cancelling Headphones WH-1000XM5"),
        ("Gentle Baby Wipes, Unscented, Pack of 80 Sheets", "Gentle Baby Wipes, Scented, Pack of 80 Sheets"),
        ("Trail Running Shoes for Women, Cushioned, Size 8", "Trail Running Shoes for Men, Cushioned, Size 8"),
        ("Soft Cotton Crew Neck T-Shirt for Summer, Black", "Soft Cotton Crew Neck T-Shirt for Summer, Brown"),
        (
            "Replacement Mirror Glass for Delivery Van, Heated, Right",
            "Replacement Mirror Glass for Delivery Van, Heated, Light",
        ),
        (
            "Phone Cover with Card Holder and Wrist Strap, Leather",
            "Phone Cover with Card Holder and Wrist Strap, Leader",
        ),
        ("Stone Top Table", "Stove Top Table"),  # a letter of a short title is much of it
        ("Wooden Desk Planner", "Wooden Desk Planter"),
        (CUP, "暖冬 304不锈钢保温杯 大容量男女士便携水杯 750ml 星空黑"),
        (CUP, "暖冬 304不锈钢保温杯 大容量男女士便携水杯 500ml 星空白"),
        ("婴儿湿巾 含酒精 加厚 80抽 便携装 家庭实惠装", "婴儿湿巾 不含酒精 加厚 80抽 便携装 家庭实惠装"),
    ],
)
def test_another_size_model_colour_or_kind_is_a_variant(first: str, second: str) -> None:
    assert not repeats(product("1", first), product("2", second))


def test_brand_and_colour_fields_tell_variants_apart_unless_one_is_missing() -> None:
    red = product("1", BOTTLE, brand="Lumora", color="Red")
    assert not repeats(red, product("2", BOTTLE, brand="Lumora", color="Blue"))
    assert not repeats(red, product("2", BOTTLE, brand="Other", color="Red"))
    assert repeats(red, product("2", BOTTLE, brand="LUMORA", color="red"))
    assert repeats(red, product("2", BOTTLE, brand="", color=""))


def test_size_like_attributes_tell_variants_apart_and_article_numbers_do_not() -> None:
    small = product("1", BOTTLE, attributes={"Size": "S", "ean": "111"})
    assert not repeats(small, product("2", BOTTLE, attributes={"Size": "M", "ean": "111"}))
    assert not repeats(product("1", CUP, attributes={"容量": "500ml"}), product("2", CUP, attributes={"容量": "1L"}))
    assert repeats(small, product("2", BOTTLE, attributes={"Size": "S", "ean": "222"}))


def test_the_first_of_several_is_named_and_each_variant_has_its_own() -> None:
    seen = NearDuplicates()
    titles = [f"{BOTTLE} {color}" for color in ("Red", "Blue", "Red", "Blue", "Red")]
    found = [seen.first_like(product(str(number), title)) for number, title in enumerate(titles)]
    assert found == ["", "", "0", "1", "0"]


def test_titles_of_one_character_or_none_are_no_trouble() -> None:
    seen = NearDuplicates()
    assert seen.first_like(product("1", "杯")) == ""
    assert seen.first_like(product("2", "?!")) == ""
    assert seen.first_like(product("3", "杯")) == "1"
