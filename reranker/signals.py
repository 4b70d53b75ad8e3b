"""Cheap signals of a window: what words, numbers, brands and exclusions of the query say about each product.

Each signal lies between -1 and 1 and is 0 where it has nothing to say, so a linear blend of them stays readable.
Rare words of the query count more; what is rare is counted in the window itself. The order of the window changes
nothing.
"""

from __future__ import annotations

import itertools
import math
import re
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from reranker.text import field_text

NAMES = (
    "title_match",
    "text_match",
    "phrase",
    "focus",
    "head",
    "accessory",
    "brand",
    "number",
    "excluded",
    "audience",
    "category",
)
FIELDS = ("title", "brand", "color", "bullets", "category")
_MAX_CHARACTERS = 1500  # of a field; what stands later tells little and costs time

_HAN = "㐀-鿿"
_TERM = re.compile(rf"\d+(?:\.\d+)?|[^\W\d_{_HAN}]+|[{_HAN}]+")
_EXCLUDES = re.compile(
    rf"\b(?:without(?: any| a| an| the)?|excluding|except|not|no|non)[\s-]+([^\W_{_HAN}]+)"
    rf"|\b([^\W\d_{_HAN}]+)[\s-]free\b"
    rf"|(?:不带|不要|不含|不是|没有|无须|非|无)((?:(?!的)[{_HAN}]){{1,3}})"
)
_FOR = re.compile(r"\b(?:for|compatible with|fits|replacement)\b|适用于?|专用|配件|替换")
_AFTER_HEAD = re.compile(r"\b(?:for|with|without|in|under|by|of|to|from|that|not|no)\b")
_STOP = frozenset(
    "a|an|and|any|are|at|by|for|from|in|is|it|my|no|non|not|of|on|or|the|to|under|with|without".split("|")  # noqa: SIM905
)
_AUDIENCES = (
    frozenset(("men", "man", "mens", "male", "him", "男", "男士", "男款", "爸爸")),
    frozenset(("women", "woman", "womens", "lady", "ladies", "female", "her", "女", "女士", "女款", "妈妈")),
    frozenset(("boy", "boys", "男童")),
    frozenset(("girl", "girls", "女童")),
    frozenset(("kid", "kids", "child", "children", "toddler", "youth", "儿童", "孩子")),
    frozenset(("baby", "infant", "newborn", "婴儿", "宝宝")),
    frozenset(("dog", "dogs", "puppy", "狗", "狗狗")),
    frozenset(("cat", "cats", "kitten", "猫", "猫咪")),
)


class _Product(msgspec.Struct):
    title: list[str]
    title_set: set[str]
    everything: set[str]
    folded: str
    brand: str
    category: str


class _Query(msgspec.Struct):
    terms: list[str]
    excluded: set[str]
    numbers: set[str]
    head: str
    folded: str


def signals(query: str, products: Sequence[Mapping[str, Any]], first: NDArray[np.float64]) -> NDArray[np.float64]:
    """Signals of a window: float64 [products, len(NAMES)], columns as in `NAMES`.

    `products` hold the fields of `FIELDS`, any of which may be missing; `first` float64 [products] are the
    first-stage scores, by which the categories of the best hits are weighed.
    """
    if not products:
        return np.zeros((0, len(NAMES)))
    asked = _read_query(query)
    read = [_read_product(product) for product in products]
    rarity = _rarity(asked.terms, [product.everything for product in read])
    brands = {product.brand for product in read if len(product.brand) > 1}
    named = {brand for brand in brands if _names(asked.folded, brand)}
    share = _category_shares(read, first)
    rows = [
        (
            _cover(asked.terms, product.title_set, rarity),
            _cover(asked.terms, product.everything, rarity),
            _phrase(asked.terms, product.title),
            _focus(asked.terms, product.title),
            _head(asked.head, product),
            _accessory(asked, product),
            _brand(product.brand, named),
            _numbers(asked.numbers, product.everything),
            _excluded(asked.excluded, product),
            _audience(asked.terms, product.title_set),
            share[product.category] if product.category else 0.0,
        )
        for product in read
    ]
    return np.array(rows, np.float64).round(6)


def terms_of(text: str) -> list[str]:
    """Terms of a text in order: words without their plural, numbers, and pairs of Han characters."""
    found: list[str] = []
    for match in _TERM.finditer(_fold(text)):
        word = match.group()
        if _han(word):
            found += [word[at : at + 2] for at in range(len(word) - 1)] or [word]
        else:
            found.append(_singular(word))
    return found


def _read_query(query: str) -> _Query:
    folded = _fold(query)
    excluded: set[str] = set()
    kept = folded
    for match in _EXCLUDES.finditer(folded):
        word = next(_singular(group) for group in match.groups() if group)
        # Nothing says where a Han word ends, so two characters of it may be all of it.
        excluded.update({word, word[:2]} if _han(word) else {word} - _STOP)
        kept = kept.replace(match.group(), " ")
    terms = list(dict.fromkeys(term for term in terms_of(kept) if term not in _STOP))
    front = [term for term in terms_of(_AFTER_HEAD.split(kept)[0]) if term not in _STOP and not term[0].isdigit()]
    numbers = {term for term in terms if term[0].isdigit()}
    return _Query(terms, excluded, numbers, front[-1] if front else "", folded)


def _read_product(product: Mapping[str, Any]) -> _Product:
    texts = {name: field_text(product.get(name))[:_MAX_CHARACTERS] for name in FIELDS}
    title = terms_of(texts["title"])
    everything = set(title)
    for name in FIELDS[1:]:
        everything.update(terms_of(texts[name]))
    category = product.get("category")
    leaf = str(category[-1]) if isinstance(category, (list, tuple)) and category else texts["category"]
    return _Product(title, set(title), everything, _fold(texts["title"]), _fold(texts["brand"]).strip(), leaf)


def _fold(text: str) -> str:
    return unicodedata.normalize("NFKC", text).casefold().replace("’", "'").replace("'s", "s")


def _singular(word: str) -> str:
    if len(word) > 4 and word.endswith("ies"):
        return word[:-3] + "y"
    if len(word) > 4 and word.endswith(("ches", "shes", "sses", "xes")):
        return word[:-2]
    return word[:-1] if len(word) > 3 and word.endswith("s") and not word.endswith("ss") else word


def _rarity(terms: Sequence[str], windows: Sequence[set[str]]) -> dict[str, float]:
    counts = Counter(term for term in terms for found in windows if term in found)
    return {term: math.log(1 + (len(windows) + 1) / (counts[term] + 0.5)) for term in terms}


def _cover(terms: Sequence[str], found: set[str], rarity: Mapping[str, float]) -> float:
    total = math.fsum(rarity[term] for term in terms)
    return math.fsum(rarity[term] for term in terms if term in found) / total if total else 0.0


def _phrase(terms: Sequence[str], title: Sequence[str]) -> float:
    """Share of the query's neighbouring words that are neighbours in the title too."""
    asked = list(itertools.pairwise(terms))
    there = set(itertools.pairwise(title))
    return sum(pair in there for pair in asked) / len(asked) if asked else 0.0


def _focus(terms: Sequence[str], title: Sequence[str]) -> float:
    """Share of the title that the query speaks of."""
    return sum(term in terms for term in title) / len(title) if title else 0.0


def _head(head: str, product: _Product) -> float:
    """How early the title says what the query says it is; -1 where it never does."""
    if not head:
        return 0.0
    if head not in product.title_set:
        return -1.0
    return 1.0 - product.title.index(head) / len(product.title)


def _accessory(asked: _Query, product: _Product) -> float:
    """1 where the title names what was asked for only as what the product is for, and the query did not ask so."""
    if _FOR.search(asked.folded) or not asked.head:
        return 0.0
    parts = _FOR.split(product.folded, maxsplit=1)
    if len(parts) < 2:
        return 0.0
    return float(asked.head not in terms_of(parts[0]) and asked.head in terms_of(parts[1]))


def _brand(brand: str, named: set[str]) -> float:
    """1 for a brand that the query names, -1 for another one than it names."""
    if not named or not brand:
        return 0.0
    return 1.0 if brand in named else -1.0


def _names(query: str, brand: str) -> bool:
    if any("㐀" <= character <= "鿿" for character in brand):
        return brand in query
    return re.search(rf"(?<!\w){re.escape(brand)}(?!\w)", query) is not None


def _numbers(asked: set[str], found: set[str]) -> float:
    return 2 * len(asked & found) / len(asked) - 1 if asked else 0.0


def _excluded(excluded: set[str], product: _Product) -> float:
    """1 where the title has what the query excludes and does not exclude it itself."""
    if not excluded:
        return 0.0
    title = _EXCLUDES.sub(" ", product.folded)
    words = set(terms_of(title))
    return float(any((_han(word) and word in title) or word in words for word in excluded))


def _han(word: str) -> bool:
    return "㐀" <= word[0] <= "鿿"


def _audience(terms: Sequence[str], title: set[str]) -> float:
    """1 where query and title name the same audience, -1 where the title names only others."""
    asked = {at for at, words in enumerate(_AUDIENCES) if _some(words, terms)}
    meant = {at for at, words in enumerate(_AUDIENCES) if _some(words, title)}
    if not asked or not meant:
        return 0.0
    return 1.0 if asked & meant else -1.0


def _some(words: frozenset[str], terms: Sequence[str] | set[str]) -> bool:
    return any(word in terms or _singular(word) in terms for word in words)


def _category_shares(products: Sequence[_Product], first: NDArray[np.float64]) -> dict[str, float]:
    """Category -> its share of the window's first-stage score."""
    low = float(first.min())
    weights = (first - low) / (float(first.max()) - low) if float(first.max()) > low else np.ones_like(first)
    total = math.fsum(weights)
    shares: dict[str, list[float]] = {}
    for product, weight in zip(products, weights, strict=True):
        shares.setdefault(product.category, []).append(float(weight))
    return {category: math.fsum(parts) / total for category, parts in shares.items()}
