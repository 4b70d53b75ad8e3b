"""What a client's body may be before a cluster sees it: JSON, unpacked, and nested no deeper than a node bears.

Each look at the bytes is one pass whose time grows with their number, whatever they are.
"""

from __future__ import annotations

import zlib
from urllib.parse import parse_qs

import msgspec
import numpy as np
from starlette.exceptions import HTTPException

from indexer.errors import InputError
from reranker.serving.guard import TooLargeError

# OpenSearch 3.6 parses nested queries by recursion: some 1,300 levels overflow its stack, and the node is gone.
MAX_NESTING = 200
# Far more than who packs a body as it comes has; each costs some 20 microseconds.
_MAX_MEMBERS = 1000
_PIECE_BYTES = 2**16
_BLOCK_BYTES = 2**20
_TYPES = ("application/json", "application/x-ndjson")
_VENDORS, _SUFFIXES = "application/vnd.", ("+json", "+x-ndjson")
_NO_MARK = bytes(set(range(256)) - set(b'[]{}"'))
_OPEN, _CLOSE, _QUOTE = b"[{", b"]}", ord('"')


def unpacked(body: bytes, encoding: str, limit: int) -> bytes:
    """The body without its content encoding: gzip or none. Raises TooLargeError and InputError."""
    if encoding == "identity":
        return body
    if encoding != "gzip":
        raise InputError(f"The body has the encoding {encoding}; gzip is understood, or none.")
    return gunzipped(body, limit)


def gunzipped(body: bytes, limit: int) -> bytes:
    """What a gzip body holds, all members of it. Raises TooLargeError where that is more than `limit` bytes, InputError
    where it is damaged, cut off, or of more members than a client has reason to send."""
    rest, plain = memoryview(body), bytearray()
    for _ in range(_MAX_MEMBERS):
        unpacker = zlib.decompressobj(16 + zlib.MAX_WBITS)
        while rest and not unpacker.eof:
            piece = rest[:_PIECE_BYTES]
            try:
                plain += unpacker.decompress(piece, limit + 1 - len(plain))
            except zlib.error as error:
                raise InputError(f"The body is not gzip: {error}.") from error
            if len(plain) > limit:
                raise TooLargeError(limit)
            rest = rest[len(piece) - len(unpacker.unused_data) :]
        if not unpacker.eof and body:
            raise InputError("The body is gzip that was cut off before its end.")
        if not bytes(rest).strip(b"\0"):  # padding, which gzip allows
            return bytes(plain)
    raise InputError(f"The body is gzip of more than {_MAX_MEMBERS} members. Compress it as one.")


def is_json(content_type: str) -> bool:
    """Whether a content type is JSON or lines of it, also by a vendor's name, as official clients send it."""
    kind = content_type.partition(";")[0].strip().lower()
    return kind in _TYPES or (kind.startswith(_VENDORS) and kind.endswith(_SUFFIXES))


def check(body: bytes, content_type: str, query: str) -> None:
    """Refuse what a node might not survive: a body, or one in the query's `source`, that is not JSON (415), or nests
    too deep (InputError). OpenSearch reads CBOR, SMILE and YAML too, whose depth nobody here could tell."""
    given = parse_qs(query, keep_blank_values=True, errors="surrogateescape")
    types = given.get("source_content_type", [])
    if body and content_type:
        types = [content_type, *types]
    for kind in types:
        if not is_json(kind):
            raise HTTPException(
                415, f"A body of type {kind[:100]!r} is not passed on: send application/json or application/x-ndjson."
            )
    for each in (body, *(source.encode("utf-8", "surrogateescape") for source in given.get("source", []))):
        if nests_deeper(each, MAX_NESTING):
            raise InputError(f"The body nests deeper than {MAX_NESTING} levels, which can end an OpenSearch node.")


def nests_deeper(body: bytes, most: int) -> bool:
    """Whether JSON, or lines of it, nests deeper than `most`. Raises InputError for what has as many brackets and is
    not JSON to the letter: with comments or open strings, two readers would count differently."""
    if body.count(b"{") + body.count(b"[") <= most:
        return False
    if _depth(body, most) > most:
        return True
    try:
        _check_strict(body)
    except RecursionError:
        return True
    return False


def _depth(body: bytes, most: int) -> int:
    """How deep brackets outside of strings nest; once it is more than `most`, how deep so far."""
    # A pair of backslashes is one that stands for itself; what is left of them escapes what follows.
    marks = np.frombuffer(body.replace(b"\\\\", b"").replace(b'\\"', b"").translate(None, _NO_MARK), np.uint8)
    deepest = depth = quotes = 0
    for start in range(0, len(marks), _BLOCK_BYTES):
        block = marks[start : start + _BLOCK_BYTES]
        before = quotes + np.cumsum(block == _QUOTE, dtype=np.int64)
        steps = np.isin(block, list(_OPEN)).astype(np.int64) - np.isin(block, list(_CLOSE))
        depths = depth + np.cumsum(np.where(before % 2, 0, steps))  # odd: within a string
        deepest, depth, quotes = max(deepest, int(depths.max())), int(depths[-1]), int(before[-1])
        if deepest > most:
            break
    return deepest


def _check_strict(body: bytes) -> None:
    try:
        msgspec.json.decode(body, type=msgspec.Raw)  # checks, and builds nothing
    except msgspec.DecodeError:
        for number, line in enumerate(body.split(b"\n"), start=1):
            if line.strip():
                _check_line(line, number)


def _check_line(line: bytes, number: int) -> None:
    try:
        msgspec.json.decode(line, type=msgspec.Raw)
    except msgspec.DecodeError as error:
        raise InputError(f"The body is not JSON (line {number}): {error}.") from error
