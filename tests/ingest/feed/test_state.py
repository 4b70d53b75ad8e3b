"""What events make of a product does not depend on the order in which they arrive, nor on how often."""

from __future__ import annotations

import copy
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from ingest.documents import OFFER_FIELDS, Entry
from ingest.feed.events import Event
from ingest.feed.state import Product

READS = frozenset({"title"})


def upsert(version: int, title: str, **offer: Any) -> Event:
    return Event("upsert", "a", version, 1, Entry({"id": "a", "title": title, **offer}, version=version))


def update(version: int, **values: Any) -> Event:
    return Event("update", "a", version, 1, None, values)


def delete(version: int) -> Event:
    return Event("delete", "a", version, 1)


def after(*batches: list[Event]) -> Product:
    """The state after batches, each settled by itself as if read from the index."""
    product = Product(READS)
    for batch in batches:
        product = Product(READS, copy.deepcopy(product.entry), product.deleted)
        product.apply(batch)
    return product


def seen(product: Product) -> Any:
    entry = product.entry
    return None if entry is None else (entry.product, entry.version)


def test_the_newest_version_counts_whatever_comes_last() -> None:
    assert seen(after([upsert(2, "two")], [upsert(1, "one")])) == ({"id": "a", "title": "two"}, 2)
    assert after([upsert(2, "two")], [upsert(1, "one")]).verdicts[0][1] == "superseded"


def test_a_late_upsert_brings_its_text_and_leaves_a_newer_price_alone() -> None:
    product = after([upsert(1, "old", price=10)], [update(3, price=8)], [upsert(2, "new", price=10, stock=4)])
    assert seen(product) == ({"id": "a", "title": "new", "price": 8, "stock": 4}, 2)
    product = after([upsert(1, "old", price=10)], [update(3, price=None)], [upsert(2, "new", price=10)])
    assert seen(product) == ({"id": "a", "title": "new"}, 2)


def test_late_updates_of_different_fields_all_count() -> None:
    product = after([upsert(1, "x")], [update(5, stock=2)], [update(4, price=9, stock=1)])
    assert seen(product) == ({"id": "a", "title": "x", "stock": 2, "price": 9}, 1)


def test_an_update_counts_only_above_the_version_that_is_known() -> None:
    known = [upsert(2, "x", price=10)], [update(4, stock=1)]
    tried = [update(2, price=9), update(3, price=9), update(4, stock=7), update(5, stock=7)]
    assert [after(*known, [event]).verdicts[0][1] for event in tried] == [
        "superseded",
        "counts",
        "superseded",
        "counts",
    ]


def test_a_deleted_product_comes_back_only_by_a_newer_upsert() -> None:
    gone = [upsert(1, "x")], [delete(5)]
    assert seen(after(*gone, [upsert(4, "late")], [update(9, price=1)])) is None
    assert seen(after(*gone, [upsert(6, "new")])) == ({"id": "a", "title": "new"}, 6)
    assert seen(after(*gone, [upsert(6, "new")], [delete(5)])) == ({"id": "a", "title": "new"}, 6)


def test_an_update_of_nothing_is_told() -> None:
    assert after([update(1, price=3)]).verdicts[0][1] == "absent"


def test_the_vector_is_kept_while_what_models_read_stays() -> None:
    product = Product(READS, Entry({"id": "a", "title": "x", "price": 1}, version=1, made={"vector": [1.0]}))
    product.apply([upsert(2, "x", price=2)])
    assert product.entry is not None
    assert product.entry.made
    product.apply([upsert(3, "y", price=2)])
    assert not product.entry.made


events = st.one_of(
    st.builds(
        upsert,
        st.integers(0, 9),
        st.sampled_from(["x", "y"]),
        price=st.integers(1, 3),
        stock=st.integers(0, 3),
    ),
    st.builds(delete, st.integers(0, 9)),
)


@given(st.lists(events, unique_by=lambda event: event.version, max_size=6), st.randoms())
def test_any_order_and_any_repetition_of_upserts_and_deletes_ends_alike(history: list[Event], random: Any) -> None:
    shuffled = [*history, *history[:2]]
    random.shuffle(shuffled)
    in_order = after(*[[event] for event in sorted(history, key=lambda event: event.version)])
    assert seen(after(*[[event] for event in shuffled])) == seen(in_order)
    assert seen(after(shuffled)) == seen(in_order)


@given(
    st.lists(
        st.builds(
            lambda version, values: update(version, **values),
            st.integers(2, 30),
            st.dictionaries(st.sampled_from(OFFER_FIELDS), st.integers(1, 5), min_size=1),
        ),
        unique_by=lambda event: event.version,
        max_size=5,
    ),
    st.integers(2, 30),
    st.randoms(),
)
def test_any_order_of_updates_around_an_upsert_ends_alike(updates: list[Event], version: int, random: Any) -> None:
    history = [event for event in updates if event.version != version] + [upsert(version, "new", price=9)]
    shuffled = list(history)
    random.shuffle(shuffled)
    first = [upsert(1, "old", price=7, stock=7)]
    in_order = after(first, *[[event] for event in sorted(history, key=lambda event: event.version)])
    assert seen(after(first, *[[event] for event in shuffled])) == seen(in_order)
    assert seen(after([*first, *shuffled])) == seen(in_order)
