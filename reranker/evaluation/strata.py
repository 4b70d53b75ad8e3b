"""Strata: groups of queries by a column of theirs, or by what the text of the query itself tells."""

from __future__ import annotations

import importlib.util
import logging
import re
from collections.abc import Callable, Mapping, Sequence

import msgspec

from indexer.errors import UsageError
from indexer.han import HAN, has_han
from reranker.evaluation.compare import Difference, Values, difference, mean
from reranker.evaluation.judgments import Query

_RUNS = re.compile(rf"[{HAN}]+|[^\s{HAN}]+")


class Stratum(msgspec.Struct, frozen=True):
    """One group of queries: how many, each system's means, and each one's difference to the baseline within it."""

    queries: int
    means: dict[str, dict[str, float]]
    differences: dict[str, Difference]


def language_of(query: str) -> str:
    """`zh` for a query with Han characters, else `en`."""
    return "zh" if has_han(query) else "en"


def length_of(query: str) -> str:
    """A query's length in words, in three groups."""
    words = count_words(query)
    return "1-2 words" if words <= 2 else "3-4 words" if words <= 4 else "5+ words"


def count_words(query: str) -> int:
    """Words between spaces, and those that jieba finds in Han characters; without jieba two characters are a word."""
    runs: list[str] = _RUNS.findall(query)
    return sum(_han_words(run) if has_han(run) else any(map(str.isalnum, run)) for run in runs)


def _han_words(run: str) -> int:
    if importlib.util.find_spec("jieba") is None:
        return (len(run) + 1) // 2
    import jieba

    jieba.setLogLevel(logging.WARNING)
    return len(jieba.lcut(run))


DERIVED: dict[str, Callable[[str], str]] = {"language": language_of, "length": length_of}
"""Columns that every query has, unless the queries file brings a column of that name."""


def groups_by(column: str, queries: Sequence[Query]) -> dict[str, list[str]]:
    """Query ids by their value in a column, or in one of `DERIVED`. Raises UsageError when no query has it."""
    values = {query.id: query.columns.get(column, "") for query in queries}
    if not any(values.values()) and column in DERIVED:
        values = {query.id: DERIVED[column](query.text) for query in queries}
    groups: dict[str, list[str]] = {}
    for query, value in sorted(values.items(), key=lambda item: item[1]):
        if value:
            groups.setdefault(value, []).append(query)
    if not groups:
        names = sorted({name for query in queries for name in query.columns} | set(DERIVED))
        raise UsageError(f"The queries have no column {column!r}; they have {', '.join(names)}.")
    return groups


def strata(
    groups: Mapping[str, Sequence[str]], values: Mapping[str, Values], baseline: str, seed: int = 0
) -> dict[str, Stratum]:
    """Means and differences within each group of queries; no differences without a baseline."""
    found = {}
    for group, ids in groups.items():
        own = {name: {query: each[query] for query in ids} for name, each in values.items()}
        others = [name for name in own if baseline and name != baseline]
        found[group] = Stratum(
            len(ids),
            {name: mean(each) for name, each in own.items()},
            {name: difference(own[name], own[baseline], seed) for name in others},
        )
    return found
