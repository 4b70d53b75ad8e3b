"""The commands `shelfrank node`, `shelfrank config` and `shelfrank connect`."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import click
import msgspec
from rich.markup import escape
from rich.table import Table

from indexer import client as clusters
from indexer import node as nodes
from indexer import settings
from indexer.connect import Connection
from indexer.errors import UsageError
from indexer.rerank_processor import KEY_VARIABLE, Plan
from indexer.terminal import emit_json, out

FOLLOW_INTERVAL_S = 0.5

as_json = click.option("--json", "json_output", is_flag=True, help="Print one JSON document.")


@click.group()
def node() -> None:
    """Run the embedded OpenSearch node.

    It listens on 127.0.0.1 only and keeps its data between runs.

    \b
    SHELFRANK_NODE_CACHE_DIR   OpenSearch itself: the user's cache folder;
                               for root /var/cache/shelfrank
    SHELFRANK_NODE_DATA_DIR    data, logs: the user's data folder;
                               for root /var/lib/shelfrank/node
    SHELFRANK_NODE_PORT        0: any free one, the last one if it is free
    SHELFRANK_NODE_HEAP_MB     Java heap (1024)
    SHELFRANK_NODE_USER        whom root runs it as (nobody)
    SHELFRANK_NODE_REPOSITORY  a Maven mirror to fetch from
    SHELFRANK_NODE_ML_COMMONS  true: with the plugin ml-commons (400 MB)
    """


@node.command()
@click.option("--port", type=click.IntRange(0, 65535), help="Port on 127.0.0.1; 0 means any free one.")
@click.option("--with-ml", is_flag=True, help="With ml-commons, for OpenSearch's own rerank processor (400 MB).")
@as_json
def start(port: int | None, with_ml: bool, json_output: bool) -> None:
    """Start the node, or find it running; fetches OpenSearch at the first start.

    \b
    Example:
      shelfrank node start --port 9200
    """
    loaded = settings.load()
    if loaded.cluster.url:
        raise UsageError(
            f"OPENSEARCH_URL is {loaded.cluster.url}, so that cluster is used and nothing is started. Unset it to "
            "use the embedded node."
        )
    chosen = loaded.node if port is None else msgspec.structs.replace(loaded.node, port=port)
    chosen = msgspec.structs.replace(chosen, ml_commons=chosen.ml_commons or with_ml)
    info = nodes.start(chosen)
    if json_output:
        emit_json(info)
    else:
        click.echo(f"{info.url} ({'started' if info.started_now else 'was running'}, data in {info.data_dir})")


@node.command()
@as_json
def stop(json_output: bool) -> None:
    """Stop the node. Its data stay.

    \b
    Example:
      shelfrank node stop
    """
    stopped = nodes.stop(settings.load().node)
    if json_output:
        emit_json({"stopped": stopped})
    else:
        click.echo("Stopped." if stopped else "It was not running.")


@node.command()
@as_json
def status(json_output: bool) -> None:
    """Show what the node does. Exit code 0: it runs and answers; 1: it does not.

    \b
    Example:
      shelfrank node status --json
    """
    shown = nodes.status(settings.load().node)
    if json_output:
        emit_json(shown)
    else:
        click.echo(_sentence(shown))
    if shown.state != "running":
        sys.exit(1)


def _sentence(shown: nodes.NodeStatus) -> str:
    if shown.state == "running":
        return (
            f"Running at {shown.url}: OpenSearch {shown.version}, health {shown.health}, process {shown.pid}, heap "
            f"{shown.heap_mb} MB, up {shown.uptime_s:.0f} s, data in {shown.data_dir}"
        )
    if shown.state == "starting":
        return f"Process {shown.pid} lives but does not answer at {shown.url} (see `shelfrank node logs`)."
    if shown.state == "died":
        return f"Died (see `shelfrank node logs`). Start it again with `shelfrank node start`; data in {shown.data_dir}"
    return f"Stopped. Start it with `shelfrank node start`; data in {shown.data_dir}"


@node.command()
@click.option("-n", "--lines", type=click.IntRange(min=0), default=50, show_default=True, help="How many lines.")
@click.option("-f", "--follow", is_flag=True, help="Go on with new lines until Ctrl-C.")
@as_json
def logs(lines: int, follow: bool, json_output: bool) -> None:
    """Show the end of the log of the node's present or last run.

    \b
    Example:
      shelfrank node logs -n 100 --follow
    """
    if follow and json_output:
        raise UsageError("--follow never ends, so it cannot be one JSON document. Leave out one of the two.")
    chosen = settings.load().node
    shown = nodes.logs(chosen, lines)
    if json_output:
        emit_json({"lines": shown})
        return
    for line in shown:
        click.echo(line)
    if follow:
        for text in _appended(nodes.data_dir(chosen) / "logs" / "opensearch.log"):
            click.echo(text, nl=False)


def _appended(file: Path) -> Iterator[str]:
    """What is added to the file from now on; begins anew when another file takes its name."""
    position = file.stat().st_size if file.exists() else 0
    inode = file.stat().st_ino if file.exists() else 0
    while True:
        time.sleep(FOLLOW_INTERVAL_S)
        if not file.exists():
            continue
        now = file.stat()
        if now.st_ino != inode or now.st_size < position:
            position, inode = 0, now.st_ino
        if now.st_size > position:
            with file.open("rb") as stream:
                stream.seek(position)
                data = stream.read()
            # Only whole lines: a character may be half-written.
            whole = data[: data.rfind(b"\n") + 1]
            position += len(whole)
            yield whole.decode("utf-8", "replace")


@click.command()
@as_json
def config(json_output: bool) -> None:
    """Show the settings in force: defaults, then the TOML file, then the environment.

    \b
    Example:
      SHELFRANK_SEARCH_WINDOW=100 shelfrank config
    """
    shown = settings.shown(settings.load())
    if json_output:
        emit_json(shown)
        return
    table = Table("setting", "value", "variable", box=None)
    for section, fields in shown.items():
        for name, value in fields.items():
            text = escape(str(value)) if value != "" else "-"
            table.add_row(f"{section}.{name}", text, settings.variable(section, name))
    out.print(table)


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--name", default=Plan().name, show_default=True, help="Of the search pipeline.")
@click.option("--service", default=Plan().service, show_default=True, help="`shelfrank serve`, as the cluster sees it.")
@click.option(
    "--fields", default=",".join(Plan().fields), show_default=True, help="What is read; title=name where yours is name."
)
@click.option("--oversample", type=click.IntRange(1, 100), default=1, show_default=True, help="Rerank so many pages.")
@click.option("--timeout-s", type=click.IntRange(1, 60), default=Plan().timeout_s, show_default=True, help="Of a call.")
@click.option("--strict", is_flag=True, help="Fail the search when reranking fails, instead of leaving its order.")
@click.option("--remove", is_flag=True, help="Take pipeline, model and connector away.")
@click.option("--dry-run", is_flag=True, help="Show what would be sent, and send nothing.")
@as_json
def connect(
    name: str,
    service: str,
    fields: str,
    oversample: int,
    timeout_s: int,
    strict: bool,
    remove: bool,
    dry_run: bool,
    json_output: bool,
) -> None:
    """Let OpenSearch's own rerank processor call the rerank API.

    Registers a connector and a remote model with ml-commons and makes a search pipeline. Run it again to change
    something. The service's API key comes from SHELFRANK_API_KEY and is kept, encrypted, by the cluster.

    \b
    Examples:
      shelfrank connect --service http://10.0.0.5:8100 --fields title=name,brand
      shelfrank connect --remove
    """
    chosen = tuple(field.strip() for field in fields.split(",") if field.strip())
    if not chosen:
        raise UsageError(f"--fields is {fields!r}; name at least one field of the documents, such as title.")
    plan = Plan(name, service, chosen, oversample, strict, timeout_s)
    if dry_run:
        emit_json(plan.requests())
        return
    connection = Connection(clusters.connect(settings.load()), plan)
    if remove:
        removed = connection.remove()
        if json_output:
            emit_json({"removed": removed})
        else:
            click.echo(f"Removed {', '.join(removed)}." if removed else "There was nothing to remove.")
        return
    made = connection.connect(os.environ.get(KEY_VARIABLE, ""))
    if json_output:
        emit_json(made)
        return
    click.echo(
        f"Searches with ?search_pipeline={made.pipeline} and this in their body are reranked by {made.url}:\n"
        '  "ext": {"rerank": {"query_context": {"query_text": "what the shopper typed"}}}'
    )
