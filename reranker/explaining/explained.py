"""What an explanation holds; docs/explanation.md describes it field by field."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from reranker.explaining.reading import FieldEffect, WordEffect
from reranker.explaining.terms import Term

Language = Literal["en", "zh"]


class FilterHeld(msgspec.Struct, frozen=True):
    """A filter of the search, what it asked for, and what the product has."""

    name: str
    asked: Any
    value: Any


class ExplainedHit(msgspec.Struct):
    """One hit. Ranks count from 1; `rerank_rank` is its place in the window by the rerank score alone.

    `final` of `scores` is `base` plus what the `terms` add; both are empty where the hit was not reordered. Effects
    are in logits, taken from `read_score`: `scores.rerank` unless the product's text changed after it was indexed.
    """

    id: str
    title: str
    rank: int
    first_stage_rank: int
    rerank_rank: int | None
    scores: dict[str, float | None]
    base: float | None
    terms: list[Term]
    read_score: float | None
    fields: list[FieldEffect]
    words: list[WordEffect]
    query_words: list[WordEffect]
    filters: list[FilterHeld]
    text: list[str]


class Explained(msgspec.Struct):
    """Hits of one search, explained. `rerank` is that of the page; `reading` says whether all effects were measured
    (`status` complete, partial, skipped or error; `scored` of `pairs`); `not_found` are ids that the search lacks."""

    query: str
    index: str
    language: Language
    total: int
    rerank: dict[str, Any]
    reading: dict[str, Any]
    hits: list[ExplainedHit]
    not_found: list[str]
    took_ms: dict[str, float]
