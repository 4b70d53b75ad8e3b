"""One request as the cluster would read it: which endpoint, which indexes, and bodies within the limits.

What cannot be read here is not passed on: two readers must never see different things in a body.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import zip_longest
from typing import Any

import msgspec

from indexer.errors import InputError
from indexer.settings import Limits
from reranker.serving.access import DeniedError
from reranker.serving.limits import aggregations, parameters, queries, search, texts
from reranker.serving.limits.budget import Budget, shown
from reranker.serving.limits.parameters import Parameters
from reranker.serving.limits.ranges import Histogram
from reranker.serving.limits.walk import Walk, members

Json = dict[str, Any]

_BLANK = b" \t\r"
_ACTIONS = ("index", "create", "update", "delete")
# What a bulk line, or a document of _mget, may call its index.
_INDEX_KEYS = ("_index", "index")


class Asked(msgspec.Struct):
    """What a request names: `endpoint` is its path without the index, `index` the expression in the path. `indexes` are
    single ones that its body names, `headers` and `pins` tell of each of its searches, `hits` how many it may bring."""

    endpoint: str
    index: str
    indexes: list[str] = []
    headers: list[Json] = []
    pins: list[bool] = []
    hits: int = 0
    histograms: list[Histogram] = []

    @property
    def is_pinned(self) -> bool:
        """Whether a search is of a point in time, which says itself of which indexes it is."""
        return any(self.pins)


def located(path: str) -> tuple[str, str]:
    """The endpoint and the index expression of a decoded path."""
    parts = path.split("/")[1:]
    if parts[0] in ("_cat", "_cluster"):
        return "/".join(parts[:2]), "/".join(parts[2:])
    if parts[0] == "_all" or not parts[0].startswith("_"):
        return "/".join(parts[1:]), parts[0]
    return "/".join(parts), ""


def check(path: str, query: str, body: bytes, limits: Limits) -> Asked:
    """What a request asks, within the limits. `path` is decoded. Raises InputError for what is over a limit or cannot
    be read, DeniedError for what is off."""
    endpoint, index = located(path)
    given = parameters.read(query)
    budget = Budget(limits)
    parameters.check(budget, given)
    asked = Asked(endpoint, index)
    named = "_search/scroll" if endpoint.startswith("_search/scroll/") else endpoint  # a scroll, in the path
    reader = _READERS.get(named) or _READERS.get(endpoint.split("/")[0], _read_plain)
    if "source" in given:
        if body.strip() or endpoint.startswith(("_msearch", "_bulk")):
            raise InputError("The parameter source is not passed on beside a body, or for lines. Send it as the body.")
        body = given["source"][0].encode("utf-8", "surrogateescape")
    reader(asked, body, given, limits)
    if asked.index and any(asked.pins) and not endpoint.startswith("_msearch"):
        raise InputError("A search of a point in time names no index: leave it out of the path.")
    return asked


def count_hits(hits: int, limits: Limits) -> None:
    """Refuse more hits, of all searches of a request together, than one may bring back. Raises InputError."""
    Budget(limits).most("hits_per_request", hits, "The number of hits that the request's searches ask for")


def lines_of(body: bytes) -> list[bytes]:
    """The lines of an `_msearch`, without empty ones."""
    return [line for line in body.split(b"\n") if line.strip(_BLANK)]


def _decoded(body: bytes, limits: Limits, line: str = "") -> Any:
    """What a body of a search says, None for none. Raises InputError."""
    Budget(limits).most("search_bytes", len(body), f"The length of a body{line} in bytes")
    try:
        return msgspec.json.decode(body) if body.strip(b" \t\r\n") else None
    except (ValueError, RecursionError) as error:  # of msgspec, and of texts that are not UTF-8
        raise InputError(f"The body{line} is not JSON: {error}.") from error


def _walk(limits: Limits) -> Walk:
    return Walk(limits, search.read_inner, aggregations.read)


def _read_plain(asked: Asked, body: bytes, given: Parameters, limits: Limits) -> None:
    """An endpoint that takes no body, or one without a search: a keep-alive is all that counts in it."""
    Budget(limits).duration("keep_alive_s", members(_decoded(body, limits)).get("scroll"), "scroll")
    if asked.endpoint.startswith("_search/scroll"):
        asked.hits = limits.size  # as many as the search that began it asked for


def _read_search(asked: Asked, body: bytes, given: Parameters, limits: Limits) -> None:
    found = members(_decoded(body, limits))
    asked.hits += _check_search(asked, found, given, limits)
    count_hits(asked.hits, limits)
    asked.pins.append(_is_pinned(found))


def _is_pinned(body: Json) -> bool:
    """Whether a search is of a point in time. Raises InputError for what could be read in two ways."""
    if "pit" not in body:
        return False
    if not isinstance(members(body["pit"]).get("id"), str):
        raise InputError(f"pit is {shown(body['pit'])}; write an object with the id of a point in time.")
    return True


def _check_search(asked: Asked, body: Json, given: Parameters, limits: Limits) -> int:
    """How many hits a search asks for; its address may ask for some too."""
    walk = _walk(limits)
    walk.echoes(*_query_names(body))
    walk.read(search.read, body)
    asked.indexes += walk.indexes
    header = asked.headers[-1] if asked.headers else {}
    named = header.get("index", header.get("indices", asked.index))
    index = ",".join(map(str, named)) if isinstance(named, list) else str(named or "")
    asked.histograms += [Histogram(index, *each) for each in walk.histograms]
    pages = [body.get("from"), body.get("size")]
    for start, size in zip_longest(given.get("from", []), given.get("size", [])):
        pages += [start, size]
    hits = search.page(walk, *pages) * (1 + walk.inner)
    walk.check_echoes(hits)
    return hits


def _query_names(body: Json) -> list[Any]:
    """Names of clauses: each hit says which of them it fits."""
    found: list[Any] = []
    todo: list[Any] = [body]
    while todo:
        each = todo.pop()
        if isinstance(each, dict):
            found += [value for name, value in each.items() if name == "_name"]
            todo += each.values()
        elif isinstance(each, list):
            todo += each
    return found


def _read_searches(asked: Asked, body: bytes, given: Parameters, limits: Limits) -> None:
    """`_msearch`: pairs of a header and a search, each on a line."""
    lines = lines_of(body)
    Budget(limits).most("searches", len(lines) / 2, "The number of searches in a request")
    for at, line in enumerate(lines):
        found = members(_decoded(line, limits, f", line {at + 1},"))
        if at % 2 == 0:
            asked.headers.append(found)
            continue
        asked.hits += _check_search(asked, found, {}, limits)
        asked.pins.append(_is_pinned(found))
        if asked.pins[-1] and (asked.index or any(name in asked.headers[-1] for name in ("index", "indices"))):
            raise InputError(f"Line {at + 1} is a search of a point in time, which names no index: leave it out.")
    count_hits(asked.hits, limits)


def _read_query(asked: Asked, body: bytes, given: Parameters, limits: Limits) -> None:
    """A query, and what else an endpoint that has no hits to give takes beside it."""
    walk = _walk(limits)
    walk.read(search.read, members(_decoded(body, limits)))
    asked.indexes += walk.indexes


def _read_filter(asked: Asked, body: bytes, given: Parameters, limits: Limits) -> None:
    """`_field_caps`: a query by another name."""
    found = members(_decoded(body, limits))
    walk = _walk(limits)
    texts.check_names(walk.budget, found.get("fields"))
    walk.read(queries.read, found.get("index_filter"))
    asked.indexes += walk.indexes


def _read_documents(asked: Asked, body: bytes, given: Parameters, limits: Limits) -> None:
    """`_mget`: documents by their ids, of one index or of several."""
    found, budget = members(_decoded(body, limits)), Budget(limits)
    for name in ("docs", "ids"):
        several = found.get(name)
        for each in several if isinstance(several, list) else []:
            budget.spend("hits_per_request", 1, "The number of documents")
            asked.hits += 1
            _name(asked, each)


def _read_analysis(asked: Asked, body: bytes, given: Parameters, limits: Limits) -> None:
    """`_analyze`: by analyzers and the like that the cluster has; one of a client's own may hold an expression."""
    found, budget = members(_decoded(body, limits)), Budget(limits)
    for name, value in found.items():
        several = value if isinstance(value, list) else [value]
        budget.most("parts", len(several), f"The number of values of {name[:100]}")
        for each in several:
            if isinstance(each, str):
                texts.check_text(budget, each)
            elif isinstance(each, dict | list):
                raise DeniedError(
                    403, f"An analysis with {name[:100]} of its own is not passed on. Name one that the index has."
                )


def _read_vectors(asked: Asked, body: bytes, given: Parameters, limits: Limits) -> None:
    """`_termvectors`, with a document of the client's own perhaps."""
    found, budget = members(_decoded(body, limits)), Budget(limits)
    texts.check_names(budget, found.get("fields"))
    _name(asked, found)
    for value in members(found.get("doc")).values():
        texts.check_text(budget, value if isinstance(value, str) else "")


def _read_template(asked: Asked, body: bytes, given: Parameters, limits: Limits) -> None:
    Budget(limits).refuse_template("A search template")


def _read_templates(asked: Asked, body: bytes, given: Parameters, limits: Limits) -> None:
    """`_msearch/template`: of it, the headers alone can be read."""
    _read_template(asked, body, given, limits)
    lines = lines_of(body)
    Budget(limits).most("searches", len(lines) / 2, "The number of searches in a request")
    asked.headers += [members(_document(line)) for line in lines[::2]]


def _read_change(asked: Asked, body: bytes, given: Parameters, limits: Limits) -> None:
    """One document, or what changes in one."""
    _check_change(_document(body), limits)


def _read_bulk(asked: Asked, body: bytes, given: Parameters, limits: Limits) -> None:
    """Lines of what to do, and of documents."""
    updates = False
    action = True
    for number, line in enumerate(body.split(b"\n"), start=1):
        if not line.strip(_BLANK):
            if not action:  # a node takes it for the document
                raise InputError(f"Line {number} is empty where the document of the line before is due.")
            continue
        found = members(_document(line, f", line {number},"))
        if not action:
            if updates:
                _check_change(found, limits)
            action = True
            continue
        kinds = [name for name in found if name in _ACTIONS]
        if len(found) != 1 or len(kinds) != 1:
            raise InputError(f"Line {number} is {shown(found)}; write one of {', '.join(_ACTIONS)} with its document.")
        _name(asked, found[kinds[0]])
        updates, action = kinds[0] == "update", kinds[0] == "delete"


def _check_change(found: Any, limits: Limits) -> None:
    for name in members(found):
        if queries.is_script(name):
            Budget(limits).refuse_script(name)


def _document(body: bytes, line: str = "") -> Any:
    try:
        return msgspec.json.decode(body) if body.strip(b" \t\r\n") else None
    except (ValueError, RecursionError) as error:  # of msgspec, and of texts that are not UTF-8
        raise InputError(f"The body{line} is not JSON: {error}.") from error


def _name(asked: Asked, document: Any) -> None:
    asked.indexes += [name for key in _INDEX_KEYS if isinstance(name := members(document).get(key), str)]


def _read_kept(asked: Asked, body: bytes, given: Parameters, limits: Limits) -> None:
    """A document as it is to be kept: whatever JSON it is."""
    _document(body)


_Reader = Callable[[Asked, bytes, Parameters, Limits], None]
_READERS: dict[str, _Reader] = {
    "_search": _read_search,
    "_search/scroll": _read_plain,
    "_search/point_in_time": _read_plain,
    "_search/template": _read_template,
    "_msearch": _read_searches,
    "_msearch/template": _read_templates,
    "_count": _read_query,
    "_validate/query": _read_query,
    "_explain": _read_query,
    "_update_by_query": _read_query,
    "_delete_by_query": _read_query,
    "_field_caps": _read_filter,
    "_mget": _read_documents,
    "_analyze": _read_analysis,
    "_termvectors": _read_vectors,
    "_update": _read_change,
    "_bulk": _read_bulk,
    "_doc": _read_kept,
    "_create": _read_kept,
}
