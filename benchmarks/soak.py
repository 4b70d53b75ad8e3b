"""Honest and hostile clients of one service for a while: does the honest one notice, and does memory stay flat?

    python benchmarks/soak.py --minutes 20

Starts `shelfrank serve` with keys on a free port before the sample shop (`shelfrank demo` makes it). First the honest
client is alone for some minutes; then hostile ones come beside it, each at a bounded rate, on this machine only, and
end by themselves. Each honest answer is compared with what the same search gave before: the reranked order or, where
its deadline came, the first stage's; anything else is a wrong answer.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import click
import httpx
import msgspec
import numpy as np
from gateway import INDEX, MAIN, queries

from indexer import client as clusters
from indexer import node, settings
from indexer.terminal import emit_json
from reranker.serving.keys import new

WINDOW, SIZE, DEADLINE_MS = 20, 10, 1000


class Minute(msgspec.Struct):
    """What a part of the soak saw: the honest client's searches, and the memory of the service."""

    part: str
    searches: int
    applied: int
    failed: int
    wrong: int
    p50: float
    p99: float
    first_stage: str  # p50 and p99 of what the service says of it, from the request's arrival on
    rerank: str
    memory_mb: float


class Honest:
    """A shop's own backend: searches, and lists of documents, and what it was answered."""

    def __init__(self, url: str, key: str) -> None:
        self.client = httpx.AsyncClient(base_url=url, timeout=60, trust_env=False, headers={"x-api-key": key})
        self.known: dict[str, tuple[list[str], list[str]]] = {}
        self.took: list[float] = []
        self.phases: dict[str, list[float]] = {"first_stage": [], "rerank": []}
        self.statuses: Counter[str] = Counter()
        self.wrong = self.failed = 0

    async def ask(self, text: str, ask: dict[str, Any]) -> tuple[list[str], str]:
        body = {
            "query": {"multi_match": {"query": text, "fields": ["title^3", "bullets"]}},
            "size": SIZE,
            "ext": {"shelfrank": {"window": WINDOW, **ask}},
        }
        answer = await self.client.post(f"/{INDEX}/_search", json=body)
        answer.raise_for_status()
        found = answer.json()
        for phase, took in found["ext"]["shelfrank"].get("took_ms", {}).items():
            self.phases[phase].append(took)
        return [hit["_id"] for hit in found["hits"]["hits"]], answer.headers["x-shelfrank-status"]

    async def learn(self) -> None:
        """What each query is answered, with and without reranking."""
        for text in queries():
            reranked, status = await self.ask(text, {"deadline_ms": 60_000})
            plain, _ = await self.ask(text, {"rerank": False})
            if status == "applied":
                self.known[text] = (reranked, plain)

    async def search(self, text: str) -> None:
        began = time.monotonic()
        try:
            found, status = await self.ask(text, {"deadline_ms": DEADLINE_MS})
        except httpx.HTTPError:
            self.failed += 1
            return
        self.took.append((time.monotonic() - began) * 1000)
        self.statuses[status] += 1
        self.wrong += found != self.known[text][0 if status == "applied" else 1]

    def part(self, name: str, memory_mb: float) -> Minute:
        """What was seen since the last part."""
        first, rerank = (
            "{:.1f}, {:.1f}".format(*_percentiles(self.phases[each])) for each in ("first_stage", "rerank")
        )
        counts = (len(self.took), self.statuses["applied"], self.failed, self.wrong)
        found = Minute(name, *counts, *_percentiles(self.took), first, rerank, round(memory_mb, 1))
        self.took, self.statuses, self.failed, self.wrong = [], Counter(), 0, 0
        self.phases = {"first_stage": [], "rerank": []}
        return found


def _percentiles(values: list[float]) -> list[float]:
    return [round(float(np.percentile(values or [0.0], each)), 1) for each in (50, 99)]


class Hostile:
    """Clients that mean no good; `answers` counts what they got by what they did."""

    def __init__(self, url: str, key: str) -> None:
        self.port = int(url.rpartition(":")[2])
        self.client = httpx.AsyncClient(base_url=url, timeout=30, trust_env=False, headers={"x-api-key": key})
        self.key = key
        self.answers: dict[str, Counter[str]] = {}
        self.rng = random.Random(7)

    async def post(self, what: str, path: str, content: bytes, content_type: str = "application/json") -> None:
        try:
            answer = await self.client.post(path, content=content, headers={"content-type": content_type})
            found = str(answer.status_code)
        except httpx.HTTPError as error:
            found = type(error).__name__
        self.answers.setdefault(what, Counter())[found] += 1

    async def half_heads(self) -> None:
        """Connections that begin a request and never end it."""
        await self._hold("half heads", b"POST /v1/rerank HTTP/1.1\r\nhost: localhost\r\nx-", 60)

    async def slow_bodies(self) -> None:
        head = f"POST /v1/rerank HTTP/1.1\r\nhost: localhost\r\nx-api-key: {self.key}\r\ncontent-length: 900\r\n\r\n{{"
        await self._hold("slow bodies", head.encode(), 20)

    async def unread_answers(self) -> None:
        body = json.dumps({"query": {"match_all": {}}, "size": 1000}).encode()
        head = f"POST /{INDEX}/_search HTTP/1.1\r\nhost: localhost\r\nx-api-key: {self.key}\r\n"
        head += f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        await self._hold("unread answers", head.encode() + body, 5)

    async def _hold(self, what: str, sent: bytes, number: int) -> None:
        held = []
        for _ in range(number):
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", self.port)
                writer.write(sent)
                held.append(writer)
            except OSError:
                self.answers.setdefault(what, Counter())["refused"] += 1
        self.answers.setdefault(what, Counter())["opened"] += len(held)
        await asyncio.sleep(5)
        for writer in held:
            writer.close()

    async def quadratic(self) -> None:
        await self.post("braces and escapes", f"/{INDEX}/_search", b"{" * 201 + b'"\\' * 20_000)

    async def deep(self) -> None:
        await self.post("deep nests", f"/{INDEX}/_search", b'{"query":' + b'{"bool":{"must":[' * 3000)

    async def binary(self) -> None:
        await self.post("CBOR", f"/{INDEX}/_search", b"\xbf" * 700, "application/cbor")

    async def parentheses(self) -> None:
        text = "(" * 15_000 + "a" + ")" * 15_000
        body = json.dumps({"query": {"query_string": {"query": text}}}).encode()
        await self.post("15,000 parentheses", f"/{INDEX}/_search", body)

    async def many_searches(self) -> None:
        ask = {"query": {"match": {"title": "bottle"}}, "ext": {"shelfrank": {"window": 100, "deadline_ms": 20_000}}}
        lines = "\n".join([json.dumps({"index": INDEX}), json.dumps(ask)] * 50) + "\n"
        await self.post("50 long windows", "/_msearch", lines.encode(), "application/x-ndjson")

    async def much_at_once(self) -> None:
        lines = "\n".join([json.dumps({"index": INDEX}), json.dumps({"size": 1000})] * 60) + "\n"
        await self.post("60 searches of 1,000", "/_msearch", lines.encode(), "application/x-ndjson")

    async def embed_and_leave(self) -> None:
        body = json.dumps({"input": ["a bottle of steel " * 200] * 512}).encode()
        head = f"POST /v1/embeddings HTTP/1.1\r\nhost: localhost\r\nx-api-key: {self.key}\r\n"
        head += f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        await self._hold("embeddings, and gone", head.encode() + body, 1)

    async def long_lists(self) -> None:
        body = json.dumps({"query": "bottle", "texts": [f"bottle {n} " * 40 for n in range(500)]}).encode()
        await self.post("500 documents", "/rerank", body)

    async def sideways(self) -> None:
        name = self.rng.choice(["ubi_queries", f"{INDEX},ubi_events", ".*", "shelfrank-jobs", "u*"])
        await self.post("hidden indexes", f"/{name}/_search", b"{}")

    async def forged(self) -> None:
        body = {"action_name": "purchase", "query_id": "forged", "client_id": "x", "object_id": "1"}
        await self.post("forged purchases", "/v1/events", json.dumps(body).encode())

    async def long_name(self) -> None:
        lines = json.dumps({"index": "a" * 70_000}) + "\n{}\n"
        await self.post("70,000 characters of a name", "/_msearch", lines.encode(), "application/x-ndjson")


async def at_a_rate(work: Callable[[], Awaitable[None]], a_minute: float, until: float) -> None:
    """The work again and again until then, one beginning after the other, never two at once."""
    while time.monotonic() < until:
        began = time.monotonic()
        await work()
        await asyncio.sleep(max(0.0, min(60 / a_minute - (time.monotonic() - began), until - time.monotonic())))


async def honest_searches(honest: Honest, a_second: float, until: float) -> None:
    """An open loop, as shoppers come."""
    texts, running = sorted(honest.known), set[asyncio.Task[None]]()
    rng = random.Random(3)
    while time.monotonic() < until:
        task = asyncio.create_task(honest.search(rng.choice(texts)))
        running.add(task)
        task.add_done_callback(running.discard)
        await asyncio.sleep(1 / a_second)
    await asyncio.gather(*running)


def memory_mb(pid: int) -> float:
    text = Path(f"/proc/{pid}/status").read_text("ascii")
    return next(int(line.split()[1]) / 1024 for line in text.splitlines() if line.startswith("VmRSS"))


async def soak(url: str, pid: int, keys: dict[str, str], minutes: float, quiet: float, rate: float) -> tuple[Any, Any]:
    """The parts of the soak, and what the hostile clients were answered."""
    honest, hostile = Honest(url, keys["honest"]), Hostile(url, keys["hostile"])
    await honest.learn()
    honest.part("", 0.0)
    parts = []
    await honest_searches(honest, rate, time.monotonic() + quiet * 60)
    parts.append(honest.part("quiet", memory_mb(pid)))
    until = time.monotonic() + minutes * 60
    often = [hostile.quadratic, hostile.deep, hostile.binary, hostile.parentheses, hostile.sideways, hostile.forged]
    seldom = [hostile.many_searches, hostile.much_at_once, hostile.embed_and_leave, hostile.long_lists]
    seldom += [hostile.half_heads, hostile.slow_bodies, hostile.unread_answers, hostile.long_name]
    attacks = [asyncio.create_task(at_a_rate(work, 30, until)) for work in often]
    attacks += [asyncio.create_task(at_a_rate(work, 6, until)) for work in seldom]
    steps = max(1, round(minutes / 2))
    for step in range(1, steps + 1):
        await honest_searches(honest, rate, time.monotonic() + minutes * 60 / steps)
        parts.append(honest.part(f"hostile, minute {minutes * step / steps:g}", memory_mb(pid)))
    await asyncio.gather(*attacks)
    await honest.client.aclose()
    await hostile.client.aclose()
    return parts, hostile.answers


@click.command()
@click.option("--minutes", default=20.0, show_default=True, help="With hostile clients.")
@click.option("--quiet", default=3.0, show_default=True, help="Minutes before, without.")
@click.option("--rate", default=2.0, show_default=True, help="Honest searches a second.")
@click.option("--json", "as_json", is_flag=True)
def main(minutes: float, quiet: float, rate: float, as_json: bool) -> None:
    loaded = settings.load()
    url = loaded.cluster.url or node.ensure(loaded.node)
    if not clusters.connect(loaded).indices.exists(index=INDEX):
        raise SystemExit("There is no sample shop; `shelfrank demo` makes it.")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    made = {name: new(name, "search,rerank") for name in ("honest", "hostile")}
    environment = {
        **os.environ,
        "OPENSEARCH_URL": url,
        "SHELFRANK_API_KEYS": "\n".join(line for _, line in made.values()),
        "SHELFRANK_SERVE_UBI": "true",
        "SHELFRANK_SERVE_CACHE_SCORES": "0",
    }
    service = f"http://127.0.0.1:{port}"
    with tempfile.TemporaryFile() as log:
        command = [sys.executable, "-c", MAIN, "serve", "--port", str(port), "--index", INDEX]
        process = subprocess.Popen(command, env=environment, stderr=log, stdout=log)
        try:
            _ready(service)
            keys = {name: key for name, (key, _) in made.items()}
            parts, answers = asyncio.run(soak(service, process.pid, keys, minutes, quiet, rate))
        finally:
            process.terminate()
            process.wait(60)
        log.seek(0)
        text = log.read().decode("utf-8", "replace")
        tracebacks = text.count("Traceback")
        if tracebacks:
            print(text[text.rindex("Traceback") :][:3000], file=sys.stderr)
    alive = clusters.connect(loaded).cluster.health()["status"] in ("green", "yellow")
    if as_json:
        emit_json({"parts": parts, "answers": answers, "tracebacks": tracebacks, "node_lives": alive})
        return
    heads = "part | searches | applied | failed | wrong | p50 ms | p99 ms | first stage p50, p99 | rerank p50, p99"
    print(f"| {heads} | memory MB |\n{'|---' * 10}|")
    for part in parts:
        print(f"| {' | '.join(str(each) for each in msgspec.structs.astuple(part))} |")
    print("\n| hostile | answers |\n|---|---|")
    for what, counts in sorted(answers.items()):
        print(f"| {what} | {', '.join(f'{answer}: {number}' for answer, number in sorted(counts.items()))} |")
    print(f"\nTracebacks in the service's log: {tracebacks}. The node {'lives' if alive else 'is gone'}.")


def _ready(url: str) -> None:
    for _ in range(600):
        try:
            if httpx.get(f"{url}/readyz", timeout=5).status_code == 200:
                return
        except httpx.HTTPError:
            pass
        time.sleep(0.1)
    raise SystemExit("The service did not become ready within a minute.")


if __name__ == "__main__":
    main()
