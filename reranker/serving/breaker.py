"""A circuit breaker: what fails again and again is left alone for a while, then tried once."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable


class Breaker:
    """Opens after `failures` in a row; after `rest_s` seconds one attempt is let through and decides."""

    def __init__(self, failures: int, rest_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._failures, self._rest_s, self._clock = failures, rest_s, clock
        self._lock = threading.Lock()
        self._in_a_row = 0
        self._next = 0.0

    @property
    def is_open(self) -> bool:
        return self._in_a_row >= self._failures

    def allows(self) -> bool:
        """Whether to try; where it is open, True for one caller every `rest_s` seconds."""
        with self._lock:
            if not self.is_open:
                return True
            if self._clock() < self._next:
                return False
            self._next = self._clock() + self._rest_s
            return True

    def record(self, failed: bool) -> None:
        """What came of an attempt."""
        with self._lock:
            self._in_a_row = self._in_a_row + 1 if failed else 0
            if self.is_open:
                self._next = self._clock() + self._rest_s

    def reason(self) -> str:
        wait = max(0.0, self._next - self._clock())
        return f"the reranker failed {self._in_a_row} times in a row and is left alone for another {wait:.1f} s"
