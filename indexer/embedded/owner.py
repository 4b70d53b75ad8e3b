"""The user that the node runs as. OpenSearch refuses to run as root, so root hands it to somebody else."""

from __future__ import annotations

import os
import pwd
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from indexer.errors import NodeError

# Says that a data folder is ours.
MARKER = ".shelfrank-node"


@dataclass(frozen=True)
class Owner:
    """`switches` when this process is root and the node must not be."""

    name: str
    uid: int
    gid: int
    switches: bool

    @property
    def popen(self) -> dict[str, Any]:
        """Arguments of `subprocess` that make a child run as this user."""
        if not self.switches:
            return {}
        return {"user": self.uid, "group": self.gid, "extra_groups": []}

    def run(self, command: Sequence[str]) -> subprocess.CompletedProcess[str]:
        """Run a short command as this user, in a folder that everyone can enter."""
        return subprocess.run(command, capture_output=True, text=True, timeout=60, cwd="/", check=False, **self.popen)

    def can_reach(self, path: Path) -> bool:
        """Whether this user can read `path`; asked of the system, since modes alone do not tell."""
        return not self.switches or self.run(["test", "-r", str(path)]).returncode == 0

    def open_folder(self, folder: Path, inside: Sequence[str]) -> None:
        """Make a private data folder with the folders `inside` it, which are this user's.

        The folder itself stays root's: the node must not be able to put a link where root writes next.
        A folder that holds other things is refused: handing somebody's home to `nobody` cannot be undone.
        """
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / MARKER).exists():
            if any(folder.iterdir()):
                raise NodeError(
                    f"{folder} is not empty and was not made by shelfrank, so the node's data do not go there. Name "
                    "an empty or new folder in SHELFRANK_NODE_DATA_DIR."
                )
            (folder / MARKER).touch()
        if self.switches:
            os.chown(folder, 0, self.gid)
        folder.chmod(0o710 if self.switches else 0o700)
        for name in inside:
            (folder / name).mkdir(exist_ok=True)
            if self.switches:
                self._take(folder / name)
        if not self.can_reach(folder / inside[0]):
            raise NodeError(
                f"The user {self.name}, as whom root runs the node, cannot enter {folder}: a folder above it is "
                "closed to others. Name another one in SHELFRANK_NODE_DATA_DIR, such as /var/lib/shelfrank/node."
            )

    def _take(self, folder: Path) -> None:
        if folder.stat().st_uid != self.uid:
            for parent, _, names in os.walk(folder):
                for path in [parent, *(os.path.join(parent, name) for name in names)]:
                    os.chown(path, self.uid, self.gid, follow_symlinks=False)
        folder.chmod(0o700)


def owner(name: str) -> Owner:
    """The user `name` when this process is root, else oneself. Raises NodeError for an unknown user or root."""
    if os.geteuid() != 0:
        me = os.geteuid()
        return Owner(str(me), me, os.getegid(), switches=False)
    try:
        entry = pwd.getpwnam(name)
    except KeyError as error:
        raise NodeError(
            f"The user {name!r}, as whom root should run the node, does not exist. Set SHELFRANK_NODE_USER."
        ) from error
    if entry.pw_uid == 0:
        raise NodeError(f"OpenSearch refuses to run as {name!r} (uid 0). Set SHELFRANK_NODE_USER to another user.")
    return Owner(name, entry.pw_uid, entry.pw_gid, switches=True)
