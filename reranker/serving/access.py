"""Who may do what: a key in `Authorization: Bearer` or `X-API-Key`, with the right that an endpoint needs."""

from __future__ import annotations

import base64
from collections.abc import Callable

from fastapi import Request

from indexer.settings import Serve
from reranker.serving import visits
from reranker.serving.keys import PREFIX, Key, Keys
from reranker.serving.local import LOCAL
from reranker.serving.visits import Visit

KEY_HEADER = "x-api-key"


class DeniedError(Exception):
    """No key, a wrong one (401), or one without the right (403)."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def presented(request: Request) -> str:
    """The key that came with a request, empty where none did."""
    return request.headers.get(KEY_HEADER) or bearer(request)


def bearer(request: Request) -> str:
    """The token of `Authorization: Bearer`, empty where there is none."""
    scheme, _, value = request.headers.get("authorization", "").partition(" ")
    return value.strip() if scheme.lower() == "bearer" else ""


def carries_own(request: Request) -> bool:
    """Whether `Authorization`, of whatever scheme, has one of the service's keys, or what was one: it is nothing that a
    cluster should see."""
    keys: Keys = request.app.state.keys
    scheme, _, value = request.headers.get("authorization", "").partition(" ")
    tokens = [scheme, *value.split()]
    names = _unpacked(value).split(":") if scheme.lower() == "basic" else []  # which may begin in any way
    return any(token.startswith(PREFIX) for token in tokens) or any(map(keys.find, filter(None, [*tokens, *names])))


def _unpacked(value: str) -> str:
    try:
        return base64.b64decode(value, validate=True).decode("utf-8", "replace")
    except ValueError:
        return ""


def check(request: Request, right: str) -> Key | None:
    """The key of a request; None where the service has no keys and is heard on this machine alone. Where the cluster is
    to decide, only what asks nothing of it goes without. Raises DeniedError."""
    keys: Keys = request.app.state.keys
    serve: Serve = request.app.state.settings.serve
    if not keys.required:
        if serve.host in LOCAL and (right == "rerank" or not serve.cluster_decides):
            return None
        raise DeniedError(
            401, "This needs an API key, and the service has none. Make one with `shelfrank keys new NAME`."
        )
    given = presented(request)
    found = keys.find(given)
    if found is None:
        what = "This API key is not known" if given else "An API key is needed"
        raise DeniedError(401, f"{what}: send one as `Authorization: Bearer KEY` or `X-API-Key: KEY`.")
    if right not in found.rights:
        raise DeniedError(403, f"The key {found.name} lacks the right {right}.")
    request.state.key = found
    return found


def visit(request: Request) -> Visit:
    """Whose request it is, and since when, once its key has been checked."""
    return visits.of(request, getattr(request.state, "key", None))


def needs(right: str) -> Callable[[Request], None]:
    """A dependency of endpoints that need a right."""

    def dependency(request: Request) -> None:
        check(request, right)

    return dependency
