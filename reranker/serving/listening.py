"""Where the service listens, and how uvicorn serves an application there."""

from __future__ import annotations

import errno
import socket
import ssl
from typing import Any, Literal

import uvicorn

from indexer.errors import ConfigError, UsageError
from indexer.settings import Serve
from reranker.serving.connections import Connections
from reranker.serving.protocol import KEEP_ALIVE_S

Listener = Literal["service", "operations"]
NO_OPS = -1
_BACKLOG = 2048
_LOOK_UP: dict[str, Any] = {"type": socket.SOCK_STREAM, "flags": socket.AI_PASSIVE}


def listen(host: str, port: int, names: tuple[str, str]) -> list[socket.socket]:
    """Sockets on every address of a host, on one port; 0 means any free one. `names` are the settings of both.

    Raises UsageError where one cannot be listened on; an address that this machine lacks is passed over.
    """
    found: list[socket.socket] = []
    failed: Exception | None = None
    try:
        for family, _, _, _, place in dict.fromkeys(socket.getaddrinfo(host or None, port, **_LOOK_UP)):
            try:
                at = (str(place[0]), port_of(found) if found else port)
                found.append(socket.create_server(at, family=family, backlog=_BACKLOG))
            except OSError as error:
                failed = error
                if error.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
                    raise
    except (OSError, OverflowError) as error:
        failed = error
        for each in found:
            each.close()
        found = []
    if not found:
        why = f"The service cannot listen on {host}:{port}: {failed}. Check {names[0]} and {names[1]}."
        raise UsageError(why) from failed
    return found


def listen_for_operations(serve: Serve, port: int) -> list[socket.socket]:
    """Sockets of the listener for health and metrics beside the service's own `port`; none where none is wanted."""
    names = ("serve.ops_host", "serve.ops_port")
    host = serve.ops_host or serve.host
    if serve.ops_port == NO_OPS:
        return []
    if serve.ops_port is not None:
        return listen(host, serve.ops_port, names)
    try:
        return listen(host, port + 1, names)
    except UsageError:
        return listen(host, 0, names)


def port_of(sockets: list[socket.socket]) -> int:
    return int(sockets[0].getsockname()[1])


def address(serve: Serve, host: str, sockets: list[socket.socket]) -> str:
    """The URL that a person calls it by."""
    named = f"[{host}]" if ":" in host else host
    return f"{'https' if serve.tls_cert else 'http'}://{named}:{port_of(sockets)}"


def configured(app: Any, serve: Serve, listener: Listener = "service", connections: int = 0) -> uvicorn.Config:
    """How uvicorn serves an application; on so many connections, or on serve.connections. Raises ConfigError."""
    ended = app.state.metrics.ended
    held = Connections(
        connections or serve.connections,
        read_s=serve.read_timeout_s,
        write_s=serve.write_timeout_s,
        unread_bytes=serve.unread_bytes,
        tls=_tls(serve),
        count=lambda why: ended.labels(listener, why).inc(),
    )
    app.state.metrics.connections.labels(listener).set_function(lambda: len(held))
    protocol: Any = held.protocol
    return uvicorn.Config(
        app,
        host=serve.host,
        port=serve.port,
        loop="asyncio",
        http=protocol,
        ws="none",
        lifespan="on" if listener == "service" else "off",
        proxy_headers=False,  # serve.trusted_proxies says whom to believe
        limit_concurrency=held.most + 2,  # not reached by connections; requests whose clients have left count too
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=int(serve.stop_s) if listener == "service" else 1,
        callback_notify=held.sweep,
        timeout_notify=0,
        access_log=False,
        log_config=None,
        server_header=False,
    )


def _tls(serve: Serve) -> ssl.SSLContext | None:
    """TLS is begun by the connections themselves, which count and time those that have not."""
    if not serve.tls_cert:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(serve.tls_cert, serve.tls_key or None)
    except OSError as error:
        raise ConfigError(
            f"serve.tls_cert {serve.tls_cert!r} and serve.tls_key {serve.tls_key!r} are no certificate and its key: "
            f"{error}"
        ) from error
    return context
