"""Whether the machine has the memory that the node asks for."""

from __future__ import annotations

from pathlib import Path

from indexer.errors import NodeError

# Beside the heap, the JVM needs room for its own structures and OpenSearch for memory-mapped index files.
BESIDE_HEAP_MB = 300
SMALLEST_HEAP_MB = 256


def check(heap_mb: int) -> None:
    """Raise NodeError when the heap is below OpenSearch's least or above what the machine has free."""
    if heap_mb < SMALLEST_HEAP_MB:
        raise NodeError(
            f"A heap of {heap_mb} MB is too small for OpenSearch. Set SHELFRANK_NODE_HEAP_MB to {SMALLEST_HEAP_MB} "
            "or more; the default is 1024."
        )
    free = free_mb()
    if free is not None and free < heap_mb + BESIDE_HEAP_MB:
        raise NodeError(
            f"The node needs about {heap_mb + BESIDE_HEAP_MB} MB of memory ({heap_mb} MB of it heap), {free} MB are "
            "free. Close other programs, or lower SHELFRANK_NODE_HEAP_MB."
        )


def free_mb() -> int | None:
    """Memory that can still be used, the limit of a container included; None where the system does not tell."""
    try:
        meminfo = Path("/proc/meminfo").read_text("ascii")
    except OSError:
        return None
    rows = (line.split() for line in meminfo.splitlines())
    free = next(int(row[1]) for row in rows if row[0] == "MemAvailable:") // 1024
    group = Path("/sys/fs/cgroup")
    try:
        limit = (group / "memory.max").read_text("ascii").strip()
        used = int((group / "memory.current").read_text("ascii"))
        counters = dict(line.split() for line in (group / "memory.stat").read_text("ascii").splitlines())
    except OSError:
        return free
    if limit == "max":
        return free
    # Cached files count as used, and yet are given up when memory is wanted.
    return min(free, (int(limit) - used + int(counters["inactive_file"])) // 2**20)
