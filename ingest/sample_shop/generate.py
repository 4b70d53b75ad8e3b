"""Write the sample shop's files from its sources: `python -m ingest.sample_shop.generate`.

catalog.csv and catalog.toml are what a shop would hand over: an export with its own column names, and the mapping
for it. queries.tsv and qrels.tsv are the judged queries. The same sources always give the same bytes.
"""

from __future__ import annotations

import csv
import hashlib
import io
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import click

from ingest.sample_shop.catalogue import FOLDER, Product, product_types, products
from ingest.sample_shop.judging import EXACT, IRRELEVANT, grade, near_misses, queries
from ingest.sample_shop.messy import MessyRow, kept_products, messy_rows

COLUMNS = (
    "item_no",
    "headline",
    "body",
    "point_1",
    "point_2",
    "point_3",
    "maker",
    "shade",
    "section",
    "unit_price",
    "ccy",
    "stars",
    "reviews",
    "lang",
    "size_label",
    "bin",
)

MAPPING = """\
# The sample shop's export: which of its columns is which product field. `bin` is the shop's own business.

[columns]
id = "item_no"
title = "headline"
description = "body"
bullets = ["point_1", "point_2", "point_3"]
brand = "maker"
color = "shade"
category = "section"
price = "unit_price"
currency = "ccy"
rating = "stars"
rating_count = "reviews"
language = "lang"
attributes = ["size_label"]

[values]
category_separator = ">"
rating_scale = 5

[file]
format = "csv"
encoding = "utf-8"
"""


def files() -> dict[str, bytes]:
    """Every generated file by name."""
    return {
        "catalog.csv": _catalogue(),
        "catalog.toml": MAPPING.encode(),
        "queries.tsv": _table(
            ("query_id", "query", "language", "source", "split"),
            ((q.id, q.text, q.language, q.kind, q.split) for q in queries()),
        ),
        "qrels.tsv": _table(("query_id", "product_id", "grade"), judgments()),
    }


def judgments() -> list[tuple[str, str, int]]:
    """Every product with a grade above 0 for every query, and each query's most tempting irrelevant ones."""
    clean = products()
    judged = clean + kept_products(clean)
    found: list[tuple[str, str, int]] = []
    for query in queries():
        graded = [(query.id, product.id, grade(query, product)) for product in judged]
        relevant = [line for line in graded if line[2] > IRRELEVANT]
        relevant.sort(key=lambda line: (EXACT - line[2], line[1]))
        found += relevant
        found += [(query.id, product.id, IRRELEVANT) for product in near_misses(query, judged)]
    return found


def write(folder: Path) -> list[Path]:
    """Write all files into a folder and return their paths."""
    written = []
    for name, content in files().items():
        path = folder / name
        path.write_bytes(content)
        written.append(path)
    return written


def _catalogue() -> bytes:
    rows = {product.id: _row(product) for product in products()}
    wrong = [(_wrong_row(row, rows), row) for row in messy_rows()]
    # A shop's export is in nobody's order; copies come after what they copy, as they do when a listing is repeated.
    mixed = list(rows.values()) + [row for row, source in wrong if not source.copy_of]
    mixed.sort(key=lambda row: hashlib.sha256(f"{row['item_no']}{row['headline']}".encode()).digest())
    mixed += [row for row, source in wrong if source.copy_of]
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(mixed)
    return text.getvalue().encode()


def _row(product: Product) -> dict[str, str]:
    points = [*product.bullets, "", "", ""]
    return {
        "item_no": product.id,
        "headline": product.title,
        "body": product.text,
        "point_1": points[0],
        "point_2": points[1],
        "point_3": points[2],
        "maker": product.brand,
        "shade": product.colour,
        "section": product.category,
        "unit_price": product.price,
        "ccy": product.currency,
        "stars": product.rating,
        "reviews": product.reviews,
        "lang": "" if product.lang == "both" else product.lang,
        "size_label": product.size,
        "bin": _bin(product.id),
    }


def _wrong_row(row: MessyRow, clean: dict[str, dict[str, str]]) -> dict[str, str]:
    base = dict(clean[row.copy_of]) if row.copy_of else dict.fromkeys(COLUMNS, "") | {"lang": row.lang}
    if row.type:
        kind = product_types()[row.type]
        base["section"] = kind.en if row.lang == "en" else kind.zh
    return base | {"item_no": row.item_no, "bin": _bin(row.item_no)} | row.columns


def _bin(product_id: str) -> str:
    drawn = hashlib.sha256(f"bin {product_id}".encode()).digest()
    return f"{'ABCDEFGH'[drawn[0] % 8]}{drawn[1] % 40 + 1:02d}"


def _table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> bytes:
    lines = ["\t".join(header), *("\t".join(str(value) for value in row) for row in rows)]
    return ("\n".join(lines) + "\n").encode()


@click.command()
@click.option("--folder", type=click.Path(file_okay=False, exists=True, path_type=Path), default=FOLDER)
def main(folder: Path) -> None:
    """Write catalog.csv, catalog.toml, queries.tsv and qrels.tsv."""
    for path in write(folder):
        click.echo(f"{path.stat().st_size:>8} {path}", err=True)


if __name__ == "__main__":
    sys.exit(main())
