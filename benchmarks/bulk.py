"""Does it pay to have several bulk requests in flight? Documents a second by their number and by documents a request.

    python benchmarks/bulk.py --products products.jsonl --mapping esci --limit 3000

Real products with token ids of the shipped reranker; their vectors are random directions, for nobody searches them and
making them is not what is measured. Every run writes all documents into an index made anew on the node that the
settings name, as a reindex does: no refresh, no copies, from one request at once up to the number that is allowed.
Runs of all choices take turns, so that a busy moment of the machine does not fall on one of them. `--delay-ms` holds
every request back for so long, as a cluster that is far away would.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray
from opensearchpy import OpenSearch

from indexer import client as clusters
from indexer import mappings
from indexer import settings as config
from indexer.bulk import BulkWriter, Document
from indexer.flights import Flights
from indexer.settings import Index
from ingest.documents import Maker
from ingest.products import Products
from ingest.report import DeadLetters, Report
from ingest.schema import load_mapping
from ingest.sources import open_catalogue
from reranker import bundle as bundles
from reranker.tokens import ProductTokens

NAME = "benchmark-bulk"
DIMENSION = 384


class Anywhere:
    """Random directions in place of an encoder."""

    bundle_id, dimension, fields = "random", DIMENSION, frozenset[str]()

    def embed_products(self, products: Sequence[Mapping[str, Any]]) -> NDArray[np.float32]:
        vectors = np.random.default_rng(7).standard_normal((len(products), DIMENSION), np.float32)
        return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), np.float32)


def made(path: Path, mapping: str, limit: int) -> list[Document]:
    """The documents of a catalogue's first products."""
    maker = Maker(Anywhere(), ProductTokens(bundles.load("", "reranker")))
    catalogue = open_catalogue(path, load_mapping(mapping))
    with DeadLetters(Path("/dev/null")) as letters:
        entries = list(Products(catalogue, Report(), limit=limit).entries(letters))
    return maker.documents(entries)


class Far:
    """A cluster whose answers to bulk requests take so many seconds longer."""

    def __init__(self, client: OpenSearch, delay: float) -> None:
        self._client, self._delay = client, delay

    def bulk(self, body: bytes) -> Any:
        time.sleep(self._delay)
        return self._client.bulk(body=body)


def write(
    client: OpenSearch, documents: list[Document], settings: Index, flights: int, size: int, delay: float
) -> float:
    """Write all into a new index with up to so many requests in flight; returns documents a second."""
    client.indices.delete(index=NAME, params={"ignore_unavailable": "true"})
    body = mappings.index_body(settings, mappings.made(settings, "benchmark", DIMENSION))
    body["settings"]["index"] |= {"refresh_interval": "-1"}
    client.indices.create(index=NAME, body=body)
    far: Any = Far(client, delay)
    writer = BulkWriter(far, NAME, max_documents=size, max_bytes=50_000_000, max_requests=flights)
    started = time.perf_counter()
    with Flights(writer) as out:
        for at in range(0, len(documents), size):
            out.send(documents[at : at + size], lambda outcome: None)
    took = time.perf_counter() - started
    client.indices.refresh(index=NAME, request_timeout=600)
    assert client.count(index=NAME)["count"] == len(documents)
    return len(documents) / took


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--products", type=Path, required=True)
    parser.add_argument("--mapping", default="esci")
    parser.add_argument("--limit", type=int, default=3000)
    parser.add_argument("--in-flight", default="1,2,3")
    parser.add_argument("--documents", default="128,500", help="documents a request")
    parser.add_argument("--shards", default="1,3")
    parser.add_argument("--delay-ms", type=float, default=0.0)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    client = clusters.connect(config.load())
    documents = made(options.products, options.mapping, options.limit)
    size = sum(len(each.source) for each in documents)
    print(f"{len(documents):,} documents, {size / 1e6:.0f} MB\n")
    choices = list(
        product(*(list(map(int, text.split(","))) for text in (options.shards, options.documents, options.in_flight)))
    )
    rates: dict[tuple[int, ...], list[float]] = {choice: [] for choice in choices}
    try:
        write(client, documents, Index(), 1, 500, 0.0)  # the node warms up
        for _ in range(options.repeats):
            for shards, size, flights in choices:
                got = write(client, documents, Index(shards=shards), flights, size, options.delay_ms / 1000)
                rates[shards, size, flights].append(got)
    finally:
        client.indices.delete(index=NAME, params={"ignore_unavailable": "true"})
    print("| shards | documents a request | in flight | documents/s, median | lowest | highest |")
    print("|---|---|---|---|---|---|")
    for (shards, size, flights), found in rates.items():
        told = f"{median(found):,.0f} | {min(found):,.0f} | {max(found):,.0f}"
        print(f"| {shards} | {size} | {flights} | {told} |", flush=True)


if __name__ == "__main__":
    main()
