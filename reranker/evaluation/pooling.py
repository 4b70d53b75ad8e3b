"""Pools to judge: each query's likely products in a random order, as text that a person or a language model grades.

A pool holds the best first-stage hits, where most of what is right lies, and some drawn from farther down, so that a
model meets what only looks right. The order is random, so that the first stage's own order persuades nobody.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from indexer.errors import InputError
from reranker.evaluation.judgments import MAX_GRADE, Qrels, Query
from reranker.evaluation.lines import some
from reranker.search import Searcher
from reranker.text import field_text

FILE = "pools.jsonl"
DEEP = 60  # sampled products come from the first stage's hits down to this rank
_TITLE = 150
_DETAIL = 40
_GRADED = re.compile(r"^(?P<query>.+?)\s*:\s*(?P<grades>[\d\s,]*)$")

SCALE = """# Grade each product for its query, one line a query:
#   QUERY_ID: 3 0 2 1 …        a grade for each product, in the order listed
# 3 exact       what the query asks for, with all that it specifies
# 2 substitute  the right kind of thing that misses something: another brand, size, colour, or what was excluded
# 1 complement  not it, but used together with it: a case, a refill, a spare part
# 0 irrelevant  anything else
# Each product stands by itself; the order means nothing.
"""


class Pool(msgspec.Struct, frozen=True):
    """One query with the products to judge, in the order in which they are shown."""

    query_id: str
    query: str
    products: tuple[str, ...]


def make_pool(searcher: Searcher, index: str, query: Query, top: int, sampled: int, seed: int) -> Pool:
    """The `top` best hits of the hybrid first stage and `sampled` from below them, shuffled by seed and query."""
    page = searcher.search(index, query.text, mode="hybrid", size=max(top, DEEP), rerank=False, fields=["id"])
    ids = [hit.id for hit in page.hits]
    drawn = random.Random(f"{seed}/{query.id}")  # noqa: S311 - an order, not a secret
    below = ids[top:]
    chosen = ids[:top] + drawn.sample(below, min(sampled, len(below)))
    drawn.shuffle(chosen)
    return Pool(query.id, query.text, tuple(chosen))


def write_pools(
    folder: Path, pools: Sequence[Pool], product: Callable[[str], Mapping[str, Any]], per_file: int
) -> list[Path]:
    """Write `pools.jsonl` and, `per_file` queries each, the texts `pool-01.txt` and so on that are to be graded."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / FILE).write_bytes(b"".join(msgspec.json.encode(pool) + b"\n" for pool in pools))
    files = []
    for number, start in enumerate(range(0, len(pools), per_file), start=1):
        file = folder / f"pool-{number:02d}.txt"
        parts = [SCALE]
        for pool in pools[start : start + per_file]:
            parts.append(f"\n## {pool.query_id}: {_line(pool.query)} ({len(pool.products)} products)\n")
            parts += [f"{at}. {shown(product(key))}\n" for at, key in enumerate(pool.products, start=1)]
        file.write_text("".join(parts), "utf-8")
        files.append(file)
    return files


def shown(product: Mapping[str, Any]) -> str:
    """A product in one line: title, and brand, colour and price where the title does not say them."""
    title = _line(field_text(product.get("title")))[:_TITLE]
    details = []
    for name in ("brand", "color"):
        text = _line(field_text(product.get(name)))[:_DETAIL]
        if text and text.casefold() not in title.casefold():
            details.append(f"{name} {text}")
    if product.get("price") is not None:
        details.append(f"price {product['price']} {product.get('currency') or ''}".strip())
    return f"{title} [{'; '.join(details)}]" if details else title


def read_pools(folder: Path) -> list[Pool]:
    """What `write_pools` wrote. Raises InputError when it is not there or broken."""
    try:
        lines = (folder / FILE).read_bytes().splitlines()
        return [msgspec.json.decode(line, type=Pool) for line in lines if line]
    except FileNotFoundError as error:
        raise InputError(f"{folder} holds no {FILE}. Make it with `shelfrank judgments pool`.") from error
    except msgspec.DecodeError as error:
        raise InputError(
            f"{folder / FILE} is broken: {error}. Make it again with `shelfrank judgments pool`."
        ) from error


def read_grades(folder: Path, pools: Sequence[Pool]) -> Qrels:
    """Judgments from the `grades-*.txt` beside the pools: lines of a query id, a colon and its grades.

    Queries that nobody has graded yet are left out. Raises InputError that names file, line and value.
    """
    by_id = {pool.query_id: pool for pool in pools}
    found: Qrels = {}
    for file in sorted(folder.glob("grades-*.txt")):
        for number, line in enumerate(file.read_text("utf-8").splitlines(), start=1):
            if line.strip() and not line.startswith("#"):
                pool, grades = _graded(line.strip(), by_id, f"{file}, line {number}")
                if pool.query_id in found:
                    raise InputError(
                        f"{file}, line {number}: {pool.query_id} is graded twice. Remove one of the lines."
                    )
                found[pool.query_id] = dict(zip(pool.products, grades, strict=True))
    if not found:
        raise InputError(f"{folder} holds no grades. Write grades-01.txt for pool-01.txt, and so on.")
    return found


def _graded(line: str, pools: Mapping[str, Pool], place: str) -> tuple[Pool, list[int]]:
    match = _GRADED.match(line)
    if match is None:
        raise InputError(f"{place}: {line[:60]!r} is not `QUERY_ID: 3 0 2 …`.")
    if match["query"] not in pools:
        raise InputError(f"{place}: there is no query {match['query']!r} in the pools ({some(list(pools))}).")
    pool, grades = pools[match["query"]], [int(grade) for grade in re.findall(r"\d+", match["grades"])]
    if len(grades) != len(pool.products):
        raise InputError(f"{place}: {len(grades)} grades for the {len(pool.products)} products of {pool.query_id}.")
    if bad := [grade for grade in grades if grade > MAX_GRADE]:
        raise InputError(f"{place}: the grade {bad[0]} is above {MAX_GRADE}. Separate grades by spaces.")
    return pool, grades


def _line(text: str) -> str:
    return " ".join(text.split())
