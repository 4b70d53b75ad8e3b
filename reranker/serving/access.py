"""Who may do what: a key in `Authorization: Bearer` or `X-API-Key`, with the right that an endpoint needs."""

from __future__ import annotations

from collections.abc import Callable

from fastapi import Request

from reranker.serving.keys import Key, Keys

KEY_HEADER = "x-api-key"


class DeniedError(Exception):
    """No key, a wrong one (401), or one without the right (403)."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def presented(request: Request) -> str:
    """The key that came with a request, empty where none did."""
    if key := request.headers.get(KEY_HEADER):
        return key
    scheme, _, value = request.headers.get("authorization", "").partition(" ")
    return value.strip() if scheme.lower() == "bearer" else ""


def check(request: Request, right: str) -> Key | None:
    """The key of a request, None where the service has no keys at all. Raises DeniedError."""
    keys: Keys = request.app.state.keys
    if not keys.required:
        return None
    given = presented(request)
    found = keys.find(given)
    if found is None:
        what = "This API key is not known" if given else "An API key is needed"
        raise DeniedError(401, f"{what}: send one as `Authorization: Bearer KEY` or `X-API-Key: KEY`.")
    if right not in found.rights:
        raise DeniedError(403, f"The key {found.name} lacks the right {right}.")
    request.state.key = found.name
    return found


def needs(right: str) -> Callable[[Request], None]:
    """A dependency of endpoints that need a right."""

    def dependency(request: Request) -> None:
        check(request, right)

    return dependency
