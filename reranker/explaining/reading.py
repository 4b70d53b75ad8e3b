"""What the cross-encoder's score rests on: the score with one field or one word left out, beside the whole.

An effect is the whole score minus the score without the part, in logits: positive where the part spoke for the product.
Words that a text repeats are left out together. Everything goes through the scoring that search uses; a look at the
clock lies between steps, and what could not be measured in time stays None.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import msgspec
import numpy as np

from reranker.explaining.words import Word, words
from reranker.scoring import CrossEncoder
from reranker.signals import terms_of
from reranker.text import Part

MAX_WORDS = 64  # of one product; each is one more pair to score
_STEP = 8  # pairs between two looks at the clock
_DECIMALS = 5  # as scores have

Status = Literal["complete", "partial", "skipped", "error"]


class Place(msgspec.Struct, frozen=True):
    """Characters (Unicode code points) `start` to `end` of a field's text."""

    field: str
    start: int
    end: int


class FieldEffect(msgspec.Struct):
    """A field, the beginning of its text that the model read, and what it added to the score."""

    name: str
    text: str
    effect: float | None = None


class WordEffect(msgspec.Struct):
    """A word, everywhere it was read, and what it added to the score."""

    text: str
    places: list[Place]
    effect: float | None = None


class Reading(msgspec.Struct):
    """What the model read of one product. `score` is that of the whole; lists are strongest effect first."""

    score: float | None = None
    fields: list[FieldEffect] = []
    words: list[WordEffect] = []
    query_words: list[WordEffect] = []


class Readings(msgspec.Struct):
    """Readings in the order of the products; `scored` of the `pairs` that it takes were scored."""

    status: Status
    reason: str
    readings: list[Reading]
    scored: int
    pairs: int


class Prepared(msgspec.Struct):
    """A product about to be read: the token ids of query and product, and what can be left out of the product's
    (fields, words) or the query's, each with the positions of its tokens."""

    query: list[int]
    product: list[int]
    fields: list[tuple[FieldEffect, set[int]]]
    words: list[tuple[WordEffect, set[int]]]
    query_words: list[tuple[WordEffect, set[int]]]


class _Step(msgspec.Struct):
    """One pair to score: a product without what `effect` stands for; the whole where that is None."""

    reading: Reading
    effect: FieldEffect | WordEffect | None
    query: list[int]
    product: list[int]


def read(
    query: str, products: Sequence[Mapping[str, Any]], reranker: CrossEncoder, deadline: float = float("inf")
) -> Readings:
    """Measure what each product's score rests on; `deadline` is a reading of `time.monotonic()`.

    Whole products come first, then fields, then words (those that the query has too before others, all products in
    turn), then the query's own words. A product's figures do not depend on the others. Never raises for a fault of
    the model: the status is then `error`.
    """
    prepared = [_steps(prepare(query, product, reranker)) for product in products]
    readings = [reading for reading, _ in prepared]
    steps = [step for tier in zip(*(tiers for _, tiers in prepared), strict=True) for step in _in_turn(tier)]
    scored, status, reason = _measure(steps, reranker, deadline)
    for reading in readings:
        reading.fields.sort(key=_strength)
        reading.words.sort(key=_strength)
        reading.query_words.sort(key=_strength)
    return Readings(status, reason, readings, scored, len(steps))


def _measure(steps: Sequence[_Step], reranker: CrossEncoder, deadline: float) -> tuple[int, Status, str]:
    """Score step by step and note the effects: how many were scored, and how it ended."""
    for at in range(0, len(steps), _STEP):
        batch = steps[at : at + _STEP]
        try:
            scores = reranker.score_pairs([(step.query, step.product) for step in batch], deadline)
        except Exception as error:  # noqa: BLE001 - an explanation without a reading is still one
            return at, "error", f"{type(error).__name__} while scoring: {error}"
        if scores.timed_out:
            return at, "partial", f"the time limit came after {at} of {len(steps)} measurements"
        if not np.isfinite(scores.values).all():
            return at, "error", f"the model {reranker.bundle_id} gave a score that is not a finite number"
        for step, value in zip(batch, scores.values, strict=True):
            if step.effect is None:
                step.reading.score = float(value)
            elif step.reading.score is not None:
                step.effect.effect = round(step.reading.score - float(value), _DECIMALS)
    return len(steps), "complete", ""


def prepare(query: str, product: Mapping[str, Any], reranker: CrossEncoder) -> Prepared:
    """Everything that can be left out, in order of promise: fields as the recipe has them, words of the query first."""
    asked, parts = reranker.read(query, product)
    whole: list[int] = []
    fields, found = [], []
    for part in parts:
        begins = len(whole)
        whole += part.ids
        if not part.field or not part.ids:
            continue
        own = words(part, asked.text)
        end = max(part.begins, part.offsets[-1][1], *(word.end for word in own))
        fields.append((FieldEffect(part.field, part.text[part.begins : end]), set(range(begins, len(whole)))))
        found += [(part, word, {begins + at for at in word.tokens}) for word in own]
    query_words = [(asked, word, set(word.tokens)) for word in words(asked, "")]
    return Prepared(asked.ids, whole, fields, _grouped(found, asked.text), _grouped(query_words, ""))


def without(ids: Sequence[int], left_out: set[int]) -> list[int]:
    """Token ids but for those at some positions."""
    return [token for at, token in enumerate(ids) if at not in left_out]


def _steps(prepared: Prepared) -> tuple[Reading, list[list[_Step]]]:
    """A reading yet to be measured, and its steps by tier."""
    asked, whole = prepared.query, prepared.product
    reading = Reading(
        fields=[effect for effect, _ in prepared.fields],
        words=[effect for effect, _ in prepared.words],
        query_words=[effect for effect, _ in prepared.query_words],
    )
    tiers = [
        [_Step(reading, None, asked, whole)],
        [_Step(reading, effect, asked, without(whole, gone)) for effect, gone in prepared.fields],
        [_Step(reading, effect, asked, without(whole, gone)) for effect, gone in prepared.words],
        [_Step(reading, effect, without(asked, gone), whole) for effect, gone in prepared.query_words],
    ]
    return reading, tiers


def _grouped(found: Sequence[tuple[Part, Word, set[int]]], query: str) -> list[tuple[WordEffect, set[int]]]:
    """Each word once, with all its places and the positions of all its tokens; words of the query first."""
    groups: dict[str, tuple[WordEffect, set[int]]] = {}
    for part, word, positions in found:
        text = part.text[word.start : word.end]
        effect, left_out = groups.setdefault(text.casefold(), (WordEffect(text, []), set()))
        effect.places.append(Place(part.field, word.start - part.begins, word.end - part.begins))
        left_out |= positions
    terms = set(terms_of(query))
    chosen = sorted(groups.values(), key=lambda each: terms.isdisjoint(terms_of(each[0].text)))
    return chosen[:MAX_WORDS]


def _in_turn(lists: Sequence[Sequence[_Step]]) -> Iterator[_Step]:
    """The first of each list, then the second of each."""
    for row in itertools.zip_longest(*lists):
        yield from (step for step in row if step is not None)


def _strength(part: FieldEffect | WordEffect) -> float:
    return 1.0 if part.effect is None else -abs(part.effect)
