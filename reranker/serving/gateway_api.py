"""The gateway's endpoints: searches, and whatever else `serve.forward` passes to the cluster."""

from __future__ import annotations

from functools import partial
from typing import Any
from urllib.parse import parse_qsl

from fastapi import APIRouter, Request
from fastapi.responses import RedirectResponse, Response

from indexer.errors import InputError
from reranker.serving import bodies, page_files
from reranker.serving import plan as plans
from reranker.serving.access import KEY_HEADER, DeniedError, carries_own, check, visit
from reranker.serving.gateway import Caller, Gateway, aside
from reranker.serving.keys import Key, Keys
from reranker.serving.limits import requests
from reranker.serving.notes import note_queries
from reranker.serving.passing import Answer, decoded, ends_all, passes, right_of
from reranker.serving.visits import while_there

router = APIRouter()

CATCH_ALL = "/{path:path}"
PATHS = (CATCH_ALL, "/{index}/_search", "/{index}/_msearch")
_MOST_GROWTH = 100  # of gzip, of what has any length
_METHODS = ["GET", "POST", "PUT", "DELETE", "HEAD"]


_SEARCH = {
    "requestBody": {
        "content": {
            "application/json": {
                "schema": {"type": "object"},
                "example": {
                    "query": {"match": {"title": "steel bottle without straw"}},
                    "size": 10,
                    "ext": {"shelfrank": {"window": 50, "deadline_ms": 500, "explain": False}},
                },
            }
        }
    }
}
_MSEARCH = {"requestBody": {"content": {"application/x-ndjson": {"schema": {"type": "string"}}}}}
_ANSWERS: dict[int | str, dict[str, Any]] = {
    400: {"description": "A wrong `ext.shelfrank`, or what the cluster refuses, in OpenSearch's shape."},
    502: {"description": "The cluster cannot be reached."},
}


@router.post(PATHS[1], summary="OpenSearch's own search, reranked", openapi_extra=_SEARCH, responses=_ANSWERS)
async def search(request: Request, index: str) -> Response:
    """Takes what OpenSearch takes and returns what it returns; `ext.shelfrank` says how to rerank, and what it did."""
    return await cluster(request)


@router.post(PATHS[2], summary="Several searches, each reranked", openapi_extra=_MSEARCH, responses=_ANSWERS)
async def msearch(request: Request, index: str) -> Response:
    """Pairs of lines, as OpenSearch takes them; each search may have its own `ext.shelfrank`."""
    return await cluster(request)


@router.api_route(CATCH_ALL, methods=_METHODS, include_in_schema=False)
async def cluster(request: Request) -> Response:
    """One request of an OpenSearch client."""
    if request.method == "GET" and request.url.path == "/" and "text/html" in request.headers.get("accept", ""):
        return RedirectResponse(f"{page_files.PATH}/")
    settings = request.app.state.settings.serve
    raw_path = request.scope["raw_path"].decode("ascii", "replace").partition("?")[0]
    try:
        path = decoded(raw_path)
    except ValueError as error:
        raise InputError(f"This path is not passed on: {error}.") from None
    passed_on = passes(request.method, path, settings.forward)
    caller = _caller(request, right_of(request.method, path) if passed_on else "search")
    if not passed_on:
        raise DeniedError(
            403,
            f"The gateway does not pass {request.method} {path} on: serve.forward is {settings.forward}. Send it to "
            "the cluster itself, or let the operator allow it.",
        )
    query = request.scope["query_string"].decode("latin-1")
    content_type = request.headers.get("content-type", "")
    body = await _body(request, settings.max_body_bytes)
    await aside(len(body) + len(query), partial(bodies.check, body, content_type, query))
    hits = 0
    if passes(request.method, path, "write"):
        raw_path, body, hits = await _limited(request, raw_path, path, query, body)
    if request.method == "DELETE" and not _is_administrators(request):
        try:
            everybodys = ends_all(path, query, body)
        except ValueError as error:
            raise InputError(f"This is not passed on: {error}.") from None
        if everybodys:
            raise DeniedError(403, "The gateway ends no scrolls and points in time of others: name your own.")
    gateway: Gateway = request.app.state.gateway
    parts = path.split("/")[1:]
    if parts[-1] in ("_search", "_msearch") and len(parts) <= 2 and request.method in ("GET", "POST"):
        index = parts[0] if len(parts) == 2 else ""
        if settings.log_queries:
            note_queries(request, await aside(len(body), partial(_texts, body, parts[-1], query)))
        answering = gateway.search if parts[-1] == "_search" else gateway.msearch
        work = answering(request.method, raw_path, index, query, body, caller)
    else:
        work = gateway.passed_on(request.method, raw_path, query, body, caller, hits)
    return _response(await while_there(request, work))


async def _limited(request: Request, raw_path: str, path: str, query: str, body: bytes) -> tuple[str, bytes, int]:
    """Path and body as they may be passed on, and how many hits they may bring. Raises InputError and DeniedError for
    what may not."""
    settings, hidden = request.app.state.settings, request.app.state.hidden
    asked = await aside(len(body) + len(query), partial(requests.check, path, query, body, settings.limits))
    if _is_administrators(request):
        await request.app.state.ranges.check(asked.histograms)
        return raw_path, body, asked.hits
    aliases = await hidden.aliases()
    found = await aside(len(body), partial(hidden.passed_on, asked, raw_path, body, aliases))
    seen = [each._replace(indexes=hidden.shown([each.indexes], aliases)) for each in asked.histograms]
    await request.app.state.ranges.check(seen)
    return *found, asked.hits


def _is_administrators(request: Request) -> bool:
    """Whether nothing is kept from whoever asks: everything is passed on, for a key with the right, or without keys."""
    key: Key | None = getattr(request.state, "key", None)
    everything = request.app.state.settings.serve.forward == "all"
    return everything and (key is None or "admin" in key.rights)


def _texts(body: bytes, endpoint: str, query: str) -> list[str]:
    """What each search of a request is about."""
    if endpoint == "_search":
        return [plans.text(body, dict(parse_qsl(query, keep_blank_values=True)))]
    return [plans.text(each, {}) for each in [line for line in body.split(b"\n") if line.strip()][1::2]]


def _caller(request: Request, right: str) -> Caller:
    """Whose request it is: keys of the service are taken off, all else is for the cluster to judge."""
    keys: Keys = request.app.state.keys
    headers = dict(request.headers)
    headers.pop("content-encoding", None)
    own = carries_own(request)
    asked_for = keys.required and not request.app.state.settings.serve.cluster_decides
    key = check(request, right) if asked_for or own or KEY_HEADER in headers else None
    if own or (key is not None and KEY_HEADER not in headers):
        headers.pop("authorization", None)  # it was a key
    return Caller(headers, visit(request), lend=key is not None)


async def _body(request: Request, limit: int) -> bytes:
    """The body, unpacked where it is gzipped. Raises TooLargeError and InputError."""
    packed, encoding = await request.body(), request.headers.get("content-encoding", "identity").lower()
    grown = len(packed) * (1 if encoding == "identity" else _MOST_GROWTH)
    return await aside(grown, partial(bodies.unpacked, packed, encoding, limit))


def _response(answer: Answer) -> Response:
    return Response(answer.body, answer.status, answer.headers)
