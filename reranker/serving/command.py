"""The commands `shelfrank serve` and `shelfrank keys`."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from pathlib import Path

import click
import msgspec
import uvicorn

from indexer import settings as config
from indexer.errors import ConfigError, UsageError
from indexer.settings import Cluster, Settings
from indexer.terminal import emit_json, err, note
from reranker.serving import listening, ops, page_files
from reranker.serving.app import create
from reranker.serving.keys import MAX_SHARES, RIGHTS, Keys
from reranker.serving.keys import new as new_key
from reranker.serving.local import LOCAL
from reranker.serving.passing import Passage
from reranker.serving.query_ids import new_secret

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
    sockets = listening.listen(chosen.host, chosen.port, ("serve.host", "serve.port"))
    beside = listening.listen_for_operations(chosen, listening.port_of(sockets))
    app = create(settings)
    server = uvicorn.Server(listening.configured(app, chosen))
    note(f"The page: {listening.address(chosen, chosen.host, sockets)}{page_files.PATH}/")
    if beside:
        host = chosen.ops_host or chosen.host
        note(f"Health and metrics: {listening.address(chosen, host, beside)} (/healthz, /readyz, /metrics)")
    # uvicorn sends itself the signal that it has obeyed; a stop that was asked for is no failure.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with ops.beside(app, chosen, beside):
        server.run(sockets)


def _check(settings: Settings) -> None:
    serve = settings.serve
    open_to_others = [host for host in (serve.host, serve.ops_host) if host and host not in LOCAL]
    if open_to_others and not Keys(os.environ, serve.keys_file).required:
        raise UsageError(
            f"The service would listen on {open_to_others[0]} without API keys. Make one with `shelfrank keys new "
            "NAME` and put its line into serve.keys_file or SHELFRANK_API_KEYS, or listen on 127.0.0.1."
        )
    if serve.cluster_decides:
        _check_cluster_asks(settings.cluster, serve.host)
    for name, file in (("serve.tls_cert", serve.tls_cert), ("serve.tls_key", serve.tls_key)):
        if file and not Path(file).is_file():
            raise ConfigError(f"{name} names {file!r}, which is not a file.")
    if bool(serve.tls_cert) != bool(serve.tls_key):
        raise ConfigError("serve.tls_cert and serve.tls_key go together; set both, or neither.")


def _check_cluster_asks(cluster: Cluster, host: str) -> None:
    """Raises ConfigError or UsageError where the cluster is to decide whom to answer, and could not or would not."""
    if cluster.client_cert:
        raise ConfigError(
            "serve.cluster_decides and cluster.client_cert do not go together: the cluster would take every client for "
            "the owner of that certificate. Give the service a user and a password instead."
        )
    if host in LOCAL:
        return
    found = asyncio.run(_asked_by_nobody(cluster)) if cluster.url else 200  # the embedded node has no users
    if found not in (401, 403):
        raise UsageError(
            "serve.cluster_decides leaves it to the cluster whom to answer, and it answers whoever asks (GET / without "
            f"a user gave {found}). Switch its security on, set serve.cluster_decides = false, or listen on 127.0.0.1."
        )


async def _asked_by_nobody(cluster: Cluster) -> int:
    """The status of the cluster's answer to who has no user. Raises ClusterError where none comes."""
    passage = Passage(cluster)
    try:
        return (await passage.send("GET", "/")).status
    finally:
        await passage.close()


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
@click.option(
    "--shares",
    default=1,
    show_default=True,
    type=click.IntRange(1, MAX_SHARES),
    help="How much of the models is its due beside other keys.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON document on standard output.")
def new(name: str, rights: str, shares: int, as_json: bool) -> None:
    """Make an API key: the key for the client, shown this once, and the line for the service.

    \b
    Example:
      shelfrank keys new website --rights search
    """
    key, line = new_key(name, rights, shares)
    if as_json:
        emit_json({"key": key, "line": line})
        return
    click.echo(
        f"The client's key, not shown again:\n  {key}\nThe service's line (keys file or SHELFRANK_API_KEYS):\n  {line}"
    )


@keys.command(context_settings=HELP)
def secret() -> None:
    """Make a secret for SHELFRANK_SIGNING_SECRET, by which all processes of a service know the ids of their searches.

    \b
    Example:
      shelfrank keys secret
    """
    click.echo(new_secret())
