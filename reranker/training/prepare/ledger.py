"""What became of every row: read = used + merged + rejected, and each rejected row in a dead-letter file."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from types import TracebackType

import msgspec

from indexer.errors import InputError

LISTED = 10_000  # rows of one reason and place that are written out; the rest is counted in one last line
_SHOWN = 200  # characters of a value: enough to find it, not a copy of the data


class Count(msgspec.Struct):
    """Rows of one place, a file and what it was read as."""

    read: int = 0
    used: int = 0
    merged: int = 0
    rejected: int = 0
    reasons: dict[str, int] = {}

    @property
    def balanced(self) -> bool:
        return self.read == self.used + self.merged + self.rejected


class Ledger:
    """Counts rows by place and writes the rejected ones as JSON lines: place, line, reason, value."""

    def __init__(self, path: Path) -> None:
        self.places: dict[str, Count] = {}
        self._more: Counter[tuple[str, str]] = Counter()
        try:
            self._file = path.open("wb")
        except OSError as error:
            raise InputError(f"{path} cannot be written: {error.strerror}. Choose another --out.") from error

    def __enter__(self) -> Ledger:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for (place, reason), count in self._more.items():
            self._write({"place": place, "reason": reason, "more": count})
        self._file.close()

    def read(self, place: str, rows: int = 1) -> None:
        self._of(place).read += rows

    def used(self, place: str, rows: int = 1) -> None:
        self._of(place).used += rows

    def merged(self, place: str, rows: int = 1) -> None:
        self._of(place).merged += rows

    def rejected(self, place: str, line: int | str, reason: str, value: object) -> None:
        """`line` is a line number, or the id of what was counted where a row is a sum of many lines."""
        count = self._of(place)
        count.rejected += 1
        count.reasons[reason] = count.reasons.get(reason, 0) + 1
        if count.reasons[reason] > LISTED:
            self._more[place, reason] += 1
        else:
            self._write({"place": place, "line": line, "reason": reason, "value": str(value)[:_SHOWN]})

    def _of(self, place: str) -> Count:
        return self.places.setdefault(place, Count())

    def _write(self, row: dict[str, object]) -> None:
        self._file.write(msgspec.json.encode(row) + b"\n")
