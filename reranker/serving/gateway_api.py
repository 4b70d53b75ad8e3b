"""The gateway's endpoints: searches, and whatever else `serve.forward` passes to the cluster."""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import RedirectResponse, Response

from indexer.errors import InputError
from reranker.serving import bodies, page_files
from reranker.serving.access import KEY_HEADER, DeniedError, check
from reranker.serving.gateway import Caller, Gateway
from reranker.serving.passing import Answer, decoded, ends_all, passes

router = APIRouter()

CATCH_ALL = "/{path:path}"
PATHS = (CATCH_ALL, "/{index}/_search", "/{index}/_msearch")
_METHODS = ["GET", "POST", "PUT", "DELETE", "HEAD"]
# What is longer is looked at beside the event loop.
_LONG_BYTES = 200_000


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
    caller = _caller(request)
    raw_path = request.scope["raw_path"].decode("ascii", "replace").partition("?")[0]
    try:
        path = decoded(raw_path)
    except ValueError as error:
        raise InputError(f"This path is not passed on: {error}.") from None
    if not passes(request.method, path, settings.forward):
        raise DeniedError(
            403,
            f"The gateway does not pass {request.method} {path} on: serve.forward is {settings.forward}. Send it to "
            "the cluster itself, or let the operator allow it.",
        )
    query = request.scope["query_string"].decode("latin-1")
    content_type = request.headers.get("content-type", "")
    body = await _body(request, settings.max_body_bytes)
    if len(body) + len(query) > _LONG_BYTES:
        await asyncio.to_thread(bodies.check, body, content_type, query)
    else:
        bodies.check(body, content_type, query)
    if request.method == "DELETE" and settings.forward != "all":
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
        answering = gateway.search if parts[-1] == "_search" else gateway.msearch
        answer = await answering(request.method, raw_path, index, query, body, caller)
    else:
        answer = await gateway.passage.send(request.method, raw_path, query, body, caller.headers, caller.lend)
    return _response(answer)


def _caller(request: Request) -> Caller:
    """Whose request it is: a key of the service is taken off, all else is for the cluster to judge."""
    headers = dict(request.headers)
    headers.pop("content-encoding", None)
    key = None
    if not request.app.state.settings.serve.cluster_decides or headers.get(KEY_HEADER):
        key = check(request, "search")
    if key is not None and KEY_HEADER not in headers:
        headers.pop("authorization", None)  # it was the key
    return Caller(headers, lend=key is not None)


async def _body(request: Request, limit: int) -> bytes:
    """The body, unpacked where it is gzipped. Raises TooLargeError and InputError."""
    packed, encoding = await request.body(), request.headers.get("content-encoding", "identity").lower()
    if len(packed) > _LONG_BYTES:
        return await asyncio.to_thread(bodies.unpacked, packed, encoding, limit)
    return bodies.unpacked(packed, encoding, limit)


def _response(answer: Answer) -> Response:
    return Response(answer.body, answer.status, answer.headers)
