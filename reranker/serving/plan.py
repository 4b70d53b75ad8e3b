"""A search as a client sent it, read: what to rerank it by, what to ask of the cluster, or why to leave it alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from typing import Annotated, Any

import msgspec

from indexer.errors import InputError
from indexer.mappings import made_by
from indexer.settings import Limits, Policy, Settings
from reranker import signals
from reranker.explaining.explained import Language
from reranker.rescore import TOKENS_FIELD, TOKENS_NAME_FIELD, Status
from reranker.retrieval import bounded
from reranker.scoring import CrossEncoder
from reranker.search import MAX_WINDOW
from reranker.serving.source_filter import PARAMS, SourceFilter

Json = dict[str, msgspec.Raw]

_TEXT_KEYS = {"query", "query_text", "value", "like"}
_LEAVES = {
    "match",
    "multi_match",
    "match_phrase",
    "match_phrase_prefix",
    "match_bool_prefix",
    "query_string",
    "simple_query_string",
    "combined_fields",
    "neural",
    "neural_sparse",
    "more_like_this",
}
_SKIPPED_BRANCHES = {"filter", "must_not", "negative"}
_MAX_DEPTH = 40
SHAPING = ("filter_path",)  # parameters that leave parts of an answer out


class Ask(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a client may say in `ext.shelfrank`."""

    rerank: bool = True
    query: str = ""
    window: Annotated[int, msgspec.Meta(ge=0, le=MAX_WINDOW)] | None = None
    weight: Annotated[float, msgspec.Meta(ge=0, le=1)] | None = None
    deadline_ms: Annotated[float, msgspec.Meta(gt=0, le=60_000)] | None = None
    bundle: Annotated[str, msgspec.Meta(max_length=100)] = ""
    explain: bool = False
    language: Language = "en"
    experiment: Annotated[str, msgspec.Meta(max_length=200)] = ""


class Plan(msgspec.Struct):
    """How one search is answered. An empty `skip` means that it is reranked (else `status` says what to call that);
    `plain` is what the client itself asked.

    `start` and `size` are the client's page, `wide` asks for the whole window; `own_fields` are ours in it. Where it
    asks for more of `_source` than the client, `source` is the client's filter and `own_source` what was added.
    """

    ask: Ask | None
    plain: bytes
    skip: str = ""
    status: Status = "skipped"
    wide: bytes = b""
    query: str = ""
    window: int = 0
    start: int = 0
    size: int = 10
    weight: float | None = None
    deadline_ms: float = 0.0
    bundle: str = ""
    fields: Mapping[str, str] = {}
    own_fields: frozenset[str] = frozenset()
    source: SourceFilter | None = None
    own_source: frozenset[str] = frozenset()

    @property
    def hits(self) -> int:
        """How many hits the cluster is asked for."""
        page = self.start + self.size
        return page if self.skip else max(self.window, page)


def read(body: bytes, index: str, settings: Settings, params: Mapping[str, str]) -> Plan:
    """The plan of a search body. `params` are the request's URL parameters; `from` and `size` among them count.

    Raises InputError for an `ext.shelfrank` that is wrong, or that asks to rerank what cannot be reranked. A body that
    is no JSON object is left to the cluster to refuse.
    """
    try:
        parts = msgspec.json.decode(body, type=Json) if body.strip() else {}
    except (msgspec.DecodeError, RecursionError):
        return Plan(None, body, skip="the body is no JSON object")
    ask, rest = _ask(parts)
    if ask is not None:
        _check(ask, settings.limits)
    plain = body if ask is None else msgspec.json.encode(rest)
    policy = settings.serve.indexes.get(index) or Policy(rerank=settings.serve.rerank)
    plan = Plan(ask, plain)
    try:
        _fill(plan, rest, policy, settings, params)
    except (msgspec.DecodeError, ValueError, RecursionError):
        plan.skip = "the body holds what OpenSearch itself will refuse"
    return plan


def _check(ask: Ask, limits: Limits) -> None:
    for name in ("window", "deadline_ms"):
        value, most = getattr(ask, name), getattr(limits, name)
        if value is not None and value > most:
            raise InputError(f"ext.shelfrank.{name} is {value:g}; more than {most:g} is not taken (limits.{name}).")


def text(body: bytes, params: Mapping[str, str]) -> str:
    """What a search is about, whether it is to be reranked or not; empty where nothing says."""
    try:
        parts = msgspec.json.decode(body, type=Json) if body.strip() else {}
        ask, rest = _ask(parts)
        return bounded((ask.query if ask else "") or params.get("q", "") or _text(rest))
    except (msgspec.DecodeError, ValueError, RecursionError, InputError):
        return ""


def _ask(parts: Json) -> tuple[Ask | None, Json]:
    """`ext.shelfrank`, and the body without it."""
    try:
        extensions = msgspec.json.decode(parts["ext"], type=Json) if "ext" in parts else {}
    except (msgspec.DecodeError, RecursionError):
        return None, parts
    if "shelfrank" not in extensions:
        return None, parts
    try:
        ask = msgspec.json.decode(extensions.pop("shelfrank"), type=Ask)
    except (msgspec.DecodeError, RecursionError) as error:
        raise InputError(f"ext.shelfrank is wrong: {error}.") from error
    rest = {name: value for name, value in parts.items() if name != "ext"}
    if extensions:
        rest["ext"] = msgspec.Raw(msgspec.json.encode(extensions))
    return ask, rest


def _fill(plan: Plan, parts: Json, policy: Policy, settings: Settings, params: Mapping[str, str]) -> None:
    ask = plan.ask or Ask(rerank=policy.rerank)
    search = settings.search
    plan.start = _number(params.get("from"), parts.get("from"), 0)
    plan.size = _number(params.get("size"), parts.get("size"), 10)
    plan.window = next(each for each in (ask.window, policy.window, search.window) if each is not None)
    plan.weight = next((each for each in (ask.weight, policy.weight) if each is not None), search.weight)
    deadlines = (ask.deadline_ms, policy.deadline_ms, search.deadline_ms)
    plan.deadline_ms = next(each for each in deadlines if each is not None)
    plan.bundle = ask.bundle or policy.bundle
    plan.fields = policy.fields
    if not ask.rerank:
        plan.skip = "reranking is off"
        return
    if impossible := _impossible(parts, params):
        if plan.ask is not None:
            raise InputError(f"A search with {impossible} cannot be reranked. Leave it out, or ext.shelfrank.")
        plan.skip = f"a search with {impossible} is not reranked"
        return
    if plan.size <= 0 or plan.window <= 0 or plan.start >= plan.window:
        plan.skip = "the window holds no hit of this page"
        return
    plan.query = bounded(ask.query or params.get("q", "") or _text(parts))
    if not plan.query:
        plan.skip = "the search holds no text to rerank by; ext.shelfrank.query can give one"


def widened(plan: Plan, reranker: CrossEncoder, params: Mapping[str, str], vectors: Iterable[str] = ()) -> Plan:
    """The plan with the request for the whole window, and for the fields that the reranker reads; `vectors` are fields
    whose vectors its order weighs."""
    parts = msgspec.json.decode(plan.plain, type=Json) if plan.plain.strip() else {}
    parts["from"] = msgspec.Raw(b"0")
    parts["size"] = msgspec.Raw(str(max(plan.window, plan.start + plan.size)).encode())
    if _whole_source(parts, params):
        return msgspec.structs.replace(plan, wide=msgspec.json.encode(parts))
    needed = {TOKENS_FIELD, TOKENS_NAME_FIELD, *signals.FIELDS, *reranker.fields}
    needed = {plan.fields.get(name, name) for name in needed}
    theirs = _field_patterns(parts, params)
    own = {name for name in needed if not any(fnmatchcase(name, pattern) for pattern in theirs)}
    asked = msgspec.json.decode(parts["fields"], type=list[msgspec.Raw]) if "fields" in parts else []
    parts["fields"] = msgspec.Raw(msgspec.json.encode([*asked, *sorted(own)]))
    # A vector that `_source` leaves out is not among `fields` either, so it is asked for there.
    stored = {name for field in vectors for name in (field, made_by(field))}
    source = None
    if stored and not {"stored_fields"} & {*parts, *params}:
        source = SourceFilter.read(parts.get("_source"), params)
        parts["_source"] = msgspec.Raw(msgspec.json.encode(source.with_fields(stored).body()))
    return msgspec.structs.replace(
        plan,
        wide=msgspec.json.encode(parts),
        own_fields=frozenset(own),
        source=source,
        own_source=frozenset(stored),
    )


def _whole_source(parts: Json, params: Mapping[str, str]) -> bool:
    narrowing = {*PARAMS, "stored_fields"} & set(params)
    return not narrowing and "stored_fields" not in parts and bytes(parts.get("_source", b"true")) == b"true"


def _field_patterns(parts: Json, params: Mapping[str, str]) -> list[str]:
    """Names and patterns of all that the client itself wants in each hit's `fields`."""
    found = [name for key in ("stored_fields", "docvalue_fields") for name in params.get(key, "").split(",") if name]
    for key in ("fields", "docvalue_fields", "stored_fields"):
        asked = msgspec.json.decode(parts.get(key, b"[]"))
        several = asked if isinstance(asked, list) else [asked]
        found += [str(each.get("field", "")) if isinstance(each, dict) else str(each) for each in several]
    found += list(msgspec.json.decode(parts.get("script_fields", b"{}"), type=Json))
    collapse = msgspec.json.decode(parts.get("collapse", b"{}"), type=dict[str, Any])
    return [*found, str(collapse.get("field", ""))]


def _impossible(parts: Json, params: Mapping[str, str]) -> str:
    """The name of what keeps a search from being reranked: its order is not the score's, or its pages are chained."""
    for name in ("scroll", *SHAPING, "source"):
        if name in params:
            return name
    if "search_after" in parts:
        return "search_after"
    order = params.get("sort") or msgspec.json.decode(parts.get("sort", b"null"))
    first = order[0] if isinstance(order, list) and order else order
    if isinstance(first, dict) and "_score" in first:
        direction = first["_score"]
        direction = direction.get("order", "desc") if isinstance(direction, dict) else direction
        first = "_score" if direction == "desc" else "sort"
    text = str(first).split(",")[0]
    return "" if not first or text in ("_score", "_score:desc") else "sort"


def _number(param: str | None, raw: msgspec.Raw | None, otherwise: int) -> int:
    given = param if param is not None else None if raw is None else msgspec.json.decode(raw, type=int | str)
    value = otherwise if given is None else int(given)
    if value < 0:
        raise ValueError(value)
    return value


def _text(parts: Json) -> str:
    """The text that a query is about: the longest of those in its text clauses, filters apart."""
    if "query" not in parts:
        return ""
    found: list[str] = []
    _collect(msgspec.json.decode(parts["query"]), found, 0)
    return max(found, key=len, default="")


def _collect(query: Any, found: list[str], depth: int) -> None:
    if depth > _MAX_DEPTH:
        return
    if isinstance(query, list):
        for each in query:
            _collect(each, found, depth + 1)
    if not isinstance(query, dict):
        return
    for name, value in query.items():
        if name in _LEAVES:
            _leaf(value, found)
        elif name not in _SKIPPED_BRANCHES:
            _collect(value, found, depth + 1)


def _leaf(clause: Any, found: list[str]) -> None:
    """A text clause: `{"query": text, …}`, `{field: text}` or `{field: {"query": text}}`."""
    if not isinstance(clause, dict):
        return
    if isinstance(clause.get("query"), str):
        found.append(clause["query"])
        return
    for value in clause.values():
        if isinstance(value, str):
            found.append(value)
        elif isinstance(value, dict):
            found.extend(str(value[key]) for key in _TEXT_KEYS if isinstance(value.get(key), str))
