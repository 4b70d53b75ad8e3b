"""Some of many things, each with the same chance, in one pass and in the memory of those that are kept."""

from __future__ import annotations

import random
from typing import Generic, TypeVar

T = TypeVar("T")


class Sample(Generic[T]):
    """A fixed number of entries of all that passed. The same seed draws the same."""

    def __init__(self, size: int, seed: str) -> None:
        self.entries: list[T] = []
        self._size, self._passed = size, 0
        self._random = random.Random(seed)  # noqa: S311 (a sample, not a secret)

    def offer(self, entry: T) -> None:
        """Let one entry pass."""
        self._passed += 1
        if len(self.entries) < self._size:
            self.entries.append(entry)
        elif (place := self._random.randrange(self._passed)) < self._size:
            self.entries[place] = entry
