"""What Java does at every start of a node, done once: its classes, read, checked and linked (an AOT cache, JEP 514).

The cache lies in the virtual environment, for it is of this Java and this OpenSearch; with it a start takes half the
processor time. Java starts without one that does not fit.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import msgspec

from indexer import node as nodes
from indexer import settings
from indexer.settings import Node
from tests.paths import temporary_folder
from tests.shared import one_at_a_time

# Compiled quickly instead of well, one thread to collect garbage instead of many, and a heap in large pages: half the
# processor time of a node that does not live long.
JAVA_OPTIONS = "-XX:TieredStopAtLevel=1 -XX:-UseG1GC -XX:+UseSerialGC -XX:+UseTransparentHugePages"
CACHE = Path(sys.prefix) / "node.aot"


def options(node: Node, folder: Path) -> str:
    """Java options of `node`, those that use the cache included; `folder` is for the node whose start is recorded.

    None are added where there is no cache and none can be made.
    """
    with one_at_a_time(CACHE.with_suffix(".lock")):
        if not CACHE.exists():
            _make(node, folder)
        return f"{node.java_options} -XX:AOTCache={CACHE}" if CACHE.exists() else node.java_options


def _make(node: Node, folder: Path) -> None:
    found = folder / "logs" / "node.aot.config"  # where the node may write
    recorded = f"{node.java_options} -XX:AOTMode=record -XX:AOTConfiguration={found}"
    chosen = msgspec.structs.replace(node, data_dir=str(folder), java_options=recorded)
    command = Path(f"/proc/{nodes.start(chosen).pid}/cmdline")
    # Up to the main class; elsewhere than on Linux nobody can be asked for it.
    arguments = command.read_text().split("\0")[:-2] if command.exists() else []
    nodes.stop(chosen, timeout_s=60.0)
    if not arguments or not found.exists():
        return
    made = folder / CACHE.name
    arguments = [each for each in arguments if not each.startswith("-XX:AOT")]
    modes = ["-XX:AOTMode=create", f"-XX:AOTConfiguration={found}", f"-XX:AOTCache={made}"]
    subprocess.run([arguments[0], *modes, *arguments[1:]], check=True, capture_output=True, timeout=300)
    part = CACHE.with_suffix(".part")  # in the same file system, so that nobody finds half of it
    shutil.copy(made, part)
    part.chmod(0o644)
    part.replace(CACHE)


def main() -> None:
    """Make the cache before anybody waits for it."""
    with temporary_folder() as folder:
        options(msgspec.structs.replace(settings.load().node, java_options=JAVA_OPTIONS), folder)


if __name__ == "__main__":
    main()
