"""Read queries and judgments, and write runs, in the formats that evaluation tools share.

Queries are TSV with a header: `query_id`, `query` and any further columns. Judgments (qrels) are TSV with a header:
`query_id`, `product_id`, `grade` and any further columns, or TREC's four columns without one. Runs are TREC's six.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path

import msgspec

from indexer.errors import InputError

MAX_QUERIES = 100_000
MAX_JUDGMENTS = 10_000_000
MAX_GRADE = 100
_MAX_LINE = 65_536

Qrels = dict[str, dict[str, int]]
"""Query id -> product id -> grade."""


class Query(msgspec.Struct, frozen=True):
    """One query; `columns` holds what else its line says (language, split, source)."""

    id: str
    text: str
    columns: dict[str, str] = {}


def read_queries(path: Path) -> list[Query]:
    """Queries in the file's order. Raises InputError naming file, line and value."""
    lines = _lines(path, MAX_QUERIES)
    number, header = next(lines, (1, ""))
    names = _header(path, number, header, ("query_id", "query"))
    queries: list[Query] = []
    seen: dict[str, int] = {}
    for number, line in lines:
        row = _row(path, number, line, names)
        query = Query(row.pop("query_id"), row.pop("query"), row)
        if not query.id or not query.text:
            missing = "query" if query.id else "query_id"
            raise InputError(f"{path}, line {number}: {missing} is empty. Fill it in or remove the line.")
        if query.id in seen:
            raise InputError(f"{path}, line {number}: query_id {query.id!r} is already on line {seen[query.id]}.")
        seen[query.id] = number
        queries.append(query)
    if not queries:
        raise InputError(f"{path} holds no query below its header.")
    return queries


def read_qrels(path: Path) -> Qrels:
    """Judgments by query. Raises InputError naming file, line and value.

    A negative grade, which TREC uses for junk, becomes 0. The same judgment twice counts once.
    """
    lines = _lines(path, MAX_JUDGMENTS)
    number, first = next(lines, (1, ""))
    fields = first.split()
    trec = len(fields) == 4 and _whole(fields[3]) is not None
    if trec:
        names = ["query_id", "iteration", "product_id", "grade"]
        lines = chain([(number, first)], lines)
    else:
        names = _header(path, number, first, ("query_id", "product_id", "grade"))
    qrels: Qrels = {}
    for number, line in lines:
        row = _row(path, number, line, names, trec)
        query, product, grade = row["query_id"], row["product_id"], _grade(path, number, row["grade"])
        if not query or not product:
            raise InputError(f"{path}, line {number}: query_id or product_id is empty: {line[:80]!r}.")
        known = qrels.setdefault(query, {}).setdefault(product, grade)
        if known != grade:
            raise InputError(
                f"{path}, line {number}: product {product!r} has grade {grade} for query {query!r}, "
                f"and {known} on an earlier line. Keep one of them."
            )
    if not qrels:
        raise InputError(f"{path} holds no judgment.")
    return qrels


def of_split(queries: Sequence[Query], split: str, path: Path) -> list[Query]:
    """The queries whose `split` column says so. Raises InputError naming the splits there are."""
    chosen = [query for query in queries if query.columns.get("split") == split]
    if chosen:
        return chosen
    there = sorted({query.columns["split"] for query in queries if query.columns.get("split")})
    said = f"it has {', '.join(map(repr, there))}" if there else "it has no column `split`"
    raise InputError(f"{path} has no query of the split {split!r}; {said}.")


def write_run(path: Path, rankings: Mapping[str, Sequence[str]], tag: str) -> None:
    """A TREC run: query id, Q0, product id, rank, score, tag.

    trec_eval orders by score and not by rank, and would break ties its own way, so the score counts down from the
    list's length and says nothing else. White space in an id becomes `_`.
    """
    with path.open("w", encoding="utf-8") as file:
        for query, products in rankings.items():
            for at, product in enumerate(products):
                file.write(f"{_word(query)} Q0 {_word(product)} {at + 1} {len(products) - at} {tag}\n")


def some(ids: Sequence[str]) -> str:
    """The first few ids, for a message."""
    return ", ".join(ids[:5]) + (", …" if len(ids) > 5 else "")


def _word(text: str) -> str:
    return re.sub(r"\s", "_", text)


def _lines(path: Path, most: int) -> Iterator[tuple[int, str]]:
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


def _header(path: Path, number: int, line: str, needed: Sequence[str]) -> list[str]:
    names = [name.strip() for name in line.split("\t")]
    missing = [name for name in needed if name not in names]
    if missing:
        raise InputError(
            f"{path}, line {number}: the header {line[:80]!r} has no {' and no '.join(missing)}. "
            f"It must name {', '.join(needed)}, separated by tabs."
        )
    return names


def _row(path: Path, number: int, line: str, names: Sequence[str], trec: bool = False) -> dict[str, str]:
    values = line.split() if trec and "\t" not in line else line.split("\t")
    if len(values) != len(names):
        raise InputError(f"{path}, line {number} has {len(values)} columns and not {len(names)}: {line[:80]!r}.")
    return {name: _unquoted(value.strip()) for name, value in zip(names, values, strict=True)}


def _unquoted(value: str) -> str:
    """A quote in a TSV file is a quote (24" monitor), except as CSV writers put it ("24"" monitor")."""
    inner = value[1:-1]
    quoted = value[:1] == '"' == value[-1:] and '""' in inner and '"' not in inner.replace('""', "")
    return inner.replace('""', '"') if quoted else value


def _grade(path: Path, number: int, value: str) -> int:
    grade = _whole(value)
    if grade is None or grade > MAX_GRADE:
        raise InputError(f"{path}, line {number}: grade is {value!r}; it must be a whole number, 0 to {MAX_GRADE}.")
    return max(grade, 0)


def _whole(value: str) -> int | None:
    return int(value.removesuffix(".0")) if re.fullmatch(r"-?[0-9]{1,9}(\.0)?", value) else None
