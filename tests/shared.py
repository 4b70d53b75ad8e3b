"""What the processes of a run share: the vectors of a catalogue, which is embedded once for all of them."""

from __future__ import annotations

import fcntl
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from reranker.encoder import Encoder


@contextmanager
def one_at_a_time(folder: Path) -> Iterator[None]:
    """For the time of a `with` block no other process is in one with the same folder."""
    with (folder / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


class KnownVectors:
    """Makes vectors as `encoder` does; those that `file` holds already are not made again."""

    def __init__(self, encoder: Encoder, file: Path) -> None:
        self._encoder, self._file = encoder, file
        self.bundle_id, self.dimension, self.fields = encoder.bundle_id, encoder.dimension, encoder.fields
        self._known: dict[str, NDArray[np.float32]] = {}

    def __enter__(self) -> KnownVectors:
        if self._file.exists():
            with np.load(self._file) as found:
                self._known = dict(found)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            np.savez(self._file, **self._known)

    def embed_products(self, products: Sequence[Mapping[str, Any]]) -> NDArray[np.float32]:
        keys = [self._key(product) for product in products]
        new = {key: product for key, product in zip(keys, products, strict=True) if key not in self._known}
        self._known |= dict(zip(new, self._encoder.embed_products(list(new.values())), strict=True))
        return np.stack([self._known[key] for key in keys])

    def _key(self, product: Mapping[str, Any]) -> str:
        read = {name: product.get(name) for name in sorted(self.fields)}
        return hashlib.sha256(self.bundle_id.encode() + msgspec.json.encode(read)).hexdigest()
