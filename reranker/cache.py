"""What a model made, kept to be used again: a bounded table, the least recently used results dropped first.

A result is kept under a digest of the model's own input, the token ids. So it is never out of date: a product that
changes has other token ids, and another model has a table of its own.
"""

from __future__ import annotations

import hashlib
import threading
from array import array
from collections.abc import Callable, Iterable, Sequence
from typing import Generic, TypeVar

from cachetools import LRUCache

T = TypeVar("T")


def digest(*rows: Sequence[int]) -> bytes:
    """16 bytes that stand for rows of token ids, their number and lengths included."""
    found = hashlib.blake2b(digest_size=16)
    for row in rows:
        found.update(array("q", [len(row), *row]).tobytes())
    return found.digest()


class Cache(Generic[T]):
    """At most `size` results; safe to share between threads. `on_look` is told hits and misses of every look."""

    def __init__(self, size: int, on_look: Callable[[int, int], None] = lambda hits, misses: None) -> None:
        self._kept: LRUCache[bytes, T] = LRUCache(size)
        self._lock = threading.Lock()
        self._on_look = on_look

    def find(self, keys: Sequence[bytes]) -> list[T | None]:
        """What is kept under each key, None where nothing is."""
        with self._lock:
            found = [self._kept.get(key) for key in keys]
        hits = sum(result is not None for result in found)
        self._on_look(hits, len(keys) - hits)
        return found

    def keep(self, results: Iterable[tuple[bytes, T]]) -> None:
        with self._lock:
            self._kept.update(results)
