"""Reads OpenSearch UBI exports line by line: bulk NDJSON, or one JSON document a line, plain or `.gz`.

Searches (`ubi_queries`) and events (`ubi_events`) are told apart by their fields, so that they may stand in one file.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from indexer.lines import TooLong, raw_lines

IMPRESSION, CLICK, CART, PURCHASE = "impression", "click", "add_to_cart", "purchase"
_ACTIONS = {IMPRESSION: IMPRESSION, CLICK: CLICK, "item_click": CLICK, CART: CART, PURCHASE: PURCHASE}
_BULK = {"index", "create"}
_MAX_ORDINAL = 100_000


class Search(msgspec.Struct, frozen=True):
    """A row of `ubi_queries`: what was searched, and what came back, best first, where that was logged."""

    id: str
    text: str
    application: str
    hits: tuple[str, ...]


class Event(msgspec.Struct, frozen=True):
    """A row of `ubi_events` about a product. `ordinal` is as it was logged, -1 where it was not."""

    action: str
    query_id: str
    text: str
    application: str
    session: str
    product: str
    ordinal: int


class Fault(msgspec.Struct, frozen=True):
    """A row that cannot be used, and why."""

    reason: str
    value: str


Row = Search | Event | Fault


def rows(path: Path) -> Iterator[tuple[int, Row]]:
    """Line number and row of every document of the file; never more than one line is in memory.

    Raises InputError when the file cannot be read.
    """
    for number, line in enumerate(raw_lines(path), start=1):
        if isinstance(line, TooLong):
            yield number, Fault(line.reason, line.start[:80].decode("utf-8", "replace"))
        elif line.strip():
            row = _row(line)
            if row is not None:
                yield number, row


def _row(line: bytes) -> Row | None:
    """The row of a line, None for the action line of a bulk export, which is none."""
    try:
        document = msgspec.json.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        return Fault("the line is not JSON", f"{error}: {line[:80]!r}")
    if not isinstance(document, dict):
        return Fault("the line is not a JSON object", str(document))
    if len(document) == 1:
        action, about = next(iter(document.items()))
        if action in _BULK and isinstance(about, dict):
            return None
    if isinstance(document.get("_source"), dict):  # as a scroll of hits writes them
        document = document["_source"]
    return _event(document) if "action_name" in document else _search(document)


def _search(document: dict[str, Any]) -> Row:
    query_id, text = _text(document.get("query_id")), _text(document.get("user_query"))
    if not query_id:
        return Fault("neither a UBI query nor a UBI event: no query_id", ", ".join(map(str, document)))
    if not text:
        return Fault("user_query is empty", query_id)
    hits = document.get("query_response_hit_ids") or document.get("query_response_object_ids") or []
    known = tuple(_text(hit) for hit in hits) if isinstance(hits, list) else ()
    return Search(query_id, text, _text(document.get("application")), known)


def _event(document: dict[str, Any]) -> Row:
    name = _text(document["action_name"])
    if name not in _ACTIONS:
        return Fault(f"action {name[:40]!r} says nothing of a product", _text(document.get("query_id")))
    attributes = _mapping(document.get("event_attributes"))
    product = _text(_mapping(attributes.get("object")).get("object_id"))
    if not product:
        return Fault("event_attributes.object.object_id is empty", name)
    ordinal = _mapping(attributes.get("position")).get("ordinal")
    session = document.get("session_id") or attributes.get("session_id") or document.get("client_id")
    usable = isinstance(ordinal, int | float) and 0 <= ordinal <= _MAX_ORDINAL and ordinal == int(ordinal)
    return Event(
        _ACTIONS[name],
        _text(document.get("query_id")),
        _text(document.get("user_query")),
        _text(document.get("application")),
        _text(session),
        product,
        int(ordinal) if usable else -1,  # type: ignore[arg-type]
    )


def _mapping(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _text(value: object) -> str:
    return " ".join(str(value).split()) if isinstance(value, str | int) and not isinstance(value, bool) else ""
