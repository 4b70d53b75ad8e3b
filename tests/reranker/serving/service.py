"""The service itself in this process, on a free port of this machine."""

from __future__ import annotations

import socket
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
from reranker.serving.app import create
from reranker.serving.listening import configured
from tests.waiting import until


class Running(msgspec.Struct):
    """A service that runs in this process; `http` is a client of it."""

    url: str
    app: FastAPI
    http: httpx.Client

    def search(self, index: str, body: Any, **headers: str) -> httpx.Response:
        return self.http.post(f"/{index}/_search", json=body, headers=headers)


@contextmanager
def running(settings: Settings, wait: bool = True) -> Iterator[Running]:
    """A service with these settings for the time of a `with` block; `wait` until its models are warm."""
    listening = socket.create_server(("127.0.0.1", 0))
    port = listening.getsockname()[1]
    app = create(msgspec.structs.replace(settings, serve=msgspec.structs.replace(settings.serve, port=port)))
    server = uvicorn.Server(configured(app, app.state.settings.serve))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    serve = app.state.settings.serve
    url = f"{'https' if serve.tls_cert else 'http'}://127.0.0.1:{port}"
    trusted = ssl.create_default_context(cafile=serve.tls_cert or None)
    with httpx.Client(base_url=url, timeout=60, trust_env=False, verify=trusted) as client:
        try:
            until(lambda: _answers(client, "/healthz"), "the service did not come up")
            if wait:
                until(lambda: _answers(client, "/readyz"), "the service did not become ready")
            yield Running(url, app, client)
        finally:
            server.should_exit = True
            thread.join(5)
            server.force_exit = True  # a connection that somebody keeps open is not waited for
            thread.join(30)
            listening.close()


def _answers(client: httpx.Client, path: str) -> bool:
    with suppress(httpx.TransportError):
        return client.get(path).status_code == 200
    return False


def with_serve(settings: Settings, **changes: Any) -> Settings:
    """The settings with some of [serve] changed."""
    return msgspec.structs.replace(settings, serve=msgspec.structs.replace(Serve(), **changes))
