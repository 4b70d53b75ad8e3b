"""Embedding on many machines: Ray Data actors make the documents of batches, each by the same code as a local run.

Reading the catalogue and writing to the cluster stay in this process; batches go out as JSON, a few for each worker at
any time, and their documents come back in any order, so memory is bounded by the workers and not by the catalogue.
Bundles are shipped: a worker compares every file with its sha256 before it loads it, once. A worker that dies is
replaced and its batch made again; whatever else breaks, a new pipeline is given the batches that are still out.

Needs the extra `distributed`. Ray pickles between its own processes, so its cluster has to be trusted.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Iterator
from importlib.metadata import version
from types import TracebackType
from typing import Any

import msgspec
import pyarrow as pa
import ray
import ray.data
from ray.data.exceptions import SystemException
from ray.exceptions import RayError

from indexer.bulk import Document
from indexer.errors import WorkerError
from indexer.settings import Models
from ingest.documents import Entry
from ingest.worker import Embedder, Shipped, Work
from reranker.bundle import Bundle

_AHEAD = 3  # batches out for each worker: one in work, one waiting, one on its way
_ATTEMPTS = 3  # pipelines in a row that bring nothing


class Feed:
    """The way of batches from the job to the pipeline, as an actor."""

    def __init__(self) -> None:
        self._rows: asyncio.Queue[tuple[int, bytes]] = asyncio.Queue()
        self._read = False

    async def open(self) -> None:
        """Begin to read. A second reader would miss what the first one took: the pipeline has to be made anew."""
        if self._read:
            raise RuntimeError("the feed was read before")
        self._read = True

    async def put(self, number: int, entries: bytes) -> None:
        """Send one batch."""
        await self._rows.put((number, entries))

    async def take(self) -> tuple[int, bytes]:
        """The next batch, when there is one."""
        return await self._rows.get()


def _read(_: Any, feed: Any) -> Iterator[pa.Table]:
    """The pipeline's source: a task that ends with the pipeline."""
    ray.get(feed.open.remote())
    while True:
        number, entries = ray.get(feed.take.remote())
        yield pa.table({"number": [number], "entries": [entries]})


class Workers:
    """Workers on the Ray cluster that RAY_ADDRESS names, or else on one that is started on this machine for the time.

    A worker has one core (`models.threads`, where that is set) and with `models.provider` cuda one GPU. Where the
    cluster has no room for all of them, those begin that find room.
    """

    def __init__(self, encoder: Bundle, tokens: Bundle, models: Models, workers: int) -> None:
        threads = models.threads or 1
        self._work = Work(
            version("shelfrank"),
            msgspec.structs.replace(models, threads=threads),
            Shipped.of(encoder),
            Shipped.of(tokens),
        )
        self._needs: dict[str, float] = {"num_cpus": threads}
        if models.provider == "cuda":
            self._needs["num_gpus"] = 1
        self._workers, self.room = workers, workers
        self._out: dict[int, list[Entry]] = {}  # batches that were sent and have not come back
        self._sent = 0
        self._shared: Any = None  # the work as an object of Ray's, held for workers that begin later
        self._feed: Any = None
        self._rows: Any = None
        self._ours = False

    def __enter__(self) -> Workers:
        """Connect. Raises WorkerError when there is no such cluster, or no room for a single worker on it."""
        self._ours = not ray.is_initialized()
        self._connect()
        there = ray.cluster_resources()
        names = {"num_cpus": "CPU", "num_gpus": "GPU"}
        self.room = min(self._workers, *(int(there.get(names[key], 0) // need) for key, need in self._needs.items()))
        if self.room < 1:
            self.__exit__(None, None, None)
            needed = " and ".join(f"{need:g} {names[key]}" for key, need in self._needs.items())
            raise WorkerError(
                f"A worker needs {needed}, and the Ray cluster has {there.get('CPU', 0):g} CPU and "
                f"{there.get('GPU', 0):g} GPU. Add a node that has them, or change models.threads or models.provider."
            )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()
        if self._ours:
            ray.shutdown()

    def _connect(self) -> None:
        if self._ours:
            _start(int(self._workers * self._needs["num_cpus"]))
        self._shared = ray.put(self._work)

    def stream(self, batches: Iterator[list[Entry]]) -> Iterator[tuple[list[Entry], list[Document]]]:
        """Every batch once with its documents, in any order. Actors are kept for the next call. Raises WorkerError."""
        try:
            for batch in batches:
                if not batch:
                    yield batch, []
                    continue
                self._send(batch)
                while len(self._out) >= _AHEAD * self._workers:
                    yield self._take()
            while self._out:
                yield self._take()
        finally:
            if self._out:  # left in the middle
                self._end()
                self._out.clear()

    def _send(self, batch: list[Entry]) -> None:
        self._sent += 1
        self._out[self._sent] = batch
        if self._feed is not None:
            self._feed.put.remote(self._sent, msgspec.json.encode(batch))

    def _take(self) -> tuple[list[Entry], list[Document]]:
        while (row := self._next())["number"] not in self._out:
            pass  # made twice: the second one is not wanted
        if row["problem"]:
            raise WorkerError(f"A worker cannot embed. {row['problem']}")
        return self._out.pop(row["number"]), msgspec.msgpack.decode(row["documents"], type=list[Document])

    def _next(self) -> dict[str, Any]:
        """The next row that comes back; broken pipelines are made anew with all batches that are out."""
        told = ""
        for attempt in range(_ATTEMPTS if self._ours else 1):
            try:
                if attempt:
                    # Actors of a pipeline that broke go with its connection, and with nothing less.
                    ray.shutdown()
                    self._connect()
                if self._rows is None:
                    self._begin()
                [row] = next(self._rows).to_pylist()
            except (RayError, SystemException, StopIteration) as error:
                told = _last_line(error)
                self._end()
            else:
                return dict(row)
        raise WorkerError(f"Ray failed: {told}. What is written stays: `resume` goes on.")

    def _begin(self) -> None:
        """A pipeline that lasts until `_end`, given every batch that is out."""
        self._feed = ray.remote(Feed).options(num_cpus=0).remote()
        source = ray.data.from_items([0], override_num_blocks=1)
        source.context.target_max_block_size = 1  # a row is a block: it moves on at once, and is a task of its own
        source.context.enable_progress_bars = False
        source.context.print_on_execution_start = False
        rows = source.map_batches(_read, fn_args=(self._feed,), batch_size=None, batch_format="pyarrow", num_cpus=0)
        pool = ray.data.ActorPoolStrategy(min_size=self.room, max_size=self._workers)
        made = rows.map_batches(
            Embedder,
            fn_constructor_args=([self._shared],),
            batch_size=1,
            batch_format="pyarrow",
            compute=pool,
            **self._needs,
        )
        # Nothing is fetched ahead, or the last batch would wait for one after it.
        self._rows = iter(made.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0))
        for number, batch in self._out.items():
            self._feed.put.remote(number, msgspec.json.encode(batch))

    def _end(self) -> None:
        if self._rows is not None:
            self._rows.close()
        self._rows = self._feed = None


def _start(cores: int) -> None:
    address = os.environ.get("RAY_ADDRESS", "")
    chosen: dict[str, Any] = {"address": "local", "num_cpus": cores, "include_dashboard": False}
    if address.startswith("ray://"):
        raise WorkerError(
            f"RAY_ADDRESS={address} is of the Ray Client, which Ray Data does not go with. Run this on a node of the "
            "cluster (`ray job submit` does), with an address such as host:6379."
        )
    try:
        if address:
            _knock(address)
            chosen = {"address": address}
        ray.init(log_to_driver=False, logging_level=logging.ERROR, **chosen)
    except Exception as error:  # Ray raises the class itself here
        where = f"The Ray cluster at RAY_ADDRESS={address}" if address else "A Ray cluster on this machine"
        raise WorkerError(
            f"{where} does not answer: {_last_line(error)}. Check the address (host:6379), or unset RAY_ADDRESS to use "
            "this machine."
        ) from error
    for name in ("ray", "ray.data"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # what fails is raised here, in a sentence


def _knock(address: str) -> None:
    """Raises OSError where nobody listens: Ray itself tries for minutes."""
    host, _, port = address.rpartition(":")
    if host:
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()


def _last_line(error: BaseException) -> str:
    """Ray's messages hold the traceback of the other side, with the cause at its end."""
    return (str(error).strip().splitlines() or [repr(error)])[-1].strip().removesuffix(".")
