"""Clusters that fail on purpose: one that takes what it is sent and says nothing, one with one answer for everybody."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@contextmanager
def hung() -> Iterator[str]:
    """The address of a cluster that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listening:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"


@contextmanager
def answering(
    status: int, body: bytes | Callable[[str], bytes], content_type: str = "application/json"
) -> Iterator[str]:
    """The address of a cluster that answers every request with the same, or with what `body` makes of its path."""

    class Handler(BaseHTTPRequestHandler):
        def do_any(self) -> None:
            self.rfile.read(int(self.headers.get("content-length") or 0))
            said = body if isinstance(body, bytes) else body(self.path)
            self.send_response(status)
            self.send_header("content-type", content_type)
            self.send_header("content-length", str(len(said)))
            self.send_header("www-authenticate", 'Basic realm="OpenSearch Security"')
            self.end_headers()
            self.wfile.write(said)

        do_GET = do_POST = do_PUT = do_any  # noqa: N815 (names that http.server asks for)

        def log_message(self, *_: object) -> None:
            """Nothing on standard error."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
