"""Configures and spawns the node's process, and asks it for its health."""

from __future__ import annotations

import errno
import http.client
import json
import os
import random
import shlex
import shutil
import socket
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from indexer.embedded.java import VECTOR_MODULE, Java
from indexer.embedded.owner import Owner
from indexer.embedded.state import HOST
from indexer.errors import NodeError

CLUSTER_NAME = "shelfrank-embedded"
FOLDERS = ("config", "data", "logs", "tmp")

# Disk watermarks in bytes: on a laptop, a disk at 95 % is ordinary, and shares of it would make every index read-only;
# without any, a full disk would fail shards in the middle of a write. Who writes faster than the watermarks are looked
# at fills it all the same: then the node takes no part in its own cluster until it finds that it can write again.
CONFIG = f"""\
cluster.name: {CLUSTER_NAME}
network.host: {HOST}
http.port: {{port}}
path.data: {{data}}
path.logs: {{logs}}
cluster.info.update.interval: 10s
monitor.fs.health.refresh_interval: 5s
cluster.routing.allocation.disk.watermark.low: 100mb
cluster.routing.allocation.disk.watermark.high: 80mb
cluster.routing.allocation.disk.watermark.flood_stage: 60mb
"""

ALONE = """\
node.name: shelfrank
discovery.type: single-node
transport.port: 0
"""

# Remote models on loopback alone, called from the one node that there is. Free disk space is watched above.
ML_COMMONS = """\
plugins.ml_commons.only_run_on_ml_node: false
plugins.ml_commons.connector.private_ip_enabled: true
plugins.ml_commons.trusted_connector_endpoints_regex: ["^https?://(127\\\\.0\\\\.0\\\\.1|localhost)(:[0-9]+)?/.*$"]
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


@dataclass(frozen=True)
class Member:
    """One node of several on this machine: its name, and every node's name and transport port."""

    name: str
    transport_ports: Mapping[str, int]

    def config(self) -> str:
        """What its configuration says of the others."""
        names = ", ".join(self.transport_ports)
        seeds = ", ".join(f'"{HOST}:{port}"' for port in self.transport_ports.values())
        return (
            f"node.name: {self.name}\n"
            f"transport.port: {self.transport_ports[self.name]}\n"
            f"discovery.seed_hosts: [{seeds}]\n"
            f"cluster.initial_cluster_manager_nodes: [{names}]\n"
        )


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


def own_ports(count: int) -> list[int]:
    """Free ports below those that the system hands out, so that they are still free when a node comes back."""
    # By the system's chance: processes that begin with the same seed must not meet on the same ports.
    chance = random.SystemRandom()
    ports: list[int] = []
    while len(ports) < count:
        port = chance.randint(20_000, 32_000)
        with suppress(NodeError):
            ports += [free_port(port)] if port not in ports else []
    return ports


def command(java: Java, home: Path, data_dir: Path, heap_mb: int, options: str = "") -> list[str]:
    """The Java command line, `options` (as in a shell) among it. Paths are absolute; the configuration's path also
    marks the process as ours. Raises NodeError for options that no shell would take.
    """
    try:
        chosen = shlex.split(options)
    except ValueError as error:
        raise NodeError(f"SHELFRANK_NODE_JAVA_OPTIONS is {options!r}, which cannot be read: {error}.") from error
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
        # ICU's locale data (in lib) only where Java has none of its own.
        "-Djava.locale.providers=CLDR,SPI",
        "-Djna.nosys=true",
        "-Dlog4j.shutdownHookEnabled=false",
        "-Dlog4j2.disable.jmx=true",
        "-Dio.netty.noUnsafe=true",
        "--enable-native-access=ALL-UNNAMED",
        *(["--add-modules", VECTOR_MODULE] if java.has_vector_module else []),
        *chosen,
        f"-Dopensearch.path.home={home}",
        f"-Dopensearch.path.conf={data_dir / 'config'}",
        "-Dopensearch.distribution.type=tar",
        "-cp",
        str(home / "lib" / "*"),
        "org.opensearch.bootstrap.OpenSearch",
    ]


def prepare(data_dir: Path, port: int, member: Member | None = None, *, ml_commons: bool = False) -> None:
    """Write the configuration (`member`: of one node of several; `ml_commons`: with that plugin's settings) and set the
    last run's log aside, so that the log is this run's.

    Expects `FOLDERS` in `data_dir`. They are the node's own, so nothing is written through a link in them.
    """
    # A JSON string is a YAML string, whatever is in the path.
    paths = {name: json.dumps(str(data_dir / name), ensure_ascii=False) for name in ("data", "logs")}
    _write_new(
        data_dir / "config" / "opensearch.yml",
        CONFIG.format(port=port, **paths) + (member.config() if member else ALONE) + (ML_COMMONS if ml_commons else ""),
    )
    _write_new(data_dir / "config" / "log4j2.properties", LOGGING)
    _write_new(data_dir / "logs" / "console.log", "")
    with suppress(FileNotFoundError):
        os.replace(data_dir / "logs" / "opensearch.log", data_dir / "logs" / "previous.log")
    for leftover in (data_dir / "tmp").iterdir():
        shutil.rmtree(leftover) if leftover.is_dir() and not leftover.is_symlink() else leftover.unlink()


def _write_new(file: Path, text: str) -> None:
    file.unlink(missing_ok=True)
    with file.open("x", encoding="utf-8") as stream:
        stream.write(text)
    file.chmod(0o644)


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
