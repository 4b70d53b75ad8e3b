"""What an ingest did: counts, examples, the table on the screen; and the dead-letter file of what it refused."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import msgspec
from rich.table import Table

from indexer.errors import InputError
from ingest.sources import Rejection

_EXAMPLES = 3
_MAX_VALUE_CHARACTERS = 500


@dataclass
class Report:
    """Counts of one run. read = clean + rejected; at its end the clean are written, unchanged, superseded, deleted or
    failed.

    `superseded`: the index holds a newer version; `deleted`: the product was deleted and stays so.
    """

    read: int = 0
    clean: int = 0
    rejected: int = 0
    written: int = 0
    unchanged: int = 0
    superseded: int = 0
    deleted: int = 0
    failed: int = 0
    seconds: float = 0.0
    index: str = ""
    dead_letter: str = ""
    stopped: bool = False
    error: str = ""
    reasons: Counter[str] = field(default_factory=Counter)
    steps: Counter[str] = field(default_factory=Counter)
    flags: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)

    @property
    def documents_per_second(self) -> float:
        """Accepted products a second, the unchanged ones included."""
        return (self.written + self.unchanged) / self.seconds if self.seconds else 0.0

    def count(self, kind: Counter[str], name: str, row: int, product_id: str, value: str) -> None:
        """Count a step, flag or reason and keep the first few rows as examples."""
        kind[name] += 1
        kept = self.examples.setdefault(name, [])
        if len(kept) < _EXAMPLES:
            kept.append({"row": row, "id": product_id, "value": _kept(value)})

    def summary(self) -> dict[str, Any]:
        """The report as plain values, for JSON."""
        return {
            "read": self.read,
            "clean": self.clean,
            "rejected": self.rejected,
            "written": self.written,
            "unchanged": self.unchanged,
            "superseded": self.superseded,
            "deleted": self.deleted,
            "failed": self.failed,
            "seconds": round(self.seconds, 3),
            "docs_per_second": round(self.documents_per_second, 1),
            "index": self.index,
            "dead_letter": self.dead_letter,
            "stopped": self.stopped,
            "error": self.error,
            "rejected_by_reason": dict(self.reasons.most_common()),
            "steps": dict(self.steps.most_common()),
            "flags": dict(self.flags.most_common()),
            "examples": self.examples,
            "warnings": self.warnings,
        }

    def tables(self) -> list[Table]:
        """The report for people: the counts, then what was cleaned, flagged and refused, each with an example."""
        counts = Table("", "products", title="Ingest")
        counts.columns[1].justify = "right"
        for name in ("read", "clean", "rejected", "written", "unchanged", "superseded", "deleted", "failed"):
            counts.add_row(name, f"{getattr(self, name):,}")
        counts.add_row("seconds", f"{self.seconds:.1f}")
        counts.add_row("a second", f"{self.documents_per_second:.1f}")
        if not (self.reasons or self.flags or self.steps):
            return [counts]
        details = Table("", "what", "products", "row", "for example", title="Cleaning")
        details.columns[2].justify = details.columns[3].justify = "right"
        for kind, counter in (("rejected", self.reasons), ("flagged", self.flags), ("cleaned", self.steps)):
            for name, number in counter.most_common():
                example = self.examples[name][0]
                value = " ".join(example["value"].split())
                details.add_row(kind, name, f"{number:,}", str(example["row"]), _short(value))
        return [counts, details]


class DeadLetters:
    """The JSON lines file of rejected rows; made when the first one comes, and none is left when none came."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: IO[bytes] | None = None

    def __enter__(self) -> DeadLetters:
        # What an earlier run refused would be taken for what this one did.
        try:
            if self.path.is_file():  # and not /dev/null or a pipe, which are not ours to take away
                self.path.unlink()
        except OSError as error:
            raise self._unwritable(error) from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file:
            self._file.close()

    @property
    def written(self) -> str:
        """The path when there is such a file, else empty."""
        return str(self.path) if self._file else ""

    def add(self, rejection: Rejection) -> None:
        """Write one line: row, field, value, reason. Raises InputError when the file cannot be written."""
        line = {
            "row": rejection.row,
            "field": rejection.field,
            "value": _kept(rejection.value),
            "reason": rejection.reason,
        }
        try:
            if self._file is None:
                self._file = self.path.open("wb", buffering=0)
            self._file.write(msgspec.json.encode(line) + b"\n")
        except OSError as error:
            raise self._unwritable(error) from error

    def _unwritable(self, error: OSError) -> InputError:
        return InputError(
            f"The dead-letter file {self.path} cannot be written: {error.strerror}. Give another with --dead-letter."
        )


def _kept(value: str) -> str:
    # JSON cannot hold half a surrogate pair, which a broken row may.
    return value[:_MAX_VALUE_CHARACTERS].encode("utf-8", "replace").decode()


def _short(value: str) -> str:
    # A cell is text, not rich markup.
    return (value if len(value) <= 60 else value[:59] + "…").replace("[", r"\[")
