"""Read text files of lines and columns from strangers: bounded, in UTF-8, and with a place for every complaint."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from indexer.errors import InputError

_MAX_LINE = 65_536


def lines(path: Path, most: int) -> Iterator[tuple[int, str]]:
    """At most `most` lines that are not blank, with their numbers from 1; never more than one in memory."""
    number = 0
    try:
        with path.open("rb") as file:
            while raw := file.readline(_MAX_LINE + 1):
                number += 1
                if number > most:
                    raise InputError(f"{path} has more than {most:,} lines. Evaluate a sample of the queries.")
                if len(raw) > _MAX_LINE:
                    raise InputError(f"{path}, line {number} is longer than {_MAX_LINE:,} bytes; is this a TSV file?")
                text = raw.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
                if text.strip():
                    yield number, text
    except UnicodeDecodeError as error:
        bad = error.object[error.start : error.end]
        raise InputError(f"{path}, line {number} is not UTF-8 (byte {bad!r}). Save the file as UTF-8.") from error
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}.") from error


def header(path: Path, number: int, line: str, needed: Sequence[str]) -> list[str]:
    """The column names of a TSV file. Raises InputError when one that is needed is missing."""
    names = [name.strip() for name in line.split("\t")]
    missing = [name for name in needed if name not in names]
    if missing:
        raise InputError(
            f"{path}, line {number}: the header {line[:80]!r} has no {' and no '.join(missing)}. "
            f"It must name {', '.join(needed)}, separated by tabs."
        )
    return names


def row(path: Path, number: int, line: str, names: Sequence[str], trec: bool = False) -> dict[str, str]:
    """One line's values by column. TREC's files part columns by any white space, or by tabs where there are some."""
    values = line.split() if trec and "\t" not in line else line.split("\t")
    if len(values) != len(names):
        raise InputError(f"{path}, line {number} has {len(values)} columns and not {len(names)}: {line[:80]!r}.")
    return {name: _unquoted(value.strip()) for name, value in zip(names, values, strict=True)}


def word(text: str) -> str:
    """An id as TREC's files can hold it: white space becomes `_`."""
    return re.sub(r"\s", "_", text)


def some(ids: Sequence[str]) -> str:
    """The first few ids, for a message."""
    return ", ".join(ids[:5]) + (", …" if len(ids) > 5 else "")


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turns a file that cannot be written into a sentence."""
    try:
        yield
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror}. Choose another place.") from error


def _unquoted(value: str) -> str:
    """A quote in a TSV file is a quote (24" monitor), except as CSV writers put it ("24"" monitor")."""
    inner = value[1:-1]
    quoted = value[:1] == '"' == value[-1:] and '""' in inner and '"' not in inner.replace('""', "")
    return inner.replace('""', '"') if quoted else value
