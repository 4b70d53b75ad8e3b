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

from indexer.han import HAN, has_han
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
    "color",
    "price",
)
FIELDS = ("title", "brand", "color", "bullets", "category", "price")
_TEXTS = ("brand", "color", "bullets", "category")
_MAX_CHARACTERS = 1500  # of a field; what stands later tells little and costs time


def _han(word: str) -> bool:
    """Asked of every word of every hit, so one comparison answers it for Latin ones."""
    return word[0] >= "㐀" and has_han(word[0])


_TERM = re.compile(rf"\d+(?:\.\d+)?|[^\W\d_{HAN}]+|[{HAN}]+")
_EXCLUDES = re.compile(
    rf"\b(?:without(?: any| a| an| the)?|excluding|except|not|no|non)[\s-]+([^\W_{HAN}]+)"
    rf"|\b([^\W\d_{HAN}]+)[\s-]free\b"
    rf"|(?:不带|不要|不含|不是|没有|无须|非|无)((?:(?!的)[{HAN}]){{1,3}})"
)
_FOR = re.compile(r"\b(?:for|compatible with|fits|replacement)\b|适用于?|专用|配件|替换")
_AFTER_HEAD = re.compile(r"\b(?:for|with|without|in|under|by|of|to|from|that|not|no)\b")
_STOP = frozenset(
    "a|an|and|any|are|at|by|for|from|in|is|it|my|no|non|not|of|on|or|the|to|under|with|without".split("|")  # noqa: SIM905
)
_NUMBER = r"(\d+(?:\.\d+)?)(?![\d.])"
_OF_SOMETHING_ELSE = (
    r"(?!\s*(?:%|(?:inch|in|cm|mm|ft|feet|foot|yard|oz|ounce|lb|pound|kg|g|gram|ml|l|gallon|year|yr|month|day|hour|"
    r"minute|watt|w|v|volt|mah|gb|tb|mp|hz|mph|piece|pc|pack|calorie|carb|people|person)e?s?\b))"
)
_AT_MOST = re.compile(
    rf"\b(?:under|below|less than|cheaper than|at most)\s*[$¥￥€£]?\s*{_NUMBER}{_OF_SOMETHING_ELSE}"
    rf"|{_NUMBER}\s*[元块]?\s*(?:以下|以内|之内|内)"
    rf"|(?:低于|不超过|不到|少于)\s*[¥￥]?\s*{_NUMBER}\s*[元块]?"
)
_AT_LEAST = re.compile(
    rf"\b(?:over|above|more than|at least|from)\s*[$¥￥€£]\s*{_NUMBER}"
    rf"|{_NUMBER}\s*[元块]\s*(?:以上|起)"
)
_COLORS = {
    word: words.split()[0]
    for words in (
        "black 黑",
        "white ivory 白",
        "red burgundy 红",
        "blue navy 蓝",
        "green olive 绿",
        "yellow 黄",
        "pink rose 粉",
        "purple violet lavender 紫",
        "orange 橙",
        "brown tan chocolate 棕 咖",
        "gray grey charcoal 灰",
        "silver 银",
        "gold golden 金",
        "beige cream 米",
        "teal turquoise",
        "clear transparent 透明",
    )
    for word in words.split()
}
_HAN_COLOR = re.compile("(" + "|".join(word for word in _COLORS if _han(word)) + ")色")
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
    title_set: set[str]  # with neighbouring words joined, for "chrome cast"
    everything: set[str]
    folded: str
    brand: str
    category: str
    colors: set[str]
    color: str
    price: float


class _Query(msgspec.Struct):
    terms: list[str]
    excluded: set[str]
    colors: set[str]
    prices: tuple[float, float]  # lowest and highest wanted
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
    for product in read:
        _join(asked.terms, product)
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
            _color(asked.colors, product.colors),
            _price(asked.prices, product.price),
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


def names_audience(text: str) -> bool:
    """Whether a text says for whom, or for which animal, and nothing else."""
    words = terms_of(text)
    return bool(words) and all(any(_some(each, {word}) for each in _AUDIENCES) for word in words)


def _read_query(query: str) -> _Query:
    folded = _fold(query)
    excluded: set[str] = set()
    kept, prices = _prices(folded)
    for match in _EXCLUDES.finditer(kept):
        word = next(_singular(group) for group in match.groups() if group)
        # Nothing says where a Han word ends, so two characters of it may be all of it.
        excluded.update({word, word[:2]} if _han(word) else {word} - _STOP)
        kept = kept.replace(match.group(), " ")
    terms = list(dict.fromkeys(term for term in terms_of(kept) if term not in _STOP))
    front = [term for term in terms_of(_AFTER_HEAD.split(kept)[0]) if term not in _STOP and not term[0].isdigit()]
    numbers = {term for term in terms if term[0].isdigit()}
    return _Query(terms, excluded, _colors_of(kept), prices, numbers, front[-1] if front else "", folded)


def _prices(query: str) -> tuple[str, tuple[float, float]]:
    """The query without its limits of price, and the lowest and highest price wanted."""
    low, high = 0.0, math.inf
    for match in _AT_MOST.finditer(query):
        high = min(high, *(float(group) for group in match.groups() if group))
    for match in _AT_LEAST.finditer(query):
        low = max(low, *(float(group) for group in match.groups() if group))
    return _AT_LEAST.sub(" ", _AT_MOST.sub(" ", query)), (low, high)


def _colors_of(text: str) -> set[str]:
    words = {_COLORS[term] for term in terms_of(text) if term in _COLORS}
    return words | {_COLORS[match.group(1)] for match in _HAN_COLOR.finditer(text)}


def _join(terms: Sequence[str], product: _Product) -> None:
    """Let "chrome cast" find "chromecast" and the other way round."""
    joined = {"".join(two): two for two in itertools.pairwise(terms) if not any(map(_han, two))}
    for whole, two in joined.items():
        if whole in product.title_set:
            product.title_set.update(two)
            product.everything.update(two)
    there = {"".join(two) for two in itertools.pairwise(product.title)}
    found = {term for term in terms if len(term) > 5 and not _han(term) and term in there}
    product.title_set |= found
    product.everything |= found


def _read_product(product: Mapping[str, Any]) -> _Product:
    texts = {name: field_text(product.get(name))[:_MAX_CHARACTERS] for name in ("title", *_TEXTS)}
    title = terms_of(texts["title"])
    everything = set(title)
    for name in _TEXTS:
        everything.update(terms_of(texts[name]))
    category = product.get("category")
    leaf = str(category[-1]) if isinstance(category, (list, tuple)) and category else texts["category"]
    folded, color = _fold(texts["title"]), _fold(texts["color"])
    price = product.get("price")
    return _Product(
        title,
        set(title),
        everything,
        folded,
        _fold(texts["brand"]).strip(),
        leaf,
        _colors_of(color) or _colors_of(folded),
        color,
        float(price) if isinstance(price, (int, float)) and price > 0 else 0.0,
    )


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
    if head not in product.title:
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
    """1 where title or colour have what the query excludes, -1 where the title says that it is not there."""
    if not excluded:
        return 0.0
    kept = _EXCLUDES.sub(" ", product.folded)
    shown = f"{kept} {product.color}"
    words = terms_of(shown)
    if any((word in shown) if _han(word) else _has_word(word, words) for word in excluded):
        return 1.0
    without = terms_of(" ".join(match.group() for match in _EXCLUDES.finditer(product.folded)))
    return -float(any(word in without for word in excluded))


def _has_word(word: str, words: Sequence[str]) -> bool:
    """Whether a word is there, or a longer one that begins with it and is no denial of it ("hood", "hooded")."""
    long = len(word) > 3
    return any(each == word or (long and each.startswith(word) and not each.endswith("less")) for each in words)


def _color(asked: set[str], found: set[str]) -> float:
    """1 where the product has a colour that the query names, -1 where it has only others."""
    if not asked or not found:
        return 0.0
    return 1.0 if asked & found else -1.0


def _price(wanted: tuple[float, float], price: float) -> float:
    """1 where the price lies outside what the query allows."""
    return float(price > 0 and not wanted[0] <= price <= wanted[1])


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
