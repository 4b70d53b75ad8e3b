"""Lines of a text file, plain or gzip: decoded one by one, so that one broken byte costs one line."""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import IO, cast

from indexer.errors import InputError

_SAMPLE_LINES = 1000
_GZIP_MAGIC = b"\x1f\x8b"
# Encodings in which a newline byte may be half of another character: decoded as a stream, not line by line.
_WIDE = ("utf-16", "utf_16", "utf-32", "utf_32", "u16", "u32")


@dataclass(frozen=True)
class BrokenLine:
    """A line that is not valid in the file's encoding."""

    text: str
    reason: str


def open_bytes(path: Path) -> IO[bytes]:
    """The file's bytes, unpacked when they are gzip. Raises InputError when it cannot be read."""
    try:
        with path.open("rb") as file:
            packed = file.read(2) == _GZIP_MAGIC
        return cast(IO[bytes], gzip.open(path, "rb")) if packed else path.open("rb")
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}. Check the path and its permissions.") from error


def read_lines(path: Path, encoding: str) -> Iterator[str | BrokenLine]:
    """The lines of a file with their line ends; a byte order mark is dropped.

    Raises InputError when most of the file is not in `encoding`, and when a gzip file is damaged.
    """
    if encoding.lower().startswith(_WIDE):
        yield from _wide_lines(path, encoding)
        return
    # A byte order mark would become part of the first column's name.
    codec = "utf-8-sig" if encoding.lower().replace("_", "-") in ("utf-8", "utf8") else encoding
    _check_encoding(path, codec)
    offset = 0
    for number, raw in enumerate(_raw_lines(path), start=1):
        try:
            yield raw.decode(codec if number == 1 else codec.removesuffix("-sig"))
        except UnicodeDecodeError as error:
            byte = offset + error.start
            yield BrokenLine(
                raw.decode(codec, "replace").rstrip("\r\n"),
                f"byte {byte} (0x{raw[error.start]:02x}, line {number}) is not valid {encoding}",
            )
        offset += len(raw)


def _raw_lines(path: Path) -> Iterator[bytes]:
    lines = 0
    try:
        with open_bytes(path) as file:
            for lines, raw in enumerate(file, start=1):  # noqa: B007 (read after the loop breaks)
                yield raw
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise InputError(
            f"{path} is a damaged gzip file: {error}, after line {lines}. Fetch or write it again."
        ) from error
    except OSError as error:
        raise InputError(f"{path} cannot be read after line {lines}: {error}. Check the disk and the file.") from error


def _wide_lines(path: Path, encoding: str) -> Iterator[str]:
    try:
        with io.TextIOWrapper(open_bytes(path), encoding, newline="\n") as file:
            yield from file
    except UnicodeError as error:
        raise InputError(f"{path} is not valid {encoding}: {error}. Correct [file] encoding in the mapping.") from error


def _check_encoding(path: Path, codec: str) -> None:
    """Refuse a file whose first lines mostly fail: that is a wrong `encoding`, not a broken line."""
    broken = fine = offset = 0
    first = ""
    for number, raw in enumerate(islice(_raw_lines(path), _SAMPLE_LINES), start=1):
        try:
            fine += not raw.decode(codec).isascii()
        except UnicodeDecodeError as error:
            broken += 1
            first = first or f"byte {offset + error.start} (0x{raw[error.start]:02x}, line {number})"
        offset += len(raw)
    if broken > fine:
        raise InputError(
            f"{path} is not {codec.removesuffix('-sig')}: {first} is the first of {broken} broken lines "
            f"in the first {_SAMPLE_LINES}.{_guess(path, codec)}"
        )


def _guess(path: Path, codec: str) -> str:
    head = b"".join(islice(_raw_lines(path), _SAMPLE_LINES))
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        return ' It begins like UTF-16: set encoding = "utf-16" under [file] in the mapping.'
    for candidate in ("utf-8", "gb18030", "big5", "cp1252"):
        if candidate == codec.removesuffix("-sig"):
            continue
        try:
            head.decode(candidate)
        except UnicodeDecodeError:
            continue
        return (
            f' It can be read as {candidate}: look at the file, and set encoding = "{candidate}" '
            "under [file] in the mapping if the text is right."
        )
    return " Save it as UTF-8, or set its encoding under [file] in the mapping."
