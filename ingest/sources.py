"""Rows of a catalogue file (CSV, TSV, JSON lines, Parquet), streamed, each with its number.

A malformed row comes out as a `Rejection` in its place, and the rest goes on. Row numbers start at 1 and count
rows of data: neither the header nor blank lines. Text formats give every value as text, so that a brand
called "None" or an id with leading zeros stays what it is.
"""

from __future__ import annotations

import csv
import io
import json
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from indexer.errors import ConfigError, InputError
from indexer.lines import BrokenLine, check_size, read_lines
from indexer.settings import Bounds
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
_CHUNK_ROWS, _CHUNK_CHARACTERS = 2000, 4_000_000
_FEW_ROWS = 100
_MAX_COLUMNS = 10_000
_CSV_FIELD = 2**31 - 1  # a row is bounded, and so are its fields
_SHOWN = 1000
_LARGE_COLUMN = 100_000_000  # bytes of a Parquet column that lie together
_WIDEST = 4  # bytes of a character in UTF-8
_BOUNDS = Bounds()
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
    bounds: Bounds = _BOUNDS

    def rows(self) -> Iterator[Row | Rejection]:
        """Every row from the first one; may be called again for another pass.

        Raises InputError when the file as a whole cannot be read on.
        """
        for row in self._rows():
            yield _within(row, self.bounds.field_characters) if isinstance(row, Row) else row

    def _rows(self) -> Iterator[Row | Rejection]:
        if self.format == "parquet":
            return _parquet_rows(self.path, self.bounds)
        lines = _text_lines(self.path, self.mapping.file.encoding, self.bounds)
        if self.format == "jsonl":
            return _json_rows(lines)
        return _delimited_rows(self.path, lines, _delimiter(self.format, self.mapping), self.bounds)


def _within(row: Row, limit: int) -> Row | Rejection:
    """A row whose fields are not too long."""
    for name, value in row.values.items():
        if isinstance(value, (str, bytes)) and len(value) > limit:
            reason = f"too long: the field has {len(value):,} characters; at most {limit:,} are read"
            return Rejection(row.number, name, str(value[:_SHOWN]), reason)
    return row


def open_catalogue(path: Path, mapping: CatalogMapping, bounds: Bounds = _BOUNDS) -> Catalogue:
    """Look at the file's header (JSON lines: its first rows) and check the mapping against it.

    Raises InputError for a file that cannot be read, ConfigError for columns that it does not have.
    """
    if not path.is_file():
        raise InputError(f"The catalogue {path} does not exist or is no file. Check the path.")
    form = _format(path, mapping)
    if form == "jsonl":
        columns = _json_columns(path, mapping, _text_lines(path, mapping.file.encoding, bounds))
        return Catalogue(path, form, mapping, columns, unused_columns(mapping, columns), bounds)
    if form == "parquet":
        columns = list(_parquet(path).schema_arrow.names)
    else:
        lines = _text_lines(path, mapping.file.encoding, bounds)
        columns = _header(path, _records(lines, _delimiter(form, mapping), bounds), _delimiter(form, mapping))
    return Catalogue(path, form, mapping, columns, check_columns(mapping, columns, str(path)), bounds)


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


def _text_lines(path: Path, encoding: str, bounds: Bounds) -> Iterator[str | BrokenLine]:
    for line in read_lines(path, encoding, bounds):
        if isinstance(line, BrokenLine):
            yield line
        elif line.strip():
            yield line.replace("\x00", "")


def _header(path: Path, records: Iterator[str | BrokenLine], delimiter: str) -> list[str]:
    record = next(records, None)
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


def _delimited_rows(
    path: Path, lines: Iterator[str | BrokenLine], delimiter: str, bounds: Bounds
) -> Iterator[Row | Rejection]:
    records = _records(lines, delimiter, bounds)
    columns = _header(path, records, delimiter)
    for chunk in _chunks(enumerate(records, start=1)):
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


def _chunks(records: Iterator[tuple[int, str | BrokenLine]]) -> Iterator[list[tuple[int, str | BrokenLine]]]:
    """As many records as pandas does well with, and fewer where they are long."""
    chunk: list[tuple[int, str | BrokenLine]] = []
    size = 0
    for number, record in records:
        chunk.append((number, record))
        size += len(record) if isinstance(record, str) else 0
        if len(chunk) == _CHUNK_ROWS or size > _CHUNK_CHARACTERS:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


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


def _records(lines: Iterator[str | BrokenLine], delimiter: str, bounds: Bounds) -> Iterator[str | BrokenLine]:
    """Join lines into records: a quoted field may hold line ends. A quote that never closes costs one line.

    Every line is read twice at most, whatever stands in it: where a record that began before a line has failed, and was
    inside quotes at that line's end, one that begins at the line and is inside quotes at its end fails in the same way.
    """
    pending = deque[str | BrokenLine]()
    failing, problem = 0, ""  # so many of the pending lines were inside quotes at their end, and what came of it
    while True:
        failing -= 1
        line = pending.popleft() if pending else next(lines, None)
        if line is None:
            return
        if isinstance(line, BrokenLine) or '"' not in line:
            yield _single(line)
            continue
        opened = _quoting([line], delimiter)
        if opened == "":
            yield line
        elif opened != _OPEN:
            yield BrokenLine(line.rstrip("\r\n"), _NOT_CSV.format(opened))
        elif failing >= 0:
            yield BrokenLine(line.rstrip("\r\n"), problem)
        else:
            taken = [line]
            found = _quoting(_taking(taken, pending, lines, bounds), delimiter)
            if not found:
                yield "".join(str(each) for each in taken)
                continue
            # What follows the first line may be rows of their own. The last line is where it failed, or the end.
            pending.extendleft(reversed(taken[1:]))
            failing = len(taken) - 1 if found == _OPEN else len(taken) - 2
            problem = 'a quote (") is opened in this row and never closed' if found == _OPEN else _NOT_CSV.format(found)
            yield BrokenLine(line.rstrip("\r\n"), problem)


def _taking(
    taken: list[Any], pending: deque[str | BrokenLine], lines: Iterator[str | BrokenLine], bounds: Bounds
) -> Iterator[str]:
    """The line that is taken already, then more of them as long as they are asked for and may be one record."""
    size = len(taken[0])
    yield taken[0]
    while size < bounds.row_characters:
        line = pending.popleft() if pending else next(lines, None)
        if line is None:
            return
        taken.append(line)
        if isinstance(line, BrokenLine):
            return
        size += len(line)
        yield line


_OPEN = "unexpected end of data"
_NOT_CSV = "its quotes are not valid CSV: {}"


def _single(line: str | BrokenLine) -> str | BrokenLine:
    if isinstance(line, str) and "\r" in line.rstrip("\r\n"):
        return BrokenLine(line.rstrip("\r\n"), "a carriage return stands inside the row, outside quotes")
    return line


def _quoting(lines: Iterable[str], delimiter: str) -> str:
    """What is wrong with the quotes of the record that the lines begin with; empty when nothing is."""
    csv.field_size_limit(_CSV_FIELD)
    try:
        next(csv.reader(lines, delimiter=delimiter, strict=True), None)
    except csv.Error as error:
        return str(error)
    return ""


def _width(record: str, delimiter: str) -> int:
    if '"' not in record:
        return record.count(delimiter) + 1
    return len(next(csv.reader(io.StringIO(record, newline=""), delimiter=delimiter)))


# JSON lines, one by one: pandas would fail a whole chunk for one bad line, and turn ids into numbers.


def _json_rows(lines: Iterator[str | BrokenLine]) -> Iterator[Row | Rejection]:
    for number, line in enumerate(lines, start=1):
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


def _json_columns(path: Path, mapping: CatalogMapping, lines: Iterator[str | BrokenLine]) -> list[str]:
    sample = islice(_json_rows(lines), _JSON_SAMPLE_ROWS)
    found = (name for row in sample if isinstance(row, Row) for name in row.values)
    columns = list(islice(dict.fromkeys(found), _MAX_COLUMNS))
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


def _parquet(path: Path, dictionaries: Sequence[str] = ()) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(path, read_dictionary=list(dictionaries))
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{path} is not a Parquet file that can be read: {error}. Write it again.") from error


def _parquet_rows(path: Path, bounds: Bounds) -> Iterator[Row | Rejection]:
    number = 0
    with _parquet(path) as file:
        texts = [each.name for each in file.schema_arrow if _is_text(each.type)]
        groups = [file.metadata.row_group(at) for at in range(file.metadata.num_row_groups)]
    check_size(path, sum(group.total_byte_size for group in groups), bounds)
    # A text that many rows share is held once, however long it is.
    with _parquet(path, texts) as file:
        try:
            for at, group in enumerate(groups):
                if reason := _too_much(group, bounds):
                    yield from (Rejection(number + row, "", "", reason) for row in range(1, group.num_rows + 1))
                    number += group.num_rows
                    continue
                for batch in file.iter_batches(batch_size=_CHUNK_ROWS, row_groups=[at]):
                    yield from _batch_rows(batch, number, texts, bounds.field_characters)
                    number += len(batch)
        except (pa.ArrowException, OSError) as error:
            raise InputError(f"{path} cannot be read after row {number}: {error}. Write it again.") from error


def _too_much(group: pq.RowGroupMetaData, bounds: Bounds) -> str:
    """Why no row of a group is read: one of its columns would fill the memory, and its values are too long on average.
    Empty where the group can be read."""
    for at in range(group.num_columns):
        column = group.column(at)
        size, limit = column.total_uncompressed_size, _WIDEST * bounds.field_characters * group.num_rows
        if size > max(_LARGE_COLUMN, limit):
            return (
                f"too long: column {column.path_in_schema} has {size:,} bytes in {group.num_rows:,} rows that lie "
                f"together; at most {bounds.field_characters:,} characters a field are read"
            )
    return ""


def _batch_rows(batch: pa.RecordBatch, before: int, texts: Sequence[str], limit: int) -> Iterator[Row | Rejection]:
    """The rows of a batch, of which `before` came before it."""
    too_long = _too_long(batch, texts, limit)
    rest = batch.filter(pa.array([at not in too_long for at in range(len(batch))]))
    starts = range(0, len(rest), _FEW_ROWS)
    values = (row for start in starts for row in rest.slice(start, _FEW_ROWS).to_pylist())
    for at in range(len(batch)):
        number = before + at + 1
        yield Rejection(number, *too_long[at]) if at in too_long else Row(number, next(values))


def _is_text(kind: pa.DataType) -> bool:
    return any(check(kind) for check in (pa.types.is_string, pa.types.is_large_string, pa.types.is_binary))


def _too_long(batch: pa.RecordBatch, texts: Sequence[str], limit: int) -> dict[int, tuple[str, str, str]]:
    """Rows with a text that is too long: column, beginning of the text, and what is wrong."""
    found: dict[int, tuple[str, str, str]] = {}
    for name in texts:
        column = batch.column(name)
        lengths = pc.binary_length(column.dictionary).to_pylist()
        for entry, length in enumerate(lengths):
            if length is not None and length > limit:
                value = _beginning(column.dictionary.slice(entry, 1))
                reason = f"too long: the field has {length:,} bytes; at most {limit:,} characters are read"
                rows = pc.indices_nonzero(pc.equal(column.indices, entry)).to_pylist()
                found |= dict.fromkeys(rows, (name, value, reason))
    return found


def _beginning(text: pa.Array) -> str:
    """The first characters of one text or bytes, without a copy of all of it."""
    kind = pa.large_binary() if pa.types.is_large_string(text.type) else pa.binary()
    raw: bytes = pc.binary_slice(text.cast(kind), 0, _SHOWN)[0].as_py()
    return raw.decode("utf-8", "replace")
