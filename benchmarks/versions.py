"""The same searches to services of two versions in turn: what does a change cost an honest search?

    shelfrank serve --port 8100                    # the one version, from its own environment
    shelfrank serve --port 8200                    # the other, before the same cluster
    python benchmarks/versions.py http://127.0.0.1:8100 http://127.0.0.1:8200

Both are asked one after the other, each first as often as the other, so whatever else the machine does disturbs both
alike. The difference of each pair is what counts: its median, with a 95 % bootstrap interval.
"""

from __future__ import annotations

import random
import time
from typing import Any

import click
import httpx
import msgspec
import numpy as np
from gateway import INDEX, queries

from indexer.terminal import emit_json


class Row(msgspec.Struct):
    """One kind of search: medians of both versions and of the pairs' differences, in milliseconds."""

    kind: str
    pairs: int
    first_p50: float
    second_p50: float
    first_p99: float
    second_p99: float
    difference: float
    interval: tuple[float, float]


def bodies(text: str) -> dict[str, dict[str, Any]]:
    search = {"query": {"multi_match": {"query": text, "fields": ["title^3", "bullets"]}}}
    return {
        "passed on": {**search, "ext": {"shelfrank": {"rerank": False}}},
        "reranked": {**search, "ext": {"shelfrank": {"window": 20, "deadline_ms": 5_000}}},
    }


def asked(client: httpx.Client, body: dict[str, Any]) -> float:
    began = time.perf_counter()
    client.post(f"/{INDEX}/_search", json=body).raise_for_status()
    return (time.perf_counter() - began) * 1000


@click.command()
@click.argument("first")
@click.argument("second")
@click.option("--pairs", default=600, show_default=True, help="Of each kind of search.")
@click.option("--json", "as_json", is_flag=True)
def main(first: str, second: str, pairs: int, as_json: bool) -> None:
    rng, rows = random.Random(5), []
    with httpx.Client(base_url=first, timeout=60) as one, httpx.Client(base_url=second, timeout=60) as other:
        texts = queries()
        for text in texts:  # scores are kept: what is left is the service itself
            for body in bodies(text).values():
                asked(one, body), asked(other, body)
        for kind in bodies(""):
            took = []
            for at in range(pairs):
                body = bodies(rng.choice(texts))[kind]
                if at % 2:
                    took.append((asked(one, body), asked(other, body)))
                else:
                    took.append((asked(other, body), asked(one, body))[::-1])
            rows.append(row(kind, np.array(took)))
    if as_json:
        emit_json(rows)
        return
    print("| search | pairs | first p50 ms | second p50 ms | first p99 ms | second p99 ms | difference (95 %) |")
    print("|---|---|---|---|---|---|---|")
    for each in rows:
        low, high = each.interval
        cells = (each.kind, each.pairs, each.first_p50, each.second_p50, each.first_p99, each.second_p99)
        print(f"| {' | '.join(map(str, cells))} | {each.difference} ({low} to {high}) |")


def row(kind: str, took: np.ndarray) -> Row:
    rng = np.random.default_rng(7)
    differences = took[:, 1] - took[:, 0]
    drawn = np.median(rng.choice(differences, (2000, len(differences))), axis=1)
    low, high = (round(float(each), 2) for each in np.percentile(drawn, (2.5, 97.5)))
    p50, p99 = np.percentile(took, 50, axis=0), np.percentile(took, 99, axis=0)
    figures = [round(float(each), 2) for each in (*p50, *p99, np.median(differences))]
    return Row(kind, len(took), *figures, (low, high))


if __name__ == "__main__":
    main()
