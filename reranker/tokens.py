"""A reranker's token ids of products, for those who do not need its model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from reranker.bundle import Bundle
from reranker.text import Recipe, product_ids, text_ids


class ProductTokens:
    """The token ids that a reranker's bundle makes of products."""

    def __init__(self, bundle: Bundle) -> None:
        self.bundle = bundle
        self._tokenizer = bundle.tokenizer()
        # Names what made stored token ids; ids stored under another name are made again.
        self.tokens_id = bundle.tokens_id

    @property
    def fields(self) -> frozenset[str]:
        """The product fields that it reads."""
        return frozenset(field.name for field in self._recipe.fields)

    @property
    def _recipe(self) -> Recipe:
        return self.bundle.description.recipe

    def product_tokens(self, product: Mapping[str, Any]) -> list[int]:
        """Token ids of a product's fields, without special tokens."""
        return product_ids(product, self._recipe, self._tokenizer)

    def text_tokens(self, text: str) -> list[int]:
        """Token ids of a bare text."""
        return text_ids(text, self._recipe, self._tokenizer)
