"""How many buckets a histogram will fill: as many as lie between the least and the greatest value of its field, which
the cluster is asked for, once a minute."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Any, NamedTuple
from urllib.parse import quote

import msgspec
from cachetools import TTLCache

from indexer.errors import ClusterError, InputError
from indexer.settings import Limits
from reranker.serving.limits.budget import Budget, real
from reranker.serving.passing import Passage

_KEPT, _KEPT_S = 1_000, 60.0
_FIXED = {"ms": 1.0, "s": 1e3, "m": 6e4, "h": 3.6e6, "d": 8.64e7}
_CALENDAR = {"w": 6.048e8, "M": 2.4192e9, "q": 7.776e9, "y": 3.1536e10}
_WORDS = {"second": "s", "minute": "m", "hour": "h", "day": "d", "week": "w", "month": "M", "quarter": "q", "year": "y"}
_INTERVAL = re.compile(r"([0-9]{0,15})(ms|s|m|h|d|w|M|q|y)", re.ASCII)


class Histogram(NamedTuple):
    """A histogram that fills its empty buckets: of a field, every so much (dates in milliseconds), as many times."""

    indexes: str
    field: str
    interval: float
    times: int


class Ranges:
    """The least and the greatest value of fields."""

    def __init__(self, passage: Passage, limits: Limits) -> None:
        self._passage, self._limits = passage, limits
        self._known: TTLCache[tuple[str, str], tuple[float, float]] = TTLCache(_KEPT, _KEPT_S)

    async def check(self, histograms: list[Histogram]) -> None:
        """Refuse those that fill too many buckets. Raises InputError, also where the cluster does not tell."""
        for each in histograms:
            key = each.indexes, each.field
            found = self._known.get(key)
            if found is None:
                found = self._known[key] = await self._asked(*key)
            filled = ((found[1] - found[0]) / each.interval + 1) * each.times
            what = f"The number of buckets of a histogram of {each.field[:100]}"
            Budget(self._limits).most("buckets", int(filled), what)

    async def _asked(self, index: str, field: str) -> tuple[float, float]:
        body = msgspec.json.encode({"size": 0, "aggs": {"range": {"stats": {"field": field}}}})
        path = f"/{quote(index, safe=',*-')}/_search" if index else "/_search"
        headers = {"content-type": "application/json"}
        try:
            answer = await self._passage.send("POST", path, "request_cache=true", body, headers, lend=True)
            found = msgspec.json.decode(answer.body)["aggregations"]["range"]
            return (found["min"], found["max"]) if found["count"] else (0.0, 0.0)
        except (ClusterError, msgspec.DecodeError, KeyError, TypeError) as error:
            raise InputError(
                f"The cluster does not tell how far the values of {field[:100]!r} reach, and a histogram fills every "
                "empty bucket between them. Give it hard_bounds or min_doc_count 1."
            ) from error


def interval_ms(text: Any) -> float:
    """Milliseconds of a calendar's or a clock's interval. Raises InputError for what is none."""
    word = _WORDS.get(text, text) if isinstance(text, str) else ""
    found = _INTERVAL.fullmatch(word)
    if found is None:
        raise InputError(f"The interval {str(text)[:100]!r} of a histogram is not known: write one such as 1d or 12h.")
    return max(1, int(found[1] or 1)) * (_FIXED | _CALENDAR)[found[2]]


def instant_ms(value: Any) -> float:
    """A bound of dates: milliseconds, or a date. Raises InputError for one that only the cluster could read."""
    try:
        return real(value, "A bound of a histogram")
    except InputError:
        try:
            found = datetime.fromisoformat(str(value))
        except ValueError:
            raise InputError(
                f"The bound {str(value)[:100]!r} of a histogram is not known: write a date such as 2026-01-31, or "
                "milliseconds."
            ) from None
        return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp() * 1000
