"""The lock files: every jar and zip of the embedded node, with size, checksum and where it goes."""

from __future__ import annotations

import hashlib
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import TypeVar

import msgspec

from indexer.errors import NodeError

T = TypeVar("T")

FILENAME = "opensearch.lock.json"
ML_COMMONS_FILENAME = "ml_commons.lock.json"


class Artifact(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One file of a Maven repository. `targets` are folders of the layout; a zip is unpacked into its target."""

    group: str
    name: str
    version: str
    packaging: str
    size: int
    sha256: str
    targets: tuple[str, ...]

    @property
    def coordinate(self) -> str:
        return f"{self.group}:{self.name}:{self.version}"

    @property
    def filename(self) -> str:
        return f"{self.name}-{self.version}.{self.packaging}"

    @property
    def room(self) -> int:
        """Bytes on disk: a zip lies there packed and unpacked, a jar once."""
        return self.size * 2 if self.packaging == "zip" else self.size


class Module(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A module of OpenSearch, which a repository holds as a bare jar: its descriptor is written by us."""

    name: str
    classname: str
    extends: tuple[str, ...] = ()


class Lock(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`opensearch` is the version of the node, `java` the oldest Java that runs it."""

    opensearch: str
    java: int
    modules: tuple[Module, ...]
    artifacts: tuple[Artifact, ...]

    @property
    def id(self) -> str:
        """Names what the lock asks for: two locks with the same id lay out the same files."""
        digest = hashlib.sha256(msgspec.json.encode(self)).hexdigest()
        return f"opensearch-{self.opensearch}-{digest[:12]}"

    @property
    def room(self) -> int:
        """Bytes on disk of all artifacts."""
        return sum(artifact.room for artifact in self.artifacts)


def load(path: Path | None = None, *, ml_commons: bool = False) -> Lock:
    """The lock that ships with the package, or another file; with the artifacts of ml-commons where they are asked for.

    Raises NodeError when it cannot be read.
    """
    locked = _read(path or files("indexer.embedded") / FILENAME, Lock)
    if not ml_commons:
        return locked
    more = _read(files("indexer.embedded") / ML_COMMONS_FILENAME, tuple[Artifact, ...])
    return msgspec.structs.replace(locked, artifacts=(*locked.artifacts, *more))


def _read(file: Traversable, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(file.read_bytes(), type=kind)
    except (OSError, msgspec.DecodeError) as error:
        raise NodeError(
            f"The lock file {file} cannot be read: {error}. Install shelfrank again, or make the "
            "file anew with deploy/embedded/make_lock.py."
        ) from error
