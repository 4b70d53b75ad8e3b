"""Queries, judgments and runs, in the formats that evaluation tools share.

Queries are TSV with a header: `query_id`, `query` and any further columns. Judgments (qrels) are TSV with a header:
`query_id`, `product_id`, `grade` and any further columns, or TREC's four columns without one. Both may also be JSON of
OpenSearch's Search Relevance Workbench; the content tells. Runs are TREC's six columns.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path

import msgspec
import numpy as np

from indexer.errors import InputError
from reranker.evaluation import workbench
from reranker.evaluation.lines import header, lines, row, word
from reranker.evaluation.lines import some as some

MAX_QUERIES = 100_000
MAX_JUDGMENTS = 10_000_000
MAX_GRADE = 100
_TREC_RUN = ("query_id", "iteration", "product_id", "rank", "score", "tag")

Qrels = dict[str, dict[str, int]]
"""Query id -> product id -> grade."""


class Query(msgspec.Struct, frozen=True):
    """One query; `columns` holds what else its line says (language, split, source)."""

    id: str
    text: str
    columns: dict[str, str] = {}


def read_queries(path: Path) -> list[Query]:
    """Queries in the file's order. Raises InputError naming file, line and value."""
    queries: list[Query] = []
    seen: dict[str, str] = {}
    for place, values in _query_rows(path):
        query = Query(values.pop("query_id"), values.pop("query"), values)
        if not query.id or not query.text:
            missing = "query" if query.id else "query_id"
            raise InputError(f"{path}, {place}: {missing} is empty. Fill it in or remove the line.")
        if query.id in seen:
            raise InputError(f"{path}, {place}: query_id {query.id!r} is already on {seen[query.id]}.")
        seen[query.id] = place
        queries.append(query)
    if not queries:
        raise InputError(f"{path} holds no query below its header.")
    return queries


def _query_rows(path: Path) -> Iterator[tuple[str, dict[str, str]]]:
    if workbench.is_json(path):
        for at, values in enumerate(workbench.queries_in(path), start=1):
            yield f"query {at}", values
        return
    read = lines(path, MAX_QUERIES)
    number, first = next(read, (1, ""))
    names = header(path, number, first, ("query_id", "query"))
    for number, line in read:
        yield f"line {number}", row(path, number, line, names)


def read_qrels(path: Path, queries: Iterable[Query] = ()) -> Qrels:
    """Judgments by query. Raises InputError naming file, line and value.

    A negative grade, which TREC uses for junk, becomes 0. The same judgment twice counts once. A judgment list of the
    workbench knows queries by text: those among `queries` go by their ids, others by the text itself.
    """
    ids: dict[str, list[str]] = {}
    if by_text := workbench.is_json(path):
        for each in queries:
            ids.setdefault(each.text, []).append(each.id)
    qrels: Qrels = {}
    for place, query, product, value in _ratings(path) if by_text else _judgments(path):
        if not query or not product:
            raise InputError(f"{path}, {place}: query_id or product_id is empty.")
        grade = _grade(path, place, value)
        for key in ids.get(query, [query]):
            known = qrels.setdefault(key, {}).setdefault(product, grade)
            if known != grade:
                raise InputError(
                    f"{path}, {place}: product {product!r} has grade {grade} for query {query!r}, "
                    f"and {known} on an earlier line. Keep one of them."
                )
    if not qrels:
        raise InputError(f"{path} holds no judgment.")
    return qrels


def _ratings(path: Path) -> Iterator[tuple[str, str, str, str]]:
    for query, product, value in workbench.ratings_in(path):
        yield f"query {query!r}, product {product!r}", query, product, value


def _judgments(path: Path) -> Iterator[tuple[str, str, str, str]]:
    read = lines(path, MAX_JUDGMENTS)
    number, first = next(read, (1, ""))
    fields = first.split()
    trec = len(fields) == 4 and _whole(fields[3]) is not None
    if trec:
        names = ["query_id", "iteration", "product_id", "grade"]
        read = chain([(number, first)], read)
    else:
        names = header(path, number, first, ("query_id", "product_id", "grade"))
    for number, line in read:
        values = row(path, number, line, names, trec)
        yield f"line {number}", values["query_id"], values["product_id"], values["grade"]


def write_queries(path: Path, queries: Sequence[Query]) -> None:
    """Queries as TSV: every column that a query has."""
    columns = list(dict.fromkeys(name for query in queries for name in query.columns))
    rows = ([query.id, query.text, *(query.columns.get(name, "") for name in columns)] for query in queries)
    _write_rows(path, [["query_id", "query", *columns], *rows])


def write_qrels(path: Path, qrels: Qrels) -> None:
    """Judgments as TSV with a header."""
    rows = ([query, product, str(grade)] for query, each in qrels.items() for product, grade in each.items())
    _write_rows(path, chain([["query_id", "product_id", "grade"]], rows))


def write_trec_qrels(path: Path, qrels: Qrels) -> None:
    """Judgments as TREC's four columns: query id, 0, product id, grade. White space in an id becomes `_`."""
    with path.open("w", encoding="utf-8") as file:
        for query, each in qrels.items():
            file.writelines(f"{word(query)} 0 {word(product)} {grade}\n" for product, grade in each.items())


def _write_rows(path: Path, rows: Iterable[Sequence[str]]) -> None:
    """A tab or a line break within a value would be read as the end of it, so it becomes a space."""
    with path.open("w", encoding="utf-8") as file:
        file.writelines("\t".join(" ".join(re.split(r"[\t\r\n]+", value)) for value in row) + "\n" for row in rows)


def of_split(queries: Sequence[Query], split: str, path: Path) -> list[Query]:
    """The queries whose `split` column says so. Raises InputError naming the splits there are."""
    chosen = [query for query in queries if query.columns.get("split") == split]
    if chosen:
        return chosen
    there = sorted({query.columns["split"] for query in queries if query.columns.get("split")})
    said = f"it has {', '.join(map(repr, there))}" if there else "it has no column `split`"
    raise InputError(f"{path} has no query of the split {split!r}; {said}.")


def read_run(path: Path) -> dict[str, list[str]]:
    """A TREC run: query id -> product ids, best first.

    The order is trec_eval's: by score, as a single-precision number, and equal scores by product id from the last to
    the first. The rank column says nothing. Raises InputError naming file, line and value.
    """
    scores: dict[str, dict[str, float]] = {}
    for number, line in lines(path, MAX_JUDGMENTS):
        values = row(path, number, line, _TREC_RUN, trec=True)
        query, product = values["query_id"], values["product_id"]
        try:
            score = float(np.float32(values["score"]))
        except ValueError:
            score = math.nan
        if not math.isfinite(score):
            raise InputError(f"{path}, line {number}: the score is {values['score']!r}; it must be a finite number.")
        if product in scores.setdefault(query, {}):
            raise InputError(f"{path}, line {number}: product {product!r} is in the list of {query!r} a second time.")
        scores[query][product] = score
    if not scores:
        raise InputError(f"{path} holds no line of a run (query id, Q0, product id, rank, score, tag).")
    return {
        query: sorted(each, key=lambda product: (each[product], product), reverse=True)
        for query, each in scores.items()
    }


def write_run(path: Path, rankings: Mapping[str, Sequence[str]], tag: str) -> None:
    """A TREC run: query id, Q0, product id, rank, score, tag.

    trec_eval orders by score and not by rank, and would break ties its own way, so the score counts down from the
    list's length and says nothing else. White space in an id becomes `_`.
    """
    with path.open("w", encoding="utf-8") as file:
        for query, products in rankings.items():
            for at, product in enumerate(products):
                file.write(f"{word(query)} Q0 {word(product)} {at + 1} {len(products) - at} {tag}\n")


def _grade(path: Path, place: str, value: str) -> int:
    grade = _whole(value)
    if grade is None or grade > MAX_GRADE:
        raise InputError(f"{path}, {place}: grade is {value!r}; it must be a whole number, 0 to {MAX_GRADE}.")
    return max(grade, 0)


def _whole(value: str) -> int | None:
    return int(value.partition(".")[0]) if re.fullmatch(r"-?[0-9]{1,9}(\.0*)?", value) else None
