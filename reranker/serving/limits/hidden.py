"""Indexes that no client of the gateway sees: what shoppers searched and did, the jobs, and the cluster's own.

They are hidden by name, and by whatever else reaches them: patterns, aliases, and what a body names.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from typing import Any
from urllib.parse import quote

import msgspec
from cachetools import TTLCache

from indexer import jobs, tombstones
from indexer.errors import ClusterError, InputError
from reranker.serving.access import DeniedError
from reranker.serving.limits.requests import Asked, lines_of
from reranker.serving.passing import Passage
from reranker.serving.ubi import EVENTS, QUERIES

# A pattern that fits nothing is excluded without complaint; a name that is not there would be an error.
_OWN = (f"{QUERIES}*", f"{EVENTS}*", f"{jobs.INDEX}*", tombstones.index_name("*"), ".*")
_KEPT_S = 60.0
_LIMIT_S = 1.0  # a request waits for it
_ALL = ("", "_all", "*")
# What takes no index in its path, or says itself of which indexes it is.
_WITHOUT = ("_search/scroll", "_search/point_in_time", "_analyze", "_mget", "_bulk", "_cluster/", "_cat/health")
_NAMED = ("index", "indices")


class Hidden:
    """The hidden indexes of one cluster."""

    def __init__(self, passage: Passage, more: str = "") -> None:
        self.patterns = (*_OWN, *(each.strip() for each in more.split(",") if each.strip()))
        self._passage = passage
        self._aliases: TTLCache[str, frozenset[str]] = TTLCache(1, _KEPT_S)
        self._known: frozenset[str] | None = None
        self._there: frozenset[str] = frozenset()  # hidden indexes by their names

    async def aliases(self) -> frozenset[str]:
        """Other names of hidden indexes, as the cluster has them, remembered for a minute; those that were known before
        where it does not say. Raises ClusterError where it never has."""
        found = self._aliases.get("")
        if found is None:
            path = f"/{','.join(quote(each, safe='*') for each in self.patterns)}/_alias"
            asked = "expand_wildcards=all&ignore_unavailable=true&local=true"
            asking = self._passage.send("GET", path, asked, lend=True)
            try:
                answer = await (asking if self._known is None else asyncio.wait_for(asking, _LIMIT_S))
                self._known, self._there = _names(answer.status, answer.body)
            except (ClusterError, TimeoutError):
                if self._known is None:
                    raise
            found = self._aliases[""] = self._known
        return found

    async def check(self, index: str) -> None:
        """Raises DeniedError for a hidden index by its name or an alias, and what `aliases` raises."""
        self._check([index], await self.aliases())

    def passed_on(self, asked: Asked, path: str, body: bytes, aliases: frozenset[str]) -> tuple[str, bytes]:
        """Path and body of a request, without what is hidden. Raises DeniedError for what is asked for by name, and
        InputError for a name that could stand for it."""
        self._check(asked.indexes, aliases)
        if asked.endpoint.startswith("_msearch"):
            return path, self._lines(asked, body, aliases)
        expression = self.shown([asked.index], aliases)
        if expression == asked.index or asked.is_pinned or (not asked.index and _needs_none(asked.endpoint)):
            return path, body
        if asked.endpoint == "_validate/query":
            raise InputError("A query is validated for one index, or some by their names. Name one in the path.")
        written = quote(expression, safe=",*-._")
        if asked.endpoint.startswith(("_cat/", "_cluster/")):
            return f"/{asked.endpoint}/{written}", body
        rest = "/".join(quote(part, safe="") for part in asked.endpoint.split("/"))
        return f"/{written}/{rest}".rstrip("/"), body

    def _lines(self, asked: Asked, body: bytes, aliases: frozenset[str]) -> bytes:
        """The lines of an `_msearch`; a search that may reach what is hidden has another header."""
        lines = lines_of(body)
        for at, header in enumerate(asked.headers):
            if asked.pins[at : at + 1] == [True]:
                continue
            named = [header[name] for name in _NAMED if header.get(name) is not None]
            if len(named) > 1:
                raise InputError(f"Header {at + 1} names its index in two ways. Name it once, as `index`.")
            given = named[0] if named else asked.index
            several = given if isinstance(given, list) else [given]
            expression = self.shown(several, aliases)
            is_null = any(
                name in header and header[name] is None for name in _NAMED
            )  # which ends in an error of a node
            if is_null or expression != ",".join(map(str, several)):
                rest = {name: value for name, value in header.items() if name not in _NAMED}
                lines[2 * at] = msgspec.json.encode({**rest, "index": expression})
        return b"\n".join([*lines, b""])

    def shown(self, expressions: Sequence[Any], aliases: frozenset[str]) -> str:
        """An index expression that leaves hidden indexes out: as it was where it names single ones alone."""
        parts = [part.strip() for each in expressions for part in str(each).split(",")]
        if len(parts) > 1:
            parts = [part for part in parts if part] or [""]  # as OpenSearch passes over them
        patterns = [part for part in parts if part in _ALL or ("*" in part and not part.startswith("-"))]
        self._check((part for part in parts if part not in patterns and not part.startswith("-")), aliases)
        for part in patterns:
            _check_name(part, "a pattern")
        if not patterns:
            return ",".join(parts)
        kept = ["*" if part in _ALL else part for part in parts]
        # To leave out a single name that is not there is an error.
        hidden = [each for each in self.patterns if "*" in each or each in self._there]
        return ",".join([*kept, *(f"-{pattern}" for pattern in hidden)])

    def _check(self, names: Iterable[str], aliases: frozenset[str]) -> None:
        for name in names:
            _check_name(name)
            last = name.rpartition(":")[2]
            if name in aliases or any(fnmatchcase(last, pattern) or "*" in last for pattern in self.patterns):
                raise DeniedError(
                    403,
                    f"The index {name[:100]!r} is not for clients of the gateway (its own, and limits.hidden).",
                )


def _needs_none(endpoint: str) -> bool:
    """Whether an endpoint without an index is not one of all indexes."""
    return not endpoint or endpoint.startswith(_WITHOUT)


def _check_name(name: str, what: str = "") -> None:
    """Refuse what only the cluster could take apart. Raises InputError."""
    if "<" in name or ">" in name or "%" in name or (what and ":" in name):
        raise InputError(
            f"The index {name[:100]!r} is not passed on: name it without < > % and without : in {what or 'it'}."
        )


def _names(status: int, body: bytes) -> tuple[frozenset[str], frozenset[str]]:
    """Aliases of hidden indexes, and these. Raises ClusterError where the cluster does not say now."""
    if status in (401, 403, 404):
        return frozenset(), frozenset()  # there are none, or the service may not know
    try:
        if status != 200:
            raise ValueError(f"it answered with {status}")
        found = msgspec.json.decode(body, type=dict[str, dict[str, Any]])
    except (ValueError, msgspec.DecodeError) as error:
        raise ClusterError(f"OpenSearch does not say which indexes are hidden: {error}.") from error
    return frozenset(alias for each in found.values() for alias in each.get("aliases", {})), frozenset(found)
