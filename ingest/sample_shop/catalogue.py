"""The sample shop's products: families from TOML, each with its variants, become listings with facts.

A family is what a shop would call one article: its texts, and what is true of all its variants. A variant adds
what differs (size, colour, price) and may replace any text. The facts are what relevance is judged by; the
texts are what a shopper and a search engine read.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import msgspec

from indexer.errors import InputError

FOLDER = Path(__file__).parent
# One rate for the whole shop, so that "under 200 yuan" has an answer for a listing priced in dollars.
YUAN_PER_DOLLAR = 7.0

Language = Literal["en", "zh", "both"]
Fact = str | float | bool | list[str]


class ProductType(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One kind of thing: its path in either language's category tree, and the kinds that it is made for."""

    en: str
    zh: str
    accessory_of: tuple[str, ...] = ()


class Family(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One article. Several titles are taken in turn by its variants."""

    lang: Language
    type: str
    brand: str
    title: str | tuple[str, ...]
    text: str
    bullets: tuple[str, ...]
    facts: dict[str, Any]
    variants: tuple[dict[str, Any], ...]


class FamilyFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    types: dict[str, ProductType]
    family: tuple[Family, ...]


class Product(msgspec.Struct, frozen=True):
    """One listing as the shop writes it, and the facts that it is judged by."""

    id: str
    lang: Language
    title: str
    text: str
    bullets: tuple[str, ...]
    brand: str
    colour: str
    size: str
    category: str
    price: str
    currency: str
    rating: str
    reviews: str
    facts: dict[str, Fact]


def products() -> list[Product]:
    """Every clean product, in the order of the source files."""
    found: list[Product] = []
    for path in sorted((FOLDER / "families").glob("*.toml")):
        content = _read(path)
        for number, family in enumerate(content.family, start=1):
            found += _variants(path, number, family)
    return found


@lru_cache(maxsize=1)
def product_types() -> dict[str, ProductType]:
    """Every kind of thing that the shop sells, by name."""
    found: dict[str, ProductType] = {}
    for path in sorted((FOLDER / "families").glob("*.toml")):
        for name, kind in _read(path).types.items():
            if name in found:
                raise InputError(f"{path}: the type {name} is described a second time. Give it another name.")
            found[name] = kind
    return found


def type_facts(kind: str, lang: Language, colour: str) -> dict[str, Fact]:
    """The facts that follow from what a thing is, rather than from its family.

    Raises InputError for a type or a colour that the sources do not describe.
    """
    types = product_types()
    if kind not in types:
        raise InputError(f"The type {kind!r} is in no [types] table of families/. Describe it there.")
    return {"type": kind, "lang": lang, "color": colour_of(colour), "accessory_of": list(types[kind].accessory_of)}


def price_facts(price: float, currency: str) -> dict[str, Fact]:
    """The price in both currencies, at the shop's one rate."""
    yuan = price if currency == "CNY" else price * YUAN_PER_DOLLAR
    return {"cny": round(yuan, 2), "usd": round(yuan / YUAN_PER_DOLLAR, 2)}


def colour_of(word: str) -> str:
    """The plain colour behind a listing's colour word; an empty word has none."""
    for colour, words in _colours().items():
        if word in words:
            return colour
    if word:
        raise InputError(f"The colour {word!r} is not in colours.toml. Add it to the list of the plain colour it is.")
    return ""


def stars_and_reviews(product_id: str) -> tuple[str, str]:
    """A rating and a count that look like a shop's and are the same at every run; new products have none."""
    drawn = hashlib.sha256(product_id.encode()).digest()
    if drawn[0] < 12:
        return "", "0"
    rating = 3.4 + 1.5 * (drawn[1] / 255) ** 0.6
    reviews = int(10 ** (0.6 + 2.8 * drawn[2] / 255))
    return f"{rating:.1f}", str(reviews)


def _variants(path: Path, number: int, family: Family) -> Iterator[Product]:
    titles = (family.title,) if isinstance(family.title, str) else family.title
    for index, variant in enumerate(family.variants):
        product_id = f"{path.stem[:3].upper()}-{number:02d}-{index + 1}"
        values = {"brand": family.brand, **family.facts, **variant}
        currency = "USD" if family.lang == "en" else "CNY"
        facts: dict[str, Fact] = {
            "suits": [],
            "brand": family.brand,
            **type_facts(family.type, family.lang, values.get("colour", "")),
            **price_facts(variant["price"], currency),
            **{name: value for name, value in values.items() if name not in _TEXTS},
        }
        kind = product_types()[family.type]
        rating, reviews = stars_and_reviews(product_id)
        try:
            title = values.get("title", titles[index % len(titles)]).format_map(values)
            text = values.get("text", family.text).format_map(values)
        except KeyError as error:
            raise InputError(f"{path}, family {number}: variant {index + 1} has no {error} for its text.") from error
        if note := values.get("note"):
            text = f"{text}{'' if family.lang == 'zh' else ' '}{note}"
        yield Product(
            id=product_id,
            lang=family.lang,
            title=" ".join(title.split()),
            text=text,
            bullets=tuple(values.get("bullets", family.bullets)),
            brand=family.brand,
            colour=values.get("colour", ""),
            size=values.get("size", ""),
            category=kind.en if family.lang == "en" else kind.zh,
            price=f"{variant['price']:.2f}" if family.lang == "en" else f"{variant['price']:g}",
            currency=currency,
            rating=rating,
            reviews=reviews,
            facts=facts,
        )


# Keys of a variant that are words for its listing, not facts.
_TEXTS = frozenset({"title", "text", "bullets", "note", "colour", "size", "price", "brand", "style", "taste"})


@lru_cache(maxsize=64)
def _read(path: Path) -> FamilyFile:
    try:
        return msgspec.toml.decode(path.read_bytes(), type=FamilyFile)
    except msgspec.DecodeError as error:
        raise InputError(f"{path} cannot be used: {error}. Compare it with its neighbours.") from error


@lru_cache(maxsize=1)
def _colours() -> dict[str, list[str]]:
    return msgspec.toml.decode((FOLDER / "colours.toml").read_bytes(), type=dict[str, list[str]])
