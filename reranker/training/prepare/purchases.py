"""Positives from purchases that know their query; products bought together from baskets."""

from __future__ import annotations

import csv
import itertools
import math
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import msgspec

from indexer.errors import InputError
from indexer.lines import whole_lines
from reranker.training.prepare.collection import PURCHASES, Collection, Evidence, place

PURCHASE_GRADE = 3
MAX_BASKET = 100  # products; a bigger basket is a business buying, and would add thousands of pairs
MIN_TOGETHER = 2  # baskets
_PRODUCT = ("product_id", "product", "asin", "sku")
_BASKET = ("basket_id", "order_id", "basket", "order", "transaction_id")
_NO_BASKET = -1


class Together(msgspec.Struct, frozen=True):
    """Two products in the same baskets: how many, and how many times more than by chance."""

    a: str
    b: str
    count: int
    lift: float


class Summary(msgspec.Struct):
    """What the report says of purchases."""

    positives: int = 0
    baskets: int = 0
    together: list[Together] = []


def add_purchases(collection: Collection, path: Path) -> Summary:
    """Read a CSV or TSV file with a header: product_id, quantity if there is one, and query or basket_id, or both.

    A purchase after a query makes the product an exact answer; how sure that is grows with the number of purchases, n:
    n / (n + 1). A quantity counts once, whatever it is (a hundred batteries are one buyer's opinion), but it must be
    above 0: the rest are returns. Raises InputError when columns are missing.
    """
    ledger, counted = collection.ledger, place("purchases", path)
    bought: dict[str, Counter[str]] = {}
    baskets: dict[str, list[str]] = {}
    rows = _rows(path)
    _, names = next(rows, (1, []))
    product_at, basket_at, query_at, quantity_at = (
        _column(names, wanted) for wanted in (_PRODUCT, _BASKET, ("query", "user_query"), ("quantity",))
    )
    if product_at < 0 or (basket_at < 0 and query_at < 0):
        raise InputError(
            f"{path}: the header {names} needs product_id, and query or basket_id. Rename the columns of the file."
        )
    for number, row in rows:
        ledger.read(counted)
        if len(row) != len(names):
            ledger.rejected(counted, number, f"{len(row)} columns and not {len(names)}", row)
            continue
        product = row[product_at].strip()
        whole = not re.search(r"[\t\r\n]", product)  # as it must be in pairs.tsv
        query = " ".join(row[query_at].split()) if query_at >= 0 else ""
        basket = row[basket_at].strip() if basket_at >= 0 else ""
        if not product or not whole or not (query or basket):
            ledger.rejected(
                counted, number, "product_id is empty or holds a tab, or query and basket are both empty", row
            )
        elif quantity_at >= 0 and not _positive(row[quantity_at]):
            ledger.rejected(counted, number, "quantity is not above 0", row[quantity_at])
        elif query:
            key = collection.add_query(query, PURCHASES)
            products = bought.setdefault(key, Counter())
            if products[product]:
                ledger.merged(counted)
            products[product] += 1
            if basket:
                _into(baskets, basket, product)
        elif _into(baskets, basket, product):
            ledger.used(counted)
        else:
            ledger.merged(counted)
    summary = Summary(baskets=len(baskets), together=_together(baskets))
    for key, products in bought.items():
        for product, times in products.items():
            evidence = Evidence(PURCHASES, PURCHASE_GRADE, round(times / (times + 1), 4), counted)
            collection.add(key, product, evidence)
            summary.positives += 1
    return summary


def write_pairs(path: Path, together: list[Together]) -> None:
    """`pairs.tsv`: product_a, product_b, count, lift."""
    with path.open("w", encoding="utf-8") as file:
        file.write("product_a\tproduct_b\tcount\tlift\n")
        file.writelines(f"{pair.a}\t{pair.b}\t{pair.count}\t{pair.lift:.4f}\n" for pair in together)


def _into(baskets: dict[str, list[str]], basket: str, product: str) -> bool:
    """Whether the product is new in its basket."""
    products = baskets.setdefault(basket, [])
    if product in products:
        return False
    products.append(product)
    return True


def _together(baskets: dict[str, list[str]]) -> list[Together]:
    """Pairs of products in at least two baskets, the most frequent first. Only what is frequent itself can be."""
    single = Counter(product for products in baskets.values() for product in products)
    pairs: Counter[tuple[str, str]] = Counter()
    for products in baskets.values():
        frequent = sorted(product for product in products if single[product] >= MIN_TOGETHER)
        if len(products) <= MAX_BASKET:
            pairs.update(itertools.combinations(frequent, 2))
    found = [
        Together(a, b, count, round(count * len(baskets) / (single[a] * single[b]), 4))
        for (a, b), count in pairs.items()
        if count >= MIN_TOGETHER
    ]
    return sorted(found, key=lambda pair: (-pair.count, -pair.lift, pair.a, pair.b))


def _column(names: list[str], wanted: tuple[str, ...]) -> int:
    return next((names.index(name) for name in wanted if name in names), -1)


def _positive(value: str) -> bool:
    try:
        number = float(value)
    except ValueError:
        return False
    return math.isfinite(number) and number > 0


def _rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Line number and fields, the header first; tabs separate where the header has one."""
    try:
        lines = whole_lines(path)
        header = next(lines, "")
        delimiter = "\t" if "\t" in header else ","
        yield 1, [name.strip().casefold() for name in next(csv.reader([header], delimiter=delimiter), [])]
        reader = csv.reader(lines, delimiter=delimiter)
        for row in reader:
            if row:
                yield reader.line_num + 1, row
    except csv.Error as error:
        raise InputError(f"{path} cannot be read as a CSV file: {error}.") from error
