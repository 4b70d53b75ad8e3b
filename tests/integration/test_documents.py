"""Every command and every Python example in the README and docs runs as it stands there, on the sample shop."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import ingest.sample_shop
from tests.paths import ROOT

pytestmark = pytest.mark.node

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
MAIN = (sys.executable, "-c", "from indexer.cli import main; main()")
# These start, stop or reconfigure things outside of the tests' own node; they have tests of their own.
ELSEWHERE = ("shelfrank node", "shelfrank train", "shelfrank connect --service", "shelfrank serve")


def blocks(language: str) -> list[tuple[str, str]]:
    """(page, block) of every fenced block in a language."""
    pattern = re.compile(rf"^```{language}\n(.*?)^```", re.MULTILINE | re.DOTALL)
    return [(page.name, block) for page in PAGES for block in pattern.findall(page.read_text("utf-8"))]


def commands() -> list[tuple[str, str]]:
    """(page, command) of every shelfrank command, continued lines joined and comments cut."""
    found = []
    for page, block in blocks("sh"):
        for line in block.replace("\\\n", " ").splitlines():
            command = line.split("  #")[0].strip()
            if command.startswith("shelfrank") and not command.startswith(ELSEWHERE):
                found.append((page, command))
    return found


@pytest.fixture(scope="module")
def newcomer(node: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """A folder with the sample shop's files under the names that the documents use, after `shelfrank demo`, and the
    catalogue that they call shop."""
    folder = tmp_path_factory.mktemp("newcomer")
    shop = Path(ingest.sample_shop.__file__).parent
    for name in ("catalog.csv", "catalog.toml", "queries.tsv", "qrels.tsv"):
        shutil.copy(shop / name, folder / name)
    (folder / "changes.jsonl").write_text(
        '{"op": "upsert", "version": 17, "product": {"id": "a1", "title": "Desk lamp", "price": 9.9}}\n'
        '{"op": "update", "version": 18, "id": "a1", "set": {"price": 8.5, "stock": 3}}\n'
        '{"op": "delete", "version": 19, "id": "a1"}\n',
        "utf-8",
    )
    environment = {**os.environ, "OPENSEARCH_URL": node, "PYTHONPATH": str(ROOT), "COLUMNS": "100"}
    demo = subprocess.run([*MAIN, "demo"], cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert demo.returncode == 0, demo.stderr
    assert "before: the first stage" in demo.stdout
    assert "held-out queries" in demo.stdout
    ingest_shop = [*MAIN, "ingest", "catalog.csv", "--mapping", "catalog.toml", "--index", "shop"]
    subprocess.run(ingest_shop, cwd=folder, env=environment, capture_output=True, check=True)
    return folder, environment


@pytest.mark.parametrize(("page", "command"), commands())
def test_the_commands_that_documents_show_run(page: str, command: str, newcomer: tuple[Path, dict[str, str]]) -> None:
    folder, environment = newcomer
    arguments = shlex.split(command)[1:]
    done = subprocess.run([*MAIN, *arguments], cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{page}: {command}\n{done.stderr}"


@pytest.mark.parametrize(("page", "block"), blocks("python"))
def test_the_python_that_documents_show_runs(page: str, block: str, newcomer: tuple[Path, dict[str, str]]) -> None:
    folder, environment = newcomer
    done = subprocess.run(
        [sys.executable, "-c", block], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{page}:\n{done.stderr}"


def test_the_documents_show_something() -> None:
    assert len(commands()) >= 4
    assert len(blocks("python")) >= 2
