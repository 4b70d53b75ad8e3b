"""Lays out an OpenSearch home (lib, modules, plugins) from the fetched artifacts."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from indexer import terminal
from indexer.embedded import disk, fetch
from indexer.embedded.lock import Artifact, Lock, Module

COMPLETE = ".complete"


def ensure(lock: Lock, cache: Path, repository: str = "", *, quiet: bool = False) -> Path:
    """The OpenSearch home that the lock describes, fetched and laid out when it is not there yet.

    One process at a time does this; others wait. The home is built under a temporary name and renamed, so that
    an interrupted run leaves nothing that looks complete. Raises NodeError.
    """
    home = cache / lock.id
    if is_complete(home, lock):
        return home
    with (
        disk.explained(cache, lock.room + fetch.ROOM, fetch.CACHE_VARIABLE),
        held(cache / "lock", "another process fetches OpenSearch"),
    ):
        if not is_complete(home, lock):
            fetch.fetch(lock.artifacts, cache / "files", repository, quiet=quiet)
            _build(lock, cache, home)
    return home


def is_complete(home: Path, lock: Lock) -> bool:
    """Whether the home was finished and every jar still has its size."""
    if not (home / COMPLETE).is_file():
        return False
    return all(
        _has_size(home / target / artifact.filename, artifact.size)
        for artifact in lock.artifacts
        if artifact.packaging == "jar"
        for target in artifact.targets
    ) and all(
        (home / target / "plugin-descriptor.properties").is_file()
        for artifact in lock.artifacts
        if artifact.packaging == "zip"
        for target in artifact.targets
    )


@contextmanager
def held(file: Path, reason: str) -> Iterator[None]:
    """Hold an advisory lock on `file`, waiting (and saying why, once) while another process has it."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            terminal.err.print(f"Waiting: {reason} ({file})", soft_wrap=True)
            fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def _has_size(file: Path, size: int) -> bool:
    try:
        return file.stat().st_size == size
    except OSError:
        return False


def _build(lock: Lock, cache: Path, home: Path) -> None:
    for leftover in cache.glob("layout-*"):
        shutil.rmtree(leftover, ignore_errors=True)
    temporary = Path(tempfile.mkdtemp(prefix="layout-", dir=cache))
    try:
        for artifact in lock.artifacts:
            _place(artifact, fetch.cached(artifact, cache / "files"), temporary)
        for module in lock.modules:
            folder = temporary / "modules" / module.name
            (folder / "plugin-descriptor.properties").write_text(_descriptor(module, lock), "utf-8")
        # The node looks for its scripts' folder and would make it, which it may not.
        (temporary / "bin").mkdir()
        (temporary / COMPLETE).touch()
        # The node runs as another user when it is started by root.
        for path in [temporary, *temporary.rglob("*")]:
            path.chmod(0o755 if path.is_dir() else 0o644)
        if home.exists():
            shutil.rmtree(home)
        os.replace(temporary, home)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _place(artifact: Artifact, file: Path, home: Path) -> None:
    for target in artifact.targets:
        folder = home / target
        folder.mkdir(parents=True, exist_ok=True)
        if artifact.packaging == "zip":
            with zipfile.ZipFile(file) as archive:
                archive.extractall(folder)
        else:
            try:
                os.link(file, folder / artifact.filename)
            except OSError:  # No hard links here: another file system, or one that has none.
                shutil.copyfile(file, folder / artifact.filename)


def _descriptor(module: Module, lock: Lock) -> str:
    lines = [
        f"name={module.name}",
        f"description={module.name}",
        f"version={lock.opensearch}",
        f"opensearch.version={lock.opensearch}",
        f"java.version={lock.java}",
        f"classname={module.classname}",
    ]
    if module.extends:
        lines.append(f"extended.plugins={','.join(module.extends)}")
    return "\n".join(lines) + "\n"
