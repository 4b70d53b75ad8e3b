"""Before each forward pass: may it begin? Whoever runs much work at once says so here, for the work of one thread."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from indexer.errors import ShelfrankError

Pace = Callable[[float], bool]


class StoppedError(ShelfrankError):
    """The deadline came before the work was done, or nobody waits for it any more."""


def _by_the_clock(deadline: float) -> bool:
    return time.monotonic() < deadline


_PACE: ContextVar[Pace] = ContextVar("pace", default=_by_the_clock)


def goes_on(deadline: float = float("inf")) -> bool:
    """Whether the next pass may begin; may wait until it may. `deadline` is a reading of `time.monotonic()`."""
    return _PACE.get()(deadline)


def check() -> None:
    """For work without a first stage to fall back to. Raises StoppedError where it does not go on."""
    if not goes_on():
        raise StoppedError("The deadline came before the work was done.")


@contextmanager
def paced(pace: Pace) -> Iterator[None]:
    """Ask `pace` in the block."""
    token = _PACE.set(pace)
    try:
        yield
    finally:
        _PACE.reset(token)
