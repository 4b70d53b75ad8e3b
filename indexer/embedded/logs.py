"""The node's log, and what it says about a death."""

from __future__ import annotations

from collections import deque
from pathlib import Path

from indexer.embedded.state import foreign

# What the log says -> what to do about it.
_CAUSES = (
    ("Address already in use", "Its port is taken: choose another one with --port or SHELFRANK_NODE_PORT."),
    ("BindHttpException", "Its port is taken: choose another one with --port or SHELFRANK_NODE_PORT."),
    ("java.lang.OutOfMemoryError", "Its heap was too small: raise SHELFRANK_NODE_HEAP_MB."),
    ("Could not reserve enough space", "There was not enough memory: lower SHELFRANK_NODE_HEAP_MB."),
    ("insufficient memory", "There was not enough memory: lower SHELFRANK_NODE_HEAP_MB."),
    ("No space left on device", "The disk is full: free some space or set SHELFRANK_NODE_DATA_DIR."),
    ("failed to obtain node locks", "Another node uses these data: stop it, or set SHELFRANK_NODE_DATA_DIR."),
)


def explain(data_dir: Path) -> str:
    """A sentence on why the node died, where its log tells; else an empty text."""
    text = "\n".join(tail(data_dir, 200))
    return next((f"{cure} " for sign, cure in _CAUSES if sign in text), "")


def tail(data_dir: Path, count: int) -> list[str]:
    """The last `count` lines of this run: what the JVM said, then OpenSearch's log."""
    lines: deque[str] = deque(maxlen=count)
    for name in ("console.log", "opensearch.log"):
        try:
            with (data_dir / "logs" / name).open("r", encoding="utf-8", errors="replace") as stream:
                lines.extend(line.rstrip("\n") for line in stream)
        except FileNotFoundError:
            continue
        except PermissionError as error:
            raise foreign(data_dir, error) from error
    return list(lines)
