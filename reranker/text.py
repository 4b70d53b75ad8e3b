"""How a product becomes labelled text within a token budget: the same for embedding, training and scoring.

A recipe lists fields in order of importance, each with a label and a budget of its own, so that a long
title cannot push the brand out and a long description costs nothing when the total is spent. Every field
is tokenised by itself, so the ids of a product never depend on the query that it is paired with.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
from tokenizers import Encoding, Tokenizer

# Longer text is cut before tokenising: no recipe has room for it, and tokenising is not free.
MAX_FIELD_CHARACTERS = 4000
_CHARACTERS = 10  # of a token, at most, in nearly all texts


class Field(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One product field in a recipe: at most `tokens` ids, its label's ids included."""

    name: str
    label: str
    tokens: int


class Recipe(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How queries and products become token ids. `max_tokens` bounds the whole input, special tokens included."""

    fields: tuple[Field, ...]
    max_tokens: int
    max_query_tokens: int = 32
    query_prefix: str = ""
    product_prefix: str = ""


def field_text(value: Any) -> str:
    """One field's value as text: a list is joined with ' > ' (category paths), None is empty."""
    if value is None:
        return ""
    if isinstance(value, (list, tuple)):
        return " > ".join(str(item) for item in value)
    return str(value)


class Part(msgspec.Struct, frozen=True):
    """A field of a product, or a query, as a model reads it: `text` begins with the label, the field's own text at
    `begins`; `ids` are cut to the budget and `offsets` say which characters (start, end) each of them stands for."""

    field: str
    text: str
    begins: int
    ids: list[int]
    offsets: list[tuple[int, int]]


def product_parts(product: Mapping[str, Any], recipe: Recipe, tokenizer: Tokenizer) -> list[Part]:
    """A product field by field, in the recipe's order; missing fields are left out, never an error.

    The product prefix, where the recipe has one, comes first as a part without a field.
    """
    names, labels, texts, budgets = [], [], [], []
    if recipe.product_prefix:
        names, labels, texts, budgets = [""], [""], [recipe.product_prefix], [recipe.max_tokens]
    for field in recipe.fields:
        text = field_text(product.get(field.name)).strip()[:MAX_FIELD_CHARACTERS]
        if text:
            names.append(field.name)
            labels.append(f"{field.label} " if field.label else "")
            texts.append(labels[-1] + text)
            budgets.append(field.tokens)
    encodings = _encode([_beginning(text, budget) for text, budget in zip(texts, budgets, strict=True)], tokenizer)
    for at, (text, budget) in enumerate(zip(texts, budgets, strict=True)):
        if len(encodings[at].ids) < budget and len(_beginning(text, budget)) < len(text):
            encodings[at] = _encode([text], tokenizer)[0]
    rows = zip(names, labels, texts, budgets, encodings, strict=True)
    return [
        Part(name, text, len(label), list(encoded.ids[:budget]), list(encoded.offsets[:budget]))
        for name, label, text, budget, encoded in rows
    ]


def _beginning(text: str, budget: int) -> str:
    """Words that hold a budget's first tokens, but for very long ones: what comes behind changes nothing of them."""
    limit = budget * _CHARACTERS
    end = text.rfind(" ", 0, limit) if len(text) > limit else -1
    return text if end < 0 or not text[end + 1 : end + 2].isascii() else text[:end]


def product_ids(product: Mapping[str, Any], recipe: Recipe, tokenizer: Tokenizer) -> list[int]:
    """Token ids of a product without special tokens; missing fields are left out, never an error."""
    ids = [token for part in product_parts(product, recipe, tokenizer) for token in part.ids]
    return ids[: recipe.max_tokens]


def text_ids(text: str, recipe: Recipe, tokenizer: Tokenizer) -> list[int]:
    """Token ids of a bare text that stands for a product."""
    whole = f"{recipe.product_prefix} {text}".strip() if recipe.product_prefix else text
    return list(_encode([whole[:MAX_FIELD_CHARACTERS]], tokenizer)[0].ids[: recipe.max_tokens])


def query_part(query: str, recipe: Recipe, tokenizer: Tokenizer) -> Part:
    """A query as a model reads it, without special tokens, cut at `max_query_tokens`."""
    prefix = f"{recipe.query_prefix} " if recipe.query_prefix else ""
    text = f"{prefix}{query}".strip() if prefix else query
    encoded = _encode([text[:MAX_FIELD_CHARACTERS]], tokenizer)[0]
    end = recipe.max_query_tokens
    return Part("query", text, len(prefix), list(encoded.ids[:end]), list(encoded.offsets[:end]))


def query_ids(query: str, recipe: Recipe, tokenizer: Tokenizer) -> list[int]:
    """Token ids of a query without special tokens, cut at `max_query_tokens`."""
    return query_part(query, recipe, tokenizer).ids


def _encode(texts: Sequence[str], tokenizer: Tokenizer) -> list[Encoding]:
    return tokenizer.encode_batch(list(texts), add_special_tokens=False) if texts else []


def pack_ids(ids: Sequence[int]) -> str:
    """Token ids as base64 of little-endian uint32 (what OpenSearch's `binary` field holds)."""
    return base64.b64encode(np.asarray(ids, "<u4").tobytes()).decode("ascii")


def unpack_ids(packed: str) -> list[int]:
    """The inverse of `pack_ids`. Raises ValueError when the text is not whole base64 of uint32."""
    try:
        raw = base64.b64decode(packed, validate=True)
    except binascii.Error as error:
        raise ValueError(f"token ids are not base64: {error}") from error
    if len(raw) % 4:
        raise ValueError(f"token ids have {len(raw)} bytes, not a multiple of 4")
    return [int(value) for value in np.frombuffer(raw, "<u4")]
