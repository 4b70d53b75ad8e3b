"""Lines of a text file, plain or gzip: bounded, and decoded one by one, so that one broken byte costs one line."""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import IO, AnyStr, Generic, cast

from indexer.errors import InputError
from indexer.settings import Bounds

_SAMPLE_LINES, _SAMPLE_BYTES = 1000, 20_000_000
_PIECE = 2**16
_SHOWN = 1000
_BOUNDS = Bounds()
_GZIP_MAGIC = b"\x1f\x8b"
# Encodings in which a newline byte may be half of another character: decoded as a stream, not line by line.
_WIDE = ("utf-16", "utf_16", "utf-32", "utf_32", "u16", "u32")


@dataclass(frozen=True)
class TooLong(Generic[AnyStr]):
    """A line that is longer than the `limit`: its beginning, and its length in the same units."""

    start: AnyStr
    length: int
    limit: int

    @property
    def reason(self) -> str:
        """What is wrong with it."""
        units = "characters" if isinstance(self.start, str) else "bytes"
        return f"too long: the line has {self.length:,} {units}; at most {self.limit:,} are read"


@dataclass(frozen=True)
class BrokenLine:
    """A line that cannot be read: not valid in the file's encoding, or too long."""

    text: str
    reason: str


def open_bytes(path: Path) -> IO[bytes]:
    """The file's bytes, unpacked when they are gzip; it is opened once, for it may be a pipe. Raises InputError when it
    cannot be read."""
    try:
        file = path.open("rb")
        if file.peek(2)[:2] != _GZIP_MAGIC:
            return file
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}. Check the path and its permissions.") from error
    unpacked = gzip.GzipFile(fileobj=file)
    unpacked.myfileobj = file  # type: ignore[assignment]  # closed with it, as a file that `gzip.open` opens
    return cast(IO[bytes], unpacked)


def bounded(stream: IO[AnyStr], limit: int) -> Iterator[AnyStr | TooLong[AnyStr]]:
    """The lines of a stream with their line ends; of one that is longer than `limit` only its beginning and length."""
    while line := stream.readline(limit + 1):
        if len(line) <= limit:
            yield line
            continue
        length, end = len(line), line
        while not end.endswith("\n" if isinstance(end, str) else b"\n") and (end := stream.readline(_PIECE)):
            length += len(end)
        yield TooLong(line[:_SHOWN], length, limit)


def read_lines(path: Path, encoding: str, bounds: Bounds = _BOUNDS) -> Iterator[str | BrokenLine]:
    """The lines of a file with their line ends; a byte order mark is dropped.

    Raises InputError when most of the file is not in `encoding`, when a gzip file is damaged, and when it unpacks to
    more than the bounds allow.
    """
    if encoding.lower().startswith(_WIDE):
        yield from _wide_lines(path, encoding, bounds)
        return
    # A byte order mark would become part of the first column's name.
    codec = "utf-8-sig" if encoding.lower().replace("_", "-") in ("utf-8", "utf8") else encoding
    _check_encoding(path, codec, bounds)
    offset = 0
    for number, raw in enumerate(raw_lines(path, bounds), start=1):
        if isinstance(raw, TooLong):
            yield BrokenLine(raw.start.decode(codec, "replace"), raw.reason)
            offset += raw.length
            continue
        try:
            yield raw.decode(codec if number == 1 else codec.removesuffix("-sig"))
        except UnicodeDecodeError as error:
            byte = offset + error.start
            yield BrokenLine(
                raw.decode(codec, "replace").rstrip("\r\n"),
                f"byte {byte} (0x{raw[error.start]:02x}, line {number}) is not valid {encoding}",
            )
        offset += len(raw)


def whole_lines(path: Path) -> Iterator[str]:
    """The lines of a UTF-8 file or pipe that is of no use with a part of it missing. Raises InputError at the first bad
    one."""
    for number, raw in enumerate(raw_lines(path), start=1):
        if isinstance(raw, TooLong):
            raise InputError(f"{path}, line {number}: {raw.reason}.")
        try:
            line = raw.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            bad = f"byte {error.start + 1} of it (0x{raw[error.start]:02x})"
            raise InputError(f"{path}, line {number} is not UTF-8: {bad}. Save the file as UTF-8.") from error
        yield line


def raw_lines(path: Path, bounds: Bounds = _BOUNDS) -> Iterator[bytes | TooLong[bytes]]:
    """The lines of a file with their line ends, unpacked. Raises InputError where it cannot be read on."""
    lines = size = 0
    try:
        with open_bytes(path) as file:
            for lines, raw in enumerate(bounded(file, bounds.line_bytes), start=1):
                size += raw.length if isinstance(raw, TooLong) else len(raw)
                check_size(path, size, bounds, f" (line {lines})")
                yield raw
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise InputError(
            f"{path} is a damaged gzip file: {error}, after line {lines}. Fetch or write it again."
        ) from error
    except OSError as error:
        raise InputError(f"{path} cannot be read after line {lines}: {error}. Check the disk and the file.") from error


def _wide_lines(path: Path, encoding: str, bounds: Bounds) -> Iterator[str | BrokenLine]:
    size = 0
    try:
        with io.TextIOWrapper(open_bytes(path), encoding, newline="\n") as file:
            for number, line in enumerate(bounded(file, bounds.line_bytes // 2), start=1):
                size += 2 * (line.length if isinstance(line, TooLong) else len(line))
                check_size(path, size, bounds, f" (line {number})")
                if isinstance(line, TooLong):
                    yield BrokenLine(line.start, line.reason)
                else:
                    yield line
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise InputError(f"{path} is a damaged gzip file: {error}. Fetch or write it again.") from error
    except UnicodeError as error:
        raise InputError(f"{path} is not valid {encoding}: {error}. Correct [file] encoding in the mapping.") from error


def check_size(path: Path, size: int, bounds: Bounds, where: str = "") -> None:
    """Raise InputError where a file unpacks to too much."""
    if size > bounds.unpacked_bytes:
        raise InputError(
            f"{path} unpacks to more than {bounds.unpacked_bytes:,} bytes{where}. Raise bounds.unpacked_bytes in the "
            "settings if that is right."
        )


def _check_encoding(path: Path, codec: str, bounds: Bounds) -> None:
    """Refuse a file whose first lines mostly fail: that is a wrong `encoding`, not a broken line."""
    broken = fine = offset = number = 0
    first = ""
    for number, raw in enumerate(_sample(path, bounds), start=1):
        try:
            fine += not raw.decode(codec).isascii()
        except UnicodeDecodeError as error:
            broken += 1
            first = first or f"byte {offset + error.start} (0x{raw[error.start]:02x}, line {number})"
        offset += len(raw)
    if broken > fine:
        raise InputError(
            f"{path} is not {codec.removesuffix('-sig')}: {first} is the first of {broken} broken lines "
            f"in the first {number}.{_guess(path, codec, bounds)}"
        )


def _sample(path: Path, bounds: Bounds) -> Iterator[bytes]:
    """The first lines, as many as are soon read."""
    size = 0
    for raw in islice(raw_lines(path, bounds), _SAMPLE_LINES):
        line = raw.start if isinstance(raw, TooLong) else raw
        size += len(line)
        yield line
        if size > _SAMPLE_BYTES:
            return


def _guess(path: Path, codec: str, bounds: Bounds) -> str:
    head = b"".join(_sample(path, bounds))
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
