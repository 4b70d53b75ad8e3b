"""The rows of the sample shop that are wrong on purpose, each of a named kind, so that cleaning can be tested.

`messy_rows()` lists them as they stand in the catalogue; `kept_products()` are those that a cleaned index still
holds, with the facts that they are judged by.
"""

from __future__ import annotations

from typing import Any, Literal, get_args

import msgspec

from indexer.errors import InputError
from ingest.sample_shop.catalogue import FOLDER, Fact, Language, Product, price_facts, type_facts

Kind = Literal[
    "control_characters",
    "count_notation",
    "duplicate_id",
    "emoji",
    "empty_brand",
    "entities",
    "full_width",
    "html",
    "long_description",
    "missing_id",
    "missing_title",
    "mojibake",
    "near_duplicate",
    "price_impossible",
    "price_notation",
    "price_outlier",
    "price_unreadable",
    "rating_out_of_range",
    "whitespace",
]
KINDS: tuple[Kind, ...] = get_args(Kind)
# These rows cannot become documents of their own, so they are not judged.
REJECTED: frozenset[Kind] = frozenset({"duplicate_id", "missing_id", "missing_title"})
LONG = 20_000
_TEXT_COLUMNS = ("headline", "body", "maker", "shade")


class MessyRow(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One wrong row: the columns that it overrides, and what it really is."""

    kind: Kind
    item_no: str
    copy_of: str = ""
    lang: Language = "en"
    type: str = ""
    colour: str = ""
    price: float | None = None
    facts: dict[str, Any] = {}
    columns: dict[str, str] = {}


class _MessyFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    row: tuple[MessyRow, ...]


def messy_rows() -> tuple[MessyRow, ...]:
    """Every wrong row, damaged as its kind says."""
    path = FOLDER / "messy.toml"
    try:
        rows = msgspec.toml.decode(path.read_bytes(), type=_MessyFile).row
    except msgspec.DecodeError as error:
        raise InputError(f"{path} cannot be used: {error}.") from error
    return tuple(msgspec.structs.replace(row, columns=_damaged(row)) for row in rows)


def kept_products(clean: list[Product]) -> list[Product]:
    """The wrong rows that stay in a cleaned index, as products to judge."""
    by_id = {product.id: product for product in clean}
    return [_product(row, by_id) for row in messy_rows() if row.kind not in REJECTED]


def _product(row: MessyRow, clean: dict[str, Product]) -> Product:
    if row.copy_of:
        return msgspec.structs.replace(clean[row.copy_of], id=row.item_no)
    facts: dict[str, Fact] = {
        "suits": [],
        "brand": row.columns.get("maker", "").strip(),
        **type_facts(row.type, row.lang, row.colour),
        **({} if row.price is None else price_facts(row.price, row.columns["ccy"] or _meant_currency(row))),
        **row.facts,
    }
    return Product(
        id=row.item_no,
        lang=row.lang,
        title=row.columns["headline"],
        text=row.columns["body"],
        bullets=(),
        brand=row.columns.get("maker", ""),
        colour=row.colour,
        size=row.columns.get("size_label", ""),
        category="",
        price=row.columns["unit_price"],
        currency=row.columns["ccy"],
        rating="",
        reviews="",
        facts=facts,
    )


def _meant_currency(row: MessyRow) -> str:
    return "CNY" if "¥" in row.columns["unit_price"] else "USD"


def _damaged(row: MessyRow) -> dict[str, str]:
    columns = dict(row.columns)
    if row.kind == "full_width":
        columns |= {name: _full_width(columns[name]) for name in ("headline", "body")}
    elif row.kind == "mojibake":
        columns |= {name: _mojibake(columns[name]) for name in _TEXT_COLUMNS if name in columns}
    elif row.kind == "long_description":
        columns["body"] = (columns["body"] * (LONG // len(columns["body"]) + 1))[:LONG]
    return columns


def _full_width(text: str) -> str:
    """ASCII as an input method in Chinese mode writes it."""
    return "".join(chr(ord(letter) + 0xFEE0) if "!" <= letter <= "~" else letter for letter in text)


def _mojibake(text: str) -> str:
    """UTF-8 that something read as Windows-1252; the few bytes which that lacks stay as they are."""
    return "".join(_as_1252(byte) for byte in text.encode())


def _as_1252(byte: int) -> str:
    try:
        return bytes([byte]).decode("cp1252")
    except UnicodeDecodeError:
        return chr(byte)
