"""A service without keys is heard on this machine alone, and answers this machine's people alone: no page of somebody
else's that their browser shows, by whatever name it calls the service."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from urllib.parse import urlsplit

from reranker.serving.page_files import PATH as PAGE

LOCAL = ("127.0.0.1", "::1", "localhost")
_READ = ("GET", "HEAD")


def refusal(method: str, path: str, headers: Iterable[tuple[bytes, bytes]], origins: Iterable[str] = ()) -> str:
    """Why a request to a service without keys is refused; empty where it is not. `origins` are those of other pages
    that may ask."""
    by_name: dict[str, list[str]] = {}
    for name, value in headers:
        by_name.setdefault(name.decode("latin-1").lower(), []).append(value.decode("latin-1").strip())
    for host in by_name.get("host", []):
        if not is_local(host):
            return (
                f"The service has no API keys and does not answer to the name {host[:100]!r}: call it 127.0.0.1 or "
                "localhost, or make a key with `shelfrank keys new NAME`."
            )
    if _is_own_page(by_name, set(origins)) or (method in _READ and (path == "/" or path.startswith(PAGE))):
        return ""
    return (
        "The service has no API keys and takes no requests from other sites' pages: allow the site in "
        "serve.cors_origins, or make a key with `shelfrank keys new NAME`."
    )


def is_local(host: str) -> bool:
    """Whether a `Host` names this machine itself: no name that somebody else's name server answers for."""
    try:
        name = urlsplit(f"//{host}").hostname or ""
        return name == "localhost" or name.endswith(".localhost") or ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def _is_own_page(headers: dict[str, list[str]], origins: set[str]) -> bool:
    """Whether a request comes from no page, from the service's own, or from one of `origins`. Browsers alone send these
    headers, and let no page write them."""
    given = headers.get("origin", [])
    if given and set(given) <= origins:
        return True
    if sites := headers.get("sec-fetch-site", []):
        return set(sites) <= {"same-origin", "none"}
    hosts = headers.get("host", [])
    return all(urlsplit(origin).netloc in hosts for origin in given)
