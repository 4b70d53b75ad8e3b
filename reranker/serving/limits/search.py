"""A search body: the query, and all that stands beside it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from reranker.serving.access import DeniedError
from reranker.serving.limits import aggregations, queries, texts
from reranker.serving.limits.budget import Budget, real
from reranker.serving.limits.walk import Place, Walk, members

Json = dict[str, Any]
Part = Callable[[Walk, Any, Place], None]

DEFAULT_SIZE, INNER_SIZE = 10, 3
# What a search may define by itself of a pipeline: how hybrid results are put together, and what narrows the query.
_PROCESSORS = ("normalization-processor", "score-ranker-processor", "hybrid_score_explanation", "filter_query")
_FIELD_LISTS = ("_source", "fields", "docvalue_fields", "stored_fields")


def read(walk: Walk, body: Json, place: Place) -> None:
    """The whole body of a search. Raises InputError and DeniedError, like all of these."""
    walk.budget.most("parts", len(_several(body.get("rescore"))), "The number of rescorers")
    _read_parts(walk, body, place)


def read_inner(walk: Walk, body: Json, place: Place) -> None:
    """Hits within a hit or a bucket."""
    size = walk.budget.number("inner_hits", body.get("size"), "size of hits within hits", INNER_SIZE)
    walk.budget.number("reach", body.get("from"), "from of hits within hits")
    walk.echoes(body.get("name"))
    if place.depth:
        walk.budget.spend("hits_per_request", place.buckets * size, "The number of hits within buckets")
    else:
        walk.inner += size
    _read_parts(walk, body, place)


def page(walk: Walk, *given: Any) -> int:
    """How many hits a search asks for by (from, size) pairs of the body and the address, one after the other."""
    starts = [walk.budget.number("reach", each, "from") for each in given[::2]]
    sizes = [walk.budget.number("size", each, "size") for each in given[1::2] if each is not None]
    size = max(sizes, default=DEFAULT_SIZE)
    walk.budget.most("reach", max(starts) + size, "from plus size")
    return max(0, size)


def _read_parts(walk: Walk, body: Json, place: Place) -> None:
    for name, value in body.items():
        if queries.is_script(name):
            walk.budget.refuse_script(name)
        _PARTS.get(name, _read_strange)(walk, value, place)
        if name in _FIELD_LISTS:
            _read_field_list(walk, value)


def _several(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]


def _read_strange(walk: Walk, value: Any, place: Place) -> None:
    walk.later(queries.read_strange, value, place)


def _read_query(walk: Walk, value: Any, place: Place) -> None:
    walk.later(queries.read, value, place)


def _read_aggregations(walk: Walk, value: Any, place: Place) -> None:
    walk.later(aggregations.read, value, place)


def _read_groups(walk: Walk, value: Any, place: Place) -> None:
    """`stats`: groups that a node counts searches by. It copies all that it has for each new one, and forgets none."""
    check_groups(walk.budget, value)


def check_groups(budget: Budget, value: Any) -> None:
    """As above, of an address too. Raises InputError."""
    names = value.split(",") if isinstance(value, str) else _several(value)
    budget.most("groups", len(names), "The number of groups in stats")
    for name in names:
        budget.most("pattern_characters", len(str(name)), "The length of a group in stats")


def _read_boosts(walk: Walk, value: Any, place: Place) -> None:
    """`indices_boost`: whether there is an index shows in the answer."""
    for boosts in _several(value):
        walk.names_index([name for name in members(boosts) if "*" not in name])


def _read_nothing(walk: Walk, value: Any, place: Place) -> None:
    """What has been read elsewhere, or holds names of the client's own and plain values alone."""


def _read_field_list(walk: Walk, value: Any) -> None:
    lists = list(members(value).values()) if isinstance(value, dict) else [value]
    for names in lists:
        texts.check_names(walk.budget, names)
        for name in names if isinstance(names, list) else []:
            texts.check_names(walk.budget, members(name).get("field"))
            walk.echoes(members(name).get("format"))


def _read_sort(walk: Walk, value: Any, place: Place) -> None:
    """By names of fields; `_script` is none."""
    orders = _several(value)
    walk.budget.most("parts", len(orders), "The number of sorts")
    for order in orders:
        for field, options in members(order).items():
            if field == "_script":
                walk.budget.refuse_script("A sort by _script")
            walk.later(_read_sort_options, options, place)


def _read_sort_options(walk: Walk, options: Json, place: Place) -> None:
    walk.echoes(options.get("missing"), options.get("format"))
    for name, value in options.items():
        if name in ("filter", "nested_filter"):
            walk.later(queries.read, value, place)
        elif name == "nested":
            walk.later(_read_sort_options, value, place)
        else:
            walk.later(queries.read_strange, {name: value}, place)


def _read_rescore(walk: Walk, value: Any, place: Place) -> None:
    for rescorer in _several(value):
        walk.budget.number("rescore_window", members(rescorer).get("window_size"), "window_size of a rescorer")
        for name, inner in members(rescorer).items():
            query = members(inner).get("rescore_query")
            walk.later(queries.read, query, place)
            if query is None:
                walk.later(queries.read_strange, {name: inner}, place)


def _read_collapse(walk: Walk, value: Any, place: Place) -> None:
    """One hit for each value of a field, with others of the same value."""
    given = members(value)
    concurrent = given.get("max_concurrent_group_searches")
    walk.budget.number("parts", concurrent, "max_concurrent_group_searches")
    walk.later(read_inner, given.get("inner_hits"), place)


def _read_highlight(walk: Walk, value: Any, place: Place) -> None:
    given = members(value)
    _check_highlight(walk, given, place)
    fields = given.get("fields")
    each_field = [each for each in _several(fields) if isinstance(each, dict)]
    walk.budget.most("parts", sum(map(len, each_field)), "The number of fields to highlight")
    for fields in each_field:
        for field, options in fields.items():
            texts.check_names(walk.budget, [field])
            _check_highlight(walk, members(options), place)


def _check_highlight(walk: Walk, options: Json, place: Place) -> None:
    walk.budget.number("parts", options.get("number_of_fragments"), "number_of_fragments of a highlight")
    for name in ("fragment_size", "fragment_offset", "no_match_size", "boundary_max_scan", "phrase_limit"):
        walk.budget.number("text_characters", options.get(name), f"{name} of a highlight")
    walk.later(queries.read, options.get("highlight_query"), place)
    walk.later(queries.read_strange, options.get("options"), place)
    walk.echoes(options.get("pre_tags"), options.get("post_tags"))
    texts.check_names(walk.budget, options.get("matched_fields"))


def _read_suggest(walk: Walk, value: Any, place: Place) -> None:
    """Suggestions by names of the client's own, and a text for all of them."""
    walk.budget.most("parts", len(members(value)), "The number of suggestions")
    for given in members(value).values():
        for name, options in members({"text": given} if isinstance(given, str) else given).items():
            if isinstance(options, str):
                texts.check_text(walk.budget, options)
                texts.check_fuzzy(walk.budget, options)
                if name == "regex":
                    texts.check_regexp(walk.budget, options)
            for number in ("size", "shard_size", "max_inspections", "max_errors", "gram_size"):
                what = f"{number} of a suggestion"
                if number in members(options):
                    walk.budget.most("parts", real(members(options)[number], what), what)
            walk.later(_read_suggester, options, place)


def _read_suggester(walk: Walk, options: Json, place: Place) -> None:
    for name, value in options.items():
        if name != "contexts":  # by names of the client's own, and plain values
            walk.later(queries.read_strange, {name: value}, place)


def _read_slice(walk: Walk, value: Any, place: Place) -> None:
    walk.budget.number("parts", members(value).get("max"), "The number of slices")


def _read_point_in_time(walk: Walk, value: Any, place: Place) -> None:
    walk.budget.duration("keep_alive_s", members(value).get("keep_alive"), "keep_alive")


def _read_pipeline(walk: Walk, value: Any, place: Place) -> None:
    """A search pipeline that a search defines itself; one that the cluster keeps has a name."""
    for phase in members(value).values():
        for processor in _several(phase):
            for kind, options in members(processor).items():
                if kind not in _PROCESSORS and not walk.budget.limits.scripts:
                    raise DeniedError(
                        403,
                        f"A search that brings a processor {kind[:100]!r} of its own is not passed on. Keep the search "
                        "pipeline in the cluster and name it, or let the operator allow limits.scripts.",
                    )
                walk.later(queries.read, members(options).get("query"), place)


_PARTS: dict[str, Part] = {
    "query": _read_query,
    "post_filter": _read_query,
    "aggs": _read_aggregations,
    "aggregations": _read_aggregations,
    "sort": _read_sort,
    "suggest": _read_suggest,
    "highlight": _read_highlight,
    "rescore": _read_rescore,
    "collapse": _read_collapse,
    "slice": _read_slice,
    "pit": _read_point_in_time,
    "search_pipeline": _read_pipeline,
    "stats": _read_groups,
    "indices_boost": _read_boosts,
    **dict.fromkeys(("from", "size", "search_after", *_FIELD_LISTS), _read_nothing),
}
