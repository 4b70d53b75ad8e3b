"""The embedded OpenSearch node: start, stop, status, logs.

The node listens on a loopback port and keeps its data between runs. Folders, unless the settings name others:

- cache (jars, 120 MB; 920 MB with ml-commons): the user's cache folder, or `/var/cache/shelfrank` for root;
- data: the user's data folder, or `/var/lib/shelfrank/node` for root.

OpenSearch refuses to run as root, so root starts it as `settings.Node.user`, who must be able to enter both.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import msgspec
import platformdirs

from indexer import settings, terminal
from indexer.embedded import disk, java, layout, lock, memory, process
from indexer.embedded import logs as logfile
from indexer.embedded import state as states
from indexer.embedded.owner import owner
from indexer.errors import NodeError

DEFAULTS = settings.Node()
START_TIMEOUT_S = 180.0
STOP_TIMEOUT_S = 30.0
DEATH_LINES = 15
# Below 100 MB of free space the node takes no new index.
DATA_ROOM = 150_000_000


@dataclass(frozen=True)
class NodeInfo:
    """A running node. `started_now` is False when it was found running."""

    url: str
    pid: int
    port: int
    data_dir: Path
    started_now: bool


@dataclass(frozen=True)
class NodeStatus:
    """`running` answers; `starting` lives but does not answer yet (or no more); `died` left without `stop`."""

    state: Literal["running", "starting", "died", "stopped"]
    data_dir: Path
    url: str = ""
    pid: int = 0
    port: int = 0
    version: str = ""
    health: str = ""
    heap_mb: int = 0
    uptime_s: float = 0.0


def cache_dir(node: settings.Node) -> Path:
    """Where jars go: the settings' folder, or the user's cache, or for root one that other users can read."""
    if node.cache_dir:
        return Path(node.cache_dir).expanduser().resolve()
    return Path(
        platformdirs.site_cache_dir("shelfrank") if os.geteuid() == 0 else platformdirs.user_cache_dir("shelfrank")
    )


def data_dir(node: settings.Node) -> Path:
    """Where the node's data, configuration and logs go."""
    if node.data_dir:
        return Path(node.data_dir).expanduser().resolve()
    if os.geteuid() == 0:
        return Path("/var/lib/shelfrank/node")
    return Path(platformdirs.user_data_dir("shelfrank")) / "node"


def start(
    node: settings.Node = DEFAULTS,
    *,
    timeout_s: float = START_TIMEOUT_S,
    quiet: bool = False,
    member: process.Member | None = None,
) -> NodeInfo:
    """Start the node, or return the one that already runs on this data folder.

    Fetches OpenSearch when the cache lacks it. Returns when the node answers with yellow or green health; a `member` of
    a cluster does so when enough of the others are there, so start them at the same time (see `cluster`).
    Raises NodeError: no Java, fetch failed, port taken, too little memory, died (with its last log lines), or no
    answer within `timeout_s`.
    """
    folder = data_dir(node)
    user = owner(node.user)
    with disk.explained(folder, DATA_ROOM, "SHELFRANK_NODE_DATA_DIR"):
        user.open_folder(folder, process.FOLDERS)
        disk.check_space(folder, DATA_ROOM, "SHELFRANK_NODE_DATA_DIR")
    # Two commands that start at once must end with one node.
    with layout.held(folder / "start.lock", "another process starts the node"):
        last = states.read(folder)
        if last and states.is_alive(last, folder):
            if node.port and node.port != last.port:
                raise NodeError(
                    f"The node of {folder} already runs on port {last.port}, not {node.port}. Stop it first with "
                    "`shelfrank node stop`, or name another SHELFRANK_NODE_DATA_DIR for a second node."
                )
            if node.ml_commons and not last.ml_commons:
                raise NodeError(
                    f"The node of {folder} already runs without ml-commons. Stop it first with `shelfrank node stop`; "
                    "its data stay."
                )
            _wait(last, folder, timeout_s)
            return NodeInfo(last.url, last.pid, last.port, folder, started_now=False)
        locked = lock.load(ml_commons=node.ml_commons)
        cache = cache_dir(node)
        memory.check(node.heap_mb)
        if node.port:
            process.free_port(node.port)  # Better known before a download than after it.
        found = java.find(locked.java, user, cache)
        home = layout.ensure(locked, cache, node.repository, quiet=quiet)
        if not user.can_reach(home / layout.COMPLETE):
            raise NodeError(
                f"The user {user.name}, as whom root runs the node, cannot read {home}: a folder above it is closed "
                "to others. Name another one in SHELFRANK_NODE_CACHE_DIR, such as /var/cache/shelfrank."
            )
        port = process.free_port(node.port, last.port if last else None)
        process.prepare(folder, port, member, ml_commons=node.ml_commons)
        pid = process.spawn(process.command(found, home, folder, node.heap_mb, node.java_options), folder, user)
        state = states.State(pid, port, time.time(), node.heap_mb, locked.opensearch, node.ml_commons)
        states.write(folder, state)
        try:
            _wait(state, folder, timeout_s)
        except BaseException:
            # Also on Ctrl-C: a node that nobody waits for should not linger half-started.
            states.signal_and_wait(state, folder, signal.SIGKILL, STOP_TIMEOUT_S)
            states.forget(folder)
            raise
        return NodeInfo(state.url, pid, port, folder, started_now=True)


def _wait(state: states.State, folder: Path, timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    colour = ""
    while time.monotonic() < deadline:
        colour = process.health(state.port)
        if colour in ("yellow", "green"):
            return
        if not states.is_alive(state, folder):
            raise died(folder)
        time.sleep(0.1)
    answered = f"its health is {colour}" if colour else "it does not answer"
    raise NodeError(
        f"The node of {folder} is not ready after {timeout_s:.0f} s: {answered} at {state.url}. {_last_lines(folder)}"
    )


def died(folder: Path) -> NodeError:
    """The error for a node that is gone without `stop`, with its last log lines."""
    return NodeError(f"The OpenSearch node of {folder} died. {logfile.explain(folder)}{_last_lines(folder)}")


def _last_lines(folder: Path) -> str:
    # Stack frames tell a user nothing and push out what does.
    lines = [line for line in logfile.tail(folder, 400) if not line.lstrip().startswith(("at ", "... "))]
    lines = lines[-DEATH_LINES:]
    return "Its last log lines:\n  " + "\n  ".join(lines) if lines else f"It left no log in {folder / 'logs'}."


def stop(node: settings.Node = DEFAULTS, *, timeout_s: float = STOP_TIMEOUT_S) -> bool:
    """Stop the node; False when none was running. It is killed when it has not gone within `timeout_s`."""
    folder = data_dir(node)
    state = states.read(folder)
    if state is None:
        return False
    running = states.is_alive(state, folder)
    if running and not states.signal_and_wait(state, folder, signal.SIGTERM, timeout_s):
        terminal.err.print(f"The node did not stop within {timeout_s:.0f} s; killing it. Its data are safe.")
        states.signal_and_wait(state, folder, signal.SIGKILL, timeout_s)
    states.forget(folder)
    return running


def status(node: settings.Node = DEFAULTS) -> NodeStatus:
    """What the node does. Nothing is started."""
    folder = data_dir(node)
    state = states.read(folder)
    if state is None:
        return NodeStatus("stopped", folder)
    shown = NodeStatus("died", folder, state.url, state.pid, state.port, state.version, heap_mb=state.heap_mb)
    if not states.is_alive(state, folder):
        return shown
    colour = process.health(state.port)
    uptime = time.time() - state.started_at
    return replace(shown, state="running" if colour else "starting", health=colour, uptime_s=round(uptime, 1))


def logs(node: settings.Node = DEFAULTS, lines: int = 50) -> list[str]:
    """The last lines of the current (or, when it is stopped, the last) run's log."""
    return logfile.tail(data_dir(node), lines)


def ensure(node: settings.Node = DEFAULTS, *, quiet: bool = False) -> str:
    """The URL of the node, which is started when it does not run.

    Standard error tells of a start, and of a death (or a reboot) before it with the last log lines.
    """
    before = status(node)
    if before.state == "running":
        return before.url
    if before.state == "died" and not quiet:
        terminal.err.print(f"{died(before.data_dir)}\nIt is started again.", soft_wrap=True, markup=False)
    elif not quiet:
        terminal.err.print(f"Starting the embedded OpenSearch node (data in {before.data_dir})", soft_wrap=True)
    return start(node, quiet=quiet).url


@contextmanager
def running(data_dir: str | Path, node: settings.Node = DEFAULTS, **changes: int | str) -> Iterator[NodeInfo]:
    """A node for the time of a `with` block; stopped after it only if it was started by it.

    `changes` are further settings of the node, such as `port` or `heap_mb`.
    """
    chosen = msgspec.structs.replace(node, data_dir=str(data_dir), **changes)
    info = start(chosen)
    try:
        yield info
    finally:
        if info.started_now:
            stop(chosen)


@dataclass(frozen=True)
class ClusterNode:
    """One node of a cluster on this machine."""

    settings: settings.Node
    member: process.Member

    def start(self) -> NodeInfo:
        """Start it, at first or again; returns when it is part of a cluster that answers."""
        return start(self.settings, member=self.member)

    def kill(self) -> None:
        """End it as a crash would."""
        folder = data_dir(self.settings)
        state = states.read(folder)
        if state is not None:
            states.signal_and_wait(state, folder, signal.SIGKILL, STOP_TIMEOUT_S)


@contextmanager
def cluster(folder: str | Path, count: int = 3, node: settings.Node = DEFAULTS) -> Iterator[list[ClusterNode]]:
    """Several nodes on loopback that form one cluster, for the time of a `with` block; for tests and trials.

    Each has its data in a folder of its own under `folder` and `node.heap_mb` of heap.
    """
    chosen = process.own_ports(2 * count)
    ports = {f"shelfrank-{number}": chosen[number - 1] for number in range(1, count + 1)}
    nodes = [
        ClusterNode(
            msgspec.structs.replace(node, data_dir=str(Path(folder) / name), port=port), process.Member(name, ports)
        )
        for name, port in zip(ports, chosen[count:], strict=True)
    ]
    try:
        # At the same time: the first one alone would wait for the others for ever.
        with ThreadPoolExecutor(count) as starters:
            list(starters.map(ClusterNode.start, nodes))
        yield nodes
    finally:
        for each in nodes:
            stop(each.settings)
