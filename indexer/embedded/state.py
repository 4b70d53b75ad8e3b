"""Which process is the node of a data folder, whether it lives, and how it is ended."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import msgspec

from indexer.errors import NodeError

HOST = "127.0.0.1"
FILENAME = "node.json"


class State(msgspec.Struct, frozen=True):
    """What `node.json` in the data folder says about the last start."""

    pid: int
    port: int
    started_at: float
    heap_mb: int
    version: str
    ml_commons: bool = False

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}"


def read(data_dir: Path) -> State | None:
    """The state of the last start; None when the node was never started here or was stopped properly."""
    try:
        return msgspec.json.decode((data_dir / FILENAME).read_bytes(), type=State)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except PermissionError as error:
        raise foreign(data_dir, error) from error
    except msgspec.DecodeError:
        # Cut off by a full disk or a crash. The process, if any, holds the data's own lock.
        return None


def foreign(data_dir: Path, error: PermissionError) -> NodeError:
    return NodeError(
        f"{data_dir} belongs to another user: {error}. Run the command as that user, or name another folder in "
        "SHELFRANK_NODE_DATA_DIR."
    )


def write(data_dir: Path, state: State) -> None:
    temporary = data_dir / f"{FILENAME}.tmp"
    temporary.write_bytes(msgspec.json.encode(state))
    os.replace(temporary, data_dir / FILENAME)


def forget(data_dir: Path) -> None:
    (data_dir / FILENAME).unlink(missing_ok=True)


def is_alive(state: State, data_dir: Path) -> bool:
    """Whether the process is there and is this node, not another one that got its number since."""
    mark = f"-Dopensearch.path.conf={data_dir / 'config'}"
    proc = Path("/proc")
    if proc.joinpath("self").exists():
        try:
            # Empty for a zombie, which is dead too.
            return mark in proc.joinpath(str(state.pid), "cmdline").read_text("utf-8", "replace").split("\0")
        except OSError:
            return False
    listed = subprocess.run(["ps", "-o", "command=", "-p", str(state.pid)], capture_output=True, text=True, check=False)
    return mark in listed.stdout


def signal_and_wait(state: State, data_dir: Path, number: signal.Signals, timeout_s: float) -> bool:
    """Send a signal; True when the process has gone within `timeout_s`."""
    try:
        os.kill(state.pid, number)
    except ProcessLookupError:
        return True
    except PermissionError as error:
        raise NodeError(f"Process {state.pid} belongs to another user: {error}. Stop it as that user.") from error
    deadline = time.monotonic() + timeout_s
    while is_alive(state, data_dir):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True
