"""The command `models`: the registry of bundles and the gate before it."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click
import msgspec
from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from indexer import settings as config
from indexer.errors import ShelfrankError, UsageError
from indexer.terminal import emit_json, err, out, progress
from reranker import bundle as bundles
from reranker.bundle import Kind
from reranker.registry import card, gate
from reranker.registry.current import SHIPPED_ID
from reranker.registry.gate import Report
from reranker.registry.promotion import consequences, decide, overridden
from reranker.registry.store import KINDS, Entry, Registry

_HELP = {"help_option_names": ["-h", "--help"]}
_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
_kind = click.option("--kind", type=click.Choice(KINDS), help="Only this kind.")
_json = click.option("--json", "as_json", is_flag=True, help="One JSON document on standard output.")


@click.group(context_settings=_HELP)
def models() -> None:
    """Keep model bundles, measure a new one, put it into use, and go back.

    The registry is the folder models.home (SHELFRANK_MODELS_HOME), by default in the user's data folder.

    \b
    Examples:
      shelfrank models list
      shelfrank models promote runs/shop/measured/bundle --index shop --queries queries.tsv --qrels qrels.tsv
      shelfrank models rollback
    """


@models.command("list", context_settings=_HELP)
@_kind
@_json
def list_command(kind: Kind | None, as_json: bool) -> None:
    """Show every bundle: the one that ships and those that were promoted, the newest first.

    \b
    Example:
      shelfrank models list --kind reranker
    """
    settings = config.load()
    registry = Registry(settings.models.home)
    found = [entry for each in _kinds(kind) for entry in registry.entries(each)]
    if as_json:
        faults = [fault for each in _kinds(kind) for fault in registry.faults(each)]
        emit_json({"home": registry.home, "bundles": [_entry_json(entry) for entry in found], "faults": faults})
        return
    table = Table("", "kind", box=SIMPLE_HEAD)
    # Ids are there to be copied, so they are never cut.
    table.add_column("id", no_wrap=True, min_width=max((len(entry.id) for entry in found), default=0))
    for name in ("from", "MB", "base model", "licence", "measured"):
        table.add_column(name, overflow="fold")
    for entry in found:
        about = entry.description
        words = (about.base_model, about.licence, card.quality(about)) if about else ("", "", "")
        measured = Text(f"damaged: {entry.fault}", style="red") if entry.fault else Text(words[2])
        size = f"{entry.megabytes:.0f}"
        mark = "*" if entry.current else ""
        table.add_row(mark, entry.kind, Text(entry.id), entry.origin, size, *map(Text, words[:2]), measured)
    out.print(table)
    for each in _kinds(kind):
        _tell([*registry.faults(each), *overridden(settings, each)])


@models.command(context_settings=_HELP)
@click.argument("target", metavar="ID|FOLDER")
@_json
def show(target: str, as_json: bool) -> None:
    """Show a bundle's card: base, licences, training data, measures, limits, and its promotions.

    \b
    Example:
      shelfrank models show runs/shop/measured/bundle
    """
    registry = Registry(config.load().models.home)
    folder, kind = registry.find(target)
    entries = registry.entries(kind)
    entry = next((each for each in entries if each.folder.resolve() == folder.resolve()), None)
    bundle = bundles.verify(folder, kind)
    now = registry.current(kind)
    names = (bundle.id, SHIPPED_ID) if entry and entry.origin == "shipped" else (bundle.id,)
    log = [event for event in (now.log if now else ()) if event.id in names]
    about = (bundle, entry.origin if entry else "setting", bool(entry and entry.current), log)
    if as_json:
        emit_json(card.as_plain(*about))
    else:
        out.print(card.table(*about))


@models.command(context_settings=_HELP)
@click.argument("target", metavar="[ID|FOLDER]", required=False)
@_kind
@_json
def verify(target: str | None, kind: Kind | None, as_json: bool) -> None:
    """Run every check that needs no index, on one bundle or on those in use. Exits with 1 when one fails.

    \b
    Example:
      shelfrank models verify runs/shop/measured/bundle
    """
    settings = config.load()
    if target:
        chosen = [Registry(settings.models.home).find(target, kind)]
    else:
        named = {each: getattr(settings.models, each.replace("-", "_")) for each in KINDS}
        used = [each for each in _kinds(kind) if named[each] != bundles.NONE]
        located = [(*bundles.locate(named[each], each, settings.models.home), each) for each in used]
        chosen = [(folder, each) for folder, origin, each in located if origin != "shipped" or folder.is_dir()]
    reports = [gate.examine(folder, each, settings.models) for folder, each in chosen]
    if as_json:
        emit_json({"passed": all(report.passed for report in reports), "bundles": [_plain(each) for each in reports]})
    else:
        for report in reports:
            _show(report)
    sys.exit(0 if all(report.passed for report in reports) else 1)


@models.command(context_settings=_HELP)
@click.argument("target", metavar="ID|FOLDER")
@_kind
@click.option("--index", help="Index or alias to compare the bundle with the current one on.")
@click.option("--candidate-index", help="Encoders: the index that was made with the new one.")
@click.option("--queries", "queries_path", type=_FILE, help="Judged queries, as `shelfrank evaluate` takes them.")
@click.option("--qrels", "qrels_path", type=_FILE, help="Their judgments.")
@click.option("--split", help="Only queries whose column `split` says so, dev say.")
@click.option("--gains", help="What a grade is worth, as in `shelfrank evaluate`.")
@click.option("--margin", type=click.FloatRange(0, 1), default=0.005, show_default=True, help="nDCG@10 it may lose.")
@click.option("--window", type=click.IntRange(0), help="Hits to rerank. [default: search.window]")
@click.option("--force", metavar="REASON", help="Promote in spite of failed checks; the reason is kept.")
@_json
def promote(
    target: str,
    kind: Kind | None,
    index: str | None,
    candidate_index: str | None,
    queries_path: Path | None,
    qrels_path: Path | None,
    split: str | None,
    gains: str | None,
    margin: float,
    window: int | None,
    force: str | None,
    as_json: bool,
) -> None:
    """Check a bundle, compare it with the current one, and put it into use. Exits with 1 when it is refused.

    \b
    Example:
      shelfrank models promote runs/shop/measured/bundle --index shop \\
        --queries queries.tsv --qrels qrels.tsv --split dev
    """
    given = (index, queries_path, qrels_path)
    if any(given) and not all(given):
        raise UsageError("A comparison needs --index, --queries and --qrels. Give all three, or none.")
    if not index and (split or candidate_index):
        raise UsageError("--split and --candidate-index say what to compare on. Give --index, --queries and --qrels.")
    if force is not None and not force.strip():
        raise UsageError("--force needs a reason, which is kept with the bundle.")
    settings = config.load()
    registry = Registry(settings.models.home)
    folder, found = registry.find(target, kind)
    task = None
    if index and queries_path and qrels_path:
        from reranker.registry.comparison import read_task

        task = read_task(index, queries_path, qrels_path, split, gains, margin, candidate_index or "", window)
    with progress(quiet=as_json) as bar:
        step = bar.add_task("queries", total=2 * len(task.queries) if task else 0, visible=task is not None)
        decision = decide(folder, found, settings, task, lambda: bar.advance(step))
    refused, report = decision.refused(bool(force)), decision.report
    notes: list[str] = []
    if not refused:
        bundle = bundles.verify(folder, found)
        failed = [check.name for check in report.failed]
        registry.promote(bundle, decision.figures, force.strip() if force and failed else "", failed)
        notes = consequences(bundle, decision.before, settings)
    if as_json:
        emit_json({"promoted": not refused, "figures": decision.figures, **_plain(report), "notes": notes})
    else:
        _show(report)
    if refused:
        raise ShelfrankError(decision.reasons())
    if not as_json:
        err.print(Text(f"{report.bundle} is the current {found}."))
        _tell(notes)


@models.command(context_settings=_HELP)
@click.option("--kind", type=click.Choice(KINDS), default="reranker", show_default=True)
@click.option("--to", metavar="ID", default="", help="A bundle of the registry, or `shipped`. [default: the previous]")
@_json
def rollback(kind: Kind, to: str, as_json: bool) -> None:
    """Put the previous bundle into use again.

    \b
    Example:
      shelfrank models rollback --kind reranker --to shipped
    """
    settings = config.load()
    made = Registry(settings.models.home).rollback(kind, to)
    if as_json:
        emit_json({"kind": kind, "current": made.id, "previous": made.previous})
        return
    err.print(Text(f"{made.id} is the current {kind}."))
    if kind == "encoder":
        _tell(
            ["Indexes made with another encoder answer vector and hybrid search only after `shelfrank reindex start`."]
        )
    _tell(overridden(settings, kind))


@models.command(context_settings=_HELP)
@click.option("--keep", type=click.IntRange(0), required=True, help="How many beside the current one.")
@_kind
@_json
def clean(keep: int, kind: Kind | None, as_json: bool) -> None:
    """Remove old bundles, never the current one nor the one that ships.

    \b
    Example:
      shelfrank models clean --keep 3
    """
    registry = Registry(config.load().models.home)
    removed = {each: registry.clean(each, keep) for each in _kinds(kind)}
    if as_json:
        emit_json({"removed": removed})
    else:
        err.print(Text(f"Removed: {', '.join(id_ for ids in removed.values() for id_ in ids) or 'nothing'}."))


def _kinds(kind: Kind | None) -> tuple[Kind, ...]:
    return KINDS if kind is None else (kind,)


def _entry_json(entry: Entry) -> dict[str, Any]:
    values: dict[str, Any] = msgspec.structs.asdict(entry)
    about = values.pop("description")
    words = ("base_model", "base_licence", "licence", "languages", "quality")
    return {**values, **{name: getattr(about, name) if about else None for name in words}}


def _plain(report: Report) -> dict[str, Any]:
    return {"passed": report.passed, **msgspec.to_builtins(report)}


def _show(report: Report) -> None:
    table = Table("", "check", "finding", title=Text(report.bundle), title_justify="left", box=SIMPLE_HEAD)
    for check in report.checks:
        mark = "[green]✓[/]" if check.passed else "[red]✗[/]"
        table.add_row(mark, check.name, Text(check.detail))
    out.print(table)
    _tell(report.warnings)


def _tell(lines: Iterable[str]) -> None:
    for line in lines:
        err.print(Text(f"Note: {line}", style="yellow"))
