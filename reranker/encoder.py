"""Queries and products to unit vectors, by an encoder bundle."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from indexer.mappings import SECOND_VECTOR, VECTOR, made_by
from indexer.settings import Models
from reranker import bundle as bundles
from reranker import pace
from reranker.bundle import Bundle
from reranker.cache import Cache, digest
from reranker.session import Session
from reranker.text import product_ids, query_ids, text_ids

_BATCH_TOKENS = 1024
_DECIMALS = 6  # of a cosine; below this, sums of floats differ between machines


class Encoder:
    """Mean-pooled, normalised embeddings. The order and the neighbours of a text never change its vector."""

    def __init__(self, bundle: Bundle, settings: Models) -> None:
        self.bundle = bundle
        self.session = Session(bundle.model_path, settings)
        self._tokenizer = bundle.tokenizer()
        self.bundle_id = bundle.id
        # Where a process that lives long keeps the vectors of queries.
        self.cache: Cache[NDArray[np.float32]] | None = None

    @classmethod
    def load(cls, settings: Models | None = None) -> Encoder:
        """Load the encoder that the settings name. Raises BundleError or ProviderError."""
        settings = settings or Models()
        return cls(bundles.load(settings.encoder, "encoder", settings.home), settings)

    @classmethod
    def named(cls, bundle: str, settings: Models) -> Encoder | None:
        """Another encoder than the settings' own, run in the same way; None where no bundle is named."""
        return cls.load(msgspec.structs.replace(settings, encoder=bundle)) if bundle else None

    @property
    def dimension(self) -> int:
        return self.bundle.description.dimension

    @property
    def fields(self) -> frozenset[str]:
        """The product fields that it reads."""
        return frozenset(field.name for field in self.bundle.description.recipe.fields)

    def embed_products(self, products: Sequence[Mapping[str, Any]]) -> NDArray[np.float32]:
        """Vectors of products: float32 [products, dimension], rows of length 1."""
        recipe = self.bundle.description.recipe
        return self._embed([product_ids(product, recipe, self._tokenizer) for product in products])

    def embed_queries(self, queries: Sequence[str]) -> NDArray[np.float32]:
        """Vectors of queries: float32 [queries, dimension], rows of length 1. `cache` is looked into first."""
        recipe = self.bundle.description.recipe
        rows = [query_ids(query, recipe, self._tokenizer) for query in queries]
        if self.cache is None:
            return self._embed(rows)
        keys = [digest(row) for row in rows]
        vectors = np.zeros((len(rows), self.dimension), np.float32)
        left = []
        for at, known in enumerate(self.cache.find(keys)):
            if known is None:
                left.append(at)
            else:
                vectors[at] = known
        vectors[left] = self._embed([rows[at] for at in left])
        self.cache.keep((keys[at], vectors[at].copy()) for at in left if np.isfinite(vectors[at]).all())
        return vectors

    def embed_texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Vectors of bare texts that stand for products: float32 [texts, dimension], rows of length 1."""
        recipe = self.bundle.description.recipe
        return self._embed([text_ids(text, recipe, self._tokenizer) for text in texts])

    def count_tokens(self, texts: Sequence[str]) -> int:
        """Token ids of all texts together, special ones and what is cut off left out."""
        recipe = self.bundle.description.recipe
        return sum(len(text_ids(text, recipe, self._tokenizer)) for text in texts)

    def _embed(self, bare: Sequence[Sequence[int]]) -> NDArray[np.float32]:
        layout, limit = self.bundle.description.layout, self.bundle.description.recipe.max_tokens
        room = limit - len(layout.begin) - len(layout.end)
        rows = [[*layout.begin, *ids[:room], *layout.end] for ids in bare]
        vectors = np.zeros((len(rows), self.dimension), np.float32)
        for batch in _by_length(rows):
            pace.check()
            chosen = [rows[at] for at in batch]
            hidden = self.session.run(chosen, [[0] * len(row) for row in chosen], layout.pad)
            for at, row, states in zip(batch, chosen, hidden, strict=True):
                mean = states[: len(row)].mean(axis=0)
                vectors[at] = mean / max(float(np.linalg.norm(mean)), 1e-12)
        return vectors


class QueryVectors:
    """A query's vectors by the encoders at hand, each made when it is first wanted; for one search and one thread."""

    def __init__(self, query: str, encoders: Iterable[Encoder]) -> None:
        self.query = query
        self._encoders = {each.bundle_id: each for each in encoders}
        self._made: dict[str, NDArray[np.float32]] = {}

    def by(self, encoder: str) -> NDArray[np.float32]:
        """The vector of the encoder with this id: float32 [dimension], of length 1. Raises KeyError for no encoder."""
        if encoder not in self._made:
            self._made[encoder] = self._encoders[encoder].embed_queries([self.query])[0]
        return self._made[encoder]

    def cosine(self, product: Mapping[str, Any]) -> float | None:
        """Of the query and a stored product, by the first of the encoders that made a vector of it; None for none."""
        made = {product.get(made_by(field)): field for field in (SECOND_VECTOR, VECTOR)}
        for encoder in self._encoders:
            stored = product.get(made[encoder]) if encoder in made else None
            if isinstance(stored, list) and len(stored) == self._encoders[encoder].dimension:
                return round(float(self.by(encoder).astype(np.float64) @ np.asarray(stored, np.float64)), _DECIMALS)
        return None


def _by_length(rows: Sequence[Sequence[int]]) -> list[list[int]]:
    """Positions in batches of like length, each of about `_BATCH_TOKENS` tokens."""
    batches: list[list[int]] = []
    room = 0
    for at in sorted(range(len(rows)), key=lambda at: (len(rows[at]), list(rows[at]))):
        if not batches or room < len(rows[at]):
            batches.append([])
            room = _BATCH_TOKENS
        batches[-1].append(at)
        room -= len(rows[at])
    return batches
