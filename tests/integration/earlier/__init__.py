"""What earlier versions wrote into a cluster: every request of theirs that changes something, to be made again.

A recording is a file of JSON lines, a request each. Made again in the same order on an empty node, they leave what the
earlier version left: the same indexes, documents, sequence numbers and open jobs.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from opensearchpy import OpenSearch
from opensearchpy.exceptions import TransportError

FOLDER = Path(__file__).parent
_READING = ("_search", "_mget", "_count", "_refresh", "point_in_time")


@contextmanager
def recording(client: OpenSearch, file: Path) -> Iterator[None]:
    """Write down what `client` changes meanwhile."""
    perform = client.transport.perform_request
    with file.open("w", encoding="utf-8") as out:

        def recorded(method: str, url: str, headers: Any = None, params: Any = None, body: Any = None) -> Any:
            if method not in ("GET", "HEAD") and not url.rpartition("/")[2].startswith(_READING):
                kept = {name: value for name, value in (params or {}).items() if name != "request_timeout"}
                text = body.decode("utf-8") if isinstance(body, bytes) else body
                out.write(json.dumps([method, url, kept, text], ensure_ascii=False) + "\n")
            return perform(method, url, headers=headers, params=params, body=body)

        client.transport.perform_request = recorded  # type: ignore[method-assign]
        try:
            yield
        finally:
            client.transport.perform_request = perform  # type: ignore[method-assign]


def replay(client: OpenSearch, name: str) -> None:
    """Make the requests of a recording again; what was refused then is refused now."""
    with (FOLDER / f"{name}.jsonl").open(encoding="utf-8") as lines:
        for line in lines:
            method, url, params, body = json.loads(line)
            with suppress(TransportError):
                client.transport.perform_request(method, url, params=params, body=body)
