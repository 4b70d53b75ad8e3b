"""Ids of searches: nobody makes one without the secret, changes one, or uses one for longer or for another client."""

from __future__ import annotations

import logging

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from indexer.errors import ConfigError
from indexer.settings import Serve
from reranker.serving.command import keys
from reranker.serving.query_ids import VARIABLE, QueryIds, new_secret

OURS, OTHERS = new_secret(), new_secret()
HEX = "0123456789abcdef"


class Clock:
    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


def ids(*secrets: str, clock: Clock | None = None, hours: float = 24.0) -> QueryIds:
    environ = {VARIABLE: ";".join(secrets)} if secrets else {}
    return QueryIds(environ, Serve(events_hours=hours), clock or Clock())


def test_an_id_is_taken_by_every_process_with_the_secret_and_by_no_other() -> None:
    given_id = ids(OURS).new("c1")
    assert ids(OURS).fault(given_id, "c1") == ""
    assert "was not given by this service" in ids(OTHERS).fault(given_id, "c1")
    assert "was not given by this service" in ids().fault(given_id, "c1")


def test_an_id_is_a_plain_word_and_never_the_same_twice() -> None:
    made = ids(OURS)
    found = {made.new("c1") for _ in range(1000)}
    assert len(found) == 1000
    assert all(len(each) == 64 and set(each) <= set(HEX) for each in found)


@given(at=st.integers(0, 63), digit=st.sampled_from(HEX))
def test_no_digit_of_an_id_can_be_changed(at: int, digit: str) -> None:
    made = ids(OURS)
    given_id = made.new("c1")
    changed = given_id[:at] + digit + given_id[at + 1 :]
    assert (made.fault(changed, "c1") == "") == (changed == given_id)


def test_an_id_is_spelt_in_one_way_alone() -> None:
    made = ids(OURS)
    given_id = made.new("c1")
    for spelt in (given_id.upper(), f" {given_id}", f"{given_id}\n", given_id[:-1], f"{given_id}0", f"0x{given_id}"):
        assert made.fault(spelt, "c1"), repr(spelt)
    for odd in ("", "q", "5f0c…", "٣" * 64, "a" * 64, "0" * 64, "f" * 64, "g" * 64, "\x00" * 64, "é" * 10_000):
        assert made.fault(odd, ""), repr(odd[:70])


def test_an_id_serves_the_client_alone_whose_search_it_was() -> None:
    made = ids(OURS)
    given_id, nobodys = made.new("c1"), made.new("")
    assert "client_id" in made.fault(given_id, "c2")
    assert made.fault(given_id, "")
    assert made.fault(nobodys, "c1")
    assert made.fault(nobodys, "") == ""


def test_an_id_ends_and_its_end_cannot_be_put_off() -> None:
    clock = Clock()
    made = ids(OURS, clock=clock, hours=2.0)
    given_id = made.new("c1")
    clock.now += 2 * 3600 - 1
    assert made.fault(given_id, "c1") == ""
    clock.now += 2
    assert "2 hours (serve.events_hours)" in made.fault(given_id, "c1")
    later = (int(given_id[:8], 16) + 86_400).to_bytes(4, "big").hex()
    assert "was not given" in made.fault(later + given_id[8:], "c1")


def test_a_secret_is_changed_without_a_gap() -> None:
    old, both, young = ids(OURS), ids(OTHERS, OURS), ids(OTHERS)
    assert both.fault(old.new("c"), "c") == ""
    assert both.fault(young.new("c"), "c") == ""
    assert young.fault(both.new("c"), "c") == ""
    assert old.fault(both.new("c"), "c")


@pytest.mark.parametrize(
    "text",
    ["short", "a" * 31, f"{OURS};short", f"short;{OURS}", f"{' ' * 40}x"],
    ids=["short", "almost", "the second", "the first", "spaces"],
)
def test_a_short_secret_is_refused_and_not_repeated(text: str) -> None:
    with pytest.raises(ConfigError, match="32 at least") as caught:
        ids(text)
    assert VARIABLE in str(caught.value)
    assert not {"short", OURS} & set(str(caught.value).replace(".", " ").split())


@pytest.mark.parametrize("text", ["", " ", ";", " ; "])
def test_without_a_secret_a_process_takes_its_own_ids_and_says_so(text: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "shelfrank"):
        made = QueryIds({VARIABLE: text}, Serve(ubi=True))
    assert made.fault(made.new("c"), "c") == ""
    assert [record.getMessage() for record in caplog.records if "keys secret" in record.getMessage()]
    other = QueryIds({}, Serve())
    assert other.fault(made.new("c"), "c")


def test_an_empty_secret_signs_nothing() -> None:
    """Who knows how an id is made and guesses that there is no secret."""
    assert ids().fault(ids().new("c"), "c")


def test_the_command_makes_a_secret_that_is_taken() -> None:
    first, second = (CliRunner().invoke(keys, ["secret"]) for _ in range(2))
    assert first.exit_code == 0
    assert first.output != second.output
    made = ids(first.output.strip())
    assert made.fault(made.new("c"), "c") == ""
