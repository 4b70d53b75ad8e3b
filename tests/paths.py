"""Folders that tests read from, and write to."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[1]
SAMPLE_SHOP = ROOT / "ingest" / "sample_shop"


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """Not pytest's own: the user that root runs the node as cannot enter that one."""
    folder = Path(tempfile.mkdtemp(prefix="shelfrank-test-", dir="/var/tmp"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
