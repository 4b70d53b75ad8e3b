"""What every command does alike at the terminal: JSON on standard output, all else on standard error."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

err = Console(stderr=True)
out = Console()


def note(text: str) -> None:
    """Tell a person something on the way."""
    err.print(text, markup=False, highlight=False)


def emit_json(value: Any) -> None:
    """Write one JSON document to standard output (UTF-8, sorted as given)."""
    sys.stdout.buffer.write(msgspec.json.encode(value, enc_hook=_plain) + b"\n")
    sys.stdout.buffer.flush()


def _plain(value: Any) -> str:
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{type(value).__name__} has no place in JSON")


def progress(quiet: bool = False) -> Progress:
    """A progress bar on standard error; silent when `quiet` or when standard error is no terminal."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=err,
        disable=quiet or not err.is_terminal,
    )
