"""What cutting the encoder's vocabulary costs: the same vectors with the whole vocabulary and with the cut one.

    SHELFRANK_DATA=data python benchmarks/vocabulary.py --whole runs/whole --cut reranker/bundles/encoder

`--whole` is made by `shelfrank train encoder --whole-vocabulary --out runs/whole`. Prints nDCG@10 of exact vector
search, and the cosine between the two vectors of the same product, on ESCI (English) where SHELFRANK_DATA holds it, on
the sample shop (English and Chinese), and on review texts that neither vocabulary was cut for.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray
from rich.table import Table

from indexer.settings import Models
from indexer.terminal import out
from ingest.clean import Cleaned, clean
from ingest.schema import load_mapping
from ingest.sources import Row, open_catalogue
from reranker.encoder import Encoder
from reranker.evaluation.compare import ESCI_GAINS, difference, measure, parse_gains
from reranker.evaluation.judgments import read_qrels, read_queries

SHOP = Path(__file__).parent.parent / "ingest" / "sample_shop"
_FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)


@click.command()
@click.option("--whole", type=_FOLDER, required=True)
@click.option("--cut", type=_FOLDER, required=True)
@click.option("--data", envvar="SHELFRANK_DATA", type=click.Path(path_type=Path))
@click.option("--limit", type=int, help="Products of ESCI, for a quick look.")
def main(whole: Path, cut: Path, data: Path | None, limit: int | None) -> None:
    """Compare two encoders that differ in their vocabulary."""
    encoders = [Encoder.load(Models(encoder=str(folder))) for folder in (whole, cut)]
    table = Table("on", "texts", "whole", "cut", "difference (95 %)", "cosine, mean", "lowest")
    shops = [("sample shop", SHOP / "catalog.csv", str(SHOP / "catalog.toml"), SHOP)]
    if data and (data / "esci").is_dir():
        shops.insert(0, ("ESCI", data / "esci" / "products.jsonl", "esci", data / "esci"))
    for name, file, mapping, judged in shops:
        products = list(_products(file, mapping))[:limit]
        table.add_row(name, str(len(products)), *_searched(encoders, products, judged))
    for name, file in (("reviews, en", "reviews-en/reviews.csv"), ("reviews, zh", "reviews-zh/pos.txt")):
        if data and (data / file).is_file():
            texts = [{"title": text} for text in _texts(data / file)][:500]
            left, right = (encoder.embed_products(texts) for encoder in encoders)
            table.add_row(name, str(len(texts)), "", "", "", *_cosines(left, right))
    out.print(table)


def _searched(encoders: Sequence[Encoder], products: Sequence[Mapping[str, Any]], judged: Path) -> list[str]:
    queries, qrels = read_queries(judged / "queries.tsv"), read_qrels(judged / "qrels.tsv")
    ids = np.array([product["id"] for product in products])
    vectors = [encoder.embed_products(products) for encoder in encoders]
    found = []
    for encoder, rows in zip(encoders, vectors, strict=True):
        scores = encoder.embed_queries([query.text for query in queries]) @ rows.T
        best = np.argsort(-scores, axis=1, kind="stable")[:, :100]
        rankings = {query.id: ids[best[at]].tolist() for at, query in enumerate(queries) if query.id in qrels}
        found.append(measure(rankings, qrels, parse_gains(ESCI_GAINS)))
    whole, cut = (float(np.mean([row["ndcg@10"] for row in values.values()])) for values in found)
    change = difference(found[1], found[0])
    return [
        f"{whole:.4f}",
        f"{cut:.4f}",
        f"{change.mean:+.4f} ({change.low:+.4f} to {change.high:+.4f})",
        *_cosines(*vectors),
    ]


def _cosines(left: NDArray[np.float32], right: NDArray[np.float32]) -> tuple[str, str]:
    cosines = (left * right).sum(axis=1)
    return f"{cosines.mean():.4f}", f"{cosines.min():.4f}"


def _products(file: Path, mapping: str) -> Iterator[dict[str, Any]]:
    catalogue = open_catalogue(file, load_mapping(mapping))
    seen: set[str] = set()
    for row in catalogue.rows():
        if isinstance(row, Row):
            found = clean(row, catalogue.mapping)
            if isinstance(found, Cleaned) and found.product["id"] not in seen:
                seen.add(found.product["id"])
                yield found.product


def _texts(file: Path) -> Iterator[str]:
    with file.open(encoding="utf-8", errors="replace", newline="") as lines:
        if file.suffix == ".csv":
            yield from (row["text"] for row in csv.DictReader(lines) if row["text"])
        else:
            yield from (line.strip() for line in lines if line.strip())


if __name__ == "__main__":
    main()
