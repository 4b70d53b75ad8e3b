"""The suite's own plugin: what it says of tests that a machine cannot run, the order of files, how many processes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests import workers
from tests.paths import ROOT


def run(folder: Path, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """pytest with the plugin alone, in a folder of its own."""
    (folder / "pytest.ini").write_text("[pytest]\n")
    command = [sys.executable, "-m", "pytest", "-p", "tests.workers", *arguments]
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "SHELFRANK"))}
    environment = {**kept, "PYTHONPATH": str(ROOT), **environ}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def test_what_was_left_out_is_named_with_its_cure_before_pytests_own_last_lines(tmp_path: Path) -> None:
    (tmp_path / "test_some.py").write_text(
        "import pytest\n"
        "@pytest.mark.parametrize('at', range(3))\n"
        "def test_page(at): pytest.skip('there is no chromium; `make test-tools` brings it')\n"
        "@pytest.mark.skipif(True, reason='there is no npm')\n"
        "def test_node(): pass\n"
        "def test_fine(): pass\n"
    )
    done = run(tmp_path)
    *_, last = done.stdout.splitlines()
    told = done.stdout.partition("not tested on this machine")[2].splitlines()[1:3]
    assert told == ["3 tests: there is no chromium; `make test-tools` brings it", "1 tests: there is no npm"]
    assert "1 passed, 4 skipped" in last
    assert done.returncode == 0


def test_a_run_that_left_nothing_out_says_nothing_of_it(tmp_path: Path) -> None:
    (tmp_path / "test_some.py").write_text("def test_fine(): pass\n")
    assert "not tested" not in run(tmp_path).stdout


def test_the_seed_of_the_day_is_shown_and_can_be_chosen(tmp_path: Path) -> None:
    (tmp_path / "test_some.py").write_text(
        "from tests.workers import SEED\ndef test_seed(): assert SEED == 17\n", "utf-8"
    )
    done = run(tmp_path, SHELFRANK_TESTS_SEED="17")
    assert "SHELFRANK_TESTS_SEED=17 draws the same again" in done.stdout
    assert done.returncode == 0


@pytest.mark.parametrize(
    ("cores", "memory_mb", "expected"), [(2, 24_000, 3), (8, 64_000, 9), (8, 16_000, 2), (1, 2_000, 1)]
)
def test_processes_are_one_more_than_cores_where_memory_allows(
    cores: int, memory_mb: int, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)))
    monkeypatch.setattr(os, "sysconf", {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": memory_mb * 256}.__getitem__)
    assert workers.pytest_xdist_auto_num_workers() == expected
