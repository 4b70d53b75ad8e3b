"""Near-duplicate products: the same thing listed twice, told from its variants.

Candidates come from MinHash signatures (datasketch) over character trigrams of the title's words in alphabetical
order: nothing needs spaces between words, and a title in another order is the same. A candidate is a
near-duplicate only when nothing that tells variants apart differs: numbers, units and model numbers, brand,
colour, size-like attributes, and any word that is no mere misspelling. A brand or colour that one of them lacks
tells nothing.

Memory is about 0.9 kB a product: buckets of positions, and what is compared of each. datasketch's own index
alone takes more, as every bucket is a set.
"""

from __future__ import annotations

import re
import unicodedata
import zlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from datasketch import MinHash

from indexer.han import HAN

_BANDS, _ROWS = 6, 5  # finds 97 of 100 pairs that share 85 of 100 trigrams
_BUCKET_LIMIT = 16  # a template that a thousand titles share must not make this quadratic
_MIN_SIMILARITY = 0.8

# A Han character is a word of its own; digits are apart from the letters around them.
_WORD = re.compile(rf"[{HAN}]|\d+(?:[.,]\d+)*|[^\W\d_{HAN}]+")
_VARIANT_ATTRIBUTE = re.compile(
    r"size|colou?r|capacity|volume|weight|length|width|height|diameter|quantity|count|pack|flavou?r|scent|style|"
    r"model|material|pattern|尺|码|规格|容量|重量|数量|颜色|口味|香型|款|型号|材质",
    re.IGNORECASE,
)
# What a seller adds to list a thing once more; it says nothing about the thing.
_PUFFERY = re.compile(
    r"\b(?:free shipping|hot sale|best seller|new arrivals?|in stock|brand new|new|sale|official|genuine|authentic)\b|"
    "新款|正品|包邮|热卖|爆款|官方|旗舰店|特价|现货|促销"
)


@dataclass(frozen=True, slots=True)
class _Listing:
    id: str
    words: str  # sorted, so that the order of words does not matter
    brand: str
    color: str
    variant: str


class NearDuplicates:
    """Remembers every product that is none, and recognises those that repeat one."""

    def __init__(self) -> None:
        self._listings: list[_Listing] = []
        self._buckets: dict[int, int | tuple[int, ...]] = {}
        self._empty = MinHash(num_perm=_BANDS * _ROWS, hashfunc=zlib.crc32)

    def first_like(self, product: Mapping[str, Any]) -> str:
        """The id of the earlier product that this one repeats; empty when there is none."""
        words = _words(str(product.get("title") or ""))
        brand, color = ("".join(_words(str(product.get(name) or ""))) for name in ("brand", "color"))
        listing = _Listing(
            str(product["id"]),
            "\n".join(sorted(words)),
            brand,
            color,
            _variant(product.get("attributes") or {}),
        )
        keys = self._keys(words)
        seen = {position for key in keys for position in self._bucket(key)}
        for position in sorted(seen):
            if _same(self._listings[position], listing):
                return self._listings[position].id
        self._listings.append(listing)
        new = len(self._listings) - 1
        for key in keys:
            bucket = self._bucket(key)
            if len(bucket) < _BUCKET_LIMIT:
                # Most buckets hold one product: a bare number is much smaller than a tuple.
                self._buckets[key] = (*bucket, new) if bucket else new
        return ""

    def _bucket(self, key: int) -> tuple[int, ...]:
        bucket = self._buckets.get(key, ())
        return bucket if isinstance(bucket, tuple) else (bucket,)

    def _keys(self, words: list[str]) -> list[int]:
        signature = self._empty.copy()
        grams = sorted(_trigrams("\n".join(sorted(words))))
        signature.update_batch([gram.encode() for gram in grams])
        # Products whose numbers differ never meet, so they need not share a bucket.
        numbers = tuple(sorted(word for word in words if word[0].isdigit()))
        rows = signature.hashvalues.reshape(_BANDS, _ROWS)
        return [hash((band, row.tobytes(), numbers)) for band, row in enumerate(rows)]


def _words(text: str) -> list[str]:
    return _WORD.findall(_PUFFERY.sub(" ", unicodedata.normalize("NFKC", text).casefold()))


def _trigrams(text: str) -> set[str]:
    return {text[start : start + 3] for start in range(max(1, len(text) - 2))}


def _variant(attributes: Mapping[str, Any]) -> str:
    told = [
        (key.casefold(), str(value).casefold()) for key, value in attributes.items() if _VARIANT_ATTRIBUTE.search(key)
    ]
    return repr(sorted(told)) if told else ""


def _same(first: _Listing, second: _Listing) -> bool:
    if first.variant != second.variant:
        return False
    for one, other in ((first.brand, second.brand), (first.color, second.color)):
        if one and other and one != other:
            return False
    mine, yours = Counter(first.words.split("\n")), Counter(second.words.split("\n"))
    if mine == yours:
        return True
    similar = _similarity(_trigrams(first.words), _trigrams(second.words))
    return similar >= _MIN_SIMILARITY and _no_difference(
        list((mine - yours).elements()), list((yours - mine).elements())
    )


def _similarity(one: set[str], other: set[str]) -> float:
    return len(one & other) / len(one | other)


def _no_difference(mine: list[str], yours: list[str]) -> bool:
    """Whether the words that only one side has are misspellings of each other."""
    return len(mine) == len(yours) and all(map(_misspelled, sorted(mine), sorted(yours)))


def _misspelled(one: str, other: str) -> bool:
    """One letter more, less or other, or two swapped, inside a long word: "stainles" but not "scented"."""
    if min(len(one), len(other)) < 5 or one[0] != other[0] or not one.isalpha() or not other.isalpha():
        return False
    start = 0
    while start < min(len(one), len(other)) and one[start] == other[start]:
        start += 1
    one, other = one[start:], other[start:]
    while one and other and one[-1] == other[-1]:
        one, other = one[:-1], other[:-1]
    return max(len(one), len(other)) <= 1 or (len(one) == 2 and one == other[::-1])
