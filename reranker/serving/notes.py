"""What the line of a request in the log says beside the usual."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastapi import Request

_LONGEST = 200


def note(request: Request, **more: Any) -> None:
    """Have the request's line say `more`."""
    request.state.log = {**getattr(request.state, "log", {}), **more}


def note_queries(request: Request, texts: Sequence[str]) -> None:
    """Have the request's line say what was searched, where `serve.log_queries` wants it; nothing otherwise."""
    if request.app.state.settings.serve.log_queries:
        note(request, queries=[_shown(text) for text in texts])


def _shown(text: str) -> str:
    """The beginning of a text, without characters that would break a line of the log or turn it around."""
    return "".join(each if each.isprintable() else " " for each in text[:_LONGEST])
