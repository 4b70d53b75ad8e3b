"""How fast a catalogue is embedded in one process and on Ray workers, and what that means for a large one.

    python benchmarks/distributed.py --products products.jsonl --mapping esci --price 0.04

Every round runs each way once, in turn, over the same products in the same batches; the table holds medians. Loading
models and starting workers is `start`, done once, and not part of the rates. `per core` divides by the cores that were
asked for; `per CPU second` by the processor time that all processes took, Ray's own included: the one to reckon with
where other things run on the machine, and what the cost table takes. Reading, cleaning and sending are measured apart,
since one process does them for all workers.
"""

from __future__ import annotations

import os
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

import click
import msgspec
import numpy as np
from rich.table import Table

import ingest.sample_shop
from indexer.settings import Index, Models
from indexer.terminal import emit_json, out
from ingest.documents import Entry, Stream, stored_entry
from ingest.products import Products
from ingest.report import DeadLetters, Report
from ingest.schema import load_mapping
from ingest.sources import open_catalogue
from ingest.stream import opened
from reranker.encoder import Encoder
from reranker.scoring import CrossEncoder

SHOP = Path(ingest.sample_shop.__file__).parent
SIZES = (1_000_000, 10_000_000, 100_000_000)
TICKS = os.sysconf("SC_CLK_TCK")
COLUMNS = ("start", "per_second", "per_core", "per_cpu_second")


def read(products: Path, mapping: str, count: int) -> tuple[list[Entry], float]:
    """The first products, and how many of all were read and cleaned a second."""
    with tempfile.TemporaryDirectory() as folder, DeadLetters(Path(folder) / "rejected.jsonl") as letters:
        began = time.perf_counter()
        found = list(Products(open_catalogue(products, load_mapping(mapping)), Report()).entries(letters))
        return found[:count], len(found) / (time.perf_counter() - began)


def processor_seconds() -> float:
    """Processor time of this process and all that it has started and that still run."""
    parents, spent = {}, {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue  # it has just ended
        parents[int(folder.name)] = int(fields[1])
        spent[int(folder.name)] = (int(fields[11]) + int(fields[12])) / TICKS

    def ours(process: int) -> bool:
        while process in parents and process != os.getpid():
            process = parents[process]
        return process == os.getpid()

    return sum(seconds for process, seconds in spent.items() if ours(process))


def timed(stream: Stream, batches: list[list[Entry]]) -> tuple[float, float]:
    """Seconds on the clock and of the processor."""
    began, spent = time.perf_counter(), processor_seconds()
    for _ in stream(iter(batches)):
        pass
    return time.perf_counter() - began, processor_seconds() - spent


class Way:
    """One way to embed: `start` seconds until the models are loaded, then rates by round."""

    def __init__(self, ways: ExitStack, tokens: CrossEncoder, threads: int, workers: int) -> None:
        began = time.perf_counter()
        models = Models(threads=threads)
        self.stream: Stream = ways.enter_context(opened(Encoder.load(models), tokens, models, workers))
        first = [[Entry({"id": str(number), "title": "Lamp", "language": "en"})] for number in range(2 * workers + 1)]
        for _ in self.stream(iter(first)):
            pass
        self.start, self._cores = time.perf_counter() - began, threads * max(workers, 1)
        self.rounds: list[dict[str, float]] = []

    def run(self, batches: list[list[Entry]]) -> None:
        """One round."""
        seconds, processor = timed(self.stream, batches)
        rate = sum(map(len, batches)) / seconds
        per_cpu_second = sum(map(len, batches)) / processor
        self.rounds.append(
            {"per_second": rate, "per_core": rate / self._cores, "per_cpu_second": per_cpu_second},
        )

    def medians(self) -> dict[str, float]:
        """Of all rounds, with the start."""
        return {"start": self.start} | {
            key: float(np.median([seen[key] for seen in self.rounds])) for key in self.rounds[0]
        }


def sent(stream: Stream, batches: list[list[Entry]]) -> float:
    """Products a second through Ray when their vectors are kept: what one process can feed and take back."""
    made = [[_kept(document.source) for document in documents] for _, documents in stream(iter(batches))]
    return sum(map(len, made)) / timed(stream, made)[0]


def _kept(source: bytes) -> Entry:
    return stored_entry(msgspec.json.decode(source))


def vector_bytes(encoding: str, dimension: int, m: int) -> float:
    """Bytes of one vector in a faiss graph in memory, by OpenSearch's formula: 1.1 times (vector + 8 m)."""
    bits = {"float": 32, "half": 16, "byte": 8, "binary": 1}[encoding]
    return 1.1 * (dimension * bits / 8 + 8 * m)


@click.command()
@click.option("--products", default=SHOP / "catalog.csv", type=click.Path(exists=True, path_type=Path))
@click.option("--mapping", default=str(SHOP / "catalog.toml"))
@click.option("--count", default=512, show_default=True, help="Products a round.")
@click.option("--batch", default=32, show_default=True, help="Products to a batch.")
@click.option("--rounds", default=3, show_default=True)
@click.option("--cores", default=64, show_default=True, help="Of the cluster in the cost table.")
@click.option("--price", default=0.0, help="Of a core for an hour; 0 leaves money out.")
@click.option("--json", "as_json", is_flag=True)
def main(
    products: Path, mapping: str, count: int, batch: int, rounds: int, cores: int, price: float, as_json: bool
) -> None:
    """Measure embedding in one process and on Ray workers."""
    entries, cleaned = read(products, mapping, count)
    batches = [entries[at : at + batch] for at in range(0, len(entries), batch)]
    os.environ.setdefault("RAY_worker_niceness", "0")  # else workers give way to all that runs beside them
    tokens = CrossEncoder.load(Models(threads=1))
    with ExitStack() as stack:
        began = time.perf_counter()
        # Ray with room for both ways at once; workers that do nothing take no time.
        stack.enter_context(opened(Encoder.load(), tokens, Models(threads=1), 3))
        ray_start = time.perf_counter() - began
        ways = {
            "one process, 1 thread": Way(stack, tokens, 1, 0),
            "one process, 2 threads": Way(stack, tokens, 2, 0),
            "Ray, 1 worker": Way(stack, tokens, 1, 1),
            "Ray, 2 workers": Way(stack, tokens, 1, 2),
        }
        for _ in range(rounds):
            for way in ways.values():
                way.run(batches)
        rows = {name: way.medians() for name, way in ways.items()}
        ends = {"read and cleaned": cleaned, "sent to workers and taken back": sent(way.stream, batches)}
    rate = rows["Ray, 2 workers"]["per_cpu_second"]
    costs = {size: size / rate / 3600 for size in SIZES}
    alone = 1 / sum(1 / value for value in ends.values())
    dimension, m = Encoder.load().dimension, Index().m
    memory = {
        size: {each: size * vector_bytes(each, dimension, m) / 1e9 for each in ("float", "half", "byte", "binary")}
        for size in SIZES
    }
    if as_json:
        emit_json(
            {
                "rates": {name: way.rounds for name, way in ways.items()},
                "ends": ends,
                "core_hours": costs,
                "vector_gb": memory,
            }
        )
        return
    _show(rows, f"{len(entries)} products × {rounds}, batches of {batch}")
    out.print(
        f"Ray itself began in {ray_start:.1f} s; {os.getloadavg()[1]:.0f} processes wanted {os.cpu_count()} cores"
    )
    for what, value in ends.items():
        out.print(f"{what}: {value:,.0f} products a second, by one process")
    out.print(f"Workers that one process keeps busy, before it writes anything: {alone / rate:.0f}")
    columns = ("core hours", f"hours on {cores} cores", "hours of the one process", "price")
    table = Table("products", *columns, title="Embedding")
    for size, hours in costs.items():
        money = f"{hours * price:,.2f}" if price else ""
        table.add_row(f"{size:,}", f"{hours:,.0f}", f"{hours / cores:,.1f}", f"{size / alone / 3600:,.1f}", money)
    out.print(table)
    table = Table("products", *memory[SIZES[0]], title=f"GB of memory for {dimension} dimensions, m {m}")
    for size, found in memory.items():
        table.add_row(f"{size:,}", *(f"{value:,.2f}" for value in found.values()))
    out.print(table)


def _show(rows: dict[str, dict[str, float]], title: str) -> None:
    table = Table("way", "start s", "products/s", "per core", "per CPU second", title=title)
    for name, row in rows.items():
        table.add_row(name, *(f"{row[key]:.1f}" for key in COLUMNS))
    out.print(table)


if __name__ == "__main__":
    main()
