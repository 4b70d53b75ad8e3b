"""Prices, ratings and counts are read in the forms that shops use, and in no other."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest.amounts import NotUnderstoodError, parse_amount, parse_count, parse_number, parse_rating


@pytest.mark.parametrize(
    ("raw", "value", "currency"),
    [
        ("¥1,299.00", 1299.0, "CNY"),
        ("￥１２９", 129.0, "CNY"),
        ("129元", 129.0, "CNY"),
        ("1,299.00元/件", 1299.0, "CNY"),
        ("RMB 129", 129.0, "CNY"),
        ("24,99", 24.99, ""),
        ("USD 24,99", 24.99, "USD"),
        ("12.50 EUR", 12.5, "EUR"),
        ("1.299,00 €", 1299.0, "EUR"),
        ("1 299,00", 1299.0, ""),
        ("1'299.00", 1299.0, ""),
        ("1.299.000", 1299000.0, ""),
        ("$1,299", 1299.0, "USD"),
        ("US$ 12.5", 12.5, "USD"),
        ("HK$99", 99.0, "HKD"),
        ("-5", -5.0, ""),
        ("￥-12.00", -12.0, "CNY"),
        (".5", 0.5, ""),
        (12.5, 12.5, ""),
    ],
)
def test_prices_are_read_as_written(raw: object, value: float, currency: str) -> None:
    amount = parse_amount(raw)
    assert amount is not None
    assert (amount.value, amount.currency) == (value, currency)


@pytest.mark.parametrize("raw", ["$1.2k", "Free", "10-20", "1,2,3", "12.3.4", "99 per box", True, [3], "面议"])
def test_what_is_no_price_is_not_understood(raw: object) -> None:
    with pytest.raises(NotUnderstoodError):
        parse_amount(raw)


@pytest.mark.parametrize("raw", [None, "", "  ", "N/A", "-", "null", "无"])
def test_nothing_is_nothing(raw: object) -> None:
    assert parse_amount(raw) is None
    assert parse_count(raw) is None
    assert parse_rating(raw, 5) is None


def test_the_mapping_decides_what_a_comma_means() -> None:
    assert parse_number("1,299") == 1299
    assert parse_number("1,299", ",") == 1.299
    assert parse_number("1.299", ",") == 1299
    assert parse_number("1.299") == 1.299


@pytest.mark.parametrize("raw", ["nan", "inf", "-Infinity", float("nan"), float("inf")])
def test_values_that_are_not_finite_come_through_to_be_judged(raw: object) -> None:
    number = parse_number(raw)
    assert number is not None
    assert not math.isfinite(number)


@pytest.mark.parametrize(
    ("raw", "scale", "rating"),
    [
        ("4.5", 5, 4.5),
        ("9", 10, 4.5),
        ("4.5/5", 10, 4.5),
        ("4.5 out of 5 stars", 10, 4.5),
        ("4,5星", 5, 4.5),
        (11, 5, 11),
    ],
)
def test_ratings_come_to_the_scale_of_five(raw: object, scale: float, rating: float) -> None:
    assert parse_rating(raw, scale) == rating


@pytest.mark.parametrize(("raw", "count"), [("1,234", 1234), ("3k+", 3000), ("1.2万+", 12000), (12.0, 12), ("-3", -3)])
def test_counts_may_have_units(raw: object, count: int) -> None:
    assert parse_count(raw) == count


@pytest.mark.parametrize("raw", ["1.5", "inf", "many"])
def test_a_count_is_a_whole_number(raw: str) -> None:
    with pytest.raises(NotUnderstoodError):
        parse_count(raw)


@given(st.decimals(min_value=0, max_value=10**8, places=2))
def test_any_amount_survives_english_continental_and_chinese_writing(amount: object) -> None:
    english = f"{amount:,.2f}"
    continental = english.translate(str.maketrans(",.", ".,"))
    for written in (f"${english}", f"{continental} €", f"￥{english}", f"{english}元"):
        found = parse_amount(written)
        assert found is not None
        assert found.value == float(str(amount))


@given(st.text(max_size=20))
def test_no_text_does_more_than_not_be_understood(raw: str) -> None:
    for parse in (parse_amount, parse_number, parse_count, lambda text: parse_rating(text, 5)):
        try:
            parse(raw)
        except NotUnderstoodError:
            continue
