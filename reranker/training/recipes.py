"""Which fields new models read, in which order and with how many tokens; a bundle carries its recipe with it."""

from __future__ import annotations

from reranker.bundle import Kind
from reranker.text import Field, Recipe

RERANKER = Recipe(
    fields=(
        Field("title", "", 40),
        Field("brand", "brand", 6),
        Field("color", "color", 5),
        Field("bullets", "features", 16),
    ),
    max_tokens=64,
    max_query_tokens=20,
)
ENGLISH_RERANKER = Recipe(
    fields=(
        Field("title", "", 40),
        Field("brand", "", 6),
        Field("color", "", 5),
        Field("bullets", "", 24),
    ),
    max_tokens=72,
    max_query_tokens=24,
)
ENCODER = Recipe(
    fields=(
        Field("title", "", 64),
        Field("brand", "", 8),
        Field("color", "", 6),
        Field("category", "", 16),
        Field("bullets", "", 48),
        Field("description", "", 48),
    ),
    max_tokens=96,
    max_query_tokens=40,
    query_prefix="query:",
    product_prefix="passage:",
)

OF_RERANKERS: dict[Kind, Recipe] = {"reranker": RERANKER, "reranker-en": ENGLISH_RERANKER}
LANGUAGES: dict[Kind, tuple[str, ...]] = {"reranker": ("en", "zh"), "reranker-en": ("en",)}
