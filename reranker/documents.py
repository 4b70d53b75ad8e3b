"""Rerank what is already at hand: a list of texts or products, or an ordinary OpenSearch response."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import numpy as np

from indexer.errors import InputError, ShelfrankError
from reranker.encoder import Encoder, QueryVectors
from reranker.pace import goes_on
from reranker.rescore import Candidate, remaining_until, rescore, weighs_cosines
from reranker.scoring import CrossEncoder
from reranker.text import field_text

MAX_DOCUMENTS = 1_000


class Scored(msgspec.Struct, frozen=True):
    """A document's position in the list that was given, and its score (a logit: higher is more relevant)."""

    index: int
    score: float


def rerank(
    query: str,
    documents: Sequence[str | Mapping[str, Any]],
    reranker: CrossEncoder,
    deadline_ms: float | None = None,
) -> list[Scored]:
    """Score texts, or products with the fields of the bundle's recipe, and order them; ties keep the given order.

    A mapping with a `text` counts as that text. Raises InputError for more than 1,000 documents or a document of
    another type, and ShelfrankError when the deadline comes first: a list has no first stage to fall back to.
    """
    return rerank_by(query, documents, reranker, remaining_until(deadline_ms))


def rerank_by(
    query: str, documents: Sequence[str | Mapping[str, Any]], reranker: CrossEncoder, deadline: float
) -> list[Scored]:
    """As `rerank`; `deadline` is a reading of `time.monotonic()`."""
    if len(documents) > MAX_DOCUMENTS:
        raise InputError(f"{len(documents)} documents were given; at most {MAX_DOCUMENTS} are scored in one call.")
    reranker = reranker.reader(query, map(_title, documents))
    tokens = []
    for at, document in enumerate(documents):
        if not goes_on(deadline):
            raise _late(0, documents)
        tokens.append(_tokens(at, document, reranker))
    scores = reranker.score(query, tokens, deadline)
    if scores.timed_out:
        raise _late(scores.scored, documents)
    if not np.isfinite(scores.values).all():
        raise ShelfrankError(f"The model {reranker.bundle_id} gave a score that is not a finite number.")
    order = np.argsort(-scores.values, kind="stable")
    return [Scored(int(at), float(scores.values[at])) for at in order]


def _late(scored: int, documents: Sequence[object]) -> ShelfrankError:
    return ShelfrankError(
        f"The deadline came after {scored} of {len(documents)} documents. Send fewer documents or allow more time."
    )


def _title(document: object) -> str:
    if isinstance(document, Mapping):
        text = document.get("text")
        return text if isinstance(text, str) else field_text(document.get("title"))
    return document if isinstance(document, str) else ""


def _tokens(at: int, document: object, reranker: CrossEncoder) -> list[int]:
    if isinstance(document, str):
        return reranker.text_tokens(document)
    if isinstance(document, Mapping):
        text = document.get("text")
        return reranker.text_tokens(text) if isinstance(text, str) else reranker.product_tokens(document)
    raise InputError(f"Document {at} is a {type(document).__name__}; give a text or a mapping of product fields.")


def rerank_response(
    response: Mapping[str, Any],
    query: str,
    reranker: CrossEncoder,
    *,
    window: int | None = None,
    blend: float | None = None,
    deadline_ms: float | None = None,
    fields: Mapping[str, str] | None = None,
    encoder: Encoder | None = None,
) -> dict[str, Any]:
    """The same `opensearch-py` response with its first `window` hits in a better order (default: all of them).

    Nothing else changes: each hit keeps its `_score`, and gains `_rerank` with its scores; the response gains
    `rerank` with the status. `fields` maps recipe fields to the index's own names, e.g. `{"title": "name"}`. With the
    `encoder` that made the catalogue's vectors, and `vector` and `vector_bundle` among each hit's fields, the order
    weighs how near query and product are. When rescoring cannot finish within `deadline_ms` the order stays as it came.
    """
    changed = {**response, "hits": {**response["hits"], "hits": [copy.copy(hit) for hit in response["hits"]["hits"]]}}
    hits = changed["hits"]["hits"]
    head, tail = (hits, []) if window is None else (hits[:window], hits[window:])
    candidates = [
        Candidate(str(hit.get("_id", at)), float(hit.get("_score") or 0.0), renamed(hit.get("_source") or {}, fields))
        for at, hit in enumerate(head)
    ]
    near = QueryVectors(query, [encoder]) if encoder is not None and weighs_cosines(reranker, blend) else None
    outcome = rescore(query, candidates, reranker, blend, remaining_until(deadline_ms), near)
    for hit, score, final in zip(head, outcome.rerank, outcome.final, strict=True):
        hit["_rerank"] = {"first_stage": hit.get("_score"), "rerank": score, "final": final}
    changed["hits"]["hits"] = [head[at] for at in outcome.order] + tail
    changed["rerank"] = outcome.summary()
    return changed


def renamed(source: Mapping[str, Any], fields: Mapping[str, str] | None) -> Mapping[str, Any]:
    """A product with the recipe's names: `fields` maps them to the index's own."""
    if not fields:
        return source
    return {**source, **{ours: source.get(theirs) for ours, theirs in fields.items()}}
