"""Texts that a node takes apart with a grammar: query strings, regular expressions, wildcards, names with stars.

Each is looked at by its length first, and then in one pass.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from reranker.serving.limits.budget import Budget

# What Lucene's two parsers of query strings give a meaning to; words apart.
_OPERATORS = re.compile(r"""[()\[\]{}"~^:/+\-!&|*?\\<>=]|\b(?:AND|OR|NOT)\b""", re.ASCII)
_WILDCARDS = re.compile(r"[*?]")
_NUMBERS = re.compile(r"~\s*0*([0-9]{1,9})", re.ASCII)
_REPEATS = re.compile(r"\{0*([0-9]*)(?:,0*([0-9]*))?", re.ASCII)


def check_text(budget: Budget, text: str, what: str = "The length of a text") -> None:
    """A text that an analyzer takes apart. Raises InputError, like all of these."""
    budget.most("text_characters", len(text), what)


def check_fuzzy(budget: Budget, text: str) -> None:
    """A text whose words are looked for with their misspellings."""
    budget.spend("fuzzy_characters", len(text), "The length of fuzzy texts")


def check_query_string(budget: Budget, text: Any) -> None:
    """A `query_string`, a `simple_query_string`, or `q` of an address."""
    if not isinstance(text, str):
        return
    budget.most("query_string_characters", len(text), "The length of a query string")
    budget.spend("operators", len(_OPERATORS.findall(text)), "The number of operators in query strings")
    _spend_wildcards(budget, text)
    for number in _NUMBERS.findall(text):
        budget.most("slop", int(number), "A distance in a query string")
    if text.count("/") > 1:
        _check_expression(budget, text, expressions=text.count("/") // 2)


def check_regexp(budget: Budget, pattern: Any) -> None:
    """A regular expression of Lucene's."""
    if isinstance(pattern, str):
        budget.most("regexp_characters", len(pattern), "The length of a regular expression")
        _check_expression(budget, pattern, expressions=1)


def check_wildcard(budget: Budget, pattern: Any) -> None:
    """A pattern with stars and question marks, or the beginning of a word."""
    if isinstance(pattern, str):
        budget.most("pattern_characters", len(pattern), "The length of a pattern")
        _spend_wildcards(budget, pattern)


def check_names(budget: Budget, names: Any) -> None:
    """Names of fields, which may have stars: one, several, or several joined by commas."""
    several: Iterable[Any] = names.split(",") if isinstance(names, str) else names if isinstance(names, list) else ()
    for count, name in enumerate(several, start=1):
        budget.most("parts", count, "The number of names in a list of fields")
        if isinstance(name, str):
            budget.most("pattern_characters", len(name), "The length of a field's name")
            budget.most("wildcards", name.count("*"), "The number of stars in a field's name")


def _spend_wildcards(budget: Budget, text: str) -> None:
    budget.spend("wildcards", len(_WILDCARDS.findall(text)), "The number of wildcards")


def _check_expression(budget: Budget, pattern: str, expressions: int) -> None:
    """An automaton is built of copies of what is repeated: `((a{99}){99}){99}` has a million states."""
    budget.spend("regexps", expressions, "The number of regular expressions")
    states = 1
    for least, most in _REPEATS.findall(pattern):
        states *= max(1, *(int(number[:9] or 0) for number in (least, most)))
        budget.most("regexp_repeats", states, "The product of repetitions in a regular expression")
