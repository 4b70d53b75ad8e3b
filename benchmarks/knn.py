"""k-NN choices by measurement: recall@100 against exact search, latency, build time and size on the lucene engine.

    python benchmarks/knn.py --products products.jsonl --mapping esci --queries queries.tsv --sizes 10000,100000

Vectors are those of the catalogue's products by the shipped encoder, and beyond their number synthetic ones between
them (`synthetic.py`). `--real` takes so many of the real ones only: with `--sizes` the number of all real ones it shows
what being synthetic does to the figures. Queries are real, embedded as queries. Exact neighbours are computed with
numpy in float32. Each row makes an index anew on the node that the settings name, and deletes it. `k` is the depth of
the search and OpenSearch's ef_search with the lucene engine; 100 hits are asked for.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray
from opensearchpy import OpenSearch
from synthetic import Vectors, grown_vectors, known_vectors, real_products

from indexer import client as clusters
from indexer import mappings
from indexer import settings as config
from indexer.bulk import BulkWriter, Document
from indexer.settings import Index
from reranker.encoder import Encoder
from reranker.evaluation.judgments import read_queries

HITS = 100


def exact(vectors: Vectors, queries: Vectors) -> NDArray[np.int64]:
    """Positions of each query's nearest products: [queries, HITS]."""
    return np.stack([np.argpartition(-(vectors @ query), HITS)[:HITS] for query in queries])


def documents(vectors: Vectors) -> Iterator[list[Document]]:
    for start in range(0, len(vectors), 500):
        part = np.round(vectors[start : start + 500].astype(np.float64), 8)
        yield [Document(str(start + at), msgspec.json.encode({"vector": row.tolist()})) for at, row in enumerate(part)]


def build(client: OpenSearch, name: str, vectors: Vectors, settings: Index) -> float:
    """Make, fill, refresh and merge; returns seconds."""
    body = mappings.index_body(settings, mappings.made(settings, "benchmark", vectors.shape[1]))
    body["settings"]["index"]["refresh_interval"] = "-1"
    client.indices.create(index=name, body=body)
    started = time.perf_counter()
    writer = BulkWriter(client, name, max_bytes=10_000_000)
    for batch in documents(vectors):
        writer.write(batch)
    client.indices.refresh(index=name, request_timeout=600)
    client.indices.forcemerge(index=name, params={"max_num_segments": "1"}, request_timeout=7200)
    client.indices.refresh(index=name)
    return time.perf_counter() - started


def search(client: OpenSearch, name: str, query: Vectors, k: int) -> tuple[set[str], float]:
    body = {
        "size": HITS,
        "query": {"knn": {"vector": {"vector": query.tolist(), "k": k}}},
        "_source": False,
    }
    started = time.perf_counter()
    answer = client.search(index=name, body=body, request_timeout=120)
    return {hit["_id"] for hit in answer["hits"]["hits"]}, time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--products", type=Path, required=True)
    parser.add_argument("--mapping", default="esci")
    parser.add_argument("--queries", type=Path, required=True)
    parser.add_argument("--sizes", default="10000")
    parser.add_argument("--m", default="8,16,32")
    parser.add_argument("--ef-construction", default="64,128")
    parser.add_argument("--encodings", default="float,byte")
    parser.add_argument("--k", default="100,200,400,800")
    parser.add_argument("--real", type=int, help="real vectors to begin with; default: all")
    parser.add_argument("--work", type=Path, default=Path("runs/load"), help="folder where real vectors are kept")
    options = parser.parse_args()
    encoder, client = Encoder.load(), clusters.connect(config.load())
    queries = encoder.embed_queries([query.text for query in read_queries(options.queries)])
    known = known_vectors(real_products(options.products, options.mapping), encoder, options.work)
    if options.real:
        known = known[np.random.default_rng(3).permutation(len(known))[: options.real]]
    print(f"{len(known):,} real vectors, {len(queries)} queries\n")
    print("| vectors | encoding | m | ef_construction | build s | MB | k | recall@100 | median ms | 95th ms |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    for size in map(int, options.sizes.split(",")):
        vectors = grown_vectors(known, size, options.work)
        nearest = [{str(at) for at in row} for row in exact(vectors, queries)]
        choices = product(options.encodings.split(","), options.m.split(","), options.ef_construction.split(","))
        for encoding, m, width in choices:
            settings = Index(m=int(m), ef_construction=int(width), encoding=encoding)
            name = f"benchmark-knn-{size}-{encoding}-{m}-{width}"
            client.indices.delete(index=name, params={"ignore_unavailable": "true"})
            try:
                seconds = build(client, name, vectors, settings)
                stored = client.indices.stats(index=name)["indices"][name]["primaries"]["store"]["size_in_bytes"]
                for k in map(int, options.k.split(",")):
                    for query in queries[:20]:  # the graph is read from disk once
                        search(client, name, query, k)
                    found = [search(client, name, query, k) for query in queries]
                    recall = np.mean([len(ids & right) / HITS for (ids, _), right in zip(found, nearest, strict=True)])
                    took = np.array([seconds for _, seconds in found]) * 1000
                    print(
                        f"| {size:,} | {encoding} | {m} | {width} | {seconds:.0f} | {stored / 1e6:.0f} | {k} | "
                        f"{recall:.3f} | {np.median(took):.1f} | {np.percentile(took, 95):.1f} |",
                        flush=True,
                    )
            finally:
                client.indices.delete(index=name, params={"ignore_unavailable": "true"})


if __name__ == "__main__":
    main()
