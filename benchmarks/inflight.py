"""Do several bulk requests in flight beat one? Documents a second by number of writers and bytes a request.

    python benchmarks/inflight.py --products products.jsonl --documents 20000 --writers 1,2,3

Every round fills one new index for each row, the rows in turn, so that a machine that slows down slows all of them;
the table holds medians over rounds. Each writer is a thread with a BulkWriter of its own; they take batches of the same
run of products. Made: documents are made (token ids, hash, JSON) as a reindex makes them, while requests are in flight.
Ready: they lie ready, so that only the node works.
"""

from __future__ import annotations

import itertools
import shutil
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import click
import numpy as np
from opensearchpy import OpenSearch
from synthetic import Catalogue, KnownVectors, known_vectors, real_products

from indexer import client as clusters
from indexer import mappings, node
from indexer.bulk import BulkWriter, Document
from indexer.settings import Cluster, Index, Settings, load
from ingest.documents import Entry, Maker
from reranker.encoder import Encoder
from reranker.scoring import CrossEncoder

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
_FOLDER = click.Path(file_okay=False, path_type=Path)


def fill(client: OpenSearch, body: dict[str, Any], batches: Iterator[list[Document]], writers: int) -> float:
    """Seconds that a new index takes to hold all documents, refreshed."""
    name = "in-flight"
    client.indices.create(index=name, body=body)
    lock = threading.Lock()

    def work(_: int) -> None:
        writer = BulkWriter(client, name, max_bytes=10_000_000)
        while True:
            with lock:
                batch = next(batches, None)
            if batch is None:
                return
            refused = writer.write(batch).refused
            if refused:
                raise click.ClickException(f"refused: {refused[0]}")

    started = time.perf_counter()
    with ThreadPoolExecutor(writers) as pool:
        list(pool.map(work, range(writers)))
    client.indices.refresh(index=name, request_timeout=600)
    seconds = time.perf_counter() - started
    client.indices.delete(index=name)
    return seconds


@click.command(help=__doc__.replace("\n\n    python", "\n\n\b\n    python"))
@click.option("--products", type=_FILE, required=True)
@click.option("--mapping", default="esci", show_default=True)
@click.option("--documents", "count", type=click.IntRange(1000), default=20_000, show_default=True)
@click.option("--writers", default="1,2,3", show_default=True)
@click.option("--batches", default="128,500", show_default=True, help="Products to a request.")
@click.option("--rounds", type=click.IntRange(1), default=3, show_default=True)
@click.option("--folder", type=_FOLDER, default=Path("/var/tmp/shelfrank-in-flight"), show_default=True)
@click.option("--out", type=_FOLDER, default=Path("runs/load"), show_default=True, help="Where vectors are kept.")
def main(
    products: Path, mapping: str, count: int, writers: str, batches: str, rounds: int, folder: Path, out: Path
) -> None:
    encoder, real = Encoder.load(), real_products(products, mapping)
    catalogue = Catalogue(real, known_vectors(real, encoder, out), count)
    maker = Maker(KnownVectors(encoder, catalogue), CrossEncoder.load())
    body = mappings.index_body(Index(), mappings.made(Index(), encoder.bundle_id, encoder.dimension))
    body["settings"]["index"] |= {"refresh_interval": "-1", "number_of_replicas": 0}
    taken: dict[tuple[str, int, int], list[float]] = defaultdict(list)

    def made(size: int) -> Iterator[list[Document]]:
        entries = (Entry(product) for products, _ in catalogue.blocks() for product in products)
        while batch := list(itertools.islice(entries, size)):
            yield maker.documents(batch)

    try:
        with node.running(folder, load().node) as info:
            client = clusters.connect(Settings(cluster=Cluster(url=info.url)))
            for _ in range(rounds):
                for size, threads in itertools.product(map(int, batches.split(",")), map(int, writers.split(","))):
                    for kind, source in (("made", made(size)), ("ready", iter(list(made(size))))):
                        taken[kind, size, threads].append(count / fill(client, body, source, threads))
                        print(kind, size, threads, f"{taken[kind, size, threads][-1]:.0f} a second", flush=True)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print("\n| products a request | in flight | documents a second, made | ready |\n|---|---|---|---|")
    for size, threads in dict.fromkeys((size, threads) for _, size, threads in taken):
        shown = (f"{np.median(taken[kind, size, threads]):.0f}" for kind in ("made", "ready"))
        print(f"| {size} | {threads} | {' | '.join(shown)} |")


if __name__ == "__main__":
    main()
