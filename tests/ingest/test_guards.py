"""What stops a job, and what does not: rules alone, on drawn and on small catalogues."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from indexer.settings import Guards
from ingest.guards import (
    FIELDS,
    Finding,
    GuardError,
    Window,
    fewer,
    jumped,
    missing,
    prices,
    refuse,
    refuse_empty,
)

GUARDS = Guards()
LAMP: dict[str, Any] = {"price": 10.0, "currency": "USD", "image": "a.jpg", "category": ["Lamps"]}


def named(findings: list[Finding]) -> list[str]:
    return [each.allow for each in findings]


@given(st.integers(0, 10_000), st.integers(0, 10_000), st.floats(0, 1))
def test_an_index_may_shrink_by_so_much_and_no_more(live: int, new: int, share: float) -> None:
    found = fewer(live, new, Guards(fewer=share))
    assert bool(found) == (new < live * (1 - share))


@pytest.mark.parametrize(("live", "new", "stops"), [(3, 1, True), (3, 2, True), (5, 4, False), (100, 79, True)])
def test_a_small_shop_has_the_same_rule(live: int, new: int, stops: bool) -> None:
    assert bool(fewer(live, new, GUARDS)) is stops


@pytest.mark.parametrize("field", FIELDS)
def test_products_that_lose_a_field_are_told_with_the_figures(field: str) -> None:
    without = {name: value for name, value in LAMP.items() if name != field}
    [found] = missing([LAMP] * 100, [LAMP] * 50 + [without] * 50, GUARDS)
    assert found == Finding("missing", f"50 % of the products would have {FIELDS[field]}, where 100 % do", 0.2)
    assert missing([LAMP] * 100, [LAMP] * 81 + [without] * 19, GUARDS) == []
    assert missing([without] * 100, [LAMP] * 100, GUARDS) == []
    assert missing([LAMP] * 12, [LAMP] * 6 + [without] * 6, GUARDS) == []  # too few to be a kind of fault
    assert named(missing([LAMP] * 100, [{**LAMP, field: ""}] * 100, GUARDS)) == ["missing"]


@pytest.mark.parametrize(
    ("old", "new", "jumps"),
    [
        ({"price": 10.0}, {"price": 19.9}, False),
        ({"price": 10.0}, {"price": 20.0}, True),
        ({"price": 10.0}, {"price": 5.0}, True),
        ({"price": 10.0}, {"price": 1000.0}, True),
        ({"price": 10.0, "currency": "USD"}, {"price": 10.0, "currency": "CNY"}, True),
        ({"price": 10.0}, {}, False),
        ({}, {"price": 10.0}, False),
    ],
)
def test_what_is_a_jump_of_a_price(old: dict[str, Any], new: dict[str, Any], jumps: bool) -> None:
    assert jumped(old, new, 2.0) is jumps


def test_cents_for_dollars_stop_and_a_sale_does_not() -> None:
    assert named(prices([(LAMP, {**LAMP, "price": 1000.0})] * 100, GUARDS)) == ["prices"]
    assert prices([(LAMP, {**LAMP, "price": 6.0})] * 100, GUARDS) == []
    assert prices([(LAMP, {**LAMP, "price": 1000.0})] * 20 + [(LAMP, LAMP)] * 80, GUARDS) == []
    assert prices([], GUARDS) == []


def test_what_is_not_allowed_is_refused_by_name() -> None:
    findings = [Finding("fewer", "1 where 3", 0.2), Finding("prices", "90 %", 0.3)]
    with pytest.raises(GuardError, match=r"1 where 3 \(guards.fewer is 0.2\); 90 % .*--allow-fewer --allow-prices"):
        refuse(findings, (), "Stopped", "shelfrank x")
    with pytest.raises(GuardError, match=r"`shelfrank x --allow-prices`"):
        refuse(findings, {"fewer"}, "Stopped", "shelfrank x")
    refuse(findings, {"fewer", "prices"}, "Stopped", "shelfrank x")
    with pytest.raises(GuardError, match="never put live"):
        refuse_empty(0, "The index")
    refuse_empty(1, "The index")


KINDS = {"d": "deletions", "m": "missing", "p": "prices", "-": "", "n": ""}
AFTER: dict[str, Any] = {
    "d": None,
    "m": {"price": 10.0, "currency": "USD", "category": ["Lamps"]},
    "p": {**LAMP, "price": 99.0},
    "-": LAMP,
    "n": LAMP,
}


@given(st.lists(st.sampled_from("ddnmp--"), max_size=200), st.integers(0, 300), st.integers(10, 60), st.floats(0.05, 1))
def test_the_window_is_the_last_events_and_goes_on_after_a_stop(
    kinds: list[str], products: int, size: int, share: float
) -> None:
    guards = Guards(deletions=share, missing=share, prices=share, window=size)
    window = Window(products, guards)
    for at, kind in enumerate(kinds):
        window.see({} if kind == "n" else LAMP, AFTER[kind])
        last = kinds[max(0, at + 1 - size) : at + 1]
        small = share * max(1, min(size, products))
        gone = {"d": last.count("d") - last.count("n"), "m": last.count("m"), "p": last.count("p")}
        many = {each for each in gone if last.count(each) >= 10}
        beyond = {KINDS[each] for each in many if last.count(each) > share * size or gone[each] > small}
        assert set(named(window.findings())) == beyond
        again = Window(products, guards, window.without(()))
        assert named(again.findings()) == named(window.findings())
        assert Window(products, guards, window.without({"deletions", "missing", "prices"})).findings() == []


def test_what_an_earlier_run_has_applied_counts() -> None:
    assert named(Window(100, GUARDS, "d" * 45).findings()) == ["deletions"]
    assert Window(100, GUARDS, "d" * 35).findings() == []
    window = Window(100, GUARDS, "d" * 35)
    for _ in range(10):
        window.see(LAMP, None)
    [found] = window.findings()
    assert found.seen == "45 of the last 45 events delete a product, in a catalogue of 100 products"
    window.go_back("d" * 35)
    assert window.findings() == []
