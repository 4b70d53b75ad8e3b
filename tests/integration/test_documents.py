"""Every command and every Python example in the README and docs runs as it stands there, on the sample shop."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest

from indexer.settings import Settings
from reranker.cache import Cache
from reranker.encoder import Encoder
from reranker.scoring import CrossEncoder
from tests.commands import Done, run
from tests.paths import ROOT, SAMPLE_SHOP
from tests.shared import KnownVectors, ask_little, write_judged

pytestmark = pytest.mark.node

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
MAIN = (sys.executable, "-c", "from indexer.cli import main; main()")
# These start, stop or reconfigure things outside of the tests' own node; they have tests of their own.
ELSEWHERE = ("shelfrank node", "shelfrank train", "shelfrank connect --service", "shelfrank serve")


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
def loaded_models(loaded: Settings, known_vectors: KnownVectors) -> Iterator[None]:
    """Commands get the same models, which remember: each of them asks for much that another one has asked for."""
    encoder, reranker = Encoder.load(loaded.models), CrossEncoder.load(loaded.models)
    encoder.cache, reranker.cache = Cache(1_000), Cache(100_000)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(encoder, "embed_products", known_vectors.embed_products)
        patch.setattr(Encoder, "load", classmethod(lambda *_: encoder))
        patch.setattr(CrossEncoder, "load", classmethod(lambda *_: reranker))
        ask_little(patch)
        yield


@pytest.fixture(scope="module")
def newcomer(node: str, loaded_models: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sample shop's files under the names that the documents use, after `shelfrank demo`, and the
    catalogue that they call shop."""
    folder = tmp_path_factory.mktemp("newcomer")
    for name in ("catalog.csv", "catalog.toml"):
        shutil.copy(SAMPLE_SHOP / name, folder / name)
    write_judged(folder)
    (folder / "changes.jsonl").write_text(
        '{"op": "upsert", "version": 17, "product": {"id": "a1", "title": "Desk lamp", "price": 9.9}}\n'
        '{"op": "update", "version": 18, "id": "a1", "set": {"price": 8.5, "stock": 3}}\n'
        '{"op": "delete", "version": 19, "id": "a1"}\n',
        "utf-8",
    )
    demo = run("demo", folder=folder, OPENSEARCH_URL=node, COLUMNS="100")
    assert demo.returncode == 0, demo.stderr
    assert "before: the first stage" in demo.stdout
    assert "held-out queries" in demo.stdout
    ingest_shop = ["ingest", "catalog.csv", "--mapping", "catalog.toml", "--index", "shop"]
    shop = run(*ingest_shop, folder=folder, OPENSEARCH_URL=node)
    assert shop.returncode == 0, shop.stderr
    return folder


@pytest.fixture(scope="module")
def outcomes(newcomer: Path, node: str) -> Callable[[str], list[str]]:
    """What was wrong with each command of a page, nothing where it ran. A page is read from top to bottom, once: a
    command may need what an earlier one left."""
    environment = {**os.environ, "OPENSEARCH_URL": node, "PYTHONPATH": str(ROOT), "COLUMNS": "100"}

    def problem(line: str) -> str:
        arguments = shlex.split(line)[1:]
        done: Done | subprocess.CompletedProcess[str] = (
            subprocess.run(
                [*MAIN, *arguments], cwd=newcomer, env=environment, capture_output=True, text=True, check=False
            )
            if "--workers" in arguments  # those would stay with this process
            else run(*arguments, folder=newcomer, OPENSEARCH_URL=node, COLUMNS="100")
        )
        return f"exit code {done.returncode}\n{done.stderr}" if done.returncode else ""

    @cache
    def of(page: str) -> list[str]:
        return [problem(line) for each, _, line in commands() if each == page]

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
