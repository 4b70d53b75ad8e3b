"""Rows of a catalogue file (CSV, TSV, JSON lines, Parquet), streamed, each with its number.

A malformed row comes out as a `Rejection` in its place, and the rest goes on. Row numbers start at 1 and count
rows of data: neither the header nor blank lines. Text formats give every value as text, so that a brand
called "None" or an id with leading zeros stays what it is.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from indexer.errors import ConfigError, InputError
from ingest.lines import BrokenLine, read_lines
from ingest.schema import CatalogMapping, Format, check_columns, nearest, unused_columns

_FORMATS: dict[str, Format] = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".tab": "tsv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".parquet": "parquet",
    ".pq": "parquet",
}
_CHUNK_ROWS = 2000
# A quote that is still open after so much text was never meant to be closed.
_MAX_RECORD_CHARACTERS = 1_000_000
_JSON_SAMPLE_ROWS = 1000


@dataclass(frozen=True, slots=True)
class Row:
    """One row of the file: values by column name."""

    number: int
    values: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Rejection:
    """A row that cannot become a product: what a line of the dead-letter file holds."""

    row: int
    field: str
    value: str
    reason: str


@dataclass(frozen=True)
class Catalogue:
    """A catalogue file whose columns have been compared with the mapping."""

    path: Path
    format: Format
    mapping: CatalogMapping
    columns: list[str]
    unused: list[str]

    def rows(self) -> Iterator[Row | Rejection]:
        """Every row from the first one; may be called again for another pass.

        Raises InputError when the file as a whole cannot be read on.
        """
        if self.format == "parquet":
            return _parquet_rows(self.path)
        if self.format == "jsonl":
            return _json_rows(self.path, self.mapping.file.encoding)
        return _delimited_rows(self.path, self.mapping.file.encoding, _delimiter(self.format, self.mapping))


def open_catalogue(path: Path, mapping: CatalogMapping) -> Catalogue:
    """Look at the file's header (JSON lines: its first rows) and check the mapping against it.

    Raises InputError for a file that cannot be read, ConfigError for columns that it does not have.
    """
    if not path.is_file():
        raise InputError(f"The catalogue {path} does not exist or is no file. Check the path.")
    form = _format(path, mapping)
    if form == "jsonl":
        columns = _json_columns(path, mapping)
        return Catalogue(path, form, mapping, columns, unused_columns(mapping, columns))
    if form == "parquet":
        columns = list(_parquet(path).schema_arrow.names)
    else:
        lines = _text_lines(path, mapping.file.encoding)
        columns = _header(path, lines, _delimiter(form, mapping))
    return Catalogue(path, form, mapping, columns, check_columns(mapping, columns, str(path)))


def _format(path: Path, mapping: CatalogMapping) -> Format:
    if mapping.file.format:
        return mapping.file.format
    name = path.name.lower().removesuffix(".gz")
    form = _FORMATS.get(Path(name).suffix)
    if form is None:
        raise ConfigError(
            f"{path.name} does not say what it is: expected a name that ends in {', '.join(_FORMATS)} "
            "(with .gz or not). Rename it, or set [file] format in the mapping."
        )
    return form


def _delimiter(form: Format, mapping: CatalogMapping) -> str:
    return mapping.file.delimiter or ("\t" if form == "tsv" else ",")


# Delimited text. The records are told apart here and parsed by pandas: its C parser is fast, but one bad
# record ends it or, when told to skip, is lost without a number.


def _text_lines(path: Path, encoding: str) -> Iterator[str | BrokenLine]:
    for line in read_lines(path, encoding):
        if isinstance(line, BrokenLine):
            yield line
        elif line.strip():
            yield line.replace("\x00", "")


def _header(path: Path, lines: Iterator[str | BrokenLine], delimiter: str) -> list[str]:
    record = next(_records(lines, delimiter), None)
    if record is None:
        raise InputError(f"{path} is empty: expected a header with the names of the columns.")
    if isinstance(record, BrokenLine):
        raise InputError(f"The header of {path} cannot be read: {record.reason}. Correct its first line.")
    columns = [name.strip() for name in next(csv.reader([record], delimiter=delimiter))]
    twice = sorted({name for name in columns if columns.count(name) > 1})
    if twice:
        raise InputError(
            f"The header of {path} has the column {twice[0]!r} more than once. Give every column its own name."
        )
    return columns


def _delimited_rows(path: Path, encoding: str, delimiter: str) -> Iterator[Row | Rejection]:
    lines = _text_lines(path, encoding)
    columns = _header(path, lines, delimiter)
    numbered = enumerate(_records(lines, delimiter), start=1)
    while chunk := list(islice(numbered, _CHUNK_ROWS)):
        rejected: dict[int, Rejection] = {}
        fine: list[str] = []
        for number, record in chunk:
            if isinstance(record, BrokenLine):
                rejected[number] = Rejection(number, "", record.text, record.reason)
            elif (width := _width(record, delimiter)) != len(columns):
                reason = f"the row has {width} fields, the header has {len(columns)}"
                rejected[number] = Rejection(number, "", record.rstrip("\r\n"), reason)
            else:
                fine.append(record if record.endswith("\n") else record + "\n")
        parsed = iter(_parse(fine, columns, delimiter))
        for number, _ in chunk:
            yield rejected[number] if number in rejected else Row(number, next(parsed))


def _parse(records: list[str], columns: list[str], delimiter: str) -> list[dict[str, Any]]:
    if not records:
        return []
    frame = pd.read_csv(
        io.StringIO("".join(records)),
        sep=delimiter,
        header=None,
        names=columns,
        index_col=False,
        dtype=str,
        na_filter=False,
        skip_blank_lines=False,
    )
    if len(frame) != len(records):
        raise InputError(f"{len(records)} records were read as {len(frame)} rows: save the file as plain CSV again.")
    return [dict(zip(columns, values, strict=True)) for values in zip(*(frame[name] for name in columns), strict=True)]


def _records(lines: Iterator[str | BrokenLine], delimiter: str) -> Iterator[str | BrokenLine]:
    """Join lines into records: a quoted field may hold line ends. A quote that never closes costs one line."""
    pending: list[str | BrokenLine] = []
    while True:
        line = pending.pop(0) if pending else next(lines, None)
        if line is None:
            return
        if isinstance(line, BrokenLine) or '"' not in line:
            yield _single(line)
            continue
        problem = _quoting(line, delimiter)
        record, taken = line, list[str | BrokenLine]()
        while problem == _OPEN and len(record) < _MAX_RECORD_CHARACTERS:
            more = pending.pop(0) if pending else next(lines, None)
            if more is None:
                break
            taken.append(more)
            if isinstance(more, BrokenLine):
                break
            record += more
            if '"' in more:
                problem = _quoting(record, delimiter)
        if problem == _OPEN:
            pending = taken + pending
            yield BrokenLine(line.rstrip("\r\n"), 'a quote (") is opened in this row and never closed')
        elif problem:
            # What follows the first line may be rows of their own.
            pending = taken + pending
            yield BrokenLine(line.rstrip("\r\n"), f"its quotes are not valid CSV: {problem}")
        else:
            yield record


_OPEN = "unexpected end of data"


def _single(line: str | BrokenLine) -> str | BrokenLine:
    if isinstance(line, str) and "\r" in line.rstrip("\r\n"):
        return BrokenLine(line.rstrip("\r\n"), "a carriage return stands inside the row, outside quotes")
    return line


def _quoting(record: str, delimiter: str) -> str:
    """What is wrong with the quotes of a record; empty when nothing is."""
    try:
        rows = list(csv.reader(io.StringIO(record, newline=""), delimiter=delimiter, strict=True))
    except csv.Error as error:
        return str(error)
    return "" if len(rows) == 1 else "more than one row"


def _width(record: str, delimiter: str) -> int:
    if '"' not in record:
        return record.count(delimiter) + 1
    return len(next(csv.reader(io.StringIO(record, newline=""), delimiter=delimiter)))


# JSON lines, one by one: pandas would fail a whole chunk for one bad line, and turn ids into numbers.


def _json_rows(path: Path, encoding: str) -> Iterator[Row | Rejection]:
    for number, line in enumerate(_text_lines(path, encoding), start=1):
        if isinstance(line, BrokenLine):
            yield Rejection(number, "", line.text, line.reason)
            continue
        try:
            values = json.loads(line)
        except (ValueError, RecursionError) as error:
            yield Rejection(number, "", line.strip(), f"not valid JSON: {error}")
            continue
        if isinstance(values, dict):
            yield Row(number, values)
        else:
            yield Rejection(number, "", line.strip(), f"expected a JSON object, got {type(values).__name__}")


def _json_columns(path: Path, mapping: CatalogMapping) -> list[str]:
    sample = list(islice(_json_rows(path, mapping.file.encoding), _JSON_SAMPLE_ROWS))
    columns = list(dict.fromkeys(name for row in sample if isinstance(row, Row) for name in row.values))
    if not columns:
        raise InputError(
            f"{path} has no JSON object in its first {_JSON_SAMPLE_ROWS} lines: expected one object a line "
            "(`jq -c '.[]'` turns an array into that)."
        )
    # A rare column may well be absent from the first rows; one that every row needs may not.
    for field in ("id", "title"):
        names = mapping.columns.of(field)
        if not any(name in columns for name in names):
            raise ConfigError(
                f"The mapping takes the {field} from {names[0]!r}, which no row of {path} has"
                f"{nearest(names[0], columns)}. Its keys are {', '.join(map(repr, columns))}. "
                f"Correct columns.{field} in the mapping."
            )
    return columns


# Parquet, a batch at a time: it has its types, so values come as Python values and not as text.


def _parquet(path: Path) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(path)
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{path} is not a Parquet file that can be read: {error}. Write it again.") from error


def _parquet_rows(path: Path) -> Iterator[Row | Rejection]:
    number = 0
    with _parquet(path) as file:
        try:
            for batch in file.iter_batches(batch_size=_CHUNK_ROWS):
                for values in batch.to_pylist():
                    number += 1
                    yield Row(number, values)
        except (pa.ArrowException, OSError) as error:
            raise InputError(f"{path} cannot be read after row {number}: {error}. Write it again.") from error
