"""shelfrank at size: many products into a new index while a shop goes on searching the live one.

    python benchmarks/load.py --products products.jsonl --queries queries.tsv --size 500000 --out runs/load

The job is `shelfrank reindex` itself (`ingest.reindex.job`): documents are made, looked up in both indexes, written
by bulk, caught up, examined, and the alias moved. Only the encoder is replaced by known vectors, and products beyond
the real ones are synthetic (`synthetic.py`). The node is the embedded one with a data folder of its own, which is
removed at the end. A second process searches the alias throughout: at first `--live` products, after the switch all of
them, before, during and after a merge to one segment. Last come recall against exact search and a scan of all ids.

Writes load.json, load.md, load.svg, samples.json and searches.jsonl into `--out`. Ctrl-C stops the node and removes its
data.
"""

from __future__ import annotations

import shutil
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import msgspec
import numpy as np
from knn import HITS, exact, search
from loadplot import plot
from opensearchpy import OpenSearch
from synthetic import Catalogue, KnownVectors, Vectors, grown_vectors, known_vectors, real_products
from watching import Shop, Watch, latencies

from indexer import aliases, changes, node
from indexer import client as clusters
from indexer.bulk import BulkWriter
from indexer.patience import Patience
from indexer.settings import Cluster, Settings, load
from ingest.reindex.job import Options, Reindex
from reranker.encoder import Encoder
from reranker.evaluation.judgments import read_queries
from reranker.scoring import CrossEncoder

NAME = "shop"
BYTES_A_PRODUCT = 30_000  # of free disk: what is stored, twice while it is merged, and the translog
DEPTHS = (100, 200, 400, 800)
_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
_FOLDER = click.Path(file_okay=False, path_type=Path)


class Watched(Reindex):
    """A reindex whose writer can be looked at."""

    bulk_bytes = 0

    def _writer(self, index: str) -> BulkWriter:
        writer = super()._writer(index)
        self.pace = writer.pace
        return writer

    def progress(self) -> tuple[int, int]:
        """Products written, and the bytes that a bulk request may hold."""
        return self.report.written, self.pace.bytes if hasattr(self, "pace") else 0


@contextmanager
def node_for(folder: Path, size: int, heap_mb: int, keep: bool) -> Iterator[node.NodeInfo]:
    """A node of its own; refuses a folder that is there and a disk that is too small."""
    if folder.exists():
        raise click.UsageError(
            f"{folder} is there already, perhaps kept by --keep. Remove it, or name another --folder."
        )
    free = shutil.disk_usage(folder.parent).free
    if free < size * BYTES_A_PRODUCT:
        needed = size * BYTES_A_PRODUCT / 1e9
        raise click.UsageError(f"{folder.parent} has {free / 1e9:.0f} GB free, {size:,} products need {needed:.0f} GB.")
    try:
        with node.running(folder, load().node, heap_mb=heap_mb) as found:
            yield found
    finally:
        if not keep:
            shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def saved(out: Path, figures: dict[str, Any], watch: Watch) -> Iterator[None]:
    """Write down what there is at the end, also of a load that was cut short."""
    try:
        yield
    finally:
        figures["phases"] = watch.phases
        figures["searches"] = latencies(out / "searches.jsonl", watch.phases)
        (out / "samples.json").write_bytes(msgspec.json.encode(watch.samples))
        (out / "load.json").write_bytes(msgspec.json.format(msgspec.json.encode(figures)))


def recall(client: OpenSearch, nearest: list[set[str]], queries: Vectors) -> list[dict[str, Any]]:
    """recall@100 and latency by depth, as `knn.py` measures them."""
    rows = []
    for depth in DEPTHS:
        for query in queries[:20]:  # the graph is read from disk once
            search(client, NAME, query, depth)
        found = [search(client, NAME, query, depth) for query in queries]
        shares = [len(ids & right) / HITS for (ids, _), right in zip(found, nearest, strict=True)]
        median, late = np.percentile([seconds * 1000 for _, seconds in found], [50, 95])
        row = {"depth": depth, "recall": np.mean(shares), "median_ms": median, "p95_ms": late}
        rows.append({name: round(float(value), 4) for name, value in row.items()})
    return rows


def stored(client: OpenSearch, folder: Path) -> dict[str, Any]:
    """The live index on disk, in MB, by what its files hold; and its segments."""
    index = aliases.live(client, NAME).index  # type: ignore[union-attr]
    uuid = client.indices.get_settings(index=index)[index]["settings"]["index"]["uuid"]
    kinds = {".vec": "vectors", ".vex": "graphs", ".fdt": "stored fields", ".cfs": "small segments"}
    sizes: dict[str, float] = {}
    for file in (folder / "data").glob(f"nodes/0/indices/{uuid}/**/*"):
        if file.is_file():
            kind = "translog" if "translog" in file.parts else kinds.get(file.suffix, "words and the rest")
            sizes[kind] = sizes.get(kind, 0) + file.stat().st_size / 1e6
    segments = client.indices.stats(index=index, metric="segments")["indices"][index]["primaries"]["segments"]["count"]
    return {"segments": segments, "mb": {kind: round(size, 1) for kind, size in sorted(sizes.items())}}


def all_ids(client: OpenSearch) -> dict[str, float]:
    """What the examination's scan of all ids takes, and what ids held in a set weigh."""
    started = time.perf_counter()
    ids = set(changes.ids(client, NAME, Patience()))
    seconds = time.perf_counter() - started
    weight = (sys.getsizeof(ids) + sum(map(sys.getsizeof, ids))) / len(ids)
    return {"ids": len(ids), "seconds": round(seconds, 1), "bytes_each_in_a_set": round(weight, 1)}


def reindex(client: OpenSearch, catalogue: Catalogue, models: Any, settings: Settings, watch: Watch, out: Path) -> Any:
    """Put a catalogue into the alias's place; returns the job's report."""
    encoder, reranker = models
    options = Options(NAME, out / "rejected.jsonl")

    def show(phase: str, done: int, total: int | None) -> None:
        watch.enter(phase.lower())

    job = Watched(client, catalogue, KnownVectors(encoder, catalogue), reranker, settings, options, on_progress=show)
    watch.progress = job.progress
    return {**msgspec.to_builtins(job.start()), "checks": msgspec.to_builtins(job.checks)}


@click.command(help=__doc__.replace("\n\n    python", "\n\n\b\n    python"))
@click.option("--products", type=_FILE, required=True)
@click.option("--mapping", default="esci", show_default=True)
@click.option("--queries", "queries_file", type=_FILE, required=True)
@click.option("--size", type=click.IntRange(1000), default=20_000, show_default=True)
@click.option("--live", type=click.IntRange(1), help="Products of the live index; default: the real ones.")
@click.option("--heap-mb", type=click.IntRange(256), default=1024, show_default=True)
@click.option(
    "--minutes", type=float, help="Build no longer than this: the catalogue is then what came into the index."
)
@click.option("--quiet", "quiet_s", default=60.0, show_default=True, help="Seconds of searching with no load.")
@click.option("--every", "every_s", default=10.0, show_default=True, help="Seconds from sample to sample.")
@click.option("--pause", "pause_s", default=0.2, show_default=True, help="Seconds between two searches.")
@click.option("--folder", type=_FOLDER, default=Path("/var/tmp/shelfrank-load"), show_default=True)
@click.option("--keep", is_flag=True, help="Leave the node's data; SHELFRANK_NODE_DATA_DIR then leads to them.")
@click.option("--out", type=_FOLDER, default=Path("runs/load"), show_default=True)
def main(
    products: Path,
    mapping: str,
    queries_file: Path,
    size: int,
    live: int | None,
    heap_mb: int,
    minutes: float | None,
    quiet_s: float,
    every_s: float,
    pause_s: float,
    folder: Path,
    keep: bool,
    out: Path,
) -> None:
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell that starts this in the background ignores it
    out.mkdir(parents=True, exist_ok=True)
    (out / "searches.jsonl").write_bytes(b"")
    models = Encoder.load(), CrossEncoder.load()
    real = real_products(products, mapping)
    vectors = known_vectors(real, models[0], out)
    queries = [query.text for query in read_queries(queries_file)]
    asked = models[0].embed_queries(queries)
    many = grown_vectors(vectors, size, out)
    whole, small = Catalogue(real, many), Catalogue(real, many[: live or len(real)])
    print(
        f"{len(real):,} real products, {max(size - len(real), 0):,} synthetic ones, {len(queries)} queries", flush=True
    )
    figures: dict[str, Any] = {"real": len(real), "asked": size, "live": small.size, "heap_mb": heap_mb}
    with node_for(folder, size + small.size, heap_mb, keep) as info:
        settings = msgspec.structs.replace(load(), cluster=Cluster(url=info.url))
        client = clusters.connect(settings)
        with Watch(client, info.pid, every_s) as watch, saved(out, figures, watch):
            reindex(client, small, models, settings, watch, out)
            watch.phases.clear()
            watch.samples.clear()
            with Shop(info.url, NAME, queries, asked, out / "searches.jsonl", pause_s):
                watch.enter("quiet")
                time.sleep(quiet_s)
                if minutes is not None:
                    whole.deadline = time.monotonic() + minutes * 60
                figures["reindex"] = reindex(client, whole, models, settings, watch, out)
                watch.enter("unmerged")
                time.sleep(quiet_s)
                figures["unmerged"] = stored(client, folder)
                watch.enter("recall")
                ids = whole.ids()
                nearest = [{ids[at] for at in row} for row in exact(many[: whole.size], asked)]
                figures["recall_unmerged"] = recall(client, nearest, asked)
                watch.enter("merging")
                client.indices.forcemerge(index=NAME, params={"max_num_segments": "1"}, request_timeout=7200)
                client.indices.refresh(index=NAME)
                watch.enter("merged")
                time.sleep(quiet_s)
                watch.enter("end")
            figures["size"] = whole.size
            figures["merged"] = stored(client, folder)
            figures["scan"] = all_ids(client)
            figures["recall"] = recall(client, nearest, asked)
    plot(out)


if __name__ == "__main__":
    main()
