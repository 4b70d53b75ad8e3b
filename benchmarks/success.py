"""How often a product that may stand on top does: the sixty queries that a shop manager would try first.

    python benchmarks/success.py --index sample-shop

Searches the sample shop (`shelfrank demo` makes the index) by each system and prints in Markdown, by language and by
kind of query, the share of queries with a product of grade 3 at rank 1, and among the first three. Queries that nothing
in the shop fits have no such product and are left out. `--worst` lists the queries whose first hit is another one.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from pathlib import Path

from indexer import settings as config
from indexer.terminal import emit_json
from reranker.evaluation.judgments import Qrels, Query, read_qrels, read_queries
from reranker.search import Searcher

SHOP = Path(__file__).resolve().parent.parent / "ingest" / "sample_shop"
SYSTEMS = {
    "bm25": ("bm25", False),
    "vector": ("vector", False),
    "hybrid": ("hybrid", False),
    "rerank": ("hybrid", True),
}
BEST, DEPTH = 3, 3


def places(searcher: Searcher, index: str, queries: list[Query], mode: str, rerank: bool) -> dict[str, list[str]]:
    """Query id -> ids of the first hits; no deadline, so that the machine decides nothing."""
    return {
        query.id: [
            hit.id
            for hit in searcher.search(
                index, query.text, mode=mode, size=DEPTH, rerank=rerank, fields=["id"], deadline_ms=float("inf")
            ).hits
        ]
        for query in queries
    }


def successes(found: dict[str, list[str]], qrels: Qrels, depth: int) -> dict[str, bool]:
    """Query id -> whether a product of the best grade is among the first hits."""
    return {key: any(qrels[key].get(each) == BEST for each in ids[:depth]) for key, ids in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--index", default="sample-shop")
    parser.add_argument("--queries", type=Path, default=SHOP / "manager.queries.tsv")
    parser.add_argument("--qrels", type=Path, default=SHOP / "manager.qrels.tsv")
    parser.add_argument("--worst", action="store_true")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    every = read_queries(options.queries)
    qrels = read_qrels(options.qrels)
    queries = [query for query in every if BEST in qrels.get(query.id, {}).values()]
    searcher = Searcher.connect(config.load())
    runs = {name: places(searcher, options.index, queries, *how) for name, how in SYSTEMS.items()}
    groups: dict[str, list[str]] = defaultdict(list)
    for query in queries:
        for group in ("all", query.columns["language"], query.columns["kind"]):
            groups[group].append(query.id)
    table = {
        group: {
            name: [sum(successes(run, qrels, depth)[key] for key in keys) / len(keys) for depth in (1, DEPTH)]
            for name, run in runs.items()
        }
        for group, keys in groups.items()
    }
    if options.json:
        emit_json({"queries": len(queries), "success": table})
        return
    print(f"| queries | {' | '.join(f'{name}: first, first {DEPTH}' for name in SYSTEMS)} |")
    print("|---|" + "---|" * len(SYSTEMS))
    for group, row in table.items():
        cells = " | ".join(f"{first:.2f}, {three:.2f}" for first, three in row.values())
        print(f"| {group} ({len(groups[group])}) | {cells} |")
    if options.worst:
        for query in queries:
            if not successes(runs["rerank"], qrels, 1)[query.id]:
                print(
                    query.id,
                    query.text,
                    *(f"{each}:{qrels[query.id].get(each, '-')}" for each in runs["rerank"][query.id]),
                )


if __name__ == "__main__":
    main()
