"""Brings the artifacts of the lock file into the cache: in parallel, checked, and only what is missing."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from pathlib import Path

from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from indexer import terminal
from indexer.embedded import disk
from indexer.embedded.lock import Artifact
from indexer.errors import NodeError

# Most artifacts are small, so the time goes into round trips rather than bytes.
THREADS = 8
TIMEOUT_S = 30
# Modules' descriptors, what unpacking adds to the size of a zip, file system overhead.
ROOM = 40_000_000
CACHE_VARIABLE = "SHELFRANK_NODE_CACHE_DIR"
INSTALL = "pip install 'shelfrank[embedded]'"


class _StoppedError(Exception):
    """Another download failed, or the user pressed Ctrl-C."""


def cached(artifact: Artifact, folder: Path) -> Path:
    """Where the artifact lies in the cache. The checksum in the name keeps a changed lock file apart."""
    return folder / f"{artifact.sha256[:16]}-{artifact.filename}"


def is_intact(artifact: Artifact, file: Path) -> bool:
    """Whether the file is there and is the one that the lock file means."""
    if not file.is_file() or file.stat().st_size != artifact.size:
        return False
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest() == artifact.sha256


def fetch(artifacts: Sequence[Artifact], folder: Path, repository: str = "", *, quiet: bool = False) -> int:
    """Fetch what is missing from `folder` and return how many artifacts that were.

    A file gets its final name only after its checksum has been verified, so whatever has a final name is whole
    at the time of writing; it is still verified on each call, because disks and users alter files.
    `repository` is the address of a Maven repository; empty means Maven Central.

    Raises NodeError: no jgo, no network, not in the repository, wrong checksum (after a second try), disk full.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for leftover in folder.glob("tmp-*"):
        shutil.rmtree(leftover, ignore_errors=True)
    missing = [artifact for artifact in artifacts if not is_intact(artifact, cached(artifact, folder))]
    if not missing:
        return 0
    size = sum(artifact.size for artifact in missing)
    disk.check_space(folder, sum(artifact.room for artifact in missing) + ROOM, CACHE_VARIABLE)
    if not terminal.err.is_terminal and not quiet:
        terminal.err.print(f"Fetching {len(missing)} files ({size / 1e6:.0f} MB) into {folder}", soft_wrap=True)
    with tempfile.TemporaryDirectory(prefix="tmp-", dir=folder) as temporary, _progress(quiet) as progress:
        task = progress.add_task("Fetching", total=size)
        _Fetcher(folder, Path(temporary), repository, lambda count: progress.advance(task, count)).run(missing)
    return len(missing)


class _Fetcher:
    """One call of `fetch`: downloads into a temporary Maven cache, verifies, renames."""

    def __init__(self, folder: Path, temporary: Path, repository: str, advance: Callable[[int], None]) -> None:
        self.folder = folder
        self.temporary = temporary
        self.remotes = {"repository": repository.rstrip("/")} if repository else None
        self.advance = advance
        self.stop = threading.Event()

    def run(self, artifacts: Sequence[Artifact]) -> None:
        pool = ThreadPoolExecutor(THREADS, thread_name_prefix="fetch")
        # The largest first: none of them then holds up the end alone.
        ordered = sorted(artifacts, key=lambda artifact: -artifact.size)
        try:
            for done in as_completed([pool.submit(self.one, artifact) for artifact in ordered]):
                done.result()
        except BaseException:
            self.stop.set()
            raise
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def one(self, artifact: Artifact) -> None:
        for attempt in ("first", "second"):
            temporary = self.temporary / attempt
            file = self._download(artifact, temporary)
            if is_intact(artifact, file):
                file.chmod(0o644)
                os.replace(file, cached(artifact, self.folder))
                return
            size, digest = file.stat().st_size, hashlib.sha256(file.read_bytes()).hexdigest()
            file.unlink()
        raise NodeError(
            f"{artifact.coordinate} came twice with a wrong checksum: the lock file says sha256 "
            f"{artifact.sha256} ({artifact.size} bytes), the download has {digest} ({size} bytes). It was not "
            "kept. Look whether a proxy alters downloads, or set another SHELFRANK_NODE_REPOSITORY."
        )

    def _download(self, artifact: Artifact, temporary: Path) -> Path:
        try:
            from jgo.maven import MavenContext, PythonResolver
        except ImportError as error:
            raise NodeError(f"Fetching from a Maven repository needs jgo. Install it: {INSTALL}") from error
        context = MavenContext(
            resolver=PythonResolver(progress_callback=self._counted),
            repo_cache=temporary,
            remote_repos=self.remotes,
            timeout=TIMEOUT_S,
        )
        component = context.project(artifact.group, artifact.name).at_version(artifact.version)
        try:
            with disk.explained(self.folder, artifact.size, CACHE_VARIABLE):
                return Path(component.artifact(packaging=artifact.packaging).resolve())
        except OSError as error:
            # The network library's exceptions are OSErrors, too.
            raise NodeError(
                f"{artifact.coordinate} could not be fetched: {error}. Look at the network and the proxy "
                "(HTTPS_PROXY), then run the same command again: what has been fetched is kept."
            ) from error
        except RuntimeError as error:
            raise NodeError(
                f"{artifact.coordinate} is not in the repository: {error}. Set another SHELFRANK_NODE_REPOSITORY, "
                "or leave it empty for Maven Central."
            ) from error

    @contextmanager
    def _counted(self, _name: str, _size: int) -> Iterator[Callable[[int], None]]:
        def update(count: int) -> None:
            if self.stop.is_set():
                raise _StoppedError
            self.advance(count)

        yield update


def _progress(quiet: bool) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=terminal.err,
        disable=quiet or not terminal.err.is_terminal,
    )
