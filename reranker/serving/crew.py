"""Threads that work for many requests at once, as many as have a slot, each when it is its share's turn."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from prometheus_client import Histogram

from reranker.serving.turns import EVERYBODY, Share, Turn, Turns

T = TypeVar("T")


def _looked_at(done: asyncio.Future[Any]) -> None:
    """Whatever came of it: where nobody waits any more, that is no fault to log."""
    if not done.cancelled():
        done.exception()


class Piece:
    """A piece of work: of which kind, whose, by when (a reading of `time.monotonic()`), and how many units (hits, or
    texts). `turn` is there once it has its slot."""

    def __init__(self, kind: str, share: Share = EVERYBODY, deadline: float = float("inf"), units: int = 1) -> None:
        self.kind, self.share, self.deadline, self.units = kind, share, deadline, units
        self.turn: Turn | None = None

    @property
    def left_s(self) -> float | None:
        """Seconds until its deadline; None where it has none."""
        return None if self.deadline == float("inf") else max(0.0, self.deadline - time.monotonic())

    def let_go(self, future: asyncio.Future[Any]) -> None:
        """Nobody waits for it any more: it gives its place up, or ends before its next forward pass."""
        if self.turn is not None:
            self.turn.stop()
        if not future.done():
            future.add_done_callback(_looked_at)
            future.cancel()


class Costs:
    """How long the last pieces of each kind took by unit, the newer the more."""

    def __init__(self) -> None:
        self._seconds: dict[str, float] = {}

    def expected(self, piece: Piece) -> float:
        """Seconds that a piece will take."""
        return self._seconds.get(piece.kind, 0.0) * piece.units

    def note(self, kind: str, units: int, took_s: float) -> None:
        """What a piece took."""
        before = self._seconds.get(kind, 0.0)
        self._seconds[kind] = before + 0.1 * (took_s / max(1, units) - before)


class Crew:
    """Some slots, and the threads that fill them; `seconds` takes the time of each phase. It gives way to `before`."""

    def __init__(self, name: str, slots: int, queue: int, seconds: Histogram, before: Crew | None = None) -> None:
        self.turns: Turns = Turns(slots, queue, before=before.turns if before else None)
        self.costs = Costs()
        self._seconds = seconds
        self._pool = ThreadPoolExecutor(slots + queue, name)  # who hands a slot on keeps the thread

    async def run(self, work: Callable[[], T], piece: Piece) -> T:
        """The result of `work`, in a thread, when its turn has come. Raises BusyError where there is no room or no time
        for it, TimeoutError where its deadline comes before its turn."""
        began = time.monotonic()
        turn = piece.turn = await self.turns.begin(piece.share, self.costs.expected(piece), piece.deadline)
        self._seconds.labels("queue").observe(time.monotonic() - began)

        def timed() -> T:
            with self.turns.working(turn):
                result = work()
            self._seconds.labels(piece.kind).observe(turn.held_s)
            self.costs.note(piece.kind, piece.units, turn.held_s)
            return result

        # What is cancelled meanwhile ends by itself, before its next forward pass, and gives its slot back.
        working = asyncio.wrap_future(self._pool.submit(timed))
        working.add_done_callback(_looked_at)
        return await asyncio.shield(working)

    def close(self) -> None:
        """End the work that is in hand; what waits is not begun."""
        self._pool.shutdown(wait=True, cancel_futures=True)
