"""`shelfrank reindex`: a new index beside the live one, and what an operator does around it."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import msgspec
from opensearchpy import OpenSearch
from rich.table import Table

from indexer import aliases, jobs, settings, terminal
from indexer import client as clusters
from indexer.errors import ShelfrankError, UsageError
from indexer.patience import Patience
from ingest.allowing import allowed, allowing
from ingest.commands import STOPPED, publish, shower, stoppable
from ingest.reindex import operations, origins
from ingest.reindex.job import Options, Reindex
from ingest.reindex.verify import Judged, first_stage

as_json = click.option("--json", "json_output", is_flag=True, help="Print one JSON document.")
name_argument = click.argument("name")
_CONTEXT = {"help_option_names": ["-h", "--help"]}


@click.group(context_settings=_CONTEXT)
def reindex() -> None:
    """Build a new index beside the live one, examine it, and put it in its place.

    Searches are answered throughout. A job is kept in the cluster: it goes on after anything, from any machine.

    \b
    Example:
      shelfrank reindex start shop                                      # from what is stored: new models, new settings
      shelfrank reindex start shop --file catalog.csv --mapping m.toml  # from a file: what left it is dropped
      shelfrank reindex status shop
      shelfrank reindex rollback shop
    """


def _run_options(command: Callable[..., Any]) -> Callable[..., Any]:
    for option in reversed(
        [
            click.option(
                "--dead-letter",
                type=click.Path(dir_okay=False, path_type=Path),
                help="Where rejected rows go (JSON lines). Default: NAME.rejected.jsonl here.",
            ),
            click.option(
                "--sample",
                type=click.IntRange(0, 10_000),
                default=200,
                show_default=True,
                help="Products that are made anew and compared field by field before the switch.",
            ),
            click.option("--queries", type=click.Path(exists=True, path_type=Path), help="Judged queries (TSV)."),
            click.option("--qrels", type=click.Path(exists=True, path_type=Path), help="Their judgments."),
            click.option(
                "--margin",
                type=click.FloatRange(0, 1),
                default=0.01,
                show_default=True,
                help="How much nDCG@10 may fall on them.",
            ),
            click.option("--old-encoder", help="Bundle of the live index's encoder, where the new one has another."),
            click.option(
                "--second-encoder",
                help="Bundle whose vectors documents get beside those of models.encoder, to compare the two. "
                "Default: models.second_encoder.",
            ),
            click.option(
                "--workers",
                type=click.IntRange(min=0),
                help="Embed on so many Ray workers (RAY_ADDRESS, or this machine); 0: here. Default: ingest.workers.",
            ),
            click.option(
                "--force-merge",
                is_flag=True,
                help="Merge the new index into one segment: slow; vector searches get faster and find less.",
            ),
            as_json,
        ]
    ):
        command = option(command)
    return allowing("fewer", "missing", "prices")(command)


@reindex.command(context_settings=_CONTEXT)
@name_argument
@click.option(
    "--file",
    "file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Catalogue file; without it, products are taken from the live index.",
)
@click.option("--mapping", help="TOML file from columns to product fields, or a ready one: esci.")
@_run_options
def start(name: str, file: Path | None, mapping: str | None, json_output: bool, **chosen: Any) -> None:
    """Begin a reindex of the catalogue NAME and run it to its end.

    Ctrl-C pauses it; `resume` goes on. Changes that arrive meanwhile are brought over before the switch.

    \b
    Example:
      SHELFRANK_MODELS_ENCODER=runs/encoder shelfrank reindex start shop --queries queries.tsv --qrels qrels.tsv
      shelfrank reindex start shop --second-encoder runs/encoder                # two encoders side by side
      RAY_ADDRESS=ray-head:6379 shelfrank reindex start shop --workers 64

    Exit codes: 0 done, 1 failed or refused, 2 wrong use, 130 paused.
    """
    if (file is None) != (mapping is None):
        raise UsageError("--file and --mapping go together: the mapping says which column is which field.")
    aliases.check_name(name)
    client, loaded = _connected()
    if file is not None and mapping is not None:
        origin: origins.Origin = origins.FromFile(file, mapping, loaded.bounds)
    else:
        live = aliases.live(client, name)
        if live is None:
            raise UsageError(
                f"There is no catalogue {name} to take products from. Name a file with --file and --mapping."
            )
        origin = origins.FromStored(client, live.index, Patience(loaded.ingest.patience_s))
    _run(client, loaded, origin, name, json_output, "start", chosen)


@reindex.command(context_settings=_CONTEXT)
@name_argument
@click.option(
    "--file",
    "file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Where the catalogue file lies now, if not where the job was begun.",
)
@_run_options
def resume(name: str, file: Path | None, json_output: bool, **chosen: Any) -> None:
    """Go on with the open reindex of NAME: after a pause, a crash, or a refused lease, on this machine or another.

    \b
    Example:
      shelfrank reindex resume shop
      shelfrank reindex resume shop --workers 4
    """
    aliases.check_name(name)
    client, loaded = _connected()
    record = jobs.Board(client).read(name)
    record.must_be_reindex()
    origin = origins.again(record.source, client, loaded, file)
    _run(client, loaded, origin, name, json_output, "resume", chosen)


def _run(
    client: OpenSearch,
    loaded: settings.Settings,
    origin: origins.Origin,
    name: str,
    json_output: bool,
    what: str,
    chosen: dict[str, Any],
) -> None:
    # Late: the models take a second to load, wrong use should not.
    from ingest import stream as streams
    from reranker.encoder import Encoder
    from reranker.scoring import CrossEncoder

    workers = loaded.ingest.workers if chosen["workers"] is None else chosen["workers"]
    other = chosen["second_encoder"] or loaded.models.second_encoder
    if workers and other:
        raise UsageError("Workers make vectors of one encoder: leave out --workers or --second-encoder.")
    encoder, tokens = Encoder.load(loaded.models), CrossEncoder.load(loaded.models)
    second = Encoder.named(other, loaded.models)
    judged = _judged(client, loaded, name, encoder, chosen)
    options = Options(
        name,
        chosen["dead_letter"] or Path(f"{name}.rejected.jsonl"),
        chosen["sample"],
        judged,
        chosen["force_merge"],
        allowed(chosen),
    )
    with (
        streams.opened(encoder, tokens, loaded.models, workers) as stream,
        stoppable() as stop,
        terminal.progress(quiet=json_output) as bar,
    ):
        job = Reindex(
            client,
            origin,
            encoder,
            tokens,
            loaded,
            options,
            stop=stop,
            on_progress=shower(bar),
            stream=None if second else stream,
            second=second,
        )
        try:
            report = job.start() if what == "start" else job.resume()
        except ShelfrankError as error:
            job.report.error = str(error)
            publish(job.report, None, json_output, {"checks": msgspec.to_builtins(job.checks)})
            _show_checks(job, json_output)
            raise
    publish(report, None, json_output, {"checks": msgspec.to_builtins(job.checks)})
    _show_checks(job, json_output)
    if report.stopped:
        went_on = f"Paused. Go on with: shelfrank reindex resume {name}"
        terminal.err.print(went_on if report.index else "Stopped before it began.", markup=False)
        sys.exit(STOPPED)


def _judged(
    client: OpenSearch, loaded: settings.Settings, name: str, encoder: Any, chosen: dict[str, Any]
) -> Judged | None:
    queries, qrels = chosen["queries"], chosen["qrels"]
    if (queries is None) != (qrels is None):
        raise UsageError("--queries and --qrels go together.")
    if queries is None:
        return None
    from reranker.encoder import Encoder
    from reranker.evaluation.judgments import read_qrels, read_queries

    live = aliases.live(client, name)
    if live is None:
        raise UsageError(f"--queries compares with the live index, and {name} has none. Leave it out.")
    old = encoder
    if chosen["old_encoder"]:
        old = Encoder.named(chosen["old_encoder"], loaded.models)
    if old.bundle_id not in live.made.vector_fields:
        raise UsageError(
            f"--queries compares with {live.index}, whose vectors are of the encoder {live.made.encoder}; "
            f"{old.bundle_id} is loaded. Name the bundle of the first with --old-encoder."
        )
    return Judged(
        tuple(read_queries(queries)),
        read_qrels(qrels),
        lambda index: first_stage(client, loaded, old if index == live.index else encoder, index),
        chosen["margin"],
    )


def _show_checks(job: Reindex, quiet: bool) -> None:
    if quiet or not job.checks:
        return
    table = Table("check", "", "seen", title="Examination", box=None)
    for check in job.checks:
        table.add_row(check.name, "ok" if check.ok else "FAILED", check.seen)
    terminal.err.print(table)


@reindex.command(context_settings=_CONTEXT)
@click.argument("name", required=False)
@as_json
def status(name: str | None, json_output: bool) -> None:
    """Show how the reindex of NAME stands, which index is live, and which are kept; without NAME, all catalogues.

    \b
    Example:
      shelfrank reindex status shop --json
    """
    client, _ = _connected()
    if name:
        aliases.check_name(name)
        names = [name]
    else:
        names = [record.catalogue for record in jobs.Board(client).all() if ":" not in record.catalogue]
    shown = [operations.status(client, each) for each in names]
    if json_output:
        terminal.emit_json([msgspec.to_builtins(each) for each in shown])
        return
    for each in shown:
        click.echo(_sentence(each))


def _sentence(shown: operations.Status) -> str:
    record = shown.record
    live = f"{record.catalogue}: {shown.live or 'no index'} is live"
    parts = [f"{live}, {shown.documents:,} products." if shown.documents is not None else f"{live}."]
    if shown.blocked:
        parts.append("It takes no writes: a switch or a rollback has it, or was left in the middle.")
    if record.phase == "ingest" and not shown.live:
        state = "running" if shown.running else "unfinished"
        parts.append(f"Its first ingest is {state}: {record.target} is not seen before it is whole.")
        if not shown.running:
            parts.append("Go on: give the same `shelfrank ingest` command again.")
    elif record.is_open:
        total = f" of {record.total:,}" if record.total else ""
        state = "running" if shown.running else "paused" if record.paused else "left by its process"
        parts.append(f"A reindex into {record.target} is open: {record.phase}, {record.done:,}{total}, {state}.")
        if record.problem:
            parts.append(f"Its last problem: {record.problem}")
        if shown.running:
            left = record.lease_until - time.time()
            parts.append(
                f"{jobs.shown(record.owner).capitalize()} holds it; its lease ends in {left:.0f} s unless renewed."
            )
        else:
            parts.append(f"Go on: shelfrank reindex resume {record.catalogue}")
    elif shown.blocked and not shown.running:
        parts.append(f"Give the command again that was left (`shelfrank reindex rollback {record.catalogue}`, say).")
    elif record.phase == "refused":
        failed = "; ".join(f"{check['name']}: {check['seen']}" for check in record.checks if not check["ok"])
        parts.append(f"The last reindex was refused: {failed}.")
    if shown.kept:
        parts.append(f"Kept for a rollback: {', '.join(shown.kept)}.")
    if shown.leftovers:
        parts.append(f"No longer needed: {', '.join(shown.leftovers)}; see `shelfrank reindex clean`.")
    return "\n  ".join(parts)


def _on_catalogue(command: Callable[..., Any]) -> click.Command:
    """A command on one catalogue that has no options of its own."""
    return reindex.command(context_settings=_CONTEXT)(name_argument(as_json(command)))


@_on_catalogue
def pause(name: str, json_output: bool) -> None:
    """Ask the process that works on NAME to stop after its batch; `resume` goes on.

    \b
    Example:
      shelfrank reindex pause shop
    """
    client, _ = _connected()
    record = operations.pause(client, name)
    _answer(
        {"asked": record.owner},
        f"Asked {jobs.shown(record.owner) or 'nobody: no process holds it'} to pause.",
        json_output,
    )


@_on_catalogue
def cancel(name: str, json_output: bool) -> None:
    """End the open reindex of NAME and delete its unfinished index. The live index stays as it is.

    \b
    Example:
      shelfrank reindex cancel shop
    """
    client, _ = _connected()
    record = operations.cancel(client, name)
    if record.is_open:
        text = (
            f"Asked {jobs.shown(record.owner)} to cancel. Should it be dead, its lease ends in {record.lease_s:.0f} s: "
            "give the command again then."
        )
    else:
        text = "Cancelled."
    _answer({"phase": record.phase, "asked": record.owner if record.is_open else ""}, text, json_output)


@_on_catalogue
def rollback(name: str, json_output: bool) -> None:
    """Make the index that was live before NAME's last switch live again, with everything that changed since.

    The one that it replaces is kept, so a second rollback leads back. The loaded encoder must be that of the index
    that comes back.

    \b
    Example:
      shelfrank reindex rollback shop
    """
    from reranker.encoder import Encoder
    from reranker.scoring import CrossEncoder

    client, loaded = _connected()
    second = Encoder.named(loaded.models.second_encoder, loaded.models)
    encoder, tokens = Encoder.load(loaded.models), CrossEncoder.load(loaded.models)
    index, brought = operations.rollback(client, name, encoder, tokens, loaded, second)
    text = f"{name} stands for {index} again; {brought:,} changes since the switch were brought over."
    _answer({"index": index, "changes": brought}, text, json_output)


@reindex.command(context_settings=_CONTEXT)
@name_argument
@click.option(
    "--keep",
    "keep_last",
    type=click.IntRange(min=0),
    default=1,
    show_default=True,
    help="How many indexes that were live to keep for a rollback.",
)
@click.option("--dry-run", is_flag=True, help="Name them, delete nothing.")
@as_json
def clean(name: str, keep_last: int, dry_run: bool, json_output: bool) -> None:
    """Delete indexes of NAME that are neither live, nor kept for a rollback, nor being built.

    \b
    Example:
      shelfrank reindex clean shop --keep 1 --dry-run
    """
    client, _ = _connected()
    gone = operations.clean(client, name, keep_last, dry_run=dry_run)
    verb = "Would delete" if dry_run else "Deleted"
    _answer(
        {"deleted": [] if dry_run else gone, "would_delete": gone if dry_run else []},
        f"{verb} {', '.join(gone) or 'nothing'}.",
        json_output,
    )


def _connected() -> tuple[OpenSearch, settings.Settings]:
    loaded = settings.load()
    return clusters.connect(loaded), loaded


def _answer(values: dict[str, Any], text: str, json_output: bool) -> None:
    if json_output:
        terminal.emit_json(values)
    else:
        click.echo(text)
