"""What is seen of a node, a writer and a searching shop while something is loaded: samples in a thread, searches in a
process of their own, so that neither waits for the other."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import msgspec
import numpy as np
from opensearchpy import OpenSearch
from opensearchpy.exceptions import OpenSearchException

from indexer import client as clusters
from indexer.errors import ClusterError
from indexer.settings import Cluster, Search, Settings
from reranker.retrieval import MODES, Filters, Retriever

PERCENTILES = (50, 95, 99)
WINDOW = 50


def memory_mb(pid: int | str, name: str = "VmRSS") -> float:
    """A figure of a process's status: VmRSS (all that is resident, mapped files too) or RssAnon (without them)."""
    lines = Path(f"/proc/{pid}/status").read_text("ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:")) / 1024


class Watch(threading.Thread):
    """Takes a sample every `every_s` seconds. `phase` is what goes on; `progress` gives products written and the bytes
    that a bulk request may hold."""

    def __init__(self, client: OpenSearch, pid: int, every_s: float) -> None:
        super().__init__(daemon=True)
        self.samples: list[dict[str, Any]] = []
        self.phases: list[tuple[str, float]] = []
        self.progress: Callable[[], tuple[int, int]] = lambda: (0, 0)
        self._client, self._pid, self._every_s = client, pid, every_s
        self._end = threading.Event()

    def enter(self, phase: str) -> None:
        """Say what goes on from now."""
        if not self.phases or self.phases[-1][0] != phase:
            print(f"{time.strftime('%H:%M:%S')} {phase}", flush=True)
            self.phases.append((phase, time.time()))
            self._take()

    def __enter__(self) -> Watch:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        self._end.set()
        self.join()

    def run(self) -> None:
        while not self._end.wait(self._every_s):
            self._take()

    def _take(self) -> None:
        try:
            (node,) = self._client.nodes.stats(metric="jvm,process,indices")["nodes"].values()
            anonymous, resident = memory_mb(self._pid, "RssAnon"), memory_mb(self._pid)
        except (OpenSearchException, OSError):
            return  # a sample less
        written, bulk_bytes = self.progress()
        indices, jvm = node["indices"], node["jvm"]
        self.samples.append(
            {
                "at": time.time(),
                "phase": self.phases[-1][0] if self.phases else "",
                "written": written,
                "bulk_bytes": bulk_bytes,
                "node_rss_mb": resident,
                "node_anon_mb": anonymous,
                "heap_mb": jvm["mem"]["heap_used_in_bytes"] / 2**20,
                "gc_s": sum(each["collection_time_in_millis"] for each in jvm["gc"]["collectors"].values()) / 1000,
                "node_cpu_s": node["process"]["cpu"]["total_in_millis"] / 1000,
                "writer_cpu_s": time.process_time(),
                "writer_rss_mb": memory_mb("self"),
                "disk_mb": indices["store"]["size_in_bytes"] / 1e6,
                "segments": indices["segments"]["count"],
                "merging": indices["merges"]["current_docs"],
                "load_average": os.getloadavg()[0],
            }
        )
        latest = self.samples[-1]
        shown = ("written", "heap_mb", "node_anon_mb", "writer_rss_mb", "disk_mb", "segments", "load_average")
        print("  ", *(f"{name} {latest[name]:,.0f}" for name in shown), flush=True)


class Shop:
    """Searches an alias from a process of its own, one search after another with `pause_s` between, by each mode in
    turn, as `shelfrank search` asks for a window of 50 (the queries' vectors are known). For a `with` block."""

    def __init__(self, url: str, name: str, queries: Sequence[str], vectors: Any, file: Path, pause_s: float) -> None:
        context = multiprocessing.get_context("spawn")
        # A pipe: unlike an event it also tells either side that the other has died.
        ear, self._end = context.Pipe(duplex=False)
        told = (url, name, list(queries), vectors.tolist(), file, pause_s, ear)
        self._process = context.Process(target=_search, args=told, daemon=True)

    def __enter__(self) -> Shop:
        self._process.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        self._end.close()
        self._process.join(30)
        self._process.kill()


def _search(url: str, name: str, queries: list[str], vectors: Any, file: Path, pause_s: float, end: Any) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    client = clusters.connect(Settings(cluster=Cluster(url=url)))
    retriever = Retriever(client, clusters.capabilities(client), Search(), None)
    with file.open("wb") as lines:
        for at in itertools.count():
            if end.poll(pause_s):
                return
            mode, place = MODES[at % len(MODES)], at // len(MODES) % len(queries)
            begun, started = time.time(), time.perf_counter()
            try:
                wanted = {"excludes": ["vector"]}
                vector = vectors[place]
                found = retriever.retrieve(name, queries[place], vector, mode, 0, WINDOW, Filters(), wanted)
                problem = "" if found.hits or mode == "bm25" else "no hits"
            except ClusterError as error:
                problem = str(error)
            took = (time.perf_counter() - started) * 1000
            lines.write(msgspec.json.encode({"at": begun, "mode": mode, "ms": took, "problem": problem}) + b"\n")
            lines.flush()


def latencies(file: Path, phases: Sequence[tuple[str, float]]) -> list[dict[str, Any]]:
    """One row for each phase and mode: number of searches, of failed ones, and percentiles in ms."""
    searches = [msgspec.json.decode(line) for line in file.read_bytes().splitlines()]
    rows = []
    for (phase, start), (_, stop) in itertools.pairwise([*phases, ("", float("inf"))]):
        for mode in MODES:
            found = [each for each in searches if each["mode"] == mode and start <= each["at"] < stop]
            if found:
                values = np.percentile([each["ms"] for each in found], PERCENTILES)
                row = {f"p{p}": round(float(value), 1) for p, value in zip(PERCENTILES, values, strict=True)}
                failed = [each["problem"] for each in found if each["problem"]]
                rows.append({"phase": phase, "mode": mode, "searches": len(found), "failed": failed, **row})
    return rows
