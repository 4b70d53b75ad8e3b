"""What stands in the address of a request: numbers, times and texts with the same limits as in a body."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from urllib.parse import parse_qs

from indexer.errors import InputError
from reranker.serving.limits import search, texts
from reranker.serving.limits.budget import Budget

# A node takes an index, or an index's part of the path, from the address as well.
_ELSEWHERE = ("index", "name", "target")
_DURATIONS = ("scroll", "keep_alive")
_NAMES = ("_source", "_source_includes", "_source_excludes", "stored_fields", "docvalue_fields", "fields")
_NUMBERS = {
    "scroll_size": "size",
    "suggest_size": "parts",
    "max_concurrent_searches": "parts",
    "max_concurrent_shard_requests": "parts",
}
_MAX_STARS = 10

Parameters = Mapping[str, Sequence[str]]


def read(query: str) -> Parameters:
    """The value of every parameter. Raises InputError for what a node would take apart in another way."""
    if ";" in query:
        raise InputError("The address holds a semicolon between or within parameters. Write it as %3B.")
    found = parse_qs(query, keep_blank_values=True, errors="surrogateescape")
    twice = next((name for name, values in found.items() if len(values) > 1), None)
    if twice is not None:
        raise InputError(f"The parameter {twice[:100]} is given more than once. Give it once.")
    return found


def check(budget: Budget, given: Parameters) -> None:
    """Refuse what is over a limit. Raises InputError."""
    for name, values in given.items():
        for value in values:
            _check(budget, name, value)


def _check(budget: Budget, name: str, value: str) -> None:
    if name in _ELSEWHERE:
        raise InputError(f"The parameter {name} is not passed on. Name an index in the path.")
    if name in _DURATIONS:
        budget.duration("keep_alive_s", value, name)
    elif name in _NUMBERS:
        budget.number(_NUMBERS[name], value, name)
    elif name == "slices" and value != "auto":
        budget.number("parts", value, name)
    elif name == "level" and value not in ("cluster", ""):
        raise InputError("level is passed on as cluster alone: others name indexes that are not for clients.")
    elif name == "stats":
        search.check_groups(budget, value)
    elif name == "q":
        texts.check_query_string(budget, value)
    elif name in _NAMES:
        texts.check_names(budget, value)
    elif name == "filter_path" and value.count("*") > _MAX_STARS:
        raise InputError(f"filter_path has more than {_MAX_STARS} stars. Name what you want of the answer.")
    elif name != "source" and name != "scroll_id":
        texts.check_text(budget, value, "The length of a parameter")
