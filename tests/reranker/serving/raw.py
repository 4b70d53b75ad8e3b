"""Connections as an attacker has them: byte by byte, many at once, and unread."""

from __future__ import annotations

import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import uvicorn
from starlette.applications import Starlette

from indexer.settings import Serve
from reranker.serving.listening import configured, listen, port_of
from reranker.serving.metrics import Metrics
from tests.waiting import until

PATIENCE_S = 30.0


@contextmanager
def listener(app: Starlette, **changes: Any) -> Iterator[int]:
    """The port of an application that is served as the service is."""
    app.state.metrics = Metrics()
    sockets = listen("127.0.0.1", 0, ("host", "port"))
    port = port_of(sockets)
    server = uvicorn.Server(configured(app, Serve(**changes)))
    thread = threading.Thread(target=server.run, kwargs={"sockets": sockets}, daemon=True)
    thread.start()
    try:
        until(lambda: server.started, "the listener did not come up")
        yield port
    finally:
        server.should_exit = server.force_exit = True
        thread.join(30)


def connect(port: int, sent: bytes = b"", *, source: str = "127.0.0.1", tls: ssl.SSLContext | None = None) -> Any:
    """A connection on which something was sent."""
    found = socket.create_connection(("127.0.0.1", port), PATIENCE_S, source_address=(source, 0))
    if tls is not None:
        found = tls.wrap_socket(found, server_hostname="127.0.0.1")
    if sent:
        found.sendall(sent)
    return found


def rest(connection: Any) -> bytes:
    """What comes until the other side closes the connection; fails where it does not."""
    found = b""
    try:
        while chunk := connection.recv(65_536):
            found += chunk
    except (ConnectionResetError, BrokenPipeError, ssl.SSLEOFError):
        pass
    return found


def answer(connection: Any) -> bytes:
    """One answer with a declared length, or what came before the other side closed the connection."""
    found = b""
    while b"\r\n\r\n" not in found and (chunk := connection.recv(1)):
        found += chunk
    lines = found.decode("latin-1").lower().splitlines()
    left = next((int(line.split(":")[1]) for line in lines if line.startswith("content-length:")), 0)
    while left and (chunk := connection.recv(left)):
        found, left = found + chunk, left - len(chunk)
    return found


def status(found: bytes) -> int:
    return int(found.split(b" ", 2)[1]) if found else 0


def certificate(folder: Path) -> tuple[str, str]:
    """A new certificate for 127.0.0.1 and its key."""
    names = ["-subj", "/CN=test", "-addext", "subjectAltName=IP:127.0.0.1"]
    kind = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]
    files = ["-keyout", "key.pem", "-out", "cert.pem"]
    subprocess.run(["openssl", "req", "-x509", *kind, *names, *files], cwd=folder, check=True, capture_output=True)
    return str(folder / "cert.pem"), str(folder / "key.pem")
