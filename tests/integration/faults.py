"""Faults on purpose: an HTTP proxy that fails at random, a process to be killed, a node that comes back."""

from __future__ import annotations

import http.client
import random
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar
from urllib.parse import urlsplit

import msgspec

from indexer import node as nodes
from indexer.settings import Node
from tests.waiting import until

KINDS = ("refuse", "delay", "cut before", "cut after", "cut answer", "429", "503")


class Proxy:
    """Forwards to an OpenSearch on loopback; of every request, with `share` of chance, it makes a fault instead."""

    def __init__(self, target: str, seed: int, share: float, kinds: tuple[str, ...] = KINDS) -> None:
        parts = urlsplit(target)
        self.target = (parts.hostname or "", parts.port or 0)
        self.random, self.share, self.kinds = random.Random(seed), share, kinds
        self.made: Counter[str] = Counter()
        self.lock = threading.Lock()
        handler = type("Handler", (_Handler,), {"proxy": self})
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def draw(self) -> str:
        """The fault of the next request, or nothing."""
        with self.lock:
            kind = self.random.choice(self.kinds) if self.random.random() < self.share else ""
            if kind:
                self.made[kind] += 1
            return kind

    @contextmanager
    def running(self) -> Iterator[Proxy]:
        """Serve for the time of a `with` block."""
        thread = threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self.server.shutdown()
            self.server.server_close()
            thread.join()


class _Handler(BaseHTTPRequestHandler):
    proxy: ClassVar[Proxy]
    protocol_version = "HTTP/1.1"

    def do_any(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        kind = self.proxy.draw()
        if kind in ("refuse", "cut before"):
            self.cut()
            return
        if kind in ("429", "503"):
            self.answer(
                int(kind), b'{"error":{"type":"made_up","reason":"made by a test"},"status":%s}' % kind.encode()
            )
            return
        if kind == "delay":
            time.sleep(self.proxy.random.uniform(0.05, 0.5))
        connection = http.client.HTTPConnection(*self.proxy.target, timeout=60)
        try:
            headers = {key: value for key, value in self.headers.items() if key.lower() not in ("host", "connection")}
            connection.request(self.command, self.path, body, headers)
            found = connection.getresponse()
            data = found.read()
        except OSError:
            self.cut()
            return
        finally:
            connection.close()
        if kind == "cut after":
            self.cut()  # done, and nobody is told
        elif kind == "cut answer":
            self.answer(found.status, data, found.getheader("Content-Type") or "application/json", only=len(data) // 2)
            self.cut()
        else:
            self.answer(found.status, data, found.getheader("Content-Type") or "application/json")

    do_GET = do_POST = do_PUT = do_DELETE = do_HEAD = do_any  # noqa: N815

    def answer(self, status: int, data: bytes, kind: str = "application/json", only: int | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data[:only])

    def cut(self) -> None:
        self.close_connection = True
        try:
            self.connection.shutdown(socket.SHUT_RDWR)
        except OSError:
            return

    def log_message(self, *arguments: object) -> None:
        """Quiet."""


def start_again(node: Node, port: int) -> None:
    """Start a node that was killed where it was, once the system has cleared it away."""
    until(lambda: nodes.status(node).state not in ("running", "starting"), "the killed node was not gone")
    time.sleep(0.5)
    nodes.start(msgspec.structs.replace(node, port=port))


def drive(url: str, name: str, file: str, mapping: str, what: str) -> None:
    """One `start` or `resume` of a reindex from a file, with the stand-in for the models. For a process of its own."""
    from indexer import client as clusters
    from indexer.patience import Patience
    from indexer.settings import Cluster, Ingest, Settings
    from ingest.reindex.job import Options, Reindex
    from ingest.reindex.origins import FromFile
    from tests.integration.standin import StandIn

    settings = Settings(
        cluster=Cluster(url=url, timeout_s=20), ingest=Ingest(batch=200, patience_s=240, bulk_requests=3)
    )
    models = StandIn()
    client = Patience(60.0).call(lambda: clusters.connect(settings))  # the first request may be one that is spoilt
    options = Options(name, Path(file).with_suffix(f".{what}.rejected.jsonl"), sample=50)
    job = Reindex(client, FromFile(Path(file), mapping), models, models, settings, options, lease_s=3.0)
    report = job.start() if what == "start" else job.resume()
    print(report.index)  # noqa: T201


if __name__ == "__main__":
    drive(*sys.argv[1:])
