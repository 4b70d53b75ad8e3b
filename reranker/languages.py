"""Whether a model that reads English alone may read a query and its hits: by their letters, not by their words."""

from __future__ import annotations

import re
from collections.abc import Iterable

_LETTERS = re.compile(r"[^\W\d_]")
# Basic Latin to Latin Extended-B, Latin Extended Additional, full-width Latin.
_LATIN = re.compile(r"[A-Za-z\u00aa\u00ba\u00c0-\u024f\u1e00-\u1eff\uff21-\uff3a\uff41-\uff5a]")
_LOOKED_AT = 200  # characters of a title


def is_latin(query: str, titles: Iterable[str]) -> bool:
    """Whether the query has letters, all of them Latin, and more than half of the titles that have any have mostly
    Latin ones: a shop may answer "iphone 15" with titles in Chinese."""
    letters = _LETTERS.findall(query)
    if not letters or not all(map(_LATIN.match, letters)):
        return False
    latin = others = 0
    for title in titles:
        found = _LETTERS.findall(title[:_LOOKED_AT])
        of_them = sum(bool(_LATIN.match(each)) for each in found)
        latin += bool(found) and 2 * of_them > len(found)
        others += bool(found) and 2 * of_them <= len(found)
    return latin > others or not others
