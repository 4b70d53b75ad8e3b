"""Query sets and judgment lists of OpenSearch's Search Relevance Workbench, as plain rows.

Reads what its API takes (`PUT _plugins/_search_relevance/query_sets` and `…/judgments`) and what it gives back: the
stored document, alone or as the only hit of a search response. The workbench has no query ids: it joins by text.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from indexer.errors import InputError

MAX_BYTES = 512_000_000
MAX_NAME = 50
_REFUSED = '"\\<>'  # the workbench refuses query texts with one of these

_QUERIES, _TEXT = "querySetQueries", "queryText"
_RATINGS = "judgmentRatings"


def is_json(path: Path) -> bool:
    """Whether a file starts as JSON does, which no TSV or TREC file of ours can."""
    try:
        with path.open("rb") as file:
            return file.read(64).removeprefix(b"\xef\xbb\xbf").lstrip()[:1] in (b"{", b"[")
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}.") from error


def queries_in(path: Path) -> Iterator[dict[str, str]]:
    """A query set's entries: `query_id` (the text itself when the entry has none), `query`, and its other fields."""
    for at, entry in enumerate(_listed(path, _QUERIES), start=1):
        text = entry.get(_TEXT)
        if not isinstance(text, str) or not text.strip():
            raise InputError(f"{path}, query {at}: {_TEXT} is {text!r}; it must be a text that is not empty.")
        others = {name: _text(value) for name, value in entry.items() if name not in (_TEXT, "query") and value}
        yield {"query_id": text.strip(), **others, "query": text.strip()}


def ratings_in(path: Path) -> Iterator[tuple[str, str, str]]:
    """A judgment list's ratings: query text, product id and rating as it stands there."""
    for at, entry in enumerate(_listed(path, _RATINGS), start=1):
        query, ratings = entry.get("query"), entry.get("ratings")
        if not isinstance(query, str) or not query.strip() or not isinstance(ratings, list):
            raise InputError(f"{path}, judged query {at}: it needs a text `query` and a list `ratings`.")
        for rating in ratings:
            if not isinstance(rating, dict) or not {"docId", "rating"} <= rating.keys():
                raise InputError(f"{path}, query {query!r}: a rating needs `docId` and `rating`, and is {rating!r}.")
            yield query.strip(), _text(rating["docId"]), _text(rating["rating"])


def query_set(name: str, queries: Iterable[tuple[str, str]]) -> bytes:
    """The body that makes a query set of (text, reference answer) pairs, each text once."""
    entries = {text: {_TEXT: text, **({"referenceAnswer": answer} if answer else {})} for text, answer in queries}
    return _body(name, {"sampling": "manual", _QUERIES: list(entries.values())})


def judgment_list(name: str, grades: Mapping[str, Mapping[str, int]]) -> bytes:
    """The body that imports judgments: query text -> product id -> grade."""
    listed = [
        {"query": query, "ratings": [{"docId": product, "rating": f"{grade}.000"} for product, grade in each.items()]}
        for query, each in grades.items()
    ]
    return _body(name, {"type": "IMPORT_JUDGMENT", _RATINGS: listed})


def refused(texts: Iterable[str]) -> list[str]:
    """Query texts that a query set may not hold: the workbench takes no quotes, backslashes or angle brackets."""
    return [text for text in texts if any(mark in text for mark in _REFUSED)]


def _body(name: str, rest: Mapping[str, Any]) -> bytes:
    about = {"name": name[:MAX_NAME], "description": "Written by shelfrank", **rest}
    return msgspec.json.format(msgspec.json.encode(about), indent=1) + b"\n"


def _listed(path: Path, key: str) -> Sequence[Mapping[str, Any]]:
    """The list under `key`, wherever the API puts it."""
    found = _document(path, _parsed(path))
    listed = found.get(key)
    if not isinstance(listed, list) or not all(isinstance(entry, dict) for entry in listed):
        raise InputError(
            f"{path} is JSON without a list `{key}` of objects; it has {', '.join(sorted(found)) or 'nothing'}. "
            "Give a query set for queries and a judgment list for judgments."
        )
    return listed


def _document(path: Path, value: Any) -> Mapping[str, Any]:
    hits = value.get("hits") if isinstance(value, dict) else None
    if isinstance(hits, dict) and isinstance(hits.get("hits"), list):
        if len(hits["hits"]) != 1:
            raise InputError(f"{path} holds {len(hits['hits'])} documents of the workbench. Save the one to use.")
        value = hits["hits"][0]
    if isinstance(value, dict) and isinstance(value.get("_source"), dict):
        value = value["_source"]
    if not isinstance(value, dict):
        raise InputError(f"{path} is JSON but no object. Give a query set or a judgment list of the workbench.")
    return value


def _parsed(path: Path) -> Any:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise InputError(f"{path} is larger than {MAX_BYTES:,} bytes. Split it.")
        return msgspec.json.decode(path.read_bytes().removeprefix(b"\xef\xbb\xbf"))
    except msgspec.DecodeError as error:
        raise InputError(f"{path} starts as JSON and is none: {error}.") from error
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}.") from error


def _text(value: Any) -> str:
    return value.strip() if isinstance(value, str) else msgspec.json.encode(value).decode()
