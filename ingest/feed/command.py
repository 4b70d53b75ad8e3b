"""`shelfrank feed`: changes from a file, a watched folder or standard input into the live index."""

from __future__ import annotations

import queue
import sys
import threading
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import IO

import click
import msgspec

from indexer import client as clusters
from indexer import settings, terminal
from indexer.aliases import check_name
from indexer.errors import InputError, ShelfrankError, UsageError
from indexer.lines import TooLong, bounded, raw_lines
from indexer.settings import Bounds
from ingest.allowing import allowed, allowing
from ingest.commands import STOPPED, shower, stoppable
from ingest.feed.events import Batch, parse
from ingest.feed.job import Counts, Feed
from ingest.report import DeadLetters
from ingest.schema import CatalogMapping, Columns, load_mapping

Batches = Iterator[Batch]
_BOUNDS = Bounds()
IDLE_S = 0.5  # a batch that is not full is applied when nothing has come for so long
POLL_S = 1.0
DONE = "done"
# Where no mapping is given, products have the names of product fields.
PLAIN = CatalogMapping(
    msgspec.convert(
        {name: name for name in Columns.__struct_fields__ if name not in ("attributes", "version")}, Columns
    )
)


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("source", type=click.Path(path_type=Path, allow_dash=True))
@click.option("--index", "name", required=True, help="Name of the catalogue in OpenSearch (an alias).")
@click.option("--mapping", help="TOML file from the columns of upserts to product fields. Default: the fields' names.")
@click.option("--watch", is_flag=True, help="SOURCE is a folder: take its *.jsonl by name, now and as they come.")
@click.option(
    "--stamp", is_flag=True, help="Lines without a version get the time at which they are read (milliseconds)."
)
@click.option(
    "--dead-letter", type=click.Path(dir_okay=False, path_type=Path), help="Where refused lines go (JSON lines)."
)
@allowing("deletions", "missing", "prices")
@click.option("--json", "as_json", is_flag=True, help="Print the counts as JSON on standard output.")
def feed(
    source: Path,
    name: str,
    mapping: str | None,
    watch: bool,
    stamp: bool,
    dead_letter: Path | None,
    as_json: bool,
    **allow: bool,
) -> None:
    """Apply changes from SOURCE to the catalogue --index: a file of JSON lines, - for standard input, or a folder.

    \b
    {"op": "upsert", "version": 17, "product": {"id": "a1", "title": "Lamp", "price": 9.9}}
    {"op": "update", "version": 18, "id": "a1", "set": {"price": 8.5, "stock": 3}}
    {"op": "delete", "version": 19, "id": "a1"}

    Versions settle what is newer, whatever order lines come in, so the same feed may be given again. Updates of price,
    stock and ratings keep the vector. A deleted product comes back only by an upsert of a higher version. Files of a
    watched folder move into its folder `done` when they are applied; write them under another name first, then rename.

    \b
    Example:
      shelfrank feed changes.jsonl --index shop --mapping catalog.toml
      shelfrank feed inbox --watch --index shop

    Exit codes: 0 done, 1 failed, 2 wrong use, 130 stopped by Ctrl-C.
    """
    check_name(name)
    loaded = settings.load()
    chosen = load_mapping(mapping) if mapping else PLAIN
    _check(source, watch)
    from reranker.encoder import Encoder
    from reranker.scoring import CrossEncoder

    encoder, tokens = Encoder.load(loaded.models), CrossEncoder.load(loaded.models)
    second = Encoder.named(loaded.models.second_encoder, loaded.models)
    client = clusters.connect(loaded)
    size = loaded.ingest.batch
    letters = dead_letter or Path(f"{name}.feed.rejected.jsonl")
    with stoppable() as stop, terminal.progress(quiet=as_json) as bar, DeadLetters(letters) as refused:
        show = shower(bar)
        job = Feed(
            client,
            name,
            encoder,
            tokens,
            loaded,
            refused,
            stop=stop,
            on_progress=show,
            second=second,
            allow=allowed(allow),
        )
        if watch:
            batches = watched(source, chosen, size, stamp, stop, loaded.bounds)
        elif str(source) == "-":
            batches = streamed(sys.stdin.buffer, chosen, size, stamp, stop, loaded.bounds)
        else:
            batches = read(source, chosen, size, stamp, loaded.bounds)
        try:
            counts = job.run(batches)
        except ShelfrankError as error:
            job.counts.error = str(error)
            _publish(job.counts, as_json)
            raise
    _publish(counts, as_json)
    if counts.stopped:
        sys.exit(STOPPED)
    if counts.failed:
        raise InputError(f"{counts.failed} changes could not be written; the reasons are in {counts.dead_letter}.")
    if counts.read and counts.unreadable == counts.read:
        raise InputError(
            f"None of the {counts.read} lines is a change ({', '.join(counts.reasons)}): look at {counts.dead_letter}."
        )


def _check(source: Path, watch: bool) -> None:
    if watch and not source.is_dir():
        raise UsageError(f"--watch needs a folder, and {source} is none.")
    if not watch and str(source) != "-" and not source.is_file():
        hint = " To take the files of a folder, add --watch." if source.is_dir() else ""
        raise UsageError(f"{source} is no file.{hint}")


def read(path: Path, mapping: CatalogMapping, size: int, stamp: bool, bounds: Bounds = _BOUNDS) -> Batches:
    """The events of a file, plain or gzip, `size` lines at a time."""
    numbered = enumerate(raw_lines(path, bounds), start=1)
    events = (parse(raw, line, mapping, stamp) for line, raw in numbered if isinstance(raw, TooLong) or raw.strip())
    while batch := Batch(islice(events, size)):
        batch.source = str(path)
        yield batch


def streamed(
    stream: IO[bytes],
    mapping: CatalogMapping,
    size: int,
    stamp: bool,
    stop: threading.Event,
    bounds: Bounds = _BOUNDS,
) -> Batches:
    """The events of a stream that may pause: a batch when `size` lines are there, or when none comes for a moment."""
    # Bounded: a fast writer waits for a slow cluster, and memory does not grow.
    lines: queue.Queue[bytes | TooLong[bytes] | None] = queue.Queue(maxsize=4 * size)

    def pump() -> None:
        for raw in bounded(stream, bounds.line_bytes):
            lines.put(raw)
        lines.put(None)

    threading.Thread(target=pump, name="feed", daemon=True).start()
    number, ended = 0, False
    batch = Batch()
    while not ended and not stop.is_set():
        try:
            raw: bytes | TooLong[bytes] | None = lines.get(timeout=IDLE_S)
        except queue.Empty:
            raw = b""
        else:
            ended = raw is None
            number += not ended
        if isinstance(raw, TooLong) or (raw and raw.strip()):
            batch.append(parse(raw, number, mapping, stamp))
        if batch and (not raw or len(batch) >= size):
            yield batch
            batch = Batch()


def watched(
    folder: Path,
    mapping: CatalogMapping,
    size: int,
    stamp: bool,
    stop: threading.Event,
    bounds: Bounds = _BOUNDS,
) -> Batches:
    """The events of a folder's files in the order of their names, for as long as `stop` is not set."""
    done = folder / DONE
    done.mkdir(exist_ok=True)
    while not stop.is_set():
        files = sorted(path for path in folder.glob("*.jsonl") if path.is_file())
        for path in files:
            yield from read(path, mapping, size, stamp, bounds)
            # Here the last batch has been applied: the next one was asked for.
            path.replace(done / path.name)
        if not files:
            stop.wait(POLL_S)


def _publish(counts: Counts, as_json: bool) -> None:
    if as_json:
        terminal.emit_json(msgspec.to_builtins(counts))
        return
    rate = counts.read / max(counts.seconds, 1e-3)
    terminal.err.print(
        f"{counts.read:,} lines in {counts.seconds:.1f} s ({rate:,.0f}/s): {counts.upserts:,} upserts, "
        f"{counts.updates:,} updates, {counts.deletes:,} deletes applied; {counts.superseded:,} superseded, "
        f"{counts.rejected:,} refused, {counts.failed:,} failed; {counts.embedded:,} products embedded.",
        highlight=False,
    )
    if counts.dead_letter:
        terminal.err.print(f"Refused lines are in {counts.dead_letter}.", markup=False, highlight=False)
