"""Lines of a feed become events; a line that cannot be one is told, and the rest goes on.

    {"op": "upsert", "version": 17, "product": {"sku": "a1", "name": "Lamp", "price": "9.90"}}
    {"op": "update", "version": 18, "id": "a1", "set": {"price": 8.5, "stock": 3}}
    {"op": "delete", "version": 19, "id": "a1"}

The product of an upsert has the columns that the mapping names. An update sets what changes often and no model reads:
price, currency, stock, rating and rating_count; null takes a value away.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import msgspec

from indexer.lines import TooLong
from ingest.clean import MAX_ID_BYTES, MAX_PRICE, as_version, clean
from ingest.documents import OFFER_FIELDS, Entry, cleaned_entry
from ingest.schema import CatalogMapping
from ingest.sources import Rejection, Row


@dataclass
class Event:
    """One change of one product. `entry` is what an upsert brings, `set` what an update does; `line` counts from 1."""

    op: Literal["upsert", "update", "delete"]
    id: str
    version: int
    line: int
    entry: Entry | None = None
    set: dict[str, Any] = field(default_factory=dict)


class Batch(list[Event | Rejection]):
    """Events that are applied together, in the order of their lines; `source` is the file that they come from, empty
    where that is a stream."""

    source = ""


class _Line(msgspec.Struct, forbid_unknown_fields=True):
    op: Literal["upsert", "update", "delete"]
    version: Any = None
    id: Any = None
    product: dict[str, Any] | None = None
    set: dict[str, Any] | None = None


def parse(raw: bytes | TooLong[bytes], line: int, mapping: CatalogMapping, stamp: bool = False) -> Event | Rejection:
    """The event of a line, or why it is none. `stamp` gives one without a version the present time, in milliseconds."""
    if isinstance(raw, TooLong):
        return Rejection(line, "", raw.start[:500].decode("utf-8", "replace").strip(), raw.reason)
    text = raw[:500].decode("utf-8", "replace").strip()
    try:
        found = msgspec.json.decode(raw, type=_Line)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        return Rejection(line, "", text, f"not an event: {error}")
    try:
        version = as_version(found.version)
    except ValueError as error:
        return Rejection(line, "version", str(found.version)[:500], str(error))
    if version is None and stamp:
        version = int(time.time() * 1000)
    if version is None:
        return Rejection(line, "version", text, "no version: nothing says which of two events is newer (see --stamp)")
    if found.op == "upsert":
        return _upsert(found, version, line, mapping, text)
    if not isinstance(found.id, (str, int)) or isinstance(found.id, bool) or not str(found.id).strip():
        return Rejection(line, "id", text, f"{found.op} needs the id of a product")
    name = str(found.id).strip()
    if len(name.encode("utf-8", "surrogatepass")) > MAX_ID_BYTES:
        return Rejection(line, "id", name[:500], f"the id is longer than {MAX_ID_BYTES} bytes")
    if found.op == "delete":
        return Event("delete", name, version, line)
    return _update(found, name, version, line, text)


def _upsert(found: _Line, version: int, line: int, mapping: CatalogMapping, text: str) -> Event | Rejection:
    if not found.product:
        return Rejection(line, "product", text, "upsert needs a product: an object with the mapping's columns")
    cleaned = clean(Row(line, found.product), mapping)
    if isinstance(cleaned, Rejection):
        return cleaned
    entry = cleaned_entry(cleaned)
    if found.id is not None and str(found.id).strip() != entry.id:
        return Rejection(line, "id", str(found.id)[:500], f"the line's id is not the product's, {entry.id}")
    entry.version = version
    return Event("upsert", entry.id, version, line, entry)


def _update(found: _Line, name: str, version: int, line: int, text: str) -> Event | Rejection:
    if not found.set:
        return Rejection(line, "set", text, f"update needs what to set: some of {', '.join(OFFER_FIELDS)}")
    chosen: dict[str, Any] = {}
    for key, value in found.set.items():
        if key not in OFFER_FIELDS:
            return Rejection(
                line, f"set.{key}", str(value)[:500], f"only {', '.join(OFFER_FIELDS)} can be updated; use an upsert"
            )
        allowed, what = _ALLOWED[key]
        if value is not None and not allowed(value):
            return Rejection(line, f"set.{key}", str(value)[:500], f"not {what}")
        chosen[key] = value
    return Event("update", name, version, line, None, chosen)


def _number(low: float, high: float) -> Callable[[Any], bool]:
    return lambda value: (
        isinstance(value, (int, float))
        and not isinstance(value, bool)
        and math.isfinite(value)
        and low <= value <= high
    )


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**53


_ALLOWED: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    "price": (lambda value: _number(0, MAX_PRICE)(value) and value > 0, f"a number above 0, up to {MAX_PRICE:,.0f}"),
    "currency": (lambda value: isinstance(value, str) and 0 < len(value) <= 10, "a currency such as USD"),
    "stock": (_whole, "a whole number from 0 on"),
    "rating": (_number(0, 5), "a number from 0 to 5"),
    "rating_count": (_whole, "a whole number from 0 on"),
}
