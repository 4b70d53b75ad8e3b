"""What tests share: the vectors of the sample shop, embedded once for all processes, fewer of its queries, and
sessions of the models that many of them load."""

from __future__ import annotations

import fcntl
import hashlib
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import Any

import msgspec
import numpy as np
import onnxruntime as ort
import pytest
from numpy.typing import NDArray

from reranker.encoder import Encoder
from reranker.registry import gate
from tests.paths import SAMPLE_SHOP

# Every so many of the sample shop's queries of a split.
EVERY = {"train": 8, "dev": 4, "test": 8}


def write_judged(folder: Path) -> None:
    """Write queries.tsv and qrels.tsv of some of the sample shop's queries: what is to run, whatever it measures."""
    header, *queries = (SAMPLE_SHOP / "queries.tsv").read_text("utf-8").splitlines()
    of_split = {split: [line for line in queries if line.endswith(f"\t{split}")] for split in EVERY}
    kept = [line for split, found in of_split.items() for line in found[:: EVERY[split]]]
    ids = {line.split("\t")[0] for line in kept}
    first, *grades = (SAMPLE_SHOP / "qrels.tsv").read_text("utf-8").splitlines()
    judged = [line for line in grades if line.split("\t")[0] in ids]
    (folder / "queries.tsv").write_text("\n".join([header, *kept, ""]), "utf-8")
    (folder / "qrels.tsv").write_text("\n".join([first, *judged, ""]), "utf-8")


def ask_little(patch: pytest.MonkeyPatch) -> None:
    """Let the gate ask little of a model, where what it asks is not what is tested."""
    patch.setattr(gate, "TEXTS", gate.TEXTS[:4])
    patch.setattr(gate, "EDGES", {"empty": ""})


class SharedSessions:
    """Makes ONNX Runtime sessions as `make` does, once for the same bytes and options: a session has no state, and
    several may run it at once."""

    MOST = 5  # of some 100 MB each

    def __init__(self, make: Callable[..., Any]) -> None:
        self._make = make
        self._made: OrderedDict[tuple[object, ...], Any] = OrderedDict()
        self._lock = Lock()

    def __call__(self, model: str, options: ort.SessionOptions | None = None, **chosen: Any) -> Any:
        if options is None:
            return self._make(model, **chosen)
        digest = hashlib.blake2b(Path(model).read_bytes()).hexdigest()
        key = (digest, str(chosen), options.intra_op_num_threads, options.graph_optimization_level)
        with self._lock:
            if key not in self._made:
                self._made[key] = self._make(model, options, **chosen)
                if len(self._made) > self.MOST:
                    self._made.popitem(last=False)
            self._made.move_to_end(key)
            return self._made[key]


@contextmanager
def one_at_a_time(lock: Path) -> Iterator[None]:
    """For the time of a `with` block no other process is in one with the same file."""
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


class KnownVectors:
    """Makes vectors as `encoder` does; those that `file` holds already are not made again."""

    def __init__(self, encoder: Encoder, file: Path) -> None:
        self._embed, self._file = encoder.embed_products, file
        self.bundle_id, self.dimension, self.fields = encoder.bundle_id, encoder.dimension, encoder.fields
        self._known: dict[str, NDArray[np.float32]] = {}

    def complete(self, products: Sequence[Mapping[str, Any]]) -> None:
        """Know the vectors of these products: from the file, or else made now and written to it."""
        if self._file.exists():
            with np.load(self._file) as found:
                self._known = dict(found)
        else:
            self.embed_products(products)
            np.savez(self._file, **self._known)

    def embed_products(self, products: Sequence[Mapping[str, Any]]) -> NDArray[np.float32]:
        keys = [self._key(product) for product in products]
        new = {key: product for key, product in zip(keys, products, strict=True) if key not in self._known}
        self._known |= dict(zip(new, self._embed(list(new.values())), strict=True))
        return np.stack([self._known[key] for key in keys])

    def _key(self, product: Mapping[str, Any]) -> str:
        read = {name: product.get(name) for name in sorted(self.fields)}
        return hashlib.sha256(self.bundle_id.encode() + msgspec.json.encode(read)).hexdigest()
