"""Aggregations: how many, how deep, and how many buckets they make of each other.

An aggregation may have any name, one of the query language's too; what it does is the word below that name.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from reranker.serving.limits import queries, texts
from reranker.serving.limits.budget import real
from reranker.serving.limits.ranges import instant_ms, interval_ms
from reranker.serving.limits.walk import Place, Walk, members

Json = dict[str, Any]

_CHILDREN = ("aggs", "aggregations")
# Kinds that make buckets of what they find, with how many when no size is given.
_SIZES = {
    **dict.fromkeys(("terms", "multi_terms", "significant_terms", "significant_text", "composite"), 10),
    **dict.fromkeys(("auto_date_histogram", "variable_width_histogram"), 10),
    **dict.fromkeys(("geohash_grid", "geotile_grid", "geohex_grid"), 10_000),
}
# Numbers that a node makes room for.
_ROOM = ("size", "shard_size", "buckets", "initial_buffer", "window", "predict", "lag", "max_doc_count")
_HISTOGRAMS = ("histogram", "date_histogram")
# Paths to other aggregations, by names of the client's own.
_PATHS = ("order", "buckets_path")


def read(walk: Walk, aggregations: Json, place: Place) -> None:
    """Aggregations by name. Raises InputError and DeniedError, like all of these."""
    depth = place.depth + 1
    walk.budget.most("aggregation_depth", depth, "The depth of aggregations")
    walk.budget.spend("aggregations", len(aggregations), "The number of aggregations")
    walk.echoes(*aggregations)
    for given in aggregations.values():
        walk.echoes(members(given).get("meta"))
        kinds = {name: value for name, value in members(given).items() if name not in (*_CHILDREN, "meta")}
        buckets = place.buckets
        for kind, body in kinds.items():
            buckets *= _buckets(walk, kind, members(body), place)
            walk.budget.most("buckets", buckets, "The number of buckets that aggregations may make of each other")
            _KINDS.get(kind, _read_kind)(walk, kind, body, place)
        walk.most_buckets = max(walk.most_buckets, buckets)
        for name in _CHILDREN:
            walk.later(read, members(given).get(name), Place(depth, buckets))


def _buckets(walk: Walk, kind: str, body: Json, place: Place) -> int:
    """How many buckets an aggregation makes for each one above it, as far as its own words say."""
    for name in _ROOM:
        walk.budget.number("buckets", body.get(name), f"{name} of an aggregation")
    size = next((body[name] for name in ("size", "buckets") if body.get(name) is not None), _SIZES.get(kind, 1))
    own = walk.budget.number("buckets", size, "size of an aggregation") if kind in _SIZES else 1
    lists = (body[name] for name in ("ranges", "filters") if isinstance(body.get(name), list | dict))
    several = max((len(each) for each in lists), default=1)
    if kind == "adjacency_matrix":
        several *= several
    if isinstance(body.get("filters"), dict):
        walk.echoes(*body["filters"])
    if isinstance(body.get("ranges"), list):
        walk.echoes(*(members(each).get("key") for each in body["ranges"]))
    walk.echoes(body.get("format"), body.get("missing"))
    if kind in _HISTOGRAMS:
        return max(own, several, _filled(walk, body, place, dates=kind == "date_histogram"))
    return max(1, own, several)


def _filled(walk: Walk, body: Json, place: Place, dates: bool) -> int:
    """How many buckets a histogram fills between bounds that are named; where none are, its field's values decide."""
    least = walk.budget.number("buckets", body.get("min_doc_count"), "min_doc_count of an aggregation")
    if least > 0:
        return 1  # none is filled
    given = next((body[name] for name in ("calendar_interval", "fixed_interval", "interval") if name in body), 1)
    interval = interval_ms(given) if dates else real(given, "interval of an aggregation")
    if not interval > 0:
        return 1  # the cluster refuses it
    most = 1.0
    for name in ("extended_bounds", "hard_bounds"):
        bounds = members(body.get(name))
        ends = [instant_ms(bounds[end]) for end in ("min", "max") if bounds.get(end) is not None]
        if len(ends) == 2:
            most = max(most, (ends[1] - ends[0]) / interval)
    if not {"min", "max"} <= set(members(body.get("hard_bounds"))) and not walk.budget.limits.open_histograms:
        walk.histograms.append((str(body.get("field")), interval, place.buckets))
    return int(min(most, 1e15))


def _read_kind(walk: Walk, kind: str, body: Any, place: Place) -> None:
    """What an aggregation does; within it few things have names of the client's own."""
    if queries.is_script(kind):
        walk.budget.refuse_script(kind)
    given = {name: value for name, value in members(body).items() if name not in _PATHS}
    _check_sketch(walk, given)
    for name in ("include", "exclude"):
        if isinstance(given.get(name), str):
            texts.check_regexp(walk.budget, given[name])
    walk.later(queries.read_strange, given, place)


def _check_sketch(walk: Walk, body: Json) -> None:
    """Numbers of sketches, whose memory grows with them for each bucket."""
    for sketch in (body, members(body.get("tdigest"))):
        if "compression" in sketch:
            walk.budget.most("compression", real(sketch["compression"], "compression"), "compression of an aggregation")
    digits = members(body.get("hdr")).get("number_of_significant_value_digits")
    walk.budget.number("digits", digits, "number_of_significant_value_digits of an aggregation")


def _read_filter(walk: Walk, kind: str, body: Any, place: Place) -> None:
    walk.later(queries.read, body, place)


def _read_filters(walk: Walk, kind: str, body: Any, place: Place) -> None:
    """Filters by names of the client's own, or without."""
    filters = members(body).get("filters")
    walk.later(queries.read, list(filters.values()) if isinstance(filters, dict) else filters, place)


def _read_composite(walk: Walk, kind: str, body: Any, place: Place) -> None:
    """Sources by names of the client's own."""
    sources = members(body).get("sources")
    several = sources if isinstance(sources, list) else [sources]
    walk.budget.spend("aggregations", len(several), "The number of aggregations")
    for source in several:
        walk.echoes(*members(source))
        for kinds in members(source).values():
            for name, inner in members(kinds).items():
                _read_kind(walk, name, inner, place)


def _read_significant(walk: Walk, kind: str, body: Any, place: Place) -> None:
    walk.later(queries.read, members(body).get("background_filter"), place)
    rest = {name: value for name, value in members(body).items() if name != "background_filter"}
    _read_kind(walk, kind, rest, place)


def _read_bucket_sort(walk: Walk, kind: str, body: Any, place: Place) -> None:
    """An order by names of the client's own."""
    _read_kind(walk, kind, {name: value for name, value in members(body).items() if name != "sort"}, place)


def _read_top_hits(walk: Walk, kind: str, body: Any, place: Place) -> None:
    walk.later(walk.inner_hits, body, place)


_KINDS: dict[str, Callable[[Walk, str, Any, Place], None]] = {
    "filter": _read_filter,
    "filters": _read_filters,
    "adjacency_matrix": _read_filters,
    "composite": _read_composite,
    "top_hits": _read_top_hits,
    "significant_terms": _read_significant,
    "significant_text": _read_significant,
    "bucket_sort": _read_bucket_sort,
}
