"""What each signal says, by titles that a reader can check, in English and Chinese."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reranker.blend import COLUMNS, VECTOR, features, weighed
from reranker.signals import NAMES, signals, terms_of


def said(name: str, query: str, *products: str | dict[str, Any]) -> list[float]:
    """One signal for products that are given by their titles or their fields, in first-stage order."""
    shown = [{"title": each} if isinstance(each, str) else each for each in products]
    first = np.arange(len(shown), 0, -1, dtype=float)
    return [float(value) for value in signals(query, shown, first)[:, NAMES.index(name)]]


def test_terms_are_words_without_plural_numbers_and_pairs_of_han() -> None:
    assert terms_of("Men's 24oz Bottles") == ["men", "24", "oz", "bottle"]
    assert terms_of("不锈钢保温杯") == ["不锈", "锈钢", "钢保", "保温", "温杯"]
    assert terms_of("ＵＳＢ　杯") == ["usb", "杯"]


@pytest.mark.parametrize(
    ("query", "has", "lacks"),
    [
        ("water bottle without straw", "Water bottle with straw", "Water bottle, screw cap"),
        ("sweatshirt no hood", "Hooded sweatshirt", "Crew neck sweatshirt"),
        ("candy no chocolate", "Chocolate candy", "Fruit candy"),
        ("sugar free gum", "Sugar gum", "Mint gum"),
        ("不带吸管的水杯", "吸管水杯", "直饮水杯"),
        ("无糖饼干", "加糖饼干", "燕麦饼干"),
        ("不带吸管水杯", "吸管大水杯", "直饮水杯"),
        ("chairs without any arms", "Chair with arms", "Armless chair"),
    ],
)
def test_a_product_that_has_what_is_excluded_is_marked(query: str, has: str, lacks: str) -> None:
    assert said("excluded", query, has, lacks) == [1.0, 0.0]


@pytest.mark.parametrize(
    ("query", "title"),
    [
        ("water bottle without straws", "Water bottle without straw"),
        ("sugar free gum", "Sugar free gum"),
        ("无糖饼干", "无糖饼干"),
        ("不带吸管水杯", "不带吸管的水杯"),
    ],
)
def test_a_product_that_says_it_is_without_it_is_told_from_a_silent_one(query: str, title: str) -> None:
    assert said("excluded", query, title) == [-1.0]


def test_a_colour_is_excluded_by_its_field_and_a_word_ending_in_less_is_no_violation() -> None:
    beds = [{"title": "Queen bed", "color": "White"}, {"title": "Queen bed", "color": "Walnut"}]
    assert said("excluded", "queen bed not white", *beds) == [1.0, 0.0]
    assert said("excluded", "bra no wire", "Wireless bra") == [0.0]


def test_a_colour_that_is_named_speaks_for_its_products_and_against_others() -> None:
    cups = [{"title": "Cup", "color": "Navy"}, {"title": "Red cup"}, {"title": "Cup", "color": "Fancy"}]
    assert said("color", "blue cup", *cups) == [1.0, -1.0, 0.0]
    assert said("color", "cup", *cups) == [0.0, 0.0, 0.0]
    assert said("color", "黑色保温杯", {"title": "保温杯 黑色"}, {"title": "保温杯 白色"}) == [1.0, -1.0]
    assert said("color", "grey cup", {"title": "cup", "color": "Gray"}) == [1.0]


@pytest.mark.parametrize(
    ("query", "beyond", "within"),
    [
        ("quiet keyboard under 80", 80.5, 80),
        ("keyboard under $80", 99, 20),
        ("keyboard over $80", 79, 80),
        ("100元以内的保温杯", 101, 100),
        ("保温杯 不超过100", 100.5, 99),
        ("200元以上的键盘", 199, 200),
    ],
)
def test_a_price_beyond_the_limit_is_marked(query: str, beyond: float, within: float) -> None:
    assert said("price", query, {"title": "a", "price": beyond}, {"title": "a", "price": within}) == [1.0, 0.0]
    assert said("price", query, {"title": "a"}, {"title": "a", "price": "cheap"}) == [0.0, 0.0]


@pytest.mark.parametrize(
    "query", ["desk under 40 inches", "battery under 5%", "under armour 36", "for kids under 5 years"]
)
def test_a_limit_of_something_else_is_no_price(query: str) -> None:
    assert said("price", query, {"title": "a", "price": 1000.0}) == [0.0]


def test_a_limit_of_price_is_not_asked_of_the_title() -> None:
    assert said("number", "keyboard under 80", "Keyboard") == [0.0]
    assert said("title_match", "keyboard under 80", "Keyboard") == [1.0]


def test_words_run_together_and_apart_are_the_same() -> None:
    assert said("title_match", "chrome cast", "Chromecast player", "Chrome pen")[0] == 1.0
    assert said("title_match", "chrome cast", "Chromecast player", "Chrome pen")[1] < 1.0
    assert said("title_match", "firestick", "Fire stick with remote") == [1.0]


def test_what_is_excluded_does_not_count_as_asked_for() -> None:
    with_straw, without = said("title_match", "bottle without straw", "Bottle with straw", "Bottle")
    assert with_straw == without == 1.0


def test_rare_words_count_more_than_words_that_every_hit_has() -> None:
    teal, steel = said("title_match", "teal bottle", "Teal cup", "Steel bottle", "Red bottle", "Blue bottle")[:2]
    assert teal > steel


def test_a_named_brand_speaks_for_its_products_and_against_others() -> None:
    products = [{"title": "a", "brand": "Acme"}, {"title": "b", "brand": "Zed"}, {"title": "c"}]
    assert said("brand", "acme bottle", *products) == [1.0, -1.0, 0.0]
    assert said("brand", "bottle", *products) == [0.0, 0.0, 0.0]
    assert said("brand", "木楠居书架", {"title": "书架", "brand": "木楠居"}) == [1.0]


def test_a_brand_inside_a_word_is_not_named() -> None:
    assert said("brand", "pineapple corer", {"title": "a", "brand": "Apple"}) == [0.0]


def test_numbers_must_be_there() -> None:
    assert said("number", "24 oz bottle", "Bottle 24oz", "Bottle 32 oz") == [1.0, -1.0]
    assert said("number", "500ml 保温杯", "保温杯 500毫升", "保温杯 350ml") == [1.0, -1.0]
    assert said("number", "bottle", "Bottle 24oz") == [0.0]


def test_what_a_product_is_for_is_not_what_it_is() -> None:
    assert said("accessory", "water bottle", "Lid for water bottle", "Water bottle for kids") == [1.0, 0.0]
    assert said("accessory", "lid for water bottle", "Lid for water bottle") == [0.0]


def test_an_audience_that_was_not_meant_speaks_against() -> None:
    assert said("audience", "womens boots", "Women's boots", "Men's boots", "Boots") == [1.0, -1.0, 0.0]
    assert said("audience", "boots", "Men's boots") == [0.0]


def test_the_head_of_the_query_is_looked_for_at_the_front() -> None:
    front, behind, nowhere = said("head", "steel bottle for hiking", "Bottle", "Cap for a bottle", "Hiking pole")
    assert front == 1.0
    assert 0 < behind < front
    assert nowhere == -1.0


def test_the_category_of_the_best_hits_speaks_for_the_others() -> None:
    cups = [{"title": str(at), "category": ["Kitchen", "Cups"]} for at in range(3)]
    shares = said("category", "cup", *cups, {"title": "x", "category": ["Toys"]}, {"title": "y"})
    assert shares[0] == pytest.approx(0.9)
    assert shares[4] == 0.0


TEXT = st.text(alphabet="ab 12no保温杯不带'-%", max_size=30)


@given(TEXT, st.lists(st.fixed_dictionaries({"title": TEXT, "brand": TEXT}), min_size=1, max_size=6), st.randoms())
def test_signals_are_bounded_and_never_depend_on_the_order(query: str, products: list[Any], random: Any) -> None:
    first = np.arange(len(products), 0, -1, dtype=float)
    found = signals(query, products, first)
    assert found.shape == (len(products), len(NAMES))
    assert np.isfinite(found).all()
    assert np.abs(found).max() <= 1.0
    order = list(range(len(products)))
    random.shuffle(order)
    np.testing.assert_array_equal(signals(query, [products[at] for at in order], first[order]), found[order])


@pytest.mark.parametrize("product", [{}, {"title": None}, {"title": 5, "category": "Toys", "bullets": ["a", None]}])
def test_missing_and_odd_fields_are_no_error(product: dict[str, Any]) -> None:
    assert np.isfinite(signals("cup 5", [product, {"title": "cup"}], np.array([2.0, 1.0]))).all()


def test_an_empty_window_has_no_row() -> None:
    assert signals("cup", [], np.zeros(0)).shape == (0, len(NAMES))


def test_the_weights_decide_the_final_order() -> None:
    products = [{"title": "Bottle with straw"}, {"title": "Bottle"}]
    first, rerank = np.array([2.0, 1.0]), np.array([0.0, 0.0])
    plain = weighed("bottle without straw", products, first, rerank, {"first_stage": 1.0})
    strict = weighed("bottle without straw", products, first, rerank, {"first_stage": 1.0, "excluded": -2.0})
    assert plain.tolist() == [1.0, 0.0]
    assert strict.tolist() == [0.0, 1.0]
    assert features("bottle", products, first, rerank).shape == (2, len(COLUMNS))


def test_cosines_count_by_their_distance_from_the_windows_mean() -> None:
    products: list[dict[str, Any]] = [{}, {}, {}]
    first = rerank = np.zeros(3)
    at = COLUMNS.index(VECTOR)
    near = features("cup", products, first, rerank, np.array([0.7, 0.75, 0.8]))
    assert near[:, at] == pytest.approx([-0.5, 0.0, 0.5])
    assert np.abs(features("cup", products, first, rerank, np.array([-1.0, 0.0, 1.0]))[:, at]).max() == 2
    without = features("cup", products, first, rerank)
    assert not without[:, at].any()
    np.testing.assert_array_equal(near[:, :at], without[:, :at])
    assert weighed("cup", products, first, rerank, {"vector": 1.0}, np.array([0.7, 0.75, 0.8])).tolist() == [0, 0.5, 1]


def test_rare_chinese_characters_make_pairs_as_others_do() -> None:
    assert terms_of("𠮷野家 cup") == ["𠮷野", "野家", "cup"]
