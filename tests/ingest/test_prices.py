"""A price is an outlier only against enough prices of its own category and currency."""

from __future__ import annotations

from ingest.prices import PriceStatistics


def statistics(prices: list[float], category: list[str], currency: str = "USD") -> PriceStatistics:
    found = PriceStatistics()
    for price in prices:
        found.add(category, currency, price)
    return found


PENS = [1.0, 1.5, 2.0, 2.5, 3.0] * 4


def test_far_too_high_and_far_too_low_are_outliers() -> None:
    found = statistics(PENS, ["Office", "Pens"])
    assert found.is_outlier(["Office", "Pens"], "USD", 1999)
    assert found.is_outlier(["Office", "Pens"], "USD", 0.01)
    assert not found.is_outlier(["Office", "Pens"], "USD", 9.0)


def test_a_category_with_few_prices_is_judged_by_its_parent() -> None:
    found = statistics(PENS, ["Office", "Pens"])
    assert found.is_outlier(["Office", "Clips"], "USD", 1999)
    assert not found.is_outlier(["Garden", "Clips"], "USD", 1999)


def test_few_prices_say_nothing() -> None:
    assert not statistics([1.0, 2.0, 3.0], ["Pens"]).is_outlier(["Pens"], "USD", 1999)


def test_currencies_are_not_compared() -> None:
    found = statistics(PENS, ["Pens"])
    assert not found.is_outlier(["Pens"], "CNY", 1999)


def test_twice_the_price_is_no_outlier_where_all_cost_the_same() -> None:
    found = statistics([10.0] * 30, ["Books"])
    assert not found.is_outlier(["Books"], "USD", 20)
    assert found.is_outlier(["Books"], "USD", 100)


def test_outliers_among_the_prices_themselves_do_not_hide_each_other() -> None:
    found = statistics([*PENS, 5000, 6000, 7000, 8000], ["Pens"])
    assert found.is_outlier(["Pens"], "USD", 5000)


def test_a_long_catalogue_keeps_a_bounded_sample_and_the_same_answer() -> None:
    found = statistics([1.0 + number % 100 / 100 for number in range(20_000)], ["Pens"])
    assert sum(len(sample) for sample in found._samples.values()) == 256
    low, high = found.usual(["Pens"], "USD") or (0, 0)
    assert low < 1.0 < 2.0 < high
    assert found.is_outlier(["Pens"], "USD", 50)


def test_prices_late_in_a_long_catalogue_count_as_much_as_early_ones() -> None:
    found = statistics([1.0] * 300 + [100.0] * 10_000, ["Pens"])
    assert not found.is_outlier(["Pens"], "USD", 100)
    assert found.is_outlier(["Pens"], "USD", 1)
