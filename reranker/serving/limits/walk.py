"""One search that is looked through: what is still to be read, a list instead of recursion, and where things are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from indexer.settings import Limits
from reranker.serving.limits.budget import Budget


class Place(NamedTuple):
    """Where in a search a part stands: under how many aggregations, which make how many buckets of each other."""

    depth: int = 0
    buckets: int = 1


TOP = Place()
Reader = Callable[["Walk", dict[str, Any], Place], None]


class Walk:
    """What is still to be read of one search, what it has used of the limits, and the indexes that it names.

    `inner_hits` and `aggregations` read what queries hold of the language around them; `inner` is how many hits each
    hit brings along, `most_buckets` how many buckets its aggregations may make, and `echo` how many characters of the
    client's own come back with each of them.
    """

    __slots__ = (
        "aggregations",
        "budget",
        "echo",
        "histograms",
        "indexes",
        "inner",
        "inner_hits",
        "most_buckets",
        "todo",
    )

    def __init__(self, limits: Limits, inner_hits: Reader, aggregations: Reader) -> None:
        self.budget = Budget(limits)
        self.inner_hits, self.aggregations = inner_hits, aggregations
        self.todo: list[tuple[Reader, Any, Place]] = []
        self.indexes: list[str] = []
        self.inner = 0
        self.most_buckets = 0
        self.echo = 0
        self.histograms: list[tuple[str, float, int]] = []  # field, interval, and how many times

    def read(self, reader: Reader, value: Any) -> None:
        """Read a value, and whatever its readers leave for later. Raises InputError and DeniedError."""
        self.later(reader, value)
        while self.todo:
            found, part, place = self.todo.pop()
            found(self, part, place)

    def later(self, reader: Reader, value: Any, place: Place = TOP) -> None:
        """Leave an object to be read, or each object of a list; in a text or a number there is nothing to read."""
        if isinstance(value, dict):
            self.todo.append((reader, value, place))
        elif isinstance(value, list):
            self.budget.spend("terms", len(value), "The number of values in lists")
            for each in value:
                if isinstance(each, dict | list):
                    self.later(reader, each, place)

    def echoes(self, *texts: Any) -> None:
        """Note texts of the client's own that come back with each hit or bucket. Raises InputError."""
        self.echo += sum(_length(text) for text in texts)
        self.budget.most("echo_characters", self.echo, "The length of names, tags and formats that come back")

    def check_echoes(self, hits: int) -> None:
        """Refuse an answer that repeats too much of what the client wrote. Raises InputError."""
        repeated = self.echo * (hits + self.most_buckets)
        self.budget.most("echoes", repeated, "The length of what comes back, for all hits and buckets,")

    def names_index(self, value: Any) -> None:
        """Note an index that a part of the search names."""
        several = value if isinstance(value, list) else [value]
        self.indexes.extend(each for each in several if isinstance(each, str))


def _length(value: Any) -> int:
    """Characters of a text, or of all texts within a value; a number has few."""
    found, todo = 0, [value]
    while todo:
        each = todo.pop()
        if isinstance(each, str):
            found += len(each)
        elif isinstance(each, dict):
            todo += [*each, *each.values()]
        elif isinstance(each, list):
            todo += each
    return found


def members(value: Any) -> dict[str, Any]:
    """What an object holds; nothing where a node would find that it is none."""
    return value if isinstance(value, dict) else {}
