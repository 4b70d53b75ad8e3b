"""Reorder one window: score it within the deadline, blend, order; or leave it whole as the first stage had it."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from indexer.mappings import VECTORS, made_by
from reranker.blend import blended, weighed
from reranker.encoder import QueryVectors
from reranker.pace import StoppedError
from reranker.scoring import CrossEncoder
from reranker.text import field_text, unpack_ids

TOKENS_FIELD = "rerank_tokens"
TOKENS_NAME_FIELD = "rerank_bundle"
# What ingest stored with a product for its order, beside the fields that models and signals read.
STORED_FIELDS = (TOKENS_FIELD, TOKENS_NAME_FIELD, *VECTORS, *map(made_by, VECTORS))

Status = Literal["applied", "skipped", "timeout", "error"]


class Candidate(msgspec.Struct):
    """One hit of the window: its first-stage score and the product's fields, stored token ids and vector among them."""

    id: str
    first_stage: float
    fields: Mapping[str, Any]


class Outcome(msgspec.Struct):
    """What rescoring did. `order` holds positions in the window, best first; lists run parallel to the window.

    `blend` is None where the bundle's weights decided or nothing was rescored. `cosines` are those of query and
    product where every hit's was known and asked for, else empty.
    """

    status: Status
    reason: str
    window: int
    scored: int
    model: str
    blend: float | None
    order: list[int]
    rerank: list[float | None]
    final: list[float]
    cosines: list[float] = []

    def known_cosines(self) -> NDArray[np.float64] | None:
        """The cosines, float64 [window], None where they are not known."""
        return np.array(self.cosines) if self.cosines else None

    def summary(self) -> dict[str, Any]:
        """The part that a response carries as `rerank`."""
        return {
            "status": self.status,
            "reason": self.reason,
            "window": self.window,
            "scored": self.scored,
            "model": self.model,
            "blend": self.blend,
        }


def rescore(
    query: str,
    window: Sequence[Candidate],
    reranker: CrossEncoder | None,
    blend: float | None = None,
    deadline: float = float("inf"),
    vectors: QueryVectors | None = None,
) -> Outcome:
    """Order the window by the weights that the bundle carries for both scores, the cosines of `vectors` where every hit
    has one, and the signals of `reranker.signals`.

    A `blend` that is given, or a bundle without such weights, orders by `blend` x rerank + (1 - blend) x first stage,
    each min-max normalised over the window; `deadline` is a reading of `time.monotonic()`. Ties
    keep first-stage order. When anything keeps rescoring from finishing, the whole window keeps its first-stage
    order and its first-stage scores: two scales are never mixed. Never raises for a fault of the model.
    """
    if reranker is None:
        return untouched(window, "skipped", "reranking is off")
    if not window:
        return untouched(window, "skipped", "the window holds no hit of this page", reranker)
    if not query.strip():
        return untouched(window, "skipped", "the query is empty", reranker)
    reranker = reranker.reader(query, (field_text(hit.fields.get("title")) for hit in window))
    try:
        cosines = None if vectors is None else all_known([vectors.cosine(hit.fields) for hit in window])
        scores = reranker.score(query, [stored_tokens(hit.fields, reranker) for hit in window], deadline)
    except StoppedError:
        return untouched(window, "timeout", "the deadline came before the query was read", reranker)
    except Exception as error:  # noqa: BLE001 - a model fault must never cost the shopper the page
        return untouched(window, "error", f"{type(error).__name__} while scoring: {error}", reranker)
    if scores.timed_out:
        reason = f"the deadline came after {scores.scored} of {len(window)} hits"
        return untouched(window, "timeout", reason, reranker, scores.scored)
    bad = np.flatnonzero(~np.isfinite(scores.values))
    if len(bad):
        reason = f"the score of hit {window[int(bad[0])].id} is not a finite number"
        return untouched(window, "error", reason, reranker, scores.scored)
    card = reranker.bundle.description
    weight = card.blend if blend is None else blend
    weighs = blend is None and bool(card.weights)
    first = np.array([hit.first_stage for hit in window])
    if weighs:
        try:
            weights = card.last_mile(cosines is not None)
            final = weighed(query, [hit.fields for hit in window], first, scores.values, weights, cosines)
        except Exception as error:  # noqa: BLE001 - an odd field must not cost the shopper the page either
            return untouched(
                window, "error", f"{type(error).__name__} while weighing: {error}", reranker, scores.scored
            )
    else:
        final = blended(scores.values, first, weight)
    order = np.argsort(-final, kind="stable")
    return Outcome(
        status="applied",
        reason="",
        window=len(window),
        scored=scores.scored,
        model=reranker.bundle_id,
        blend=None if weighs else weight,
        order=[int(at) for at in order],
        rerank=[float(value) for value in scores.values],
        final=[float(value) for value in final],
        cosines=[] if cosines is None else cosines.tolist(),
    )


def weighs_cosines(reranker: CrossEncoder | None, blend: float | None) -> bool:
    """Whether the order of a window depends on cosines, where they are known."""
    return reranker is not None and blend is None and reranker.weighs_cosines


def all_known(cosines: Sequence[float | None]) -> NDArray[np.float64] | None:
    """The cosines of a window's hits, float64 [window]; None where one is not known."""
    known = [cosine for cosine in cosines if cosine is not None]
    return np.array(known) if len(known) == len(cosines) else None


def stored_tokens(fields: Mapping[str, Any], reranker: CrossEncoder) -> list[int]:
    """The product's token ids as ingest stored them; made on the spot when absent, broken or of another bundle."""
    packed = fields.get(TOKENS_FIELD)
    if packed and fields.get(TOKENS_NAME_FIELD) == reranker.tokens_id:
        try:
            return unpack_ids(packed)
        except ValueError:
            pass  # the fields are at hand, so a broken token field costs time and nothing else
    return reranker.product_tokens(fields)


def remaining_until(deadline_ms: float | None) -> float:
    """A reading of `time.monotonic()` that many milliseconds from now; None is never."""
    return float("inf") if deadline_ms is None else time.monotonic() + deadline_ms / 1000


def untouched(
    window: Sequence[Candidate],
    status: Status,
    reason: str,
    reranker: CrossEncoder | None = None,
    scored: int = 0,
) -> Outcome:
    """The window as the first stage had it, and why."""
    return Outcome(
        status=status,
        reason=reason,
        window=len(window),
        scored=scored,
        model=reranker.bundle_id if reranker else "",
        blend=None,
        order=list(range(len(window))),
        rerank=[None] * len(window),
        final=[hit.first_stage for hit in window],
    )
