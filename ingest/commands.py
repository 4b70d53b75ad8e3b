"""`shelfrank ingest`: a catalogue file into an index."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import click
import msgspec
from rich.progress import Progress

from indexer import client as clusters
from indexer import settings, terminal
from indexer.aliases import check_name
from indexer.errors import InputError, ShelfrankError
from ingest.allowing import allowed, allowing
from ingest.job import Job, Options
from ingest.report import Report
from ingest.schema import load_mapping
from ingest.sources import open_catalogue

STOPPED = 130


@click.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--mapping", required=True, help="TOML file from columns to product fields, or a ready one: esci.")
@click.option("--index", "name", required=True, help="Name of the catalogue in OpenSearch (an alias).")
@click.option("--limit", type=click.IntRange(min=1), help="Read no more than this many rows.")
@click.option(
    "--dead-letter", type=click.Path(dir_okay=False, path_type=Path), help="Where rejected rows go (JSON lines)."
)
@click.option(
    "--report", "report_file", type=click.Path(dir_okay=False, path_type=Path), help="Write the report there."
)
@allowing("missing", "prices")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON on standard output.")
def ingest(
    file: Path,
    mapping: str,
    name: str,
    limit: int | None,
    dead_letter: Path | None,
    report_file: Path | None,
    as_json: bool,
    **allow: bool,
) -> None:
    """Read a catalogue FILE (CSV, TSV, JSON lines, Parquet; gzip too) into the catalogue --index.

    Products that are there unchanged are skipped, so running it again costs little and goes on after an
    interruption. Products that left the file stay in the index; `shelfrank reindex` drops them. Rows without id or
    title, rows that cannot be read, and second rows of one id are rejected into the dead-letter file, which is by
    default FILE.rejected.jsonl.

    \b
    Example:
      shelfrank ingest catalog.csv --mapping catalog.toml --index shop
      shelfrank ingest products.jsonl.gz --mapping esci --index esci --json

    Exit codes: 0 done, 1 failed, 2 wrong use, 130 stopped by Ctrl-C.
    """
    loaded = settings.load()
    check_name(name)
    catalogue = open_catalogue(file, load_mapping(mapping), loaded.bounds)
    options = Options(name, dead_letter or _beside(file), limit, allowed(allow))
    # Late and only here: the models take a second to load, a wrong mapping should not.
    from reranker.encoder import Encoder
    from reranker.scoring import CrossEncoder

    encoder, reranker = Encoder.load(loaded.models), CrossEncoder.load(loaded.models)
    second = Encoder.named(loaded.models.second_encoder, loaded.models)
    client = clusters.connect(loaded)
    with stoppable() as stop, terminal.progress(quiet=as_json) as bar:
        show = shower(bar)
        job = Job(client, catalogue, encoder, reranker, loaded, options, stop=stop, on_progress=show, second=second)
        try:
            report = job.run()
        except ShelfrankError as error:
            job.report.error = str(error)
            publish(job.report, report_file, as_json)
            raise
    publish(report, report_file, as_json)
    if report.stopped:
        sys.exit(STOPPED)
    if report.failed:
        raise InputError(f"{report.failed} products could not be written; the reasons are in {report.dead_letter}.")


def _beside(file: Path) -> Path:
    """The default dead-letter file; in the working folder when the catalogue's own cannot be written to."""
    folder = file.parent if os.access(file.parent, os.W_OK) else Path()
    return folder / f"{file.name}.rejected.jsonl"


@contextmanager
def stoppable() -> Iterator[threading.Event]:
    """An event that the first Ctrl-C sets; the second one interrupts."""
    stop = threading.Event()

    def on_interrupt(number: int, frame: FrameType | None) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()
        terminal.err.print("Stopping after the batch in flight; press Ctrl-C again to stop now.")

    before = signal.signal(signal.SIGINT, on_interrupt)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, before)


def shower(bar: Progress) -> Callable[[str, int, int | None], None]:
    """What a job calls to move a progress bar."""
    task = bar.add_task("Ingest", total=None)
    started = time.monotonic()

    def show(phase: str, done: int, total: int | None) -> None:
        rate = done / max(time.monotonic() - started, 1e-3)
        bar.update(task, description=f"{phase} ({rate:,.0f}/s)", completed=done, total=total)

    return show


def publish(report: Report, file: Path | None, as_json: bool, further: Mapping[str, Any] | None = None) -> None:
    """Show the report, with what else belongs to it, as JSON or as tables; warnings go to standard error."""
    summary = {**report.summary(), **(further or {})}
    if file:
        try:
            file.write_bytes(msgspec.json.format(msgspec.json.encode(summary)) + b"\n")
        except OSError as error:
            raise InputError(f"The report {file} cannot be written: {error.strerror}. Give another path.") from error
    if as_json:
        terminal.emit_json(summary)
    elif report.read or not report.error:  # what was refused before it began has nothing to show
        for table in report.tables():
            terminal.err.print(table)
    for warning in report.warnings:
        terminal.err.print(f"Note: {warning}", markup=False, highlight=False)
    if report.rejected:
        terminal.err.print(
            f"Warning: {report.rejected} rows were rejected; see {report.dead_letter}.", markup=False, highlight=False
        )
    if report.stopped:
        terminal.err.print("Stopped. The same command goes on from here.")
