"""Requests to the cluster as they came, answers as they are: what the gateway passes on, and what it does not."""

from __future__ import annotations

import re
import ssl
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qs, unquote

import httpx
import msgspec

from indexer import client as clusters
from indexer.errors import ClusterError
from indexer.settings import Cluster

_NAME = r"(?:_all|[^_/.][^/]*)"
_INDEX = rf"(?:/{_NAME})?"
_READ = (
    ("GET,HEAD", "/"),
    ("GET", rf"/_cluster/health{_INDEX}"),
    ("GET", rf"/_cat/(?:indices|count|health)(?:/{_NAME})?"),
    ("GET,HEAD", f"/{_NAME}"),
    ("GET,HEAD", rf"{_INDEX}/_alias(?:/{_NAME})?"),
    ("GET", rf"{_INDEX}/_mapping(?:/field/[^/]+)?"),
    ("GET,POST", rf"{_INDEX}/_(?:search|msearch|count|mget|field_caps|analyze|search/template|msearch/template)"),
    ("GET,POST", rf"{_INDEX}/_validate/query"),
    ("GET,POST,DELETE", r"/_search/scroll(?:/[^/]+)?"),
    ("POST", f"/{_NAME}/_search/point_in_time"),
    ("DELETE", "/_search/point_in_time"),
    ("GET,HEAD", f"/{_NAME}/_(?:doc|source)/[^/]+"),
    ("GET,POST", f"/{_NAME}/_(?:explain|termvectors)/[^/]+"),
)
_WRITE = (
    ("PUT,POST,DELETE", f"/{_NAME}/_doc/[^/]+"),
    ("POST", f"/{_NAME}/_doc"),
    ("PUT,POST", f"/{_NAME}/_create/[^/]+"),
    ("POST", f"/{_NAME}/_update/[^/]+"),
    ("PUT,POST", rf"{_INDEX}/_bulk"),
    ("GET,POST", f"/{_NAME}/_refresh"),
    ("POST", f"/{_NAME}/_(?:update|delete)_by_query"),
)
_UNKNOWN = 401
_ANSWER_BYTES = 200_000_000
_USER = re.compile(rb'User \[name=(?:[^"\\]|\\.)*')
_FORWARD = ("accept", "content-type", "x-opaque-id", "traceparent", "tracestate")
_BACK = ("content-type", "warning", "x-opaque-id", "deprecation", "retry-after", "www-authenticate")


class Answer(msgspec.Struct, frozen=True):
    """What the cluster answered, as it is."""

    status: int
    headers: dict[str, str]
    body: bytes

    def but(self, **changes: Any) -> Answer:
        """The same with some parts changed."""
        return msgspec.structs.replace(self, **changes)


def passes(method: str, path: str, groups: str) -> bool:
    """Whether a request of this method and decoded path is passed on by `serve.forward`."""
    if groups == "all":
        return True
    rows = _READ + (_WRITE if groups == "write" else ())
    return any(method in methods.split(",") and re.fullmatch(pattern, path) for methods, pattern in rows)


def right_of(method: str, path: str) -> str:
    """The right that a key needs for it: `search` to read, `write` for documents, `admin` for all else."""
    groups = (("search", "read"), ("write", "write"))
    return next((right for right, group in groups if passes(method, path, group)), "admin")


def ends_all(path: str, query: str, body: bytes) -> bool:
    """Whether a request to end scrolls or points in time would end everybody's. Raises ValueError for a body in which
    that cannot be seen."""
    if not path.startswith(("/_search/scroll", "/_search/point_in_time")):
        return False
    try:
        given = msgspec.json.decode(body) if body.strip() else {}
    except msgspec.DecodeError as error:
        raise ValueError(f"the body is not JSON: {error}") from error
    ids: list[object] = [path.split("/")[3:], *parse_qs(query).values()]
    ids += given.values() if isinstance(given, dict) else [given]
    flat = (part for each in ids for part in (each if isinstance(each, list) else [each]))
    return any(name.strip() == "_all" for part in flat if isinstance(part, str) for name in part.split(","))


def decoded(raw_path: str) -> str:
    """The path as the cluster will read it. Raises ValueError for one that could be read in two ways."""
    parts = [unquote(part) for part in raw_path.split("/")]
    if any(part in (".", "..") or "/" in part or "\\" in part or not part.isprintable() for part in parts):
        raise ValueError("the path holds ., .., an encoded slash or a control character")
    path = "/".join(parts)
    return path.rstrip("/") or "/"


def _without_user(body: bytes, content_type: str) -> bytes:
    """An answer without the name and the roles of the service's own user: a cluster names whom it refuses. Raises
    ClusterError for a refusal that is not JSON."""
    if b"security_exception" not in body:
        return body
    if "json" not in content_type:
        raise ClusterError(
            "OpenSearch does not permit this to the service's user. Extend its role.",
            "OpenSearch does not permit this to the service.",
        )
    return _USER.sub(b"the service's user", body)


def _as_they_came(headers: Mapping[str, str]) -> dict[bytes, bytes]:
    return {name.encode("latin-1"): value.encode("latin-1") for name, value in headers.items()}


class Passage:
    """The way to one cluster, kept open."""

    def __init__(self, cluster: Cluster, answer_bytes: int = _ANSWER_BYTES) -> None:
        """Raises ConfigError for settings that cannot be."""
        clusters.check(cluster)
        self._most = answer_bytes
        self._own = clusters.authorization(cluster)
        context = ssl.create_default_context(cafile=cluster.ca_file or None)
        if cluster.client_cert:
            context.load_cert_chain(cluster.client_cert, cluster.client_key or None)
        self.client = httpx.AsyncClient(
            base_url=cluster.url,
            verify=context,
            timeout=httpx.Timeout(cluster.timeout_s, connect=min(5.0, cluster.timeout_s)),
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=64),
            headers={"accept-encoding": "identity", "user-agent": "shelfrank"},
            trust_env=False,
            follow_redirects=False,
        )

    async def send(
        self,
        method: str,
        raw_path: str,
        query: str = "",
        body: bytes = b"",
        headers: Mapping[str, str] | None = None,
        lend: bool = False,
    ) -> Answer:
        """One request; `lend` sends the service's own user where the client sent none.

        Raises ClusterError when no answer comes; an error that the cluster answered is an answer.
        """
        headers = headers or {}
        kept = {name: headers[name] for name in _FORWARD if name in headers}
        authorization = headers.get("authorization") or (self._own if lend else "")
        if authorization:
            kept["authorization"] = authorization
        url = self.client.base_url.copy_with(
            raw_path=self.client.base_url.raw_path.rstrip(b"/")
            + raw_path.encode()
            + (f"?{query}".encode() * bool(query))
        )
        try:
            answer = await self._asked(method, url, body, _as_they_came(kept))
        except httpx.TimeoutException as error:
            raise ClusterError(
                f"OpenSearch at {self.client.base_url} did not answer in time ({type(error).__name__}).",
                "OpenSearch did not answer in time.",
            ) from error
        except httpx.HTTPError as error:
            raise ClusterError(
                f"OpenSearch at {self.client.base_url} cannot be reached: {error or type(error).__name__}",
                "OpenSearch cannot be reached.",
            ) from error
        back = {name: value for name, value in answer.headers.items() if name in _BACK}
        if headers.get("authorization"):
            return answer.but(headers=back)
        if authorization and answer.status == _UNKNOWN:
            raise ClusterError(
                "OpenSearch does not accept the service's user (401). Check OPENSEARCH_USER and OPENSEARCH_PASSWORD.",
                "OpenSearch does not let the service in.",
            )
        if authorization:
            back.pop("www-authenticate", None)  # it asks for another user than the service's
        return answer.but(headers=back, body=_without_user(answer.body, back.get("content-type", "")))

    async def _asked(self, method: str, url: httpx.URL, body: bytes, headers: Mapping[bytes, bytes]) -> Answer:
        """Whatever comes back, up to the length that is read. Raises ClusterError for more, and httpx.HTTPError."""
        async with self.client.stream(method, url, content=body or None, headers=headers) as answer:
            parts, left = [], self._most
            async for part in answer.aiter_bytes():
                left -= len(part)
                if left < 0:
                    why = f"has more than {self._most:,} bytes, the most that is read (limits.answer_bytes)."
                    raise ClusterError(f"An answer of OpenSearch {why}", f"The answer {why} Ask for less at once.")
                parts.append(part)
            return Answer(answer.status_code, dict(answer.headers), b"".join(parts))

    async def close(self) -> None:
        await self.client.aclose()
