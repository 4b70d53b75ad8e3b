"""The query language: every clause by its own rule, and one that nobody here knows by the strictest.

Names in a clause are told from names of fields: a product may have a field named `script`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from reranker.serving.access import DeniedError
from reranker.serving.limits import texts
from reranker.serving.limits.budget import real, whole
from reranker.serving.limits.walk import Place, Walk, members

Json = dict[str, Any]
# A clause is as a rule an object, and has been checked for nothing yet.
Clause = Callable[[Walk, Any, Place], None]

# Numbers of clauses, wherever they stand, and the limit that each has.
_NUMBERS = {
    "max_expansions": ("expansions", "The number of expansions of a word"),
    "fuzzy_max_expansions": ("expansions", "The number of expansions of a word"),
    "slop": ("slop", "The slop of a phrase"),
    "phrase_slop": ("slop", "The slop of a phrase"),
    "max_determinized_states": ("determinized_states", "max_determinized_states"),
    "max_query_terms": ("clauses", "max_query_terms"),
    "k": ("neighbours", "k, the number of neighbours"),
    "ef_search": ("neighbours", "ef_search"),
    "nprobes": ("neighbours", "nprobes"),
    "pagination_depth": ("reach", "pagination_depth"),
}
_SCRIPTS = {"script", "scripts", "script_fields", "script_score", "scripted_metric", "scripted_upsert", "derived"}
_TEMPLATES = {"template", "collate"}
_INDEXES = {"index", "_index", "indices"}
_EXPRESSIONS = {"regexp", "regex"}


def read(walk: Walk, query: Json, place: Place) -> None:
    """A query: an object that holds a clause by its name. Raises InputError and DeniedError, like all readers."""
    for name, clause in query.items():
        walk.budget.spend("clauses", 1, "The number of clauses")
        _CLAUSES.get(name, _read_strange_clause)(walk, clause if name in _CLAUSES else {name: clause}, place)


def read_strange(walk: Walk, part: Json, place: Place) -> None:
    """A part whose rule nobody here knows: what is dangerous anywhere counts, whatever it stands for."""
    for name, value in part.items():
        if is_script(name):
            walk.budget.refuse_script(name)
        elif name in _TEMPLATES:
            walk.budget.refuse_template(name)
        if name in _INDEXES:
            walk.names_index(value)
        if name in _NUMBERS and not isinstance(value, dict | list):
            check_number(walk, name, value)
        elif isinstance(value, str):
            _check_strange_text(walk, name, value)
        elif name in _CLAUSES and isinstance(value, dict):
            walk.later(read, {name: value}, place)
        elif name in ("aggs", "aggregations"):
            walk.later(walk.aggregations, value, place)
        elif name in ("inner_hits", "top_hits"):
            walk.later(walk.inner_hits, value, place)
        else:
            walk.later(read_strange, value, place)


def is_script(name: str) -> bool:
    """Whether something of this name, where no name of a client's own can stand, is a script."""
    return name in _SCRIPTS or name.endswith("_script")


def check_number(walk: Walk, name: str, value: Any) -> None:
    """A number that clauses know by its name."""
    setting, what = _NUMBERS[name]
    walk.budget.number(setting, value, what)


def _check_strange_text(walk: Walk, name: str, value: str) -> None:
    texts.check_text(walk.budget, value)
    if name in _EXPRESSIONS:
        texts.check_regexp(walk.budget, value)


def _read_strange_clause(walk: Walk, clause: Any, place: Place) -> None:
    walk.later(read_strange, clause, place)


def _read_compound(walk: Walk, clause: Any, place: Place) -> None:
    """A clause of clauses, under whatever names."""
    for name, part in members(clause).items():
        if name in _NUMBERS:
            check_number(walk, name, part)
        walk.later(walk.inner_hits if name == "inner_hits" else read, part, place)


def _read_options(walk: Walk, options: Any, place: Place) -> None:
    """What a clause wants of a field: a text, or an object with one and how to look for it."""
    if isinstance(options, str):
        texts.check_text(walk.budget, options)
        return
    fuzzy = options.get("fuzziness") not in (None, 0, "0") if isinstance(options, dict) else False
    for name, value in members(options).items():
        if is_script(name):
            walk.budget.refuse_script(name)
        elif name in _NUMBERS:
            check_number(walk, name, value)
        elif name == "fields":
            texts.check_names(walk.budget, value)
        elif isinstance(value, str):
            texts.check_text(walk.budget, value)
            if fuzzy and name == "query":
                texts.check_fuzzy(walk.budget, value)
        elif isinstance(value, dict | list):
            walk.later(read_strange, {name: value}, place)


def _by_field(read_options: Clause) -> Clause:
    """A clause that names fields, and what it wants of each."""

    def read_fields(walk: Walk, clause: Any, place: Place) -> None:
        for options in members(clause).values():
            read_options(walk, options, place)

    return read_fields


def _read_fuzzy(walk: Walk, options: Any, place: Place) -> None:
    text = members(options).get("value") if isinstance(options, dict) else options
    texts.check_fuzzy(walk.budget, str(text))
    _read_options(walk, options, place)


def _read_pattern(check: Callable[[Any, Any], None]) -> Clause:
    def read_pattern(walk: Walk, options: Any, place: Place) -> None:
        given = options if isinstance(options, dict) else {"value": options}
        for name, value in given.items():
            if name not in ("rewrite", "flags", "_name"):
                check(walk.budget, value)
        _read_options(walk, options, place)

    return read_pattern


def _read_terms(walk: Walk, options: Any, place: Place) -> None:
    if isinstance(options, dict):
        walk.names_index(options.get("index"))
        walk.later(read_strange, options, place)
    elif isinstance(options, list):
        walk.budget.spend("terms", len(options), "The number of terms")


def _read_terms_clause(walk: Walk, clause: Any, place: Place) -> None:
    if members(clause).get("value_type") not in (None, "default"):
        raise DeniedError(403, "A bitmap of terms is not passed on: it may hold billions. List the terms.")
    _by_field(_read_terms)(walk, clause, place)


def _read_terms_set(walk: Walk, options: Any, place: Place) -> None:
    _read_terms(walk, members(options).get("terms"), place)
    rest = {name: value for name, value in members(options).items() if name != "terms"}
    walk.later(read_strange, rest, place)


def _read_query_string(walk: Walk, clause: Any, place: Place) -> None:
    texts.check_query_string(walk.budget, members(clause).get("query"))
    _read_options(walk, clause, place)


def _read_neighbours(walk: Walk, options: Any, place: Place) -> None:
    """k nearest neighbours of a vector, or of a text that the cluster embeds."""
    given = members(options)
    rescore = members(given.get("rescore"))
    if "oversample_factor" in rescore and "k" in given:
        asked = whole(given["k"], "k") * real(rescore["oversample_factor"], "oversample_factor")
        walk.budget.most("neighbours", asked, "k times oversample_factor")
    for name, value in given.items():
        if name == "filter":
            walk.later(read, value, place)
        elif name == "query_tokens":
            walk.budget.spend("terms", len(members(value)), "The number of tokens")
        elif name not in ("vector", "query_image"):
            _read_options(walk, {name: value}, place)


def _read_scored(walk: Walk, clause: Any, place: Place) -> None:
    """`function_score`, and each of its functions."""
    walk.budget.spend("clauses", 1, "The number of clauses")
    for name, value in members(clause).items():
        if is_script(name):
            walk.budget.refuse_script(name)
        elif name in ("query", "filter"):
            walk.later(read, value, place)
        elif name == "functions":
            walk.later(_read_scored, value, place)


def _read_script(walk: Walk, clause: Any, place: Place) -> None:
    walk.budget.refuse_script("A script in a query")
    walk.later(read, members(clause).get("query"), place)


def _read_template(walk: Walk, clause: Any, place: Place) -> None:
    walk.budget.refuse_template("A template in a query")
    walk.later(read_strange, clause, place)


def _read_wrapper(walk: Walk, clause: Any, place: Place) -> None:
    raise DeniedError(403, "A wrapper query is not passed on: it hides a query. Send the query itself.")


def _read_intervals(walk: Walk, rule: Any, place: Place) -> None:
    for name, value in members(rule).items():
        if name in ("all_of", "any_of", "match", "prefix", "wildcard", "fuzzy", "regexp"):
            walk.budget.spend("clauses", 1, "The number of clauses")
        if is_script(name):
            walk.budget.refuse_script(name)
        elif name == "regexp":
            texts.check_regexp(walk.budget, members(value).get("pattern"))
        elif name == "wildcard":
            texts.check_wildcard(walk.budget, members(value).get("pattern"))
        elif name == "fuzzy":
            texts.check_fuzzy(walk.budget, str(members(value).get("term")))
        if isinstance(value, str):
            texts.check_text(walk.budget, value)
        elif name in _NUMBERS:
            check_number(walk, name, value)
        walk.later(_read_intervals, value, place)


def _read_likeness(walk: Walk, clause: Any, place: Place) -> None:
    """`more_like_this`: texts, documents of an index by id, and documents of the client's own."""
    for name, value in members(clause).items():
        if name in ("like", "unlike"):
            several = value if isinstance(value, list) else [value]
            walk.budget.spend("parts", len(several), "The number of texts and documents to be like")
            for each in several:
                if isinstance(each, dict):
                    walk.names_index([each.get(key) for key in _INDEXES])
                else:
                    texts.check_text(walk.budget, str(each))
        else:
            _read_options(walk, {name: value}, place)


def _read_percolation(walk: Walk, clause: Any, place: Place) -> None:
    """A product of the client's own, or one of an index, against queries that are kept."""
    given = members(clause)
    documents = given.get("documents", [])
    walk.names_index(given.get("index"))
    walk.budget.spend("parts", len(documents) if isinstance(documents, list) else 1, "The number of documents")


def _read_shape(walk: Walk, options: Any, place: Place) -> None:
    walk.names_index(members(members(options).get("indexed_shape")).get("index"))
    _read_options(walk, options, place)


_CLAUSES: dict[str, Clause] = {
    **dict.fromkeys(
        ("bool", "dis_max", "constant_score", "boosting", "nested", "has_child", "has_parent"), _read_compound
    ),
    **dict.fromkeys(("hybrid", "span_near", "span_or", "span_not", "span_first", "span_multi"), _read_compound),
    **dict.fromkeys(("span_containing", "span_within", "field_masking_span"), _read_compound),
    **dict.fromkeys(("match", "match_phrase", "match_phrase_prefix", "match_bool_prefix"), _by_field(_read_options)),
    **dict.fromkeys(("term", "range", "span_term", "distance_feature", "rank_feature"), _by_field(_read_options)),
    **dict.fromkeys(("geo_distance", "geo_bounding_box", "geo_polygon"), _by_field(_read_options)),
    **dict.fromkeys(("multi_match", "combined_fields", "exists", "match_all", "match_none", "ids"), _read_options),
    **dict.fromkeys(("query_string", "simple_query_string"), _read_query_string),
    **dict.fromkeys(("knn", "neural", "neural_sparse"), _by_field(_read_neighbours)),
    **dict.fromkeys(("geo_shape", "xy_shape"), _by_field(_read_shape)),
    **dict.fromkeys(("script", "script_score"), _read_script),
    "fuzzy": _by_field(_read_fuzzy),
    "prefix": _by_field(_read_pattern(texts.check_wildcard)),
    "wildcard": _by_field(_read_pattern(texts.check_wildcard)),
    "regexp": _by_field(_read_pattern(texts.check_regexp)),
    "terms": _read_terms_clause,
    "terms_set": _by_field(_read_terms_set),
    "intervals": _by_field(_read_intervals),
    "function_score": _read_scored,
    "more_like_this": _read_likeness,
    "percolate": _read_percolation,
    "template": _read_template,
    "wrapper": _read_wrapper,
}
