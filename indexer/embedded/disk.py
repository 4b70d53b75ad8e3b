"""Folders that are full or closed, told with what is needed and where else to go."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from indexer.errors import NodeError

_FULL = (errno.ENOSPC, errno.EDQUOT)
_CLOSED = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST)


def check_space(folder: Path, size: int, variable: str) -> None:
    """Raise NodeError when `size` bytes do not fit where `folder` is."""
    if shutil.disk_usage(folder).free < size:
        raise full(folder, size, variable)


def full(folder: Path, size: int, variable: str) -> NodeError:
    free = shutil.disk_usage(folder).free
    return NodeError(
        f"The disk of {folder} is full: {size / 1e6:.0f} MB are needed, {free / 1e6:.0f} MB are free. Free some "
        f"space, or name a folder on another disk in {variable}."
    )


@contextmanager
def explained(folder: Path, size: int, variable: str) -> Iterator[None]:
    """Turn a full or closed disk met inside into a NodeError; `variable` is the setting that moves `folder`."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise full(folder, size, variable) from error
        if error.errno in _CLOSED:
            raise NodeError(
                f"{folder} cannot be written: {error}. Name another folder in {variable}, or make this one writable."
            ) from error
        raise
