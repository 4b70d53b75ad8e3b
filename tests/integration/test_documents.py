"""Every command and every Python example in the README and docs runs as it stands there, on the sample shop."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
from click.testing import CliRunner
from opensearchpy import OpenSearch

from indexer.cli import shelfrank
from indexer.settings import Settings
from ingest.job import Job, Options
from ingest.schema import load_mapping
from ingest.sources import open_catalogue
from reranker.encoder import Encoder
from reranker.scoring import CrossEncoder
from tests.paths import ROOT, SAMPLE_SHOP
from tests.shared import KnownVectors, one_at_a_time

pytestmark = pytest.mark.node

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
MAIN = (sys.executable, "-c", "from indexer.cli import main; main()")
# These start, stop or reconfigure things outside of the tests' own node; they have tests of their own.
ELSEWHERE = ("shelfrank node", "shelfrank train", "shelfrank connect --service", "shelfrank serve")
# Every so many of the sample shop's queries: what is shown is that a command runs, not what it measures.
EVERY = {"train": 5, "dev": 2, "test": 4}


def blocks(language: str) -> list[tuple[str, str]]:
    """(page, block) of every fenced block in a language."""
    pattern = re.compile(rf"^```{language}\n(.*?)^```", re.MULTILINE | re.DOTALL)
    return [(page.name, block) for page in PAGES for block in pattern.findall(page.read_text("utf-8"))]


def commands() -> list[tuple[str, int, str]]:
    """(page, place on it, command) of every shelfrank command, continued lines joined and comments cut."""
    found: list[tuple[str, int, str]] = []
    for page, block in blocks("sh"):
        for line in block.replace("\\\n", " ").splitlines():
            command = line.split("  #")[0].strip()
            if command.startswith("shelfrank") and not command.startswith(ELSEWHERE):
                found.append((page, sum(each[0] == page for each in found), command))
    return found


@pytest.fixture(scope="module")
def newcomer(
    node: str,
    node_settings: Settings,
    client: OpenSearch,
    encoder: Encoder,
    reranker: CrossEncoder,
    together: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """A folder with the sample shop's files under the names that the documents use, after `shelfrank demo`, and the
    catalogue that they call shop."""
    folder = tmp_path_factory.mktemp("newcomer")
    for name in ("catalog.csv", "catalog.toml", "qrels.tsv"):
        shutil.copy(SAMPLE_SHOP / name, folder / name)
    header, *queries = (SAMPLE_SHOP / "queries.tsv").read_text("utf-8").splitlines()
    kept = [line for split, every in EVERY.items() for line in [q for q in queries if q.endswith(split)][::every]]
    (folder / "queries.tsv").write_text("\n".join([header, *kept, ""]), "utf-8")
    (folder / "changes.jsonl").write_text(
        '{"op": "upsert", "version": 17, "product": {"id": "a1", "title": "Desk lamp", "price": 9.9}}\n'
        '{"op": "update", "version": 18, "id": "a1", "set": {"price": 8.5, "stock": 3}}\n'
        '{"op": "delete", "version": 19, "id": "a1"}\n',
        "utf-8",
    )
    demo = subprocess.run(
        [*MAIN, "demo"], cwd=folder, env=environment(node), capture_output=True, text=True, check=False
    )
    assert demo.returncode == 0, demo.stderr
    assert "before: the first stage" in demo.stdout
    assert "held-out queries" in demo.stdout
    catalogue = open_catalogue(folder / "catalog.csv", load_mapping(str(folder / "catalog.toml")))
    with one_at_a_time(together), KnownVectors(encoder, together / "shop.npz") as known:
        Job(client, catalogue, known, reranker, node_settings, Options("shop", folder / "rejected.jsonl")).run()
    return folder


def environment(node: str) -> dict[str, str]:
    return {**os.environ, "OPENSEARCH_URL": node, "PYTHONPATH": str(ROOT), "COLUMNS": "100"}


@pytest.fixture(scope="module")
def outcomes(newcomer: Path, node: str) -> Callable[[str], list[str]]:
    """What was wrong with each command of a page, nothing where it ran. A page is read from top to bottom, once: a
    command may need what an earlier one left."""

    def run(command: str) -> str:
        arguments = shlex.split(command)[1:]
        if "--workers" in arguments:  # its workers outlive no process
            done = subprocess.run(
                [*MAIN, *arguments], cwd=newcomer, env=environment(node), capture_output=True, text=True, check=False
            )
            return done.stderr if done.returncode else ""
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(newcomer)
            result = CliRunner(env={"OPENSEARCH_URL": node, "COLUMNS": "100"}).invoke(
                shelfrank, arguments, standalone_mode=False
            )
        # As the console's `main`, where no error is an exit code of 0.
        code = result.return_value if isinstance(result.return_value, int) else result.exit_code
        return f"{result.output}\n{result.exception!r}" if code or result.exception else ""

    @cache
    def of(page: str) -> list[str]:
        return [run(command) for each, _, command in commands() if each == page]

    return of


@pytest.mark.parametrize(("page", "place", "command"), commands())
def test_the_commands_that_documents_show_run(
    page: str, place: int, command: str, outcomes: Callable[[str], list[str]]
) -> None:
    wrong = outcomes(page)[place]
    assert not wrong, f"{page}: {command}\n{wrong}"


@pytest.mark.parametrize(("page", "block"), blocks("python"))
def test_the_python_that_documents_show_runs(
    page: str, block: str, newcomer: Path, node: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(newcomer)
    monkeypatch.setenv("OPENSEARCH_URL", node)
    exec(compile(block, page, "exec"), {"__name__": "__main__"})


def test_the_documents_show_something() -> None:
    assert len(commands()) >= 4
    assert len(blocks("python")) >= 2
