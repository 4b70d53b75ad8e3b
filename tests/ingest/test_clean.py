"""A row becomes a product, or a rejection that says why; what is doubtful is flagged."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest.clean import Cleaned, category_path, clean
from ingest.schema import CatalogMapping, Columns, Values
from ingest.sources import Rejection, Row

COLUMNS = Columns(
    id="sku",
    title="name",
    description="text",
    bullets=("b1", "b2"),
    brand="maker",
    color="color",
    category="path",
    price="price",
    currency="money",
    rating="stars",
    rating_count="votes",
    image="picture",
    attributes="*",
)
MAPPING = CatalogMapping(COLUMNS, Values(currency="USD"))


def cleaned(mapping: CatalogMapping = MAPPING, **values: Any) -> Cleaned:
    found = clean(Row(1, {"sku": "1", "name": "Lamp", **values}), mapping)
    assert isinstance(found, Cleaned)
    return found


def test_a_whole_row_becomes_a_product() -> None:
    found = cleaned(
        name="<b>Desk</b> Lamp &amp; Shade",
        text="Warm light.<br>Dimmable.",
        b1="LED",
        b2="USB-C",
        maker="Lumora",
        color="white",
        path="Home > Lighting > Desk",
        price="$24.90",
        stars="4.5",
        votes="1,234",
        picture="https://shop.example/1.jpg",
        watts="9",
    )
    assert found.product == {
        "id": "1",
        "title": "Desk Lamp & Shade",
        "description": "Warm light.\nDimmable.",
        "bullets": "LED\nUSB-C",
        "brand": "Lumora",
        "color": "white",
        "category": ["Home", "Lighting", "Desk"],
        "price": 24.9,
        "currency": "USD",
        "rating": 4.5,
        "rating_count": 1234,
        "image": "https://shop.example/1.jpg",
        "language": "en",
        "attributes": {"watts": "9"},
    }
    assert found.flags == []
    assert found.steps == {"markup_removed", "price_parsed", "language_detected"}


def test_missing_fields_are_left_out_and_marked() -> None:
    found = cleaned()
    assert found.product == {"id": "1", "title": "Lamp", "language": "en"}
    fields = ("description", "brand", "color", "category", "price", "rating", "image")
    assert found.flags == [f"missing_{name}" for name in fields]


def test_fields_that_the_shop_does_not_have_are_not_called_missing() -> None:
    assert cleaned(CatalogMapping(Columns(id="sku", title="name"))).flags == []


@pytest.mark.parametrize("name", [None, "", "  ", "<p></p>", "\u200b", float("nan")])
def test_a_row_without_title_is_rejected(name: object) -> None:
    found = clean(Row(7, {"sku": "1", "name": name}), MAPPING)
    assert isinstance(found, Rejection)
    assert (found.row, found.field, found.reason) == (7, "title", "no title")


@pytest.mark.parametrize("sku", [None, "", " ", float("nan"), True, ["1"]])
def test_a_row_without_id_is_rejected(sku: object) -> None:
    found = clean(Row(7, {"sku": sku, "name": "Lamp"}), MAPPING)
    assert isinstance(found, Rejection)
    assert (found.field, found.reason) == ("id", "no id")


@pytest.mark.parametrize(
    ("sku", "fits"), [("x" * 512, True), ("x" * 513, False), ("杯" * 170, True), ("杯" * 171, False)]
)
def test_an_id_longer_than_512_bytes_is_rejected(sku: str, fits: bool) -> None:
    assert isinstance(clean(Row(1, {"sku": sku, "name": "Lamp"}), MAPPING), Cleaned) is fits


@pytest.mark.parametrize(("sku", "kept"), [(7, "7"), (7.0, "7"), ("007", "007"), (" A&amp;B ", "A&amp;B")])
def test_an_id_is_kept_as_the_shop_knows_it(sku: object, kept: str) -> None:
    assert cleaned(sku=sku).product["id"] == kept


@pytest.mark.parametrize("price", ["0", "-5", "inf", float("nan"), "9999999999"])
def test_an_impossible_price_is_dropped_and_flagged(price: object) -> None:
    found = cleaned(price=price)
    assert "price" not in found.product
    assert "price_impossible" in found.flags
    assert "missing_price" not in found.flags


def test_a_price_that_is_not_understood_is_dropped_flagged_and_told() -> None:
    found = cleaned(price="ask us")
    assert "price" not in found.product
    assert found.details["price_not_understood"] == "ask us"


@pytest.mark.parametrize(
    ("price", "column", "default", "currency"),
    [
        ("¥99", "JPY", "USD", "JPY"),
        ("¥99", None, "JPY", "JPY"),
        ("¥99", None, "", "CNY"),
        ("99元", None, "USD", "CNY"),
        ("USD 9", "CNY", "", "USD"),
        ("9", "rmb", "", "CNY"),
        ("9", None, "", None),
    ],
)
def test_the_currency_is_what_the_price_surely_says_else_the_column_else_the_mapping(
    price: str, column: str | None, default: str, currency: str | None
) -> None:
    mapping = CatalogMapping(COLUMNS, Values(currency=default))
    assert cleaned(mapping, price=price, money=column).product.get("currency") == currency


@pytest.mark.parametrize("stars", ["11", "-1", "nan"])
def test_a_rating_outside_the_scale_is_dropped_and_flagged(stars: str) -> None:
    found = cleaned(stars=stars)
    assert "rating" not in found.product
    assert "rating_impossible" in found.flags


def test_a_rating_of_zero_without_votes_means_that_nobody_rated() -> None:
    assert "rating" not in cleaned(stars="0", votes="0").product
    assert cleaned(stars="0", votes="3").product["rating"] == 0


@pytest.mark.parametrize(
    "path",
    ["家居 > 餐具 > 杯子", "家居>餐具> >杯子", ["家居", "餐具", "", "杯子"], '["家居", "餐具", "杯子"]'],
)
def test_a_category_may_be_text_a_list_or_a_list_as_text(path: object) -> None:
    assert cleaned(path=path).product["category"] == ["家居", "餐具", "杯子"]


def test_a_category_may_have_a_column_a_level() -> None:
    mapping = CatalogMapping(Columns(id="sku", title="name", category=("one", "two")))
    assert cleaned(mapping, one="Home", two="Lamps > Desk").product["category"] == ["Home", "Lamps > Desk"]


def test_a_category_path_holds_every_prefix() -> None:
    assert category_path(["Toys", "Games", "Chess"]) == ["Toys", "Toys > Games", "Toys > Games > Chess"]
    assert category_path([]) == []


def test_a_missing_brand_or_colour_is_filled_from_an_attribute() -> None:
    found = cleaned(品牌="暖冬", Colour="red")
    assert (found.product["brand"], found.product["color"]) == ("暖冬", "red")
    assert {"brand_filled", "color_filled"} <= found.steps
    assert "missing_brand" not in found.flags


def test_attributes_are_text_with_names_that_are_no_paths() -> None:
    found = cleaned(**{"a.b": 3.0, "list": ["x", "y"], "yes": True, "empty": None, "specs": {"Weight": "2 kg"}})
    assert found.product["attributes"] == {"a_b": "3", "list": "x; y", "yes": "true", "Weight": "2 kg"}


def test_long_text_is_cut_and_flagged() -> None:
    found = cleaned(text="长" * 60_000, watts="9" * 5_000)
    assert len(found.product["description"]) == 50_000
    assert "truncated_description" in found.flags
    assert len(found.product["attributes"]["watts"]) == 1_000


def test_text_that_stays_broken_is_flagged() -> None:
    assert "broken_text" in cleaned(name="保温\ufffd").flags


def test_the_language_comes_from_column_mapping_or_script() -> None:
    columns = Columns(id="sku", title="name", language="lang")
    assert cleaned(CatalogMapping(columns), lang="zh_CN").product["language"] == "zh"
    assert cleaned(CatalogMapping(columns, Values(language="de"))).product["language"] == "de"
    assert cleaned(CatalogMapping(columns), name="保温杯").product["language"] == "zh"


anything = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=5,
)


@given(st.dictionaries(st.sampled_from([*COLUMNS.named(), "other"]), anything))
def test_no_row_whatever_does_more_than_be_rejected(values: dict[str, Any]) -> None:
    clean(Row(1, values), MAPPING)
