"""Waiting for a cluster that is busy or away: which errors pass by themselves, how long to wait, when to end."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from opensearchpy import OpenSearch
from opensearchpy.exceptions import ConnectionError as NoConnection
from opensearchpy.exceptions import SSLError, TransportError

from indexer.client import explained
from indexer.errors import ClusterError

T = TypeVar("T")

# The cluster, or something in front of it, is busy or away for a moment.
TRANSIENT = frozenset({429, 502, 503, 504})


# After so long somebody may wonder what is going on.
_TELL_AFTER_S = 3.0


class Patience:
    """Waits between attempts (exponential, full jitter) until nothing has succeeded for `limit_s` seconds. What is
    waited for is told once by `tell`, when it takes more than a moment."""

    def __init__(
        self,
        limit_s: float = 120.0,
        *,
        base_s: float = 0.25,
        cap_s: float = 15.0,
        seed: int | None = None,
        sleep: Callable[[float], object] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
        tell: Callable[[str], object] = lambda text: None,
    ) -> None:
        self.limit_s = limit_s
        self._tell, self._told = tell, False
        self._base_s, self._cap_s = base_s, cap_s
        self._random = random.Random(seed)  # noqa: S311 (jitter, not a secret)
        self._sleep, self._clock = sleep, clock
        self._failing_since: float | None = None
        self._attempts = 0

    def succeeded(self) -> None:
        """Something went through: start afresh at the next problem."""
        self._failing_since, self._attempts, self._told = None, 0, False

    def wait(self, problem: str) -> None:
        """Sleep before the next attempt. Raises ClusterError with the problem when patience is over."""
        now = self._clock()
        since = self._failing_since  # read once: beside this thread another one may succeed
        if since is None:
            since = self._failing_since = now
        left = self.limit_s - (now - since)
        if left <= 0:
            raise ClusterError(
                f"The cluster has taken nothing for {self.limit_s:.0f} s; last problem: {problem}.{_cure(problem)}"
            )
        if now - since > _TELL_AFTER_S and not self._told:
            self._told = True
            self._tell(f"Waiting, for {self.limit_s:.0f} s at most: {problem}.{_cure(problem)}")
        # Full jitter: many writers that failed together must not come back together.
        delay = self._random.uniform(0, min(self._cap_s, self._base_s * 2**self._attempts))
        self._attempts = min(self._attempts + 1, 30)
        self._sleep(min(delay, left))

    def call(self, action: Callable[[], T]) -> T:
        """The action's result, tried again while the cluster is away or busy. Raises ClusterError."""
        while True:
            try:
                result = action()
            except TransportError as error:
                problem = transient(error)
                if problem is None:
                    raise explained(error) from error
                self.wait(problem)
            except ClusterError as error:
                # Of an action that explains its errors itself.
                cause = error.__cause__
                problem = transient(cause) if isinstance(cause, TransportError) else None
                if problem is None:
                    raise
                self.wait(problem)
            else:
                self.succeeded()
                return result


class _Waiting:
    """A transport whose requests are tried again while the cluster is busy or away."""

    def __init__(self, transport: Any, limit_s: float) -> None:
        self._transport, self.limit_s = transport, limit_s

    def perform_request(self, *given: Any, **named: Any) -> Any:
        """As the client's own; raises what that raises, and ClusterError when patience is over."""
        try:
            return Patience(self.limit_s).call(lambda: self._transport.perform_request(*given, **named))
        except ClusterError as error:
            if isinstance(error.__cause__, TransportError):
                raise error.__cause__ from None
            raise

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


def patient(client: OpenSearch, limit_s: float) -> OpenSearch:
    """Have a client, for a command that only reads and takes long, wait for a cluster that is busy or away."""
    client.transport = _Waiting(client.transport, limit_s)  # type: ignore[assignment]
    return client


def patience_of(client: OpenSearch) -> Patience | None:
    """New patience as long as the client's; None for one that does not wait."""
    transport = client.transport
    return Patience(transport.limit_s) if isinstance(transport, _Waiting) else None


def unanswered(reason: str) -> TransportError:
    """For an answer that lacks a part: as if there were none, so that it is waited for with the same patience."""
    return TransportError(503, reason, {"error": {"reason": reason}})


def transient(error: TransportError) -> str | None:
    """What to say of an error that may pass by itself; None for one that will not."""
    if isinstance(error, SSLError):
        return None
    if isinstance(error, NoConnection):
        return f"no connection ({_first_line(error.error)})"
    if error.status_code in TRANSIENT:
        info = error.args[2] if len(error.args) > 2 else None
        said = info.get("error") if isinstance(info, Mapping) else None
        return f"HTTP status {error.status_code} ({told(said or error.error)})"
    return None


def told(error: Any) -> str:
    """The server's error as one line, with the cause that it names innermost."""
    if not isinstance(error, Mapping):
        return _first_line(error)
    parts = [str(error.get("reason") or error.get("type") or "unknown error")]
    cause = error.get("caused_by")
    while isinstance(cause, Mapping):
        parts.append(str(cause.get("reason") or cause.get("type")))
        cause = cause.get("caused_by")
    return _first_line(": ".join(dict.fromkeys(parts)))


# What a cluster says of itself -> what an operator can do about it.
_CURES = {
    "flood-stage": " A disk is almost full: delete old indexes (`shelfrank reindex clean`) or add space; OpenSearch "
    "takes writes again by itself when enough is free.",
    "read-only-allow-delete": " An index was made read-only, usually by a full disk: free space, then OpenSearch takes "
    "writes again by itself.",
    "circuit_breaking": " The node's heap is full: give it more (SHELFRANK_NODE_HEAP_MB), or lower ingest.bulk_bytes.",
    "Data too large": " The node's heap is full: give it more (SHELFRANK_NODE_HEAP_MB), or lower ingest.bulk_bytes.",
    "rejected execution": " Its write queue is full: other writers compete, or the nodes are too few.",
}


def _cure(problem: str) -> str:
    return next((cure for sign, cure in _CURES.items() if sign in problem), "")


def _first_line(value: Any) -> str:
    return (str(value).splitlines() or [""])[0][:500]
