"""The commands `shelfrank serve` and `shelfrank keys`."""

from __future__ import annotations

import logging
import os
import signal
import sys
from pathlib import Path

import click
import msgspec
import uvicorn
from fastapi import FastAPI

from indexer import settings as config
from indexer.errors import ConfigError, UsageError
from indexer.settings import Serve, Settings
from indexer.terminal import emit_json, err
from reranker.serving import page_files
from reranker.serving.app import create
from reranker.serving.keys import RIGHTS, Keys
from reranker.serving.keys import new as new_key
from reranker.serving.protocol import Patient

LOCAL = ("127.0.0.1", "::1", "localhost")
HELP = {"help_option_names": ["-h", "--help"]}


@click.command(context_settings=HELP)
@click.option("--host", help="Address to listen on. [default: serve.host, 127.0.0.1]")
@click.option("--port", type=click.IntRange(0, 65535), help="Port; 0 means any free one. [default: serve.port, 8100]")
@click.option("--index", help="The catalogue that the page opens with. [default: serve.index]")
@click.option("--ubi/--no-ubi", default=None, help="Write the page's searches and clicks to UBI. [default: serve.ubi]")
def serve(host: str | None, port: int | None, index: str | None, ubi: bool | None) -> None:
    """Serve the gateway, the rerank API and the page over HTTP, until Ctrl-C or SIGTERM.

    What was taken is finished first. Logs are JSON lines on standard error.

    \b
    Examples:
      shelfrank serve --index shop                 # then open http://127.0.0.1:8100/_shelfrank/
      SHELFRANK_API_KEYS="$(cat keys)" shelfrank serve --host 0.0.0.0
    """
    settings = config.load()
    given = {"host": host, "port": port, "index": index, "ubi": ubi}
    chosen = msgspec.structs.replace(settings.serve, **{name: each for name, each in given.items() if each is not None})
    settings = msgspec.structs.replace(settings, serve=chosen)
    _check(settings)
    _logs()
    app = create(settings)
    scheme = "https" if chosen.tls_cert else "http"
    err.print(f"The page: {scheme}://{chosen.host}:{chosen.port}{page_files.PATH}/", highlight=False)
    # uvicorn sends itself the signal that it has obeyed; a stop that was asked for is no failure.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    uvicorn.Server(configured(app, chosen)).run()


def configured(app: FastAPI, serve: Serve) -> uvicorn.Config:
    """How uvicorn serves the application."""
    return uvicorn.Config(
        app,
        host=serve.host,
        port=serve.port,
        ssl_certfile=serve.tls_cert or None,
        ssl_keyfile=serve.tls_key or None,
        limit_concurrency=serve.connections,
        timeout_keep_alive=30,
        timeout_graceful_shutdown=int(serve.stop_s),
        http=Patient,
        ws="none",
        access_log=False,
        log_config=None,
        server_header=False,
    )


def _check(settings: Settings) -> None:
    serve = settings.serve
    if serve.host not in LOCAL and not Keys(os.environ, serve.keys_file).required and not serve.cluster_decides:
        raise UsageError(
            f"The service would listen on {serve.host} without API keys. Make one with `shelfrank keys new NAME` and "
            "put its line into serve.keys_file or SHELFRANK_API_KEYS, or listen on 127.0.0.1."
        )
    for name, file in (("serve.tls_cert", serve.tls_cert), ("serve.tls_key", serve.tls_key)):
        if file and not Path(file).is_file():
            raise ConfigError(f"{name} names {file!r}, which is not a file.")
    if bool(serve.tls_cert) != bool(serve.tls_key):
        raise ConfigError("serve.tls_cert and serve.tls_key go together; set both, or neither.")


def _logs() -> None:
    handler = logging.StreamHandler(err.file)
    handler.setFormatter(logging.Formatter("%(message)s"))
    for name in ("shelfrank", "uvicorn"):
        logger = logging.getLogger(name)
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
        logger.propagate = False


@click.group(context_settings=HELP)
def keys() -> None:
    """API keys of the service."""


@keys.command(context_settings=HELP)
@click.argument("name")
@click.option("--rights", default="search,rerank", show_default=True, help=f"Some of {', '.join(RIGHTS)}.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on standard output.")
def new(name: str, rights: str, as_json: bool) -> None:
    """Make an API key: the key for the client, shown this once, and the line for the service.

    \b
    Example:
      shelfrank keys new website --rights search
    """
    key, line = new_key(name, rights)
    if as_json:
        emit_json({"key": key, "line": line})
        return
    click.echo(
        f"The client's key, not shown again:\n  {key}\nThe service's line (keys file or SHELFRANK_API_KEYS):\n  {line}"
    )
