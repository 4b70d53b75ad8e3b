"""Queries made from the catalogue itself: supervision for a shop where nobody has judged anything.

Words of a title are a query whose answer is known. The other kinds say what words alone do not: a brand or a colour
that must agree, something that must not be there, a price that must not be passed, a thing that is not its accessory.
Which products keep to that is read off their fields by the signals of the last mile. How near a product is to the thing
itself is not called right or wrong: the encoder is the teacher and says so by its cosine.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from indexer.han import HAN, has_han
from reranker import signals
from reranker.text import field_text
from reranker.training.data import Group, Options

Teacher = Callable[[str], list[tuple[str, float]]]
"""A query to its nearest products by the encoder: ids and cosines, nearest first."""

_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9'./%-]*")
_HAS = re.compile(
    rf"\b(?:with|w/|including|includes)\s+(?:an?\s+|the\s+)?(.{{3,40}})|(?:自带|附带|带|含|配)([{HAN}]{{2,8}})"
)
_SOLD_FOR = re.compile(r"\b(?:compatible with|replacement for|fits|for)\s+(.{4,60})|适用于?([^，,。]{2,20})")
_AFTER = re.compile(r"[,;:()|–—\[\]/，、。（）]| - |\b(?:with|and|by|in)\b")

_WITHOUT_EN = ("{0} without {1}", "{0} without {1}", "{0} no {1}", "{1} free {0}")
_WITHOUT_ZH = ("{0} 不带{1}", "不要{1}的{0}", "{0} 无{1}")

_SHARPNESS = 0.03  # cosine distance at which a hit counts 1/e as right as the best
_NEAR = 0.2  # what a right product is at least, however far the encoder has to go for it
_AGAINST = 0.1  # what is left of a product's target where it has another brand or colour than was asked for
_COMMON, _FEW = 0.02, 20  # share of the titles, and titles, above which a word says too little to be excluded
_RARE = 3  # titles that a word stands in before it is worth excluding
_THING_WORDS = 4
_TRIES = 20  # queries that are tried for one that teaches something
_FAR = 3  # products drawn at random beside a made query's
_AND = re.compile(r" & | and |、|,|/")
_AT = {name: at for at, name in enumerate(signals.NAMES)}


class Catalogue:
    """Products by id with what making queries of them asks for; each needs the fields of `signals.FIELDS`."""

    def __init__(self, products: Mapping[str, Mapping[str, Any]]) -> None:
        self.products = products
        self.ids = list(products)
        self._titles = Counter(word for key in self.ids for word in {*map(str.casefold, self.words(key))})

    def words(self, key: str) -> list[str]:
        """Words of a title that say something, in their order."""
        return _speaking(field_text(self.products[key].get("title")))

    def telling(self, words: Sequence[str]) -> list[str]:
        """Those of some words that stand in several titles and in few."""
        most = max(_FEW, _COMMON * len(self.ids))
        return [word for word in words if not word[0].isdigit() and _RARE <= self._titles[word.casefold()] <= most]

    def thing(self, key: str, rng: np.random.Generator, from_title: float = 0.5) -> list[str]:
        """What a product is: the end of its category's path, or words of its title."""
        product = self.products[key]
        category = product.get("category")
        leaf = field_text(category[-1:] if isinstance(category, (list, tuple)) else category)
        if leaf and rng.random() >= from_title:
            return [word.casefold() for word in title_words(_AND.split(leaf)[0])][-_THING_WORDS:]
        brand = field_text(product.get("brand")).casefold()
        return _picked([word for word in self.words(key) if word.casefold() not in brand], "", rng)


class Asked(msgspec.Struct, frozen=True):
    """A made query and the thing in it, whose neighbours are looked up.

    A product is wrong where a signal of `never` is positive or one of `must` negative, and left out where one of `must`
    says nothing. With `named` a right one has every word of the query in its title.
    """

    query: str
    thing: str
    never: tuple[str, ...] = ()
    must: tuple[str, ...] = ()
    named: bool = False

    def target(self, near: float, row: NDArray[np.float64]) -> float | None:
        """How right a product is, of its nearness to the thing and its signals; None where that is not known."""
        if any(row[_AT[name]] > 0 for name in self.never):
            return 0.0
        if any(row[_AT[name]] < 0 for name in self.must):
            return _AGAINST * near
        if any(row[_AT[name]] == 0 for name in self.must) or (self.named and row[_AT["title_match"]] < 1):
            return None
        return near


def made_groups(
    products: Mapping[str, Mapping[str, Any]], teacher: Teacher, options: Options, held_out: Collection[str] = ()
) -> list[Group]:
    """Groups of made queries of all kinds that the options ask for; no query is one of the `held_out` ones."""
    avoided = {query.casefold() for query in held_out}
    groups = title_groups(products, teacher, options) if options.title_queries else []
    kinds = [(at, count, kind) for at, (count, kind) in enumerate(_kinds(options)) if count]
    catalogue = Catalogue(products if kinds else {})  # to read all titles takes its time
    for at, count, kind in kinds:
        rng = np.random.default_rng([options.seed, at])
        groups += _groups(catalogue, kind(catalogue, rng), teacher, count, options, rng)
    return [group for group in groups if group.query.casefold() not in avoided]


def title_groups(products: Mapping[str, Mapping[str, Any]], teacher: Teacher, options: Options) -> list[Group]:
    """Groups of made queries: a few words of a title, its product as the answer, its neighbours beside it.

    A neighbour whose own title holds every word of the query is left out: it may be just as right.
    """
    rng = np.random.default_rng(options.seed + 1)
    ids = list(products)
    chosen = rng.permutation(len(ids))[: options.title_queries]
    groups = []
    for at in chosen:
        product = products[ids[at]]
        words = _picked(_speaking(str(product["title"])), str(product.get("brand") or ""), rng)
        if not words:
            continue
        query = _joined(words)
        near = {hit: cosine for hit, cosine in teacher(query) if hit in products}
        best = max(near.values(), default=1.0)
        targets = {ids[at]: 1.0}
        for hit, cosine in list(near.items())[: 2 * options.title_negatives : 2]:
            if hit != ids[at] and not _holds(str(products[hit]["title"]), words):
                targets[hit] = round(math.exp((cosine - best) / _SHARPNESS), 4)
        for other in (ids[drawn] for drawn in rng.integers(len(ids), size=_FAR)):
            if not _holds(str(products[other]["title"]), words):
                targets.setdefault(other, 0.0)
        groups.append(Group(query, tuple(targets), tuple(targets.values()), 1))
    return groups


def _groups(
    catalogue: Catalogue,
    asked: Iterator[Asked],
    teacher: Teacher,
    count: int,
    options: Options,
    rng: np.random.Generator,
) -> list[Group]:
    """Up to `count` groups. A query that all of its neighbours agree with, or none, teaches nothing and is left out.

    It is given up where only few of those that were tried teach something: a large catalogue has more than time for.
    """
    groups: dict[str, Group] = {}
    for tried, each in enumerate(asked):
        if len(groups) == count or tried == _TRIES * count:
            break
        group = None if each.query in groups else _group(catalogue, each, teacher, options.title_negatives // 2, rng)
        if group:
            groups[each.query] = group
    return list(groups.values())


def _group(catalogue: Catalogue, asked: Asked, teacher: Teacher, most: int, rng: np.random.Generator) -> Group | None:
    """The nearest products that keep to what is asked, as many that do not, and some drawn at random."""
    near = [(hit, cosine) for hit, cosine in teacher(asked.thing) if hit in catalogue.products]
    rows = signals.signals(asked.query, [catalogue.products[hit] for hit, _ in near], np.zeros(len(near)))
    keeping: dict[str, float] = {}
    breaking: dict[str, float] = {}
    for (hit, cosine), row in zip(near, rows, strict=True):
        right = math.exp((cosine - near[0][1]) / _SHARPNESS)
        target = asked.target(right, row)
        if target is not None:
            (keeping if target == right else breaking)[hit] = target
    top = max(keeping.values(), default=0.0)
    if top < _NEAR or not breaking:
        return None
    targets = {hit: round(target / top, 4) for hit, target in list(keeping.items())[:most]}
    targets |= {hit: round(min(_AGAINST, target / top), 4) for hit, target in list(breaking.items())[:most]}
    for at in rng.integers(len(catalogue.ids), size=_FAR):
        targets.setdefault(catalogue.ids[at], 0.0)
    return Group(asked.query, tuple(targets), tuple(targets.values()), 1)


def _kinds(options: Options) -> list[tuple[int, Callable[[Catalogue, np.random.Generator], Iterator[Asked]]]]:
    return [
        (options.attribute_queries, _attributes),
        (options.exclusion_queries, _exclusions),
        (options.price_queries, _prices),
        (options.accessory_queries, _accessories),
    ]


def _attributes(catalogue: Catalogue, rng: np.random.Generator) -> Iterator[Asked]:
    """A thing with its brand, its colour or both: "sony headphones", "黑色 台灯"."""
    for key in _shuffled(catalogue.ids, rng):
        product = catalogue.products[key]
        brand, color = (field_text(product.get(name)).casefold().strip() for name in ("brand", "color"))
        named = {"brand": brand if len(brand) < 30 else "", "color": color if len(color.split()) < 3 else ""}
        known = [name for name, value in named.items() if value]
        thing = catalogue.thing(key, rng)
        if known and thing:
            chosen = known if rng.random() < 0.3 else [known[int(rng.integers(len(known)))]]
            words = [*(named[name] for name in chosen), *(word for word in thing if word not in named.values())]
            yield Asked(" ".join(words), _joined(thing), must=tuple(chosen))


def _exclusions(catalogue: Catalogue, rng: np.random.Generator) -> Iterator[Asked]:
    """A thing without what one of its kind has: "water bottle without straw", "台灯 不带底座"."""
    for key in _shuffled(catalogue.ids, rng):
        title = field_text(catalogue.products[key].get("title"))
        had = [word for match in _HAS.finditer(title) for part in match.groups() if part for word in title_words(part)]
        thing = catalogue.thing(key, rng, from_title=0.0)
        parts = catalogue.telling(had[:3]) or catalogue.telling(catalogue.words(key)[1:])
        parts = [part.casefold() for part in parts if part.casefold() not in " ".join(thing)]
        if not parts or not thing:
            continue
        part = parts[int(rng.integers(len(parts)))]
        forms = _WITHOUT_ZH if has_han(part) else _WITHOUT_EN
        query = forms[int(rng.integers(len(forms)))].format(_joined(thing), part)
        yield Asked(query, f"{_joined(thing)} {part}" if rng.random() < 0.5 else _joined(thing), never=("excluded",))


def _prices(catalogue: Catalogue, rng: np.random.Generator) -> Iterator[Asked]:
    """A thing below a price that some of its kind pass: "desk lamp under 40", "台灯 200元以内"."""
    for key in _shuffled(catalogue.ids, rng):
        price, thing = catalogue.products[key].get("price"), catalogue.thing(key, rng)
        if thing and isinstance(price, (int, float)) and price > 0:
            limit = max(5, 5 * math.ceil(price * rng.uniform(0.8, 1.5) / 5))
            form = "{0} {1}元以内" if has_han(_joined(thing)) else "{0} under {1}"
            yield Asked(form.format(_joined(thing), limit), _joined(thing), never=("price",))


def _accessories(catalogue: Catalogue, rng: np.random.Generator) -> Iterator[Asked]:
    """What something is sold for, asked for itself: "iphone 12", where there are cases for it."""
    for key in _shuffled(catalogue.ids, rng):
        title = field_text(catalogue.products[key].get("title"))
        for match in _SOLD_FOR.finditer(title):
            words = title_words(_AFTER.split(next(part for part in match.groups() if part), maxsplit=1)[0])
            thing = _joined([word.casefold() for word in words[:_THING_WORDS]])
            if len(thing) > (1 if has_han(thing) else 3) and not signals.names_audience(thing):
                yield Asked(thing, thing, never=("accessory",), named=True)
                break


def _shuffled(ids: Sequence[str], rng: np.random.Generator) -> Iterator[str]:
    return (ids[at] for at in rng.permutation(len(ids)))


def _joined(words: Sequence[str]) -> str:
    return "".join(words) if words and has_han(words[0]) else " ".join(words)


def _picked(words: Sequence[str], brand: str, rng: np.random.Generator) -> list[str]:
    """Two to five words of the title in their order, mostly from its front, as shoppers name things."""
    words = list(words[:14])
    if len(words) < 2:
        return words
    count = int(rng.integers(2, min(5, len(words)) + 1))
    weights = np.linspace(1.5, 0.5, len(words))
    if rng.random() < 0.5:
        weights = weights * [0.1 if word.casefold() in brand.casefold() else 1.0 for word in words]
    picked = rng.choice(len(words), size=count, replace=False, p=weights / weights.sum())
    return [words[at].casefold() for at in sorted(picked)]


def title_words(title: str) -> list[str]:
    """Words of a title; Han text is segmented, as nothing separates its words."""
    if not has_han(title):
        return _WORD.findall(title)
    import jieba

    jieba.setLogLevel("WARNING")
    return [word for word in jieba.cut(title) if has_han(word) or _WORD.fullmatch(word)]


def _speaking(title: str) -> list[str]:
    """The words of a title that say something, in their order."""
    return [word for word in title_words(title) if len(word) > 1 or word.isdigit()]


def _holds(title: str, words: Sequence[str]) -> bool:
    folded = title.casefold()
    return all(word in folded for word in words)
