"""The service itself in this process, on a free port of this machine."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import httpx
import msgspec
import uvicorn
from fastapi import FastAPI

from indexer.settings import Serve, Settings
from reranker.serving import ops
from reranker.serving.app import create
from reranker.serving.listening import address, configured, listen, listen_for_operations, port_of
from tests.waiting import until


class Running(msgspec.Struct):
    """A service that runs in this process; `http` is a client of it, `ops` the address of its listener for health and
    metrics."""

    url: str
    app: FastAPI
    http: httpx.Client
    ops: str = ""

    def search(self, index: str, body: Any, **headers: str) -> httpx.Response:
        return self.http.post(f"/{index}/_search", json=body, headers=headers)


@contextmanager
def running(settings: Settings, wait: bool = True) -> Iterator[Running]:
    """A service with these settings for the time of a `with` block; `wait` until its models are warm."""
    sockets = listen("127.0.0.1", 0, ("host", "port"))
    changed = msgspec.structs.replace(settings.serve, port=port_of(sockets))
    app = create(msgspec.structs.replace(settings, serve=changed))
    serve: Serve = app.state.settings.serve
    own = listen_for_operations(serve, serve.port)
    server = uvicorn.Server(configured(app, serve))
    thread = threading.Thread(target=server.run, kwargs={"sockets": sockets}, daemon=True)
    thread.start()
    url, ops_url = (address(serve, "127.0.0.1", each) if each else "" for each in (sockets, own))
    trusted = ssl.create_default_context(cafile=serve.tls_cert or None)
    with (
        httpx.Client(base_url=url, timeout=60, trust_env=False, verify=trusted) as client,
        ops.beside(app, serve, own),
    ):
        try:
            until(lambda: _answers(client, "/healthz"), "the service did not come up")
            if wait:
                until(lambda: _answers(client, "/readyz"), "the service did not become ready")
            yield Running(url, app, client, ops_url)
        finally:
            server.should_exit = True
            thread.join(5)
            server.force_exit = True  # a connection that somebody keeps open is not waited for
            thread.join(30)


def _answers(client: httpx.Client, path: str) -> bool:
    with suppress(httpx.TransportError):
        return client.get(path).status_code == 200
    return False


def with_serve(settings: Settings, **changes: Any) -> Settings:
    """The settings with some of [serve] changed."""
    return msgspec.structs.replace(settings, serve=msgspec.structs.replace(Serve(), **changes))
