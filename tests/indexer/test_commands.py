"""`shelfrank node` and `shelfrank config` as a shell sees them: output, exit codes, nothing but JSON with --json."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from indexer import node as nodes
from indexer import settings
from tests.waiting import until

pytestmark = pytest.mark.node

SHELFRANK = (sys.executable, "-c", "from indexer.cli import main; main()")


def environment(node: settings.Node, **others: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("OPENSEARCH_")}
    return kept | {"SHELFRANK_NODE_DATA_DIR": node.data_dir, "SHELFRANK_NODE_HEAP_MB": "512"} | others


def run(node: settings.Node, *arguments: str, **others: str) -> subprocess.CompletedProcess[str]:
    command = [*SHELFRANK, *arguments]
    return subprocess.run(command, env=environment(node, **others), capture_output=True, text=True, timeout=120)


def test_a_node_is_started_shown_and_stopped_by_commands(own_node: settings.Node, tmp_path: Path) -> None:
    stopped = run(own_node, "node", "status")
    assert (stopped.returncode, stopped.stdout.startswith("Stopped. Start it with")) == (1, True)

    started = run(own_node, "node", "start", "--json")
    assert started.returncode == 0, started.stderr
    info = json.loads(started.stdout)
    assert info["started_now"] is True
    assert info["url"] == f"http://127.0.0.1:{info['port']}"
    assert f"{info['url']} (was running" in run(own_node, "node", "start").stdout

    shown = run(own_node, "node", "status", "--json")
    assert (shown.returncode, json.loads(shown.stdout)["state"]) == (0, "running")
    assert f"Running at {info['url']}: OpenSearch 3.6.0" in run(own_node, "node", "status").stdout

    lines = json.loads(run(own_node, "node", "logs", "-n", "2", "--json").stdout)["lines"]
    assert len(lines) == 2
    plain = run(own_node, "node", "logs", "-n", "2").stdout.splitlines()
    assert len(plain) == 2
    assert {*lines, *plain} <= set(nodes.logs(own_node, 100))  # which may have grown between the two
    assert_follow_shows_what_comes_later(own_node, tmp_path / "shown")

    assert json.loads(run(own_node, "node", "stop", "--json").stdout) == {"stopped": True}
    again = run(own_node, "node", "stop")
    assert (again.returncode, again.stdout) == (0, "It was not running.\n")


def assert_follow_shows_what_comes_later(node: settings.Node, out: Path) -> None:
    command = [*SHELFRANK, "node", "logs", "-n", "0", "--follow"]
    with out.open("w", encoding="utf-8") as shown:
        process = subprocess.Popen(command, env=environment(node), stdout=shown, stderr=subprocess.PIPE, text=True)
    written = 0
    with (nodes.data_dir(node) / "logs" / "opensearch.log").open("a", encoding="utf-8") as log:

        def seen() -> str:
            nonlocal written
            log.write(f"之后的一行 {written}\n")
            log.flush()
            written += 1
            return out.read_text("utf-8")

        until(seen, "no line was shown")
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=20)
    lines = [line for line in out.read_text("utf-8").splitlines() if line.startswith("之后的一行")]
    first = int(lines[0].split()[-1])
    assert first > 0, "a line that was there before"
    assert lines == [f"之后的一行 {number}" for number in range(first, first + len(lines))]
    assert process.returncode == 130
    assert "Traceback" not in err


def test_a_node_that_cannot_start_exits_with_1_and_a_sentence(own_node: settings.Node) -> None:
    (Path(own_node.data_dir) / "letters.txt").touch()
    failed = run(own_node, "node", "start", "--json")
    assert (failed.returncode, failed.stdout) == (1, "")
    assert failed.stderr.startswith("Error: ")
    assert "Traceback" not in failed.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ("node", "start", "--port", "99999"),
        ("node", "logs", "--lines", "-3"),
        ("node", "logs", "--follow", "--json"),
        ("node", "restart"),
    ],
)
def test_wrong_use_exits_with_2(own_node: settings.Node, arguments: tuple[str, ...]) -> None:
    assert run(own_node, *arguments).returncode == 2


def test_nothing_is_started_beside_a_cluster_that_the_user_named(own_node: settings.Node) -> None:
    refused = run(own_node, "node", "start", OPENSEARCH_URL="http://shop:9200")
    assert refused.returncode == 2
    assert "OPENSEARCH_URL is http://shop:9200" in refused.stderr
    assert nodes.status(own_node).state == "stopped"


def test_config_shows_every_setting_with_its_variable_and_no_password(own_node: settings.Node) -> None:
    secrets = {"OPENSEARCH_URL": "https://li:secret@shop:9200"}
    table = run(own_node, "config", **secrets)
    assert "secret" not in table.stdout
    assert "OPENSEARCH_PASSWORD" in table.stdout
    document = json.loads(run(own_node, "config", "--json", **secrets).stdout)
    assert document["cluster"]["url"] == "https://shop:9200"
    assert document["cluster"]["password"] == "(set)"
    assert document["node"]["heap_mb"] == 512


@pytest.mark.parametrize("command", ["start", "stop", "status", "logs"])
def test_every_command_has_an_example_in_its_help(own_node: settings.Node, command: str) -> None:
    assert f"Example:\n    shelfrank node {command}" in run(own_node, "node", command, "--help").stdout
