"""Where the products of a new index come from: a catalogue file, or what the live index has stored."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

from opensearchpy import OpenSearch

from indexer import changes
from indexer.errors import ClusterError, InputError
from indexer.patience import Patience
from indexer.settings import Bounds, Settings
from ingest.documents import Entry, stored_entry
from ingest.products import Products
from ingest.report import DeadLetters, Report
from ingest.schema import load_mapping
from ingest.sources import open_catalogue

_BOUNDS = Bounds()
Progress = Callable[[str, int, int | None], None]


class Origin(Protocol):
    """Products in a fixed order, from the start each time."""

    stored: bool

    def described(self) -> dict[str, Any]:
        """What a job's record says of it, enough to make it again elsewhere."""

    def entries(self, report: Report, letters: DeadLetters, stop: threading.Event, show: Progress) -> Iterator[Entry]:
        """Every product once; counts into the report."""

    def total(self) -> int | None:
        """How many there are, where that is known."""


class FromFile:
    """The rows of a catalogue file."""

    stored = False

    def __init__(self, path: Path, mapping: str, bounds: Bounds = _BOUNDS) -> None:
        self.path, self.mapping = path.absolute(), mapping
        self._catalogue = open_catalogue(self.path, load_mapping(mapping), bounds)
        self._products: Products | None = None

    def described(self) -> dict[str, Any]:
        """Its paths: another machine needs the file at the same place, or names it anew."""
        mapping = Path(self.mapping)
        return {"file": str(self.path), "mapping": str(mapping.absolute()) if mapping.is_file() else self.mapping}

    def entries(self, report: Report, letters: DeadLetters, stop: threading.Event, show: Progress) -> Iterator[Entry]:
        """The file's products, cleaned; what is refused is a dead letter."""
        self._products = Products(self._catalogue, report, stop=stop, on_progress=show)
        return self._products.entries(letters)

    def total(self) -> int | None:
        """Rows of the file, once counted."""
        return self._products.total if self._products else None


class FromStored:
    """The documents of an index, as they are when the reading comes to them."""

    stored = True

    def __init__(self, client: OpenSearch, index: str, patience: Patience) -> None:
        self._client, self._index, self._patience = client, index, patience

    def described(self) -> dict[str, Any]:
        """The index."""
        return {"stored": self._index}

    def entries(self, report: Report, letters: DeadLetters, stop: threading.Event, show: Progress) -> Iterator[Entry]:
        """Stored products, in the order of ids."""
        # A point in time sees what was refreshed: without this, what was written just before the job's marks is in
        # neither, the reading and the changes since.
        self._patience.call(lambda: self._client.indices.refresh(index=self._index))
        for hits in changes.everything(self._client, self._index, self._patience):
            for hit in hits:
                report.read += 1
                report.clean += 1
                yield stored_entry(hit["_source"])

    def total(self) -> int | None:
        """Documents in the index now."""
        return int(self._patience.call(lambda: self._client.count(index=self._index))["count"])


def again(described: dict[str, Any], client: OpenSearch, settings: Settings, moved: Path | None = None) -> Origin:
    """The origin that a record describes; `moved` is where its file lies now. Raises InputError, ClusterError."""
    if "stored" in described:
        return FromStored(client, described["stored"], Patience(settings.ingest.patience_s))
    if "file" not in described:
        raise ClusterError("The job's record names no source. Cancel it and start a new one.")
    path = moved or Path(described["file"])
    if not path.is_file():
        raise InputError(f"The catalogue {path} is not on this machine. Name it with --file, or resume where it is.")
    return FromFile(path, described["mapping"], settings.bounds)
