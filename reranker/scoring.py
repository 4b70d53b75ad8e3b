"""Pairs of query and product to scores: token-budgeted micro-batches in a fixed order, with a look at the clock.

A score depends on its own pair alone: it is computed in float32, and candidates are sorted by length and content
before they are batched, so neither the order in which they arrive nor their neighbours decide anything.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from indexer.settings import Models
from reranker import bundle as bundles
from reranker.bundle import Bundle, Layout
from reranker.cache import Cache, digest
from reranker.languages import is_latin
from reranker.pace import goes_on
from reranker.session import Session
from reranker.text import Part, product_parts, query_ids, query_part
from reranker.tokens import ProductTokens

_BATCH_TOKENS = 512
_DECIMALS = 5  # below this, float32 arithmetic differs between batch shapes


class Scores(msgspec.Struct, frozen=True):
    """What came of scoring: `values` float64 [candidates], NaN where the deadline came first."""

    values: NDArray[np.float64]
    scored: int
    timed_out: bool


def room(query: Sequence[int], layout: Layout, max_tokens: int) -> int:
    """How many token ids of a product a pair holds: what the query leaves, never less than none."""
    return max(0, max_tokens - len(layout.begin) - len(query) - len(layout.between) - len(layout.end))


def pair(query: Sequence[int], product: Sequence[int], layout: Layout, max_tokens: int) -> tuple[list[int], list[int]]:
    """Token ids and token types of a pair; the product is cut to what the query leaves, never the query."""
    head = [*layout.begin, *query, *layout.between]
    tail = [*product[: room(query, layout, max_tokens)], *layout.end]
    return head + tail, [0] * len(head) + [int(layout.typed)] * len(tail)


class CrossEncoder(ProductTokens):
    """Scores query and product together: higher is more relevant; values are logits."""

    def __init__(self, bundle: Bundle, settings: Models) -> None:
        super().__init__(bundle)
        self.session = Session(bundle.model_path, settings)
        self.bundle_id = bundle.id
        # Called with the padded tokens of every micro-batch, for whoever counts them.
        self.on_batch: Callable[[int], None] = lambda tokens: None
        # Where a process that lives long keeps what `score` found.
        self.cache: Cache[float] | None = None
        self.english: CrossEncoder | None = None

    @classmethod
    def load(cls, settings: Models | None = None) -> CrossEncoder:
        """Load the reranker that the settings name, and the one for English that goes with it. Raises BundleError or
        ProviderError."""
        settings = settings or Models()
        found = cls(bundles.load(settings.reranker, "reranker", settings.home), settings)
        english = bundles.load_english(settings, found.bundle.origin)
        if english is not None:
            found.english = cls(english, settings)
        return found

    @property
    def parts(self) -> tuple[CrossEncoder, ...]:
        """Itself, and what reads in its place."""
        return (self, self.english) if self.english else (self,)

    @property
    def fields(self) -> frozenset[str]:
        """The product fields that it reads, or what reads in its place."""
        return frozenset(field.name for part in self.parts for field in part.bundle.description.recipe.fields)

    @property
    def weighs_cosines(self) -> bool:
        """Whether an order depends on cosines, where they are known."""
        return any(part.bundle.description.vector_weights for part in self.parts)

    @property
    def weighs_signals(self) -> bool:
        """Whether an order depends on more than the scores."""
        return any(part.bundle.description.weights for part in self.parts)

    def reader(self, query: str, titles: Iterable[str]) -> CrossEncoder:
        """What reads a query and hits with these titles: itself, or the one for English."""
        return self.english if self.english is not None and is_latin(query, titles) else self

    def named(self, bundle_id: str) -> CrossEncoder:
        """The part with this bundle, or itself."""
        return next((part for part in self.parts if part.bundle_id == bundle_id), self)

    def read(self, query: str, product: Mapping[str, Any]) -> tuple[Part, list[Part]]:
        """The query and the product's fields with what the model reads of them: what finds no room is left out."""
        asked = query_part(query, self._recipe, self._tokenizer)
        left = room(asked.ids, self.bundle.description.layout, self._recipe.max_tokens)
        parts = []
        for part in product_parts(product, self._recipe, self._tokenizer):
            if left:
                ids, offsets = part.ids[:left], part.offsets[:left]
                parts.append(msgspec.structs.replace(part, ids=ids, offsets=offsets))
                left -= len(ids)
        return asked, parts

    def score(self, query: str, products: Sequence[Sequence[int]], deadline: float = float("inf")) -> Scores:
        """Logits of the query with each product's token ids.

        `deadline` is a reading of `time.monotonic()`; it is looked at before every micro-batch, as a forward pass
        cannot be cancelled. What `cache` holds is not computed again; what was scored before a deadline is kept there.
        """
        asked = query_ids(query, self._recipe, self._tokenizer)
        pairs = [(asked, product) for product in products]
        if self.cache is None:
            return self.score_pairs(pairs, deadline)
        if pairs and time.monotonic() >= deadline:
            return Scores(np.full(len(pairs), np.nan), 0, timed_out=True)
        read = room(asked, self.bundle.description.layout, self._recipe.max_tokens)
        keys = [digest(asked, product[:read]) for product in products]
        values = np.array([np.nan if known is None else known for known in self.cache.find(keys)], np.float64)
        left = [int(at) for at in np.flatnonzero(np.isnan(values))]
        rest = self.score_pairs([pairs[at] for at in left], deadline)
        values[left] = rest.values
        self.cache.keep((keys[at], float(values[at])) for at in left if np.isfinite(values[at]))
        return Scores(values, len(pairs) - len(left) + rest.scored, rest.timed_out)

    def score_pairs(
        self, token_pairs: Sequence[tuple[Sequence[int], Sequence[int]]], deadline: float = float("inf")
    ) -> Scores:
        """Logits of pairs of a query's and a product's token ids, never from the cache; otherwise as `score`."""
        layout = self.bundle.description.layout
        pairs = [pair(query, product, layout, self._recipe.max_tokens) for query, product in token_pairs]
        values = np.full(len(pairs), np.nan)
        scored = 0
        for batch in _micro_batches([ids for ids, _ in pairs]):
            if not goes_on(deadline):
                return Scores(values, scored, timed_out=True)
            output = self.session.run([pairs[at][0] for at in batch], [pairs[at][1] for at in batch], layout.pad)
            self.on_batch(len(batch) * len(pairs[batch[0]][0]))
            values[batch] = np.round(output[:, 0].astype(np.float64), _DECIMALS)
            scored += len(batch)
        return Scores(values, scored, timed_out=False)


def _micro_batches(rows: Sequence[Sequence[int]]) -> list[list[int]]:
    """Positions of rows in batches of like length, each of at most `_BATCH_TOKENS` padded tokens (or one row)."""
    batches: list[list[int]] = []
    for at in sorted(range(len(rows)), key=lambda at: (-len(rows[at]), list(rows[at]))):
        if not batches or (len(batches[-1]) + 1) * len(rows[batches[-1][0]]) > _BATCH_TOKENS:
            batches.append([])
        batches[-1].append(at)
    return batches
