"""A catalogue is one name; what it stands for is known, checked and swapped in one step."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from opensearchpy import OpenSearch

from indexer.aliases import check_name, dated, leftovers, live, make, swap
from indexer.errors import ClusterError, UsageError
from indexer.mappings import index_body, made
from indexer.patience import Patience
from indexer.settings import Index

NAME = "test-aliases"
MADE = made(Index(), "encoder-1", 3)
BODY = index_body(Index(), MADE)


def create(client: OpenSearch, name: str, *, with_alias: bool) -> str:
    """An index as a job makes it, and, as is done once it is whole, the alias."""
    index = dated(name)
    make(client, index, {**BODY, "aliases": {name: {}}} if with_alias else BODY, Patience())
    return index


@pytest.fixture
def clean(client: OpenSearch) -> Iterator[OpenSearch]:
    def remove() -> None:
        for index in client.indices.get(index=f"{NAME}*"):
            client.indices.delete(index=index)

    remove()
    yield client
    remove()


@pytest.mark.node
def test_a_name_that_nothing_has_stands_for_nothing(clean: OpenSearch) -> None:
    assert live(clean, NAME) is None


@pytest.mark.node
def test_a_new_catalogue_is_a_dated_index_behind_its_name(clean: OpenSearch) -> None:
    index = create(clean, NAME, with_alias=True)
    assert index.startswith(f"{NAME}-2")
    found = live(clean, NAME)
    assert found is not None
    assert (found.index, found.made) == (index, MADE)


@pytest.mark.node
def test_an_index_is_made_once_whoever_is_faster(clean: OpenSearch, monkeypatch: pytest.MonkeyPatch) -> None:
    index = create(clean, NAME, with_alias=False)
    make(clean, index, BODY, Patience())
    monkeypatch.setattr(clean.indices, "exists", lambda index: False)  # another makes it just now
    make(clean, index, BODY, Patience())
    assert leftovers(clean, NAME) == [index]


@pytest.mark.node
def test_a_swap_moves_the_name_and_leaves_the_old_index(clean: OpenSearch) -> None:
    old = create(clean, NAME, with_alias=True)
    new = create(clean, NAME, with_alias=False)
    assert leftovers(clean, NAME) == [new]
    swap(clean, NAME, old, new)
    swap(clean, NAME, old, new)  # whose first answer was lost
    found = live(clean, NAME)
    assert found is not None
    assert found.index == new
    assert leftovers(clean, NAME) == [old]


@pytest.mark.node
def test_a_swap_to_a_name_that_is_new_makes_it(clean: OpenSearch) -> None:
    index = create(clean, NAME, with_alias=False)
    swap(clean, NAME, "", index)
    assert live(clean, NAME) is not None


@pytest.mark.node
def test_a_swap_from_where_the_name_is_no_more_changes_nothing(
    clean: OpenSearch, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second, third = (create(clean, NAME, with_alias=number == 0) for number in range(3))
    swap(clean, NAME, first, second)
    for old in (first, ""):
        with pytest.raises(ClusterError, match=f"stands for {second} now"):
            swap(clean, NAME, old, third)
    # The other is faster still: between the look and the move.
    held = {first: {"aliases": {NAME: {}}}, second: {"aliases": {}}}
    monkeypatch.setattr(clean.indices, "get_alias", lambda **_: held)
    with pytest.raises(ClusterError, match="stands for"):
        swap(clean, NAME, first, third)
    monkeypatch.undo()
    found = live(clean, NAME)
    assert found is not None
    assert found.index == second


@pytest.mark.node
def test_leftovers_are_not_those_of_a_longer_name(clean: OpenSearch) -> None:
    create(clean, f"{NAME}-zh", with_alias=False)
    assert leftovers(clean, NAME) == []


@pytest.mark.node
def test_an_index_of_that_very_name_is_refused(clean: OpenSearch) -> None:
    clean.indices.create(index=NAME)
    with pytest.raises(ClusterError, match="is an index, where an alias is expected"):
        live(clean, NAME)


@pytest.mark.node
def test_an_alias_to_several_indices_is_refused(clean: OpenSearch) -> None:
    create(clean, NAME, with_alias=True)
    create(clean, NAME, with_alias=True)
    with pytest.raises(ClusterError, match="several indices"):
        live(clean, NAME)


@pytest.mark.node
def test_an_index_that_shelfrank_did_not_make_is_refused(clean: OpenSearch) -> None:
    clean.indices.create(index=f"{NAME}-foreign", body={"aliases": {NAME: {}}})
    with pytest.raises(ClusterError, match="which shelfrank did not make"):
        live(clean, NAME)


@pytest.mark.parametrize("name", ["", "Shop", "a b", "a,b", "a*", "-a", "_a", ".a", "a/b", "a#b", "杯" * 67])
def test_a_name_that_opensearch_would_refuse_is_wrong_use(name: str) -> None:
    with pytest.raises(UsageError, match="cannot name an index"):
        check_name(name)


@pytest.mark.parametrize("name", ["shop", "shop-zh_2", "店铺", "9shop"])
def test_good_names_pass(name: str) -> None:
    check_name(name)
