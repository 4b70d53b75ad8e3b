"""The lock file: every jar and zip of the embedded node, with size, checksum and where it goes."""

from __future__ import annotations

import hashlib
from importlib.resources import files
from pathlib import Path

import msgspec

from indexer.errors import NodeError

FILENAME = "opensearch.lock.json"


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
    def size(self) -> int:
        """Bytes of all artifacts."""
        return sum(artifact.size for artifact in self.artifacts)


def load(path: Path | None = None) -> Lock:
    """The lock that ships with the package, or another file. Raises NodeError when it cannot be read."""
    try:
        raw = path.read_bytes() if path else (files("indexer.embedded") / FILENAME).read_bytes()
        return msgspec.json.decode(raw, type=Lock)
    except (OSError, msgspec.DecodeError) as error:
        raise NodeError(
            f"The lock file {path or FILENAME} cannot be read: {error}. Install shelfrank again, or make the "
            "file anew with deploy/embedded/make_lock.py."
        ) from error
