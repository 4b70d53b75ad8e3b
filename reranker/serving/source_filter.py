"""`_source` of a search: which fields of a hit a client wants to see, and how to get more without showing them."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

import msgspec

PARAMS = ("_source", "_source_includes", "_source_excludes")
_Names = str | list[str]


class _Given(msgspec.Struct, forbid_unknown_fields=True):
    """The long form in a body, in both of its spellings."""

    includes: _Names = ()  # type: ignore[assignment]
    excludes: _Names = ()  # type: ignore[assignment]
    include: _Names = ()  # type: ignore[assignment]
    exclude: _Names = ()  # type: ignore[assignment]


class SourceFilter(msgspec.Struct, frozen=True):
    """Names and patterns, in which `*` stands for anything; no `includes` are all fields."""

    shown: bool = True
    includes: tuple[str, ...] = ()
    excludes: tuple[str, ...] = ()

    @classmethod
    def read(cls, raw: bytes | None, params: Mapping[str, str]) -> SourceFilter:
        """That of a request: `raw` is `_source` of its body, what `params` say comes before it.

        Raises msgspec.DecodeError for what is none.
        """
        if any(name in params for name in PARAMS):
            whole = params.get("_source", "true")
            if whole == "false":
                return cls(shown=False)
            includes = _listed(params.get("_source_includes", "" if whole == "true" else whole))
            return cls(True, includes, _listed(params.get("_source_excludes", "")))
        given = msgspec.json.decode(raw or b"true", type=bool | str | list[str] | _Given)
        if isinstance(given, bool):
            return cls(given)
        if isinstance(given, _Given):
            return cls(
                True,
                (*_several(given.includes), *_several(given.include)),
                (*_several(given.excludes), *_several(given.exclude)),
            )
        return cls(True, _several(given))

    def passes(self, name: str) -> bool:
        """Whether a field is shown; `name` has no dot."""
        return self.shown and (not self.includes or _matches(name, self.includes)) and not _matches(name, self.excludes)

    def with_fields(self, names: Collection[str]) -> SourceFilter:
        """One that lets these fields through as well."""
        if not self.shown:
            return SourceFilter(True, tuple(sorted(names)))
        more = sorted(names) if self.includes else ()
        kept = tuple(each for each in self.excludes if not any(_matches(name, [each]) for name in names))
        return SourceFilter(True, (*self.includes, *more), kept)

    def without(self, source: Mapping[str, Any], names: Collection[str]) -> dict[str, Any]:
        """What `with_fields(names)` brought, as this filter would have brought it."""
        dropped = [each for each in self.excludes if any(_matches(name, [each]) for name in names)]
        hidden = {name for name in names if not self.passes(name)}
        return {name: value for name, value in source.items() if name not in hidden and not _matches(name, dropped)}

    def body(self) -> dict[str, Any]:
        """As a body says it."""
        return {"includes": self.includes, "excludes": self.excludes}


def _matches(name: str, patterns: Sequence[str]) -> bool:
    # A star is the only sign; fnmatch takes time in proportion to the pattern, however many it has.
    return any(fnmatchcase(name, re.sub(r"[?[]", r"[\g<0>]", each)) for each in patterns)


def _several(given: str | Sequence[str]) -> tuple[str, ...]:
    return (given,) if isinstance(given, str) else tuple(given)


def _listed(text: str) -> tuple[str, ...]:
    return tuple(name for name in text.split(",") if name)
