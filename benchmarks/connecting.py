"""The ways to plug shelfrank into a search, side by side: what each does to the page, and how long it takes.

    shelfrank node start --with-ml && shelfrank demo
    SHELFRANK_SERVE_CACHE_SCORES=0 shelfrank serve &    # wait until it answers at /readyz
    shelfrank connect --oversample 5 --timeout-s 60
    python benchmarks/connecting.py

All four send the same BM25 request for the sample shop's test queries, in turn, and show the first ten of its first
50 hits: as they are, through `rerank_response`, through the gateway, and through OpenSearch's own rerank processor.
nDCG@10 is of the whole catalogue, unjudged products counting nothing.
"""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click
import numpy as np
from opensearchpy import OpenSearch
from rich.table import Table

from indexer import client as clusters
from indexer.settings import load
from indexer.terminal import emit_json, err, out
from reranker.documents import rerank_response
from reranker.encoder import Encoder
from reranker.evaluation.compare import ESCI_GAINS, difference, measure, parse_gains
from reranker.evaluation.judgments import of_split, read_qrels, read_queries
from reranker.scoring import CrossEncoder

SHOP = Path(__file__).parent.parent / "ingest" / "sample_shop"
WINDOW, SIZE = 50, 10
PATIENCE_MS = 60_000
Way = Callable[[str], Mapping[str, Any]]


@click.command()
@click.option("--index", default="sample-shop", show_default=True)
@click.option("--service", default="http://127.0.0.1:8100", show_default=True)
@click.option("--pipeline", default="shelfrank", show_default=True)
@click.option("--rounds", default=3, show_default=True, help="One more warms up and is not counted.")
@click.option("--json", "as_json", is_flag=True)
def main(index: str, service: str, pipeline: str, rounds: int, as_json: bool) -> None:
    """Compare the ways to plug in."""
    queries = of_split(read_queries(SHOP / "queries.tsv"), "test", SHOP / "queries.tsv")
    ways = _ways(index, service, pipeline)
    taken: dict[str, list[float]] = defaultdict(list)
    rankings: dict[str, dict[str, list[str]]] = defaultdict(dict)
    statuses: dict[str, Counter[str]] = defaultdict(Counter)
    for number in range(rounds + 1):
        for query in queries:
            for name, way in ways.items():
                began = time.perf_counter()
                page = way(query.text)
                if number:
                    taken[name].append((time.perf_counter() - began) * 1000)
                rankings[name][query.id] = [hit["_id"] for hit in page["hits"]["hits"]][:SIZE]
                word = page.get("rerank") or page.get("ext", {}).get("shelfrank") or {}
                statuses[name][word.get("status", "")] += 1
        err.print(f"round {number} of {rounds}")
    qrels = read_qrels(SHOP / "qrels.tsv")
    values = {name: measure(each, qrels, parse_gains(ESCI_GAINS)) for name, each in rankings.items()}
    rows = {}
    for name in ways:
        change = difference(values[name], values["first stage"])
        rows[name] = {
            "ndcg@10": round(float(np.mean([row["ndcg@10"] for row in values[name].values()])), 4),
            "difference": [round(each, 4) for each in (change.mean, change.low, change.high)],
            "median_ms": round(float(np.median(taken[name])), 1),
            "p95_ms": round(float(np.percentile(taken[name], 95)), 1),
            "statuses": dict(statuses[name]),
        }
    if as_json:
        emit_json({"queries": len(queries), "rounds": rounds, "ways": rows})
        return
    table = Table("way", "nDCG@10", "against first stage (95 %)", "median ms", "95th percentile", "statuses")
    for name, row in rows.items():
        mean, low, high = row["difference"]
        change = f"{mean:+.4f} ({low:+.4f} to {high:+.4f})"
        told = ", ".join(f"{status or 'none'} {count}" for status, count in row["statuses"].items())
        table.add_row(name, f"{row['ndcg@10']:.4f}", change, str(row["median_ms"]), str(row["p95_ms"]), told)
    out.print(table)


def _ways(index: str, service: str, pipeline: str) -> dict[str, Way]:
    settings = load()
    client = clusters.connect(settings)
    gateway = OpenSearch(hosts=[service], timeout=60)
    reranker, encoder = CrossEncoder.load(settings.models), Encoder.load(settings.models)
    fields = settings.search.text_fields.split(",")

    def body(query: str, size: int, **more: Any) -> dict[str, Any]:
        text = {"multi_match": {"query": query, "fields": fields, "type": "most_fields"}}
        return {"query": text, "size": size, "_source": {"excludes": ["vector"]}, **more}

    def first_stage(query: str) -> Mapping[str, Any]:
        return client.search(index=index, body=body(query, SIZE))

    def python_call(query: str) -> Mapping[str, Any]:
        found = client.search(index=index, body=body(query, WINDOW, _source=True))
        return rerank_response(found, query, reranker, deadline_ms=PATIENCE_MS, encoder=encoder)

    def through_gateway(query: str) -> Mapping[str, Any]:
        ask = {"shelfrank": {"query": query, "window": WINDOW, "deadline_ms": PATIENCE_MS}}
        return gateway.search(index=index, body=body(query, SIZE, ext=ask))

    def processor(query: str) -> Mapping[str, Any]:
        ask = {"rerank": {"query_context": {"query_text": query}}}
        return client.search(index=index, body=body(query, SIZE, ext=ask), params={"search_pipeline": pipeline})

    return {
        "first stage": first_stage,
        "Python call": python_call,
        "gateway": through_gateway,
        "rerank processor": processor,
    }


if __name__ == "__main__":
    main()
