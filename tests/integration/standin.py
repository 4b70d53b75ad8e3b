"""A stand-in for the models' part, where a test is about what happens around them: quick, and it counts."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray


class StandIn:
    """Encoder and reranker in one: vectors from a hash of bundle and title, one token for each character."""

    dimension = 8
    fields = frozenset({"title"})

    def __init__(self, bundle_id: str = "stand-in-1") -> None:
        self.bundle_id = bundle_id
        self.tokens_id = "tokens-1"
        self.embedded: list[str] = []

    def embed_products(self, products: Sequence[Mapping[str, Any]]) -> NDArray[np.float32]:
        self.embedded += [product["id"] for product in products]
        seeds = [f"{self.bundle_id} {product['title']}" for product in products]
        rows = [np.frombuffer(hashlib.sha256(seed.encode()).digest()[:8], np.uint8) for seed in seeds]
        vectors = np.array(rows, np.float32).reshape(-1, 8) - 127.5
        return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), np.float32)

    def product_tokens(self, product: Mapping[str, Any]) -> list[int]:
        return [ord(character) for character in product["title"]]
