"""More products than there are: real ones first, then synthetic ones between them.

A synthetic vector lies between that of a product and one of its ten nearest, with noise half as long as their distance.
Vectors are made in steps of about four times as many, each between the neighbours of the step before: the distance to a
neighbour shrinks as it does when a catalogue grows, and no product is the centre of a cloud. A synthetic text takes its
parts from two real products that are near each other: lengths and words are real, sense is not.
"""

from __future__ import annotations

import hashlib
import math
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
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
        cosines[np.arange(len(cosines)), np.arange(start, start + len(cosines))] = -np.inf  # itself
        near[start : start + BLOCK] = np.argpartition(-cosines, NEIGHBOURS, axis=1)[:, :NEIGHBOURS]
    return near


def pairs(near: NDArray[np.int64], count: int, rng: np.random.Generator) -> tuple[NDArray[np.int64], ...]:
    """Positions of `count` products, and of as many neighbours of theirs."""
    one = rng.integers(len(near), size=count)
    return one, near[one, rng.integers(NEIGHBOURS, size=count)]


def between(one: Vectors, other: Vectors, rng: np.random.Generator) -> Vectors:
    """Synthetic unit vectors, each between a row of one and the same row of the other."""
    gap = other - one
    noise = rng.standard_normal(gap.shape, np.float32)
    noise *= 0.5 * np.linalg.norm(gap, axis=1, keepdims=True) / np.linalg.norm(noise, axis=1, keepdims=True)
    made = one + rng.random((len(one), 1), np.float32) * gap + noise
    return np.asarray(made / np.linalg.norm(made, axis=1, keepdims=True), np.float32)


def grown(vectors: Vectors, size: int, seed: int = 7) -> Vectors:
    """`size` vectors: the first of those given, or all of them and synthetic ones behind."""
    rng = np.random.default_rng(seed)
    steps = max(1, round(math.log(size / len(vectors), 4))) if size > len(vectors) else 0
    for wanted in np.geomspace(len(vectors), size, steps + 1)[1:].round().astype(int):
        near = neighbours(vectors)
        parts = []
        for start in range(len(vectors), wanted, BLOCK):
            one, other = pairs(near, min(BLOCK, wanted - start), rng)
            parts.append(between(vectors[one], vectors[other], rng))
        vectors = np.concatenate([vectors, *parts])
    return vectors[:size]


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
    """Products for as many vectors, the first of them real ones, in blocks of 1,000, the same each time; holds the real
    products and a few blocks.

    Entries asked for after `deadline` (of `time.monotonic()`) are left out, and `size` is then what there was.
    """

    stored = False

    def __init__(self, products: Sequence[Product], vectors: Vectors, seed: int = 7) -> None:
        self.size, self.deadline = len(vectors), float("inf")
        self._products, self._vectors, self._seed = products, vectors, seed
        self._near = neighbours(vectors[: len(products)])
        self._positions = {str(product["id"]): at for at, product in enumerate(products)}
        self.block = lru_cache(4)(self._block)

    def _block(self, number: int) -> tuple[list[Product], Vectors]:
        start, stop = number * BLOCK, min((number + 1) * BLOCK, self.size)
        known = list(self._products[start:stop])
        rng = np.random.default_rng([self._seed, number])
        one, other = pairs(self._near, stop - start - len(known), rng)
        made = [
            mixed(f"S{start + len(known) + at:09d}", self._products[a], self._products[b], rng)
            for at, (a, b) in enumerate(zip(one, other, strict=True))
        ]
        return known + made, np.array(self._vectors[start:stop])

    def ids(self) -> list[str]:
        """The id of each product."""
        known = [str(product["id"]) for product in self._products[: self.size]]
        return [*known, *(f"S{at:09d}" for at in range(len(known), self.size))]

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
    return _kept(cache / f"vectors-{encoder.bundle_id}-{len(products)}.npy", lambda: encoder.embed_products(products))


def grown_vectors(vectors: Vectors, size: int, cache: Path) -> Vectors:
    """`grown`, kept in a file of the folder `cache`, which the answer is read from."""
    sample = hashlib.sha256(vectors.tobytes()).hexdigest()[:12]
    return _kept(cache / f"grown-{sample}-{size}.npy", lambda: grown(vectors, size))


def _kept(file: Path, make: Callable[[], Vectors]) -> Vectors:
    if not file.is_file():
        file.parent.mkdir(parents=True, exist_ok=True)
        np.save(file, make())
    return np.load(file, mmap_mode="r")  # type: ignore[no-any-return]
