"""The real node: start, stop, death, and what keeps it from starting."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from pathlib import Path

import msgspec
import pytest

from indexer import client as clusters
from indexer import node as nodes
from indexer import settings
from indexer.embedded import memory
from indexer.embedded import state as states
from indexer.errors import NodeError

pytestmark = pytest.mark.node


def changed(node: settings.Node, **changes: int | str) -> settings.Node:
    return msgspec.structs.replace(node, **changes)


def kill(pid: int, folder: Path) -> None:
    state = states.read(folder)
    assert state
    assert state.pid == pid
    assert states.signal_and_wait(state, folder, signal.SIGKILL, 20)


def test_a_node_lives_through_start_death_and_restart_with_its_data(
    own_node: settings.Node, capsys: pytest.CaptureFixture[str]
) -> None:
    assert nodes.status(own_node).state == "stopped"
    assert nodes.stop(own_node) is False

    first = nodes.start(own_node)
    assert first.started_now
    again = nodes.start(own_node)
    assert (again.pid, again.url, again.started_now) == (first.pid, first.url, False)
    assert nodes.status(own_node).state == "running"
    assert nodes.status(own_node).health in ("green", "yellow")
    assert any("started" in line for line in nodes.logs(own_node, 20))
    with pytest.raises(NodeError, match=rf"already runs on port {first.port}, not 1234"):
        nodes.start(changed(own_node, port=1234))

    loaded = settings.Settings(node=own_node)
    clusters.connect(loaded).index(index="shop", id="1", body={"title": "安静的键盘 quiet keyboard"})
    assert "embedded OpenSearch node" not in capsys.readouterr().err, "a running node is no news"

    kill(first.pid, first.data_dir)
    assert nodes.status(own_node).state == "died"
    client = clusters.connect(loaded)
    told = capsys.readouterr().err
    assert f"The OpenSearch node of {first.data_dir} died. Its last log lines:\n" in told
    assert told.endswith("It is started again.\n")
    assert nodes.status(own_node).url == first.url, "clients keep their address"
    client.indices.refresh(index="shop")
    assert client.search(index="shop", body={"query": {"match": {"title": "键盘"}}})["hits"]["total"]["value"] == 1

    assert_that_a_second_node_finds_the_data_in_use(own_node, first.data_dir)
    assert nodes.stop(own_node) is True
    assert nodes.status(own_node).state == "stopped"
    assert nodes.logs(own_node, 20), "the log of the last run can still be read"


def assert_that_a_second_node_finds_the_data_in_use(node: settings.Node, folder: Path) -> None:
    state = states.read(folder)
    assert state
    states.forget(folder)
    try:
        with pytest.raises(NodeError, match="Another node uses these data"):
            nodes.start(node)
    finally:
        states.write(folder, state)


def test_a_process_that_got_the_number_of_a_dead_node_is_left_alone(own_node: settings.Node) -> None:
    folder = nodes.data_dir(own_node)
    other = subprocess.Popen(["sleep", "60"])
    try:
        states.write(folder, states.State(other.pid, 9, time.time(), 512, "3.6.0"))
        assert nodes.status(own_node).state == "died"
        assert nodes.stop(own_node) is False
        assert nodes.status(own_node).state == "stopped"
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()


def test_a_state_file_that_was_cut_off_counts_as_stopped(own_node: settings.Node) -> None:
    (nodes.data_dir(own_node) / states.FILENAME).write_bytes(b'{"pid": 12')
    assert nodes.status(own_node).state == "stopped"


def test_a_port_that_is_taken_is_told_before_anything_else(own_node: settings.Node, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(NodeError, match=rf"Port {port} on 127\.0\.0\.1 is taken.*--port"):
            nodes.start(changed(own_node, port=port, cache_dir=str(tmp_path)))
    assert not any(tmp_path.rglob("*.jar"))


def test_a_node_that_dies_at_its_start_shows_its_last_log_lines(own_node: settings.Node) -> None:
    folder = nodes.data_dir(own_node)
    (folder / ".shelfrank-node").touch()
    (folder / "data").mkdir()
    (folder / "data" / "nodes").write_text("a file where the node wants a folder")
    with pytest.raises(NodeError, match=r"(?s)died\. Its last log lines:\n.*data/nodes") as raised:
        nodes.start(own_node)
    assert "\n  \tat " not in str(raised.value), "no stack frames"
    assert nodes.status(own_node).state == "stopped"


@pytest.mark.parametrize(
    ("heap_mb", "message"),
    [
        (64, "64 MB is too small for OpenSearch.*SHELFRANK_NODE_HEAP_MB"),
        (10_000_000, r"needs about 10000300 MB of memory.* MB are free.*SHELFRANK_NODE_HEAP_MB"),
    ],
)
def test_a_heap_that_cannot_be_is_refused(own_node: settings.Node, heap_mb: int, message: str) -> None:
    with pytest.raises(NodeError, match=message):
        nodes.start(changed(own_node, heap_mb=heap_mb))


def test_a_heap_that_the_jvm_cannot_get_is_explained(own_node: settings.Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "free_mb", lambda: None)
    with pytest.raises(NodeError, match=r"(?s)not enough memory: lower SHELFRANK_NODE_HEAP_MB.*last log lines"):
        nodes.start(changed(own_node, heap_mb=100_000_000))


def test_a_folder_with_other_things_in_it_is_not_taken_over(own_node: settings.Node) -> None:
    folder = nodes.data_dir(own_node)
    (folder / "letters.txt").write_text("mine")
    with pytest.raises(NodeError, match="is not empty and was not made by shelfrank"):
        nodes.start(own_node)
    assert (folder / "letters.txt").stat().st_uid == os.geteuid()


def test_folders_are_the_systems_own_for_users_and_for_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert nodes.cache_dir(settings.Node()) == Path("/var/cache/shelfrank")
    assert nodes.data_dir(settings.Node()) == Path("/var/lib/shelfrank/node")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setenv("XDG_CACHE_HOME", "/home/li/.cache")
    monkeypatch.setenv("XDG_DATA_HOME", "/home/li/.local/share")
    assert nodes.cache_dir(settings.Node()) == Path("/home/li/.cache/shelfrank")
    assert nodes.data_dir(settings.Node()) == Path("/home/li/.local/share/shelfrank/node")


def test_a_data_folder_that_is_a_file_is_told(own_node: settings.Node) -> None:
    file = nodes.data_dir(own_node) / "file"
    file.touch()
    with pytest.raises(NodeError, match=r"cannot be written: .*SHELFRANK_NODE_DATA_DIR"):
        nodes.start(changed(own_node, data_dir=str(file)))
