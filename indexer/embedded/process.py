"""The node's process: configuration, command line, start, liveness, logs."""

from __future__ import annotations

import errno
import http.client
import json
import os
import signal
import socket
import subprocess
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path

import msgspec

from indexer.embedded.java import VECTOR_MODULE, Java
from indexer.embedded.owner import Owner
from indexer.errors import NodeError

HOST = "127.0.0.1"
CLUSTER_NAME = "shelfrank-embedded"
STATE = "node.json"

# No disk watermarks: on a laptop, a disk at 95 % is ordinary, and they would make every index read-only.
CONFIG = f"""\
cluster.name: {CLUSTER_NAME}
node.name: shelfrank
discovery.type: single-node
network.host: {HOST}
http.port: {{port}}
transport.port: 0
path.data: {{data}}
path.logs: {{logs}}
cluster.routing.allocation.disk.threshold_enabled: false
"""

LOGGING = """\
status = error
appender.file.type = RollingFile
appender.file.name = file
appender.file.fileName = ${sys:opensearch.logs.base_path}/opensearch.log
appender.file.filePattern = ${sys:opensearch.logs.base_path}/opensearch-%i.log
appender.file.layout.type = PatternLayout
appender.file.layout.pattern = %d{ISO8601} %-5p %c{1.} %m%n
appender.file.policies.type = Policies
appender.file.policies.size.type = SizeBasedTriggeringPolicy
appender.file.policies.size.size = 10MB
appender.file.strategy.type = DefaultRolloverStrategy
appender.file.strategy.max = 2
rootLogger.level = info
rootLogger.appenderRef.file.ref = file
logger.deprecation.name = org.opensearch.deprecation
logger.deprecation.level = error
"""


class State(msgspec.Struct, frozen=True):
    """What `node.json` in the data folder says about the last start."""

    pid: int
    port: int
    started_at: float
    heap_mb: int
    version: str

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}"


def read_state(data_dir: Path) -> State | None:
    """The state of the last start; None when the node was never started here or was stopped properly."""
    try:
        return msgspec.json.decode((data_dir / STATE).read_bytes(), type=State)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except PermissionError as error:
        raise NodeError(
            f"{data_dir} belongs to another user: {error}. Run the command as that user, or name another folder in "
            "SHELFRANK_NODE_DATA_DIR."
        ) from error
    except msgspec.DecodeError:
        # Cut off by a full disk or a crash. The process, if any, holds the data's own lock.
        return None


def write_state(data_dir: Path, state: State) -> None:
    temporary = data_dir / f"{STATE}.tmp"
    temporary.write_bytes(msgspec.json.encode(state))
    os.replace(temporary, data_dir / STATE)


def forget_state(data_dir: Path) -> None:
    (data_dir / STATE).unlink(missing_ok=True)


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


def free_port(wanted: int, last: int | None = None) -> int:
    """`wanted`, or when that is 0 the `last` one if it is free, else any free one. Raises NodeError if taken."""
    for port in [wanted] if wanted else [last or 0, 0]:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, port))
            except OSError as error:
                if error.errno not in (errno.EADDRINUSE, errno.EACCES):
                    raise
                continue
            return int(probe.getsockname()[1])
    raise NodeError(
        f"Port {wanted} on {HOST} is taken by another program or not allowed. Choose another one with --port or "
        "SHELFRANK_NODE_PORT; 0 means any free one."
    )


def command(java: Java, home: Path, data_dir: Path, heap_mb: int) -> list[str]:
    """The Java command line. Paths are absolute; the configuration's path also marks the process as ours."""
    return [
        str(java.executable),
        # The heap grows to its limit only when it is needed.
        f"-Xms{min(heap_mb, 256)}m",
        f"-Xmx{heap_mb}m",
        "-XX:+UseG1GC",
        "-XX:+ExitOnOutOfMemoryError",
        "-XX:-OmitStackTraceInFastThrow",
        f"-XX:ErrorFile={data_dir / 'logs' / 'jvm-crash.log'}",
        f"-Djava.io.tmpdir={data_dir / 'tmp'}",
        "-Djava.awt.headless=true",
        "-Dfile.encoding=UTF-8",
        "-Djna.nosys=true",
        "-Dlog4j.shutdownHookEnabled=false",
        "-Dlog4j2.disable.jmx=true",
        "-Dio.netty.noUnsafe=true",
        *(["--add-modules", VECTOR_MODULE] if java.has_vector_module else []),
        f"-Dopensearch.path.home={home}",
        f"-Dopensearch.path.conf={data_dir / 'config'}",
        "-Dopensearch.distribution.type=tar",
        "-cp",
        str(home / "lib" / "*"),
        "org.opensearch.bootstrap.OpenSearch",
    ]


def prepare(data_dir: Path, port: int, owner: Owner) -> None:
    """Write the configuration and set the last run's log aside, so that the log is this run's."""
    for name in ("config", "data", "logs", "tmp"):
        (data_dir / name).mkdir(exist_ok=True)
    # A JSON string is a YAML string, whatever is in the path.
    paths = {name: json.dumps(str(data_dir / name), ensure_ascii=False) for name in ("data", "logs")}
    (data_dir / "config" / "opensearch.yml").write_text(CONFIG.format(port=port, **paths), "utf-8")
    (data_dir / "config" / "log4j2.properties").write_text(LOGGING, "utf-8")
    logs = data_dir / "logs"
    if (logs / "opensearch.log").exists():
        os.replace(logs / "opensearch.log", logs / "previous.log")
    (logs / "console.log").write_bytes(b"")
    if owner.switches:
        for path in [data_dir / "config", *(data_dir / "config").iterdir(), data_dir / "data", logs, data_dir / "tmp"]:
            os.chown(path, owner.uid, owner.gid)


def spawn(arguments: Sequence[str], data_dir: Path, owner: Owner) -> int:
    """Start the process detached from this one and its terminal; returns its pid.

    A shell in between exits at once, so that the node is nobody's child: it outlives us, leaves no zombie, and
    Ctrl-C does not reach it.
    """
    # Nothing of our environment (passwords, JAVA_TOOL_OPTIONS) is the node's business.
    environment = {name: os.environ[name] for name in ("PATH", "TZ") if name in os.environ}
    with (data_dir / "logs" / "console.log").open("ab") as console:
        shell = subprocess.run(
            ["/bin/sh", "-c", '"$@" </dev/null >&2 & echo $!', "sh", *arguments],
            stdout=subprocess.PIPE,
            stderr=console,
            text=True,
            check=True,
            start_new_session=True,
            cwd="/",
            env={**environment, "LANG": "C.UTF-8"},
            **owner.popen,
        )
    return int(shell.stdout)


def health(port: int, timeout_s: float = 2.0) -> str:
    """The cluster's colour, or an empty text when it does not answer."""
    connection = http.client.HTTPConnection(HOST, port, timeout=timeout_s)
    try:
        connection.request("GET", "/_cluster/health")
        answer = json.loads(connection.getresponse().read())
        return str(answer.get("status", "")) if answer.get("cluster_name") == CLUSTER_NAME else ""
    except (OSError, http.client.HTTPException, ValueError):
        return ""
    finally:
        connection.close()


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


def log_lines(data_dir: Path, count: int) -> list[str]:
    """The last `count` lines of this run: what the JVM said, then OpenSearch's log."""
    lines: deque[str] = deque(maxlen=count)
    for name in ("console.log", "opensearch.log"):
        try:
            with (data_dir / "logs" / name).open("r", encoding="utf-8", errors="replace") as stream:
                lines.extend(line.rstrip("\n") for line in stream)
        except FileNotFoundError:
            continue
    return list(lines)


# Beside the heap, the JVM needs room for its own structures and OpenSearch for memory-mapped index files.
BESIDE_HEAP_MB = 300
SMALLEST_HEAP_MB = 256

# What the log says -> what to do about it.
_CAUSES = (
    ("Address already in use", "Its port is taken: choose another one with --port or SHELFRANK_NODE_PORT."),
    ("BindHttpException", "Its port is taken: choose another one with --port or SHELFRANK_NODE_PORT."),
    ("OutOfMemoryError", "Its heap was too small: raise SHELFRANK_NODE_HEAP_MB."),
    ("Could not reserve enough space", "There was not enough memory: lower SHELFRANK_NODE_HEAP_MB."),
    ("insufficient memory", "There was not enough memory: lower SHELFRANK_NODE_HEAP_MB."),
    ("No space left on device", "The disk is full: free some space or set SHELFRANK_NODE_DATA_DIR."),
    ("failed to obtain node locks", "Another node uses these data: stop it, or set SHELFRANK_NODE_DATA_DIR."),
)


def explain(data_dir: Path) -> str:
    """A sentence on why the node died, where its log tells; else an empty text."""
    text = "\n".join(log_lines(data_dir, 200))
    return next((f"{cure} " for sign, cure in _CAUSES if sign in text), "")


def check_memory(heap_mb: int) -> None:
    """Raise NodeError when the heap is below OpenSearch's least or above what the machine has free."""
    if heap_mb < SMALLEST_HEAP_MB:
        raise NodeError(
            f"A heap of {heap_mb} MB is too small for OpenSearch. Set SHELFRANK_NODE_HEAP_MB to {SMALLEST_HEAP_MB} "
            "or more; the default is 1024."
        )
    free = free_memory_mb()
    if free is not None and free < heap_mb + BESIDE_HEAP_MB:
        raise NodeError(
            f"The node needs about {heap_mb + BESIDE_HEAP_MB} MB of memory ({heap_mb} MB of it heap), {free} MB are "
            "free. Close other programs, or lower SHELFRANK_NODE_HEAP_MB."
        )


def free_memory_mb() -> int | None:
    """Memory that can still be used, the limit of a container included; None where the system does not tell."""
    try:
        meminfo = Path("/proc/meminfo").read_text("ascii")
    except OSError:
        return None
    rows = (line.split() for line in meminfo.splitlines())
    free = next(int(row[1]) for row in rows if row[0] == "MemAvailable:") // 1024
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text("ascii").strip()
        used = int(Path("/sys/fs/cgroup/memory.current").read_text("ascii"))
    except OSError:
        return free
    return free if limit == "max" else min(free, (int(limit) - used) // 2**20)
