"""The service under load on this machine: throughput, latency and share of fallbacks at rising rates.

    python benchmarks/gateway.py --rates 2,5,10,20,40 --seconds 15 --window 20

Starts `shelfrank serve` on a free port before the sample shop (`shelfrank demo` makes it) and sends searches at each
rate without waiting for answers (an open loop, as shoppers do). Beside it, in turns: the same searches to the cluster
itself, and through the gateway without reranking, which is what the gateway costs. Every window is scored; with
`--cache` the service keeps scores, as it does by default, and the same 140 queries soon cost little.
"""

from __future__ import annotations

import asyncio
import os
import random
import socket
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import click
import httpx
import msgspec
import numpy as np

from indexer import client as clusters
from indexer import node, settings
from indexer.terminal import emit_json
from ingest import sample_shop

MAIN = "from indexer.cli import main; main()"
INDEX = "sample-shop"


class Row(msgspec.Struct):
    """One rate: what was sent, and what came back. Times in milliseconds."""

    way: str
    rate: float
    answered: int
    failed: int
    throughput: float
    p50: float
    p95: float
    p99: float
    statuses: dict[str, int]


def queries() -> list[str]:
    lines = (Path(sample_shop.__file__).parent / "queries.tsv").read_text("utf-8").splitlines()
    return [line.split("\t")[1] for line in lines[1:]]


async def offer(url: str, way: str, rate: float, seconds: float, ask: dict[str, Any] | None) -> Row:
    """Searches at a rate for some seconds; every one is waited for."""
    rng, took, statuses, failed = random.Random(5), [], Counter[str](), 0
    texts = queries()

    async def one(client: httpx.AsyncClient, at: float) -> None:
        nonlocal failed
        await asyncio.sleep(max(0.0, at - time.monotonic()))
        body: dict[str, Any] = {
            "query": {"multi_match": {"query": rng.choice(texts), "fields": ["title^3", "bullets"]}}
        }
        if ask is not None:
            body["ext"] = {"shelfrank": ask}
        try:
            answer = await client.post(f"/{INDEX}/_search", json=body)
        except httpx.HTTPError:
            failed += 1
            return
        failed += answer.status_code != 200
        took.append((time.monotonic() - at) * 1000)  # from when it was due: waiting counts
        statuses[answer.headers.get("x-shelfrank-status", "cluster")] += 1

    limits = httpx.Limits(max_connections=400)
    async with httpx.AsyncClient(base_url=url, timeout=120, limits=limits, trust_env=False) as client:
        began = time.monotonic() + 0.05
        await asyncio.gather(*(one(client, began + at / rate) for at in range(int(rate * seconds))))
        spent = time.monotonic() - began
    p50, p95, p99 = (round(float(np.percentile(took, each)), 1) for each in (50, 95, 99))
    return Row(way, rate, len(took), failed, round(len(took) / spent, 1), p50, p95, p99, dict(statuses))


def serve(url: str, port: int, cache: bool) -> subprocess.Popen[bytes]:
    """The service as it is run, with or without a cache of scores, when it is ready."""
    environment = {**os.environ, "OPENSEARCH_URL": url, "SHELFRANK_SERVE_CACHE_SCORES": "200000" if cache else "0"}
    command = [sys.executable, "-c", MAIN, "serve", "--port", str(port), "--index", INDEX]
    process = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
    for _ in range(600):
        try:
            if httpx.get(f"http://127.0.0.1:{port}/readyz", timeout=5).status_code == 200:
                return process
        except httpx.HTTPError:
            pass
        time.sleep(0.1)
    process.kill()
    raise SystemExit("The service did not become ready within a minute.")


@click.command()
@click.option("--rates", default="2,5,10,20,40", show_default=True, help="Searches a second, one after the other.")
@click.option("--seconds", default=15.0, show_default=True, help="How long each rate is held.")
@click.option("--window", default=20, show_default=True, help="Hits that are rescored.")
@click.option("--deadline-ms", default=500.0, show_default=True, help="After this long a search keeps its first stage.")
@click.option("--cache", is_flag=True, help="Keep scores, as the service does; without, every window is scored.")
@click.option("--json", "as_json", is_flag=True)
def main(rates: str, seconds: float, window: int, deadline_ms: float, cache: bool, as_json: bool) -> None:
    loaded = settings.load()
    url = loaded.cluster.url or node.ensure(loaded.node)
    if not clusters.connect(loaded).indices.exists(index=INDEX):
        raise SystemExit("There is no sample shop; `shelfrank demo` makes it.")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = serve(url, port, cache)
    gateway, rows = f"http://127.0.0.1:{port}", []
    try:
        asyncio.run(offer(gateway, "warm", 2, 3, {"window": window}))
        for rate in map(float, rates.split(",")):
            for way, where, ask in (
                ("cluster", url, None),
                ("passed on", gateway, {"rerank": False}),
                ("reranked", gateway, {"window": window, "deadline_ms": deadline_ms}),
            ):
                rows.append(asyncio.run(offer(where, way, rate, seconds, ask)))
    finally:
        process.terminate()
        process.wait(30)
    if as_json:
        emit_json(rows)
        return
    print("| way | searches/s offered | answered/s | p50 ms | p95 ms | p99 ms | fallback share | failed |")
    print("|---|---|---|---|---|---|---|---|")
    for row in rows:
        fallen = 1 - row.statuses.get("applied", 0) / row.answered if row.way == "reranked" else 0.0
        shown = f"{fallen:.1%}" if row.way == "reranked" else ""
        cells = (row.way, f"{row.rate:g}", row.throughput, row.p50, row.p95, row.p99, shown, row.failed)
        print(f"| {' | '.join(map(str, cells))} |")


if __name__ == "__main__":
    main()
