"""The circuit breaker, by a clock of the test's own."""

from __future__ import annotations

from reranker.serving.breaker import Breaker


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_it_opens_after_failures_in_a_row_and_tries_once_in_a_while() -> None:
    clock = Clock()
    breaker = Breaker(3, 10.0, clock)
    for failed in (True, True, False, True, True):
        assert breaker.allows()
        breaker.record(failed)
    assert not breaker.is_open
    breaker.record(True)
    assert breaker.is_open
    assert not breaker.allows()
    assert "3 times in a row" in breaker.reason()
    assert "10.0 s" in breaker.reason()
    clock.now = 10.0
    assert [breaker.allows(), breaker.allows()] == [True, False]  # one goes first
    breaker.record(True)
    clock.now = 19.9
    assert not breaker.allows()
    clock.now = 20.0
    assert breaker.allows()
    breaker.record(False)
    assert not breaker.is_open
    assert breaker.allows()


def test_an_attempt_that_never_ends_does_not_keep_it_open_for_ever() -> None:
    clock = Clock()
    breaker = Breaker(1, 10.0, clock)
    breaker.record(True)
    clock.now = 10.0
    assert breaker.allows()  # and nothing is ever recorded
    clock.now = 20.0
    assert breaker.allows()
