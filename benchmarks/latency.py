"""How long a search takes, by phase and window, on the index of `shelfrank demo`.

    shelfrank demo && python benchmarks/latency.py

Every round runs each window once, in turn, over the same queries of both languages, so that a machine that slows down
slows all of them; the table holds medians over rounds and queries, and the 95th percentile of the total.
"""

from __future__ import annotations

import math
from collections import defaultdict
from pathlib import Path

import click
import numpy as np
from rich.table import Table

from indexer.settings import load
from indexer.terminal import emit_json, out
from reranker.evaluation.judgments import read_queries
from reranker.search import Searcher

WINDOWS = (0, 10, 25, 50, 100)
PHASES = ("encode", "retrieve", "rerank", "total")
QUERIES = Path(__file__).parent.parent / "ingest" / "sample_shop" / "queries.tsv"


@click.command()
@click.option("--index", default="sample-shop", show_default=True)
@click.option("--rounds", default=3, show_default=True)
@click.option("--queries", "count", default=20, show_default=True, help="How many queries, from both languages.")
@click.option("--json", "as_json", is_flag=True)
def main(index: str, rounds: int, count: int, as_json: bool) -> None:
    """Measure search latency by phase and window."""
    searcher = Searcher.connect(load())
    every = read_queries(QUERIES)
    queries = [query.text for query in every[:: max(1, len(every) // count)]][:count]
    taken: dict[int, dict[str, list[float]]] = {window: defaultdict(list) for window in WINDOWS}
    for number in range(rounds + 1):  # the first round warms up and is not counted
        for query in queries:
            for window in WINDOWS:
                page = searcher.search(index, query, window=window, size=10, deadline_ms=math.inf)
                if number:
                    for phase in PHASES:
                        taken[window][phase].append(page.took_ms[phase])
    rows = {
        window: {
            **{phase: round(float(np.median(values[phase])), 1) for phase in PHASES},
            "p95": round(float(np.percentile(values["total"], 95)), 1),
        }
        for window, values in taken.items()
    }
    if as_json:
        emit_json({"milliseconds": rows, "queries": len(queries), "rounds": rounds})
        return
    table = Table("window", *(f"{phase} ms" for phase in (*PHASES, "p95")), title=f"{len(queries)} queries × {rounds}")
    for window, row in rows.items():
        table.add_row(str(window), *(f"{value:.1f}" for value in row.values()))
    out.print(table)


if __name__ == "__main__":
    main()
