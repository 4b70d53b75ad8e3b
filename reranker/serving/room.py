"""How many hits may be on their way from the cluster at once: a node builds whole answers in its memory."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from reranker.serving.turns import BusyError, Share

# Who asks for fewer waits for nobody.
_FEW = 1_000


class Room:
    """Room for so many hits in requests that ask for many; no share gets more than half of it while others may come.

    A request that asks for more than there is has it alone.
    """

    def __init__(self, hits: int, wait_s: float) -> None:
        self._hits, self._wait_s = hits, wait_s
        self._taken: Counter[str] = Counter()
        self._changed = asyncio.Condition()

    @asynccontextmanager
    async def taken(self, share: Share, hits: int) -> AsyncIterator[None]:
        """Room for a request's hits in the block. Raises BusyError when none is free for too long."""
        if hits <= _FEW:
            yield
            return
        async with self._changed:
            try:
                await asyncio.wait_for(self._changed.wait_for(lambda: self._is_free(share, hits)), self._wait_s)
            except TimeoutError:
                raise BusyError(
                    f"Too many hits are on their way from OpenSearch to take a request for {hits} more. Ask for fewer, "
                    "or try again later."
                ) from None
            self._taken[share.name] += hits
        try:
            yield
        finally:
            self._taken[share.name] -= hits
            self._taken += Counter()  # forgets whoever has none
            async with self._changed:
                self._changed.notify_all()

    def _is_free(self, share: Share, hits: int) -> bool:
        own, all_of_them = self._taken[share.name], self._taken.total()
        return (not own or own + hits <= self._hits / 2) and (not all_of_them or all_of_them + hits <= self._hits)
