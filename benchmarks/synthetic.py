"""More products than there are: real ones first, then synthetic ones between them, made when they are asked for.

A synthetic vector lies between a real product's and one of its ten nearest, with noise half as long as their distance,
so that neighbourhoods stay as dense and as uneven as real ones. A synthetic text takes its parts from the same two
products: lengths and words are real, sense is not.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ingest.clean import Cleaned, clean
from ingest.documents import Entry
from ingest.report import DeadLetters, Report
from ingest.schema import load_mapping
from ingest.sources import Row, open_catalogue
from reranker.encoder import Encoder

NEIGHBOURS = 10
BLOCK = 1000
Vectors = NDArray[np.float32]
Product = dict[str, Any]


def real_products(path: Path, mapping: str) -> list[Product]:
    """The products of a catalogue, cleaned."""
    chosen = load_mapping(mapping)
    rows = (clean(row, chosen) for row in open_catalogue(path, chosen).rows() if isinstance(row, Row))
    return [found.product for found in rows if isinstance(found, Cleaned)]


def neighbours(vectors: Vectors) -> NDArray[np.int64]:
    """Each vector's ten nearest others: positions [vectors, 10]."""
    near = np.empty((len(vectors), NEIGHBOURS), np.int64)
    for start in range(0, len(vectors), BLOCK):
        cosines = vectors[start : start + BLOCK] @ vectors.T
        near[start : start + BLOCK] = np.argpartition(-cosines, NEIGHBOURS, axis=1)[:, 1 : NEIGHBOURS + 1]
    return near


def between(
    vectors: Vectors, near: NDArray[np.int64], count: int, rng: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.int64], Vectors]:
    """Synthetic unit vectors [count, dimension], and the positions of the two products that each lies between."""
    one = rng.integers(len(vectors), size=count)
    other = near[one, rng.integers(NEIGHBOURS, size=count)]
    gap = vectors[other] - vectors[one]
    noise = rng.standard_normal(gap.shape, np.float32)
    noise *= 0.5 * np.linalg.norm(gap, axis=1, keepdims=True) / np.linalg.norm(noise, axis=1, keepdims=True)
    made = vectors[one] + rng.random((count, 1), np.float32) * gap + noise
    return one, other, made / np.linalg.norm(made, axis=1, keepdims=True)


def mixed(name: str, one: Mapping[str, Any], other: Mapping[str, Any], rng: np.random.Generator) -> Product:
    """A product with the first half of one title and the second half of the other, and fields of both."""
    first, second = one["title"].split(), other["title"].split()
    product = {**one, "id": name, "title": " ".join(first[: (len(first) + 1) // 2] + second[len(second) // 2 :])}
    for field, takes in zip(("description", "bullets"), rng.random(2) < 0.5, strict=True):
        if takes and field in other:
            product[field] = other[field]
    if "price" in product:
        product["price"] = round(float(product["price"] * rng.uniform(0.8, 1.2)), 2)
    return product


class Catalogue:
    """`size` products and their vectors in blocks of 1,000, the same each time; holds the real and a few blocks.

    Entries asked for after `deadline` (of `time.monotonic()`) are left out, and `size` is then what there was.
    """

    stored = False

    def __init__(self, products: Sequence[Product], vectors: Vectors, size: int, seed: int = 7) -> None:
        self.size, self.deadline = size, float("inf")
        self._products, self._vectors, self._seed = products, vectors, seed
        self._near = neighbours(vectors)
        self._positions = {str(product["id"]): at for at, product in enumerate(products)}
        self.block = lru_cache(4)(self._block)

    def _block(self, number: int) -> tuple[list[Product], Vectors]:
        start, stop = number * BLOCK, min((number + 1) * BLOCK, self.size)
        known = list(self._products[start:stop])
        if len(known) == stop - start:
            return known, self._vectors[start:stop]
        rng = np.random.default_rng([self._seed, number])
        one, other, vectors = between(self._vectors, self._near, stop - start - len(known), rng)
        made = [
            mixed(f"S{start + len(known) + at:09d}", self._products[a], self._products[b], rng)
            for at, (a, b) in enumerate(zip(one, other, strict=True))
        ]
        return known + made, np.concatenate([self._vectors[start : start + len(known)], vectors])

    def blocks(self) -> Iterator[tuple[list[Product], Vectors]]:
        """Every block in turn."""
        return (self.block(number) for number in range(-(-self.size // BLOCK)))

    def vectors(self, ids: Sequence[str]) -> Vectors:
        """The vectors of products."""
        places = [divmod(self._positions[name] if name in self._positions else int(name[1:]), BLOCK) for name in ids]
        # Copies: a row would hold its whole block.
        return np.stack([self.block(number)[1][at].copy() for number, at in places])

    # As the origin of a reindex

    def described(self) -> dict[str, Any]:
        return {"file": "synthetic", "mapping": ""}

    def entries(self, report: Report, letters: DeadLetters, stop: threading.Event, show: Any) -> Iterator[Entry]:
        for products, _ in self.blocks():
            if time.monotonic() > self.deadline:
                self.size = report.read
                return
            for product in products:
                report.read += 1
                report.clean += 1
                yield Entry(product, row=report.read)

    def total(self) -> int:
        return self.size


class KnownVectors:
    """Stands for an encoder where the vectors are known: embedding is not what is measured."""

    def __init__(self, encoder: Encoder, catalogue: Catalogue) -> None:
        self.bundle_id, self.dimension, self.fields = encoder.bundle_id, encoder.dimension, encoder.fields
        self._catalogue = catalogue

    def embed_products(self, products: Sequence[Mapping[str, Any]]) -> Vectors:
        return self._catalogue.vectors([str(product["id"]) for product in products])


def known_vectors(products: Sequence[Product], encoder: Encoder, cache: Path) -> Vectors:
    """The vectors of real products by the encoder, kept in a file of the folder `cache`, as they take minutes."""
    file = cache / f"vectors-{encoder.bundle_id}-{len(products)}.npy"
    if not file.is_file():
        cache.mkdir(parents=True, exist_ok=True)
        np.save(file, encoder.embed_products(products))
    return np.load(file)  # type: ignore[no-any-return]
