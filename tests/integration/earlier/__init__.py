"""What earlier versions wrote into a cluster: every request of theirs that changes something, to be made again.

A recording is a file of JSON lines, a request each. Made again in the same order on an empty node, they leave what the
earlier version left: the same indexes, documents, sequence numbers and open jobs. A version that changes what is stored
leaves a recording of its own here, made by `recording` before the change.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from opensearchpy import OpenSearch
from opensearchpy.exceptions import TransportError

from indexer import jobs
from tests.integration.mortal import intercepted

FOLDER = Path(__file__).parent
_CONDITIONS = ("if_seq_no", "if_primary_term", "op_type")
_READING = ("_search", "_mget", "_count", "_refresh", "point_in_time")


@contextmanager
def recording(client: OpenSearch, file: Path) -> Iterator[None]:
    """Write down what `client` changes meanwhile, on a node whose indexes of jobs and deletions are not there yet."""
    one_at_a_time = threading.Lock()  # or two threads' requests might stand in another order than the node took them
    with file.open("w", encoding="utf-8") as out:

        def handle(send: Callable[..., Any], method: str, url: str, **named: Any) -> Any:
            if method in ("GET", "HEAD") or url.rpartition("/")[2].startswith(_READING):
                return send(method, url, **named)
            with one_at_a_time:
                out.write(json.dumps([method, url, *_kept(url, **named)], ensure_ascii=False) + "\n")
                return send(method, url, **named)

        with intercepted(client, handle):
            yield


def _kept(url: str, params: Any = None, body: Any = None, **_: Any) -> tuple[dict[str, Any], Any]:
    """Parameters and body to be sent again. Other catalogues have jobs too, so there no sequence number holds."""
    left_out = {"request_timeout", *(_CONDITIONS if url.startswith(f"/{jobs.INDEX}/") else ())}
    kept = {name: value for name, value in (params or {}).items() if name not in left_out}
    return kept, body.decode("utf-8") if isinstance(body, bytes) else body


def replay(client: OpenSearch, name: str) -> None:
    """Make the requests of a recording again; what was refused then is refused now."""
    with (FOLDER / f"{name}.jsonl").open(encoding="utf-8") as lines:
        for line in lines:
            method, url, params, body = json.loads(line)
            with suppress(TransportError):
                client.transport.perform_request(method, url, params=params, body=body)
