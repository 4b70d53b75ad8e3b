"""`explain`: one search, and for some of its hits everything that put them where they stand."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import get_args

from indexer.errors import UsageError
from reranker.explaining.explained import Explained, ExplainedHit, FilterHeld, Language
from reranker.explaining.reading import Reading, Readings, read
from reranker.explaining.sentences import tell
from reranker.explaining.terms import Term, terms
from reranker.rescore import all_known, remaining_until
from reranker.retrieval import Filters, bounded
from reranker.scoring import CrossEncoder
from reranker.search import Page, Ranked, Searcher
from reranker.text import field_text

MAX_HITS = 20
TIME_LIMIT_MS = 2000.0

# What a filter narrows: the product's field.
_NARROWED = {
    "min_price": "price",
    "max_price": "price",
    "brands": "brand",
    "categories": "category",
    "min_rating": "rating",
    "ids": "id",
}


def explain(
    searcher: Searcher,
    index: str,
    query: str,
    *,
    ids: Sequence[str] | None = None,
    mode: str | None = None,
    window: int | None = None,
    size: int = 3,
    start: int = 0,
    filters: Filters | None = None,
    rerank: bool = True,
    deadline_ms: float = math.inf,
    weight: float | None = None,
    time_limit_ms: float = TIME_LIMIT_MS,
    language: Language = "en",
) -> Explained:
    """Why hits `start` to `start + size` of a search, or those of `ids` wherever they are in it, stand where they do.

    The options are those of `Searcher.search` and so are ranks and scores; only `deadline_ms` has no limit by itself,
    because an unfinished page explains nothing. `time_limit_ms` bounds what comes after the search: measuring fields
    and words, 0 for none of it; where a deadline leaves less, that does. Raises what `search` raises, and UsageError
    for more than 20 hits, a negative limit or another language.
    """
    wanted = list(dict.fromkeys(ids)) if ids is not None else None
    if size < 0 or start < 0:
        raise UsageError(f"size is {size} and from is {start}; neither may be negative.")
    _check(size if wanted is None else len(wanted), time_limit_ms, language)
    chosen = searcher.settings.search
    window = chosen.window if window is None else window
    reach = start + size if wanted is None else chosen.depth
    began = time.monotonic()
    page = searcher.search(
        index,
        query,
        mode=mode,
        window=window,
        size=max(window, reach),
        filters=filters,
        rerank=rerank,
        deadline_ms=deadline_ms,
        weight=weight,
    )
    searched = time.monotonic()
    by_id = {hit.id: hit for hit in page.hits}
    if wanted is None:
        picked = page.hits[start : start + size]
    else:
        picked = sorted((by_id[each] for each in wanted if each in by_id), key=lambda hit: hit.rank)
    text, narrowed = bounded(query), filters or Filters()
    limit_ms = min(time_limit_ms, max(0.0, deadline_ms - (searched - began) * 1000))
    told = searcher.models.run(
        "explain",
        lambda: explain_page(index, text, page, picked, searcher.reranker, narrowed, limit_ms, language),
    )
    told.not_found = [each for each in wanted or () if each not in by_id]
    told.took_ms["search"] = round((searched - began) * 1000, 2)
    told.took_ms["total"] = round((time.monotonic() - began) * 1000, 2)
    return told


def explain_page(
    index: str,
    query: str,
    page: Page,
    picked: Sequence[Ranked],
    reranker: CrossEncoder | None,
    filters: Filters,
    time_limit_ms: float,
    language: Language,
) -> Explained:
    """Why the picked hits of a page stand where they stand; the page holds the whole window, with the fields that the
    reranker reads."""
    began = time.monotonic()
    reranker = reranker and reranker.named(page.rerank["model"])
    readings = _read(reranker, query, picked, remaining_until(time_limit_ms))
    hits = _explained(reranker, query, page, picked, readings, filters)
    summary = {name: getattr(readings, name) for name in ("status", "reason", "scored", "pairs")}
    for hit in hits:
        hit.text = tell(hit, page.rerank, summary, language)
    took = {"read": round((time.monotonic() - began) * 1000, 2)}
    return Explained(query, index, language, page.total, page.rerank, summary, hits, [], took)


def _check(hits: int, time_limit_ms: float, language: str) -> None:
    if hits > MAX_HITS:
        raise UsageError(f"{hits} hits are to be explained; at most {MAX_HITS} are at once. Ask for fewer.")
    if not time_limit_ms >= 0:
        raise UsageError(f"time_limit_ms is {time_limit_ms}; it must be 0 or more.")
    if language not in get_args(Language):
        raise UsageError(f"Unknown language {language!r}; use one of {', '.join(get_args(Language))}.")


def _read(reranker: CrossEncoder | None, query: str, picked: Sequence[Ranked], deadline: float) -> Readings:
    """Readings of the hits that were rescored; empty ones of the others."""
    rescored = [hit for hit in picked if hit.scores["rerank"] is not None]
    if reranker is None or not rescored:
        return Readings("skipped", "none of these hits was rescored", [Reading() for _ in picked], 0, 0)
    found = read(query, [hit.source for hit in rescored], reranker, deadline)
    by_id = dict(zip((hit.id for hit in rescored), found.readings, strict=True))
    found.readings = [by_id.get(hit.id, Reading()) for hit in picked]
    return found


def _explained(
    reranker: CrossEncoder | None,
    query: str,
    page: Page,
    picked: Sequence[Ranked],
    readings: Readings,
    filters: Filters,
) -> list[ExplainedHit]:
    taken_apart = _terms(reranker, query, page)
    by_rerank = sorted(
        (hit for hit in page.hits if hit.scores["rerank"] is not None),
        key=lambda hit: (-(hit.scores["rerank"] or 0.0), hit.first_stage_rank),
    )
    places = {hit.id: place for place, hit in enumerate(by_rerank, start=1)}
    hits = []
    for hit, reading in zip(picked, readings.readings, strict=True):
        own, final = taken_apart.get(hit.id, []), hit.scores["final"]
        hits.append(
            ExplainedHit(
                id=hit.id,
                title=field_text(hit.source.get("title")),
                rank=hit.rank,
                first_stage_rank=hit.first_stage_rank,
                rerank_rank=places.get(hit.id),
                scores=hit.scores,
                base=round(final - math.fsum(term.adds for term in own), 6) if own and final is not None else None,
                terms=own,
                read_score=reading.score,
                fields=reading.fields,
                words=reading.words,
                query_words=reading.query_words,
                filters=_held(filters, hit),
                text=[],
            )
        )
    return hits


def _terms(reranker: CrossEncoder | None, query: str, page: Page) -> dict[str, list[Term]]:
    """Terms of every hit of the window by id; none where the window was not reordered."""
    if page.rerank["status"] != "applied" or reranker is None:
        return {}
    window = sorted(page.hits, key=lambda hit: hit.first_stage_rank)[: page.rerank["window"]]
    cosines = all_known([hit.cosine for hit in window])
    found = terms(
        query,
        [hit.source for hit in window],
        [hit.scores["first_stage"] or 0.0 for hit in window],
        [hit.scores["rerank"] or 0.0 for hit in window],
        reranker.bundle.description.last_mile(cosines is not None),
        page.rerank["blend"],
        cosines,
    )
    return dict(zip((hit.id for hit in window), found, strict=True))


def _held(filters: Filters, hit: Ranked) -> list[FilterHeld]:
    asked = {name: value for name in _NARROWED if (value := getattr(filters, name)) not in (None, ())}
    source = {**hit.source, "id": hit.id}
    return [FilterHeld(name, value, source.get(_NARROWED[name])) for name, value in asked.items()]
