"""Waiting for what another process or thread is to bring about."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def until(holds: Callable[[], T], what: str = "it did not come about", limit_s: float = 60.0) -> T:
    """What `holds` gives when that is true at last; fails with `what` when the time is up."""
    over = time.monotonic() + limit_s
    while not (found := holds()):
        assert time.monotonic() < over, f"{what} within {limit_s:g} s"
        time.sleep(0.05)
    return found
