"""A row of the shop becomes a product: clean text, numbers that can be right, flags for what is doubtful.

A product is a dict with the document's field names; fields without a value are left out. Rows without id or title
are rejected; everything else that is wrong with a row costs a field, or a flag.
"""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from ingest.amounts import Amount, NotUnderstoodError, parse_amount, parse_count, parse_rating
from ingest.schema import CatalogMapping
from ingest.sources import Rejection, Row
from ingest.text import Cleaner, detect_language

T = TypeVar("T")

MAX_ID_BYTES = 512  # OpenSearch's limit for `_id`
MAX_PRICE = 1e9
MAX_CHARACTERS = {"title": 1_000, "description": 50_000, "bullets": 50_000, "brand": 200, "color": 200, "image": 2_000}
_MAX_LEVELS, _MAX_LEVEL_CHARACTERS = 12, 200
_MAX_ATTRIBUTES, _MAX_NAME_CHARACTERS, _MAX_VALUE_CHARACTERS = 200, 200, 1_000

# Where a product has no brand or colour of its own, an attribute of these names fills it.
_SYNONYMS = {
    "brand": {"brand", "brand name", "manufacturer", "maker", "品牌", "品牌名", "厂商", "制造商"},
    "color": {"color", "colour", "颜色", "颜色分类"},
}
# Flagged when empty, if the mapping has a column for it.
_EXPECTED = ("description", "brand", "color", "category", "price", "rating", "image")
_LANGUAGES = {
    "english": "en",
    "英文": "en",
    "英语": "en",
    "chinese": "zh",
    "中文": "zh",
    "汉语": "zh",
    "简体中文": "zh",
    "繁體中文": "zh",
    "cn": "zh",
}


@dataclass
class Cleaned:
    """A product with what was noticed on the way: flags go with the document, steps and details to the report."""

    row: int
    product: dict[str, Any]
    flags: list[str] = field(default_factory=list)
    steps: set[str] = field(default_factory=set)
    details: dict[str, str] = field(default_factory=dict)  # flag -> the value that caused it
    near_duplicate_of: str = ""
    version: int | None = None

    def flag(self, name: str, value: Any = "") -> None:
        """Mark the product."""
        self.flags.append(name)
        self.details[name] = str(value)

    def dropped(self, name: str) -> bool:
        """Whether the row had a value for the field that could not be used."""
        return f"{name}_impossible" in self.flags or f"{name}_not_understood" in self.flags


def clean(row: Row, mapping: CatalogMapping) -> Cleaned | Rejection:
    """The product of a row, or why there is none."""
    columns = mapping.columns
    raw_id = row.values.get(columns.id)
    product_id = _id(raw_id)
    if not product_id:
        return Rejection(row.number, "id", _shown(raw_id), "no id")
    if len(product_id.encode("utf-8", "surrogatepass")) > MAX_ID_BYTES:
        return Rejection(row.number, "id", product_id, f"the id is longer than {MAX_ID_BYTES} bytes")
    if any("\ud800" <= character <= "\udfff" for character in product_id):
        return Rejection(row.number, "id", product_id, "the id is not valid Unicode")
    version = row.values.get(columns.version) if columns.version else None
    try:
        known = as_version(version)
    except ValueError as error:
        return Rejection(row.number, "version", _shown(version), str(error))
    cleaner = Cleaner()
    found = Cleaned(row.number, {"id": product_id}, steps=cleaner.steps, version=known)
    _texts(row.values, mapping, cleaner, found)
    if "title" not in found.product:
        return Rejection(row.number, "title", _shown(_joined(row.values, columns.of("title"))), "no title")
    category = _category(row.values, mapping, cleaner)
    if category:
        found.product["category"] = category
    _price(row.values, mapping, cleaner, found)
    _ratings(row.values, mapping, found)
    stock = _count(row.values, "stock", columns.stock, found)
    if stock is not None:
        found.product["stock"] = stock
    attributes = _attributes(row.values, mapping, cleaner)
    _fill(found, attributes)
    if attributes:
        found.product["attributes"] = attributes
    found.product["language"] = _language(row.values, mapping, found)
    for name in _EXPECTED:
        if columns.of(name) and name not in found.product and not found.dropped(name):
            found.flag(f"missing_{name}")
    if any("\ufffd" in str(found.product.get(name, "")) for name in ("title", "description", "bullets", "brand")):
        found.flag("broken_text", found.product["title"])
    return found


def as_version(raw: Any) -> int | None:
    """A version as it orders events: a whole number from 0 to 2^63 - 1. Raises ValueError."""
    if raw is None or (isinstance(raw, float) and math.isnan(raw)) or raw == "":
        return None
    text = f"{raw:.0f}" if isinstance(raw, float) and raw.is_integer() else str(raw).strip()
    if isinstance(raw, bool) or not (text.isascii() and text.isdigit()) or int(text) >= 2**63:
        raise ValueError("a version is a whole number from 0 on, such as a revision or the milliseconds since 1970")
    return int(text)


def price_of(row: Row, mapping: CatalogMapping) -> tuple[list[str], str, float] | None:
    """Category, currency and price of a row, for statistics; None when it has no possible price."""
    cleaner = Cleaner()
    found = Cleaned(row.number, {})
    _price(row.values, mapping, cleaner, found)
    if "price" not in found.product:
        return None
    return _category(row.values, mapping, cleaner), found.product.get("currency", ""), found.product["price"]


def category_path(category: list[str]) -> list[str]:
    """Every prefix of a category, root first: ["Toys", "Toys > Games"]."""
    return [" > ".join(category[: depth + 1]) for depth in range(len(category))]


def _id(raw: Any) -> str:
    if isinstance(raw, bool) or raw is None:
        return ""
    if isinstance(raw, float):
        # Spreadsheets and JSON turn 123 into 123.0; NaN is how some of them say nothing.
        return "" if math.isnan(raw) else f"{raw:.15g}"
    return str(raw).strip() if isinstance(raw, (str, int)) else ""


def _texts(values: Mapping[str, Any], mapping: CatalogMapping, cleaner: Cleaner, found: Cleaned) -> None:
    for name in MAX_CHARACTERS:
        raw = _joined(values, mapping.columns.of(name))
        if name == "image":
            raw = raw.partition("\n")[0]  # the first of several
        text = cleaner.lines(raw) if name in ("description", "bullets") else cleaner.line(raw)
        if len(text) > MAX_CHARACTERS[name]:
            text = text[: MAX_CHARACTERS[name]].rstrip()
            found.flag(f"truncated_{name}", text[:80])
        if text:
            found.product[name] = text


def _joined(values: Mapping[str, Any], columns: tuple[str, ...]) -> str:
    """Text of one or several columns; a list becomes lines."""
    return "\n".join(text for name in columns if (text := _text(values.get(name))))


def _text(raw: Any) -> str:
    if raw is None or (isinstance(raw, float) and math.isnan(raw)):
        return ""
    if isinstance(raw, (list, tuple)):
        return "\n".join(text for item in raw if (text := _text(item)))
    if isinstance(raw, bool):
        return "true" if raw else "false"
    if isinstance(raw, float):
        return f"{raw:.15g}"
    return json.dumps(raw, ensure_ascii=False) if isinstance(raw, dict) else str(raw)


def _category(values: Mapping[str, Any], mapping: CatalogMapping, cleaner: Cleaner) -> list[str]:
    columns = mapping.columns.of("category")
    raw: Any = (
        [values.get(name) for name in columns] if len(columns) > 1 else values.get(columns[0]) if columns else None
    )
    if isinstance(raw, str) and raw.lstrip().startswith("["):
        with contextlib.suppress(ValueError):  # a category may well begin with a bracket
            raw = json.loads(raw)
    if isinstance(raw, str):
        raw = [level.strip() for level in raw.split(mapping.values.category_separator)]
    levels = raw if isinstance(raw, (list, tuple)) else [raw]
    clean_levels = [cleaner.line(_text(level))[:_MAX_LEVEL_CHARACTERS] for level in levels]
    return [level for level in clean_levels if level][:_MAX_LEVELS]


def _price(values: Mapping[str, Any], mapping: CatalogMapping, cleaner: Cleaner, found: Cleaned) -> None:
    raw = _value(values, mapping.columns.price)
    amount = _understood(found, "price", raw, lambda: parse_amount(raw, mapping.values.decimal))
    if amount is None:
        return
    if not 0 < amount.value <= MAX_PRICE:
        found.flag("price_impossible", raw)
        return
    found.product["price"] = amount.value
    currency = _currency(amount, cleaner.line(_text(_value(values, mapping.columns.currency))), mapping.values.currency)
    if currency:
        found.product["currency"] = currency
    if isinstance(raw, str) and not _is_plain(raw):
        found.steps.add("price_parsed")


def _is_plain(raw: str) -> bool:
    return raw.strip().replace(".", "", 1).isdecimal()


def _currency(amount: Amount, column: str, default: str) -> str:
    """What the price itself says for sure, else the column, else the mapping, else a guess from "$" or "¥"."""
    told = amount.currency if amount.sure else ""
    code = (told or column or default or amount.currency).upper()[:10]
    return {"RMB": "CNY", "元": "CNY", "人民币": "CNY", "¥": "CNY", "$": "USD", "€": "EUR", "£": "GBP"}.get(code, code)


def _ratings(values: Mapping[str, Any], mapping: CatalogMapping, found: Cleaned) -> None:
    count = _count(values, "rating_count", mapping.columns.rating_count, found)
    if count is not None:
        found.product["rating_count"] = count
    raw = _value(values, mapping.columns.rating)
    scale = mapping.values.rating_scale
    rating = _understood(found, "rating", raw, lambda: parse_rating(raw, scale, mapping.values.decimal))
    if rating is None or (rating == 0 and not count):
        return  # nobody has rated it: shops write 0 for that
    if not 0 <= rating <= 5:
        found.flag("rating_impossible", raw)
        return
    found.product["rating"] = rating


def _count(values: Mapping[str, Any], name: str, column: str, found: Cleaned) -> int | None:
    raw = _value(values, column)
    count = _understood(found, name, raw, lambda: parse_count(raw))
    if count is not None and not 0 <= count < 2**53:
        found.flag(f"{name}_impossible", raw)
        return None
    return count


def _understood(found: Cleaned, name: str, raw: Any, parse: Callable[[], T | None]) -> T | None:
    try:
        return parse()
    except NotUnderstoodError:
        found.flag(f"{name}_not_understood", raw)
        return None


def _attributes(values: Mapping[str, Any], mapping: CatalogMapping, cleaner: Cleaner) -> dict[str, str]:
    columns = mapping.columns
    if columns.attributes == "*":
        used = set(columns.named())
        pairs = [(name, value) for name, value in values.items() if name not in used]
    else:
        pairs = [(name, values.get(name)) for name in columns.attributes]
    # A column that is itself a table of attributes is taken apart.
    flat = [item for name, value in pairs for item in (value.items() if isinstance(value, dict) else [(name, value)])]
    attributes: dict[str, str] = {}
    for name, value in flat[:_MAX_ATTRIBUTES]:
        # A dot in a name would be a path to OpenSearch.
        key = cleaner.line(str(name)).replace(".", "_")[:_MAX_NAME_CHARACTERS]
        text = cleaner.line(_text(value).replace("\n", "; "))[:_MAX_VALUE_CHARACTERS]
        if key and text:
            attributes[key] = text
    return attributes


def _fill(found: Cleaned, attributes: Mapping[str, str]) -> None:
    for name, synonyms in _SYNONYMS.items():
        if name in found.product:
            continue
        for key, value in attributes.items():
            if key.casefold() in synonyms:
                found.product[name] = value[: MAX_CHARACTERS[name]]
                found.steps.add(f"{name}_filled")
                break


def _language(values: Mapping[str, Any], mapping: CatalogMapping, found: Cleaned) -> str:
    told = _text(_value(values, mapping.columns.language)).strip().casefold() or mapping.values.language.casefold()
    if told:
        return _LANGUAGES.get(told, told.replace("_", "-").partition("-")[0][:20])
    found.steps.add("language_detected")
    return detect_language(found.product["title"])


def _value(values: Mapping[str, Any], column: str) -> Any:
    return values.get(column) if column else None


def _shown(raw: Any) -> str:
    return _text(raw)[:500]
