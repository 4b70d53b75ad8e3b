"""Queries that are nearly the same, and queries with the same answers: kept apart they would leak into the test.

Similarity is the Jaccard index of character n-grams, counted within words for scripts that separate words and across
characters for Han, so that it sees a misspelling, another order, a plural or a space, in English and Chinese alike.
Queries whose numbers differ ("iphone 13 case", "iphone 14 case") are different queries.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import msgspec

from indexer.han import HAN, has_han
from reranker.training.prepare.collection import query_key

# A misspelling in two words gives 0.73 ("wireles earbuds"). Too low a limit costs little, as a few more queries go to
# one split; too high a limit flatters every figure.
SIMILARITY = 0.7
MIN_ANSWERS = 3  # two queries may well share the one product that somebody bought

_TOKEN = re.compile(rf"[{HAN}]+|\d+(?:[.,]\d+)*|[^\W\d_{HAN}]+")
_NOTHING = re.compile(rf"的|(?<=[{HAN}])\s+(?=[{HAN}])")
_JOINING = frozenset({"a", "an", "the", "for", "of", "and", "s"})  # words that change no query; "without" would
_SLACK = 1e-9


class Leak(msgspec.Struct, frozen=True):
    """Two queries in different splits that give each other away; `kind` is `query` or `products`."""

    kind: str
    similarity: float
    first_id: str
    first: str
    first_split: str
    second_id: str
    second: str
    second_split: str


class Alike(msgspec.Struct, frozen=True):
    """Two keys that belong together, the earlier one first."""

    first: str
    second: str
    kind: str
    similarity: float


def grams(text: str) -> frozenset[str]:
    """What two queries are compared by. A query without letters and digits is its own only gram."""
    key = query_key(text)
    found: set[str] = set()
    for token in _TOKEN.findall(_NOTHING.sub("", key)):
        if has_han(token):
            found.update(token)
            found.update(token[at : at + 2] for at in range(len(token) - 1))
        elif token[0].isdigit():
            found.add(f"#{token}")
        elif token not in _JOINING:
            padded = f"_{_singular(token)}_"
            found.update(padded[at : at + 3] for at in range(len(padded) - 2))
    return frozenset(found or {f"={key}"})


def similar(keys: Sequence[str], threshold: float = SIMILARITY) -> list[Alike]:
    """All pairs of query keys of at least this similarity, in the order of the keys.

    Exact, and far from quadratic: two sets can only be that alike when they share one of their rarest few grams, so
    that only those are looked up (the prefix filter of Bayardo, Ma and Srikant, "Scaling Up All Pairs Similarity
    Search", WWW 2007).
    """
    sets = [grams(key) for key in keys]
    seen = Counter(gram for found in sets for gram in found)
    index: dict[tuple[frozenset[str], str], list[int]] = {}
    pairs: list[tuple[int, int, float]] = []
    for at in sorted(range(len(keys)), key=lambda at: (len(sets[at]), at)):
        mine = sets[at]
        numbers = frozenset(gram for gram in mine if gram[0] == "#")
        rare = sorted(mine, key=lambda gram: (seen[gram], gram))
        prefix = rare[: len(rare) - math.ceil(threshold * len(rare) - _SLACK) + 1]
        candidates = {other for gram in prefix for other in index.get((numbers, gram), ())}
        for other in candidates:
            yours = sets[other]
            if len(yours) + _SLACK >= threshold * len(mine):
                shared = len(mine & yours)
                value = shared / (len(mine) + len(yours) - shared)
                if value + _SLACK >= threshold:
                    pairs.append((min(at, other), max(at, other), value))
        for gram in prefix:
            index.setdefault((numbers, gram), []).append(at)
    return [Alike(keys[one], keys[other], "query", round(value, 4)) for one, other, value in sorted(pairs)]


def same_answers(grades: Mapping[str, Mapping[str, int]]) -> list[Alike]:
    """Queries with just the same relevant products in the same grades, three or more; each with the first of them.

    Products of grade 0 do not count: where a whole small shop is judged, all queries share them.
    """
    first: dict[frozenset[tuple[str, int]], str] = {}
    found = []
    for key, judged in grades.items():
        answers = frozenset((product, grade) for product, grade in judged.items() if grade > 0)
        if len(answers) >= MIN_ANSWERS:
            earlier = first.setdefault(answers, key)
            if earlier != key:
                found.append(Alike(earlier, key, "products", 1.0))
    return found


def groups(keys: Sequence[str], alike: Iterable[Alike]) -> list[list[str]]:
    """Keys that hang together, directly or through others; everything in the order of `keys`."""
    parent = {key: key for key in keys}

    def root(key: str) -> str:
        while parent[key] != key:
            parent[key] = parent[parent[key]]
            key = parent[key]
        return key

    for pair in alike:
        parent[root(pair.second)] = root(pair.first)
    together: dict[str, list[str]] = {}
    for key in keys:
        together.setdefault(root(key), []).append(key)
    return list(together.values())


def fixed(splits: Mapping[str, str], together: Iterable[Sequence[str]]) -> dict[str, str]:
    """Splits in which every group is where its first query is."""
    moved = dict(splits)
    for group in together:
        moved.update(dict.fromkeys(group, splits[group[0]]))
    return moved


def leaks(
    alike: Iterable[Alike], splits: Mapping[str, str], ids: Mapping[str, str], texts: Mapping[str, str]
) -> list[Leak]:
    """The pairs whose two queries stand in different splits."""
    return [
        Leak(
            pair.kind,
            pair.similarity,
            ids[pair.first],
            texts[pair.first],
            splits[pair.first],
            ids[pair.second],
            texts[pair.second],
            splits[pair.second],
        )
        for pair in alike
        if splits[pair.first] != splits[pair.second]
    ]


def _singular(word: str) -> str:
    if len(word) > 4 and word.endswith("ies"):
        return word[:-3] + "y"
    return word[:-1] if len(word) > 3 and word.endswith("s") and not word.endswith("ss") else word
