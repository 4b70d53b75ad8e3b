"""Every room depends only on those below it, and the tests of a module are where its path says."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.paths import ROOT
from tests.workers import LONGEST

# Package -> the packages of ours that it may import.
BELOW = {"indexer": {"indexer"}, "reranker": {"indexer", "reranker"}, "ingest": {"indexer", "reranker", "ingest"}}
TOP_LEVEL = {"indexer", "ingest", "reranker", "tests", "deploy", "benchmarks", "docs"}
# Tests of what no single package is: several at work on a real node, and what operators are given.
ACROSS = {"integration", "deploy"}


def modules(folder: Path) -> Iterator[Path]:
    return (path for path in folder.rglob("*.py") if "__pycache__" not in path.parts)


def imported(source: str, package: str) -> set[str]:
    """Top-level names that a module of `package` (dotted) imports, wherever in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(package.rsplit(".", node.level - 1)[0] if node.level else str(node.module))
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if called in ("import_module", "__import__"):
                names.add(str(node.args[0].value))
    return {name.split(".")[0] for name in names}


@pytest.mark.parametrize("package", BELOW)
def test_no_import_goes_up(package: str) -> None:
    upwards = {
        str(path.relative_to(ROOT)): sorted(found)
        for path in modules(ROOT / package)
        if (
            found := imported(path.read_text("utf-8"), ".".join(path.relative_to(ROOT).parent.parts))
            & BELOW.keys() - BELOW[package]
        )
    }
    assert upwards == {}


@pytest.mark.parametrize(
    "source",
    [
        "import ingest.job",
        "def late():\n    from ingest import job",
        "from importlib import import_module\nimport_module('ingest.job')",
        "import importlib\nimportlib.import_module('ingest.job')",
        "__import__('ingest')",
    ],
)
def test_an_import_is_seen_wherever_it_stands(source: str) -> None:
    assert "ingest" in imported(source, "reranker.training")


def test_tests_import_nothing_that_ships_depends_on() -> None:
    for package in BELOW:
        for path in modules(ROOT / package):
            names = imported(path.read_text("utf-8"), package)
            assert not names & {"tests", "benchmarks", "pytest", "hypothesis"}, path


def test_the_top_level_is_the_three_packages_and_the_usual_folders() -> None:
    kept = {path.name for path in ROOT.iterdir() if path.is_dir() and not path.name.startswith(".")}
    assert kept - {"runs", "build", "dist"} == TOP_LEVEL


def test_tests_lie_in_the_folders_that_their_modules_lie_in() -> None:
    folders = {path.parent.relative_to(ROOT / "tests") for path in modules(ROOT / "tests") if "test_" in path.name}
    strange = {
        str(each) for each in folders if each.parts and each.parts[0] not in ACROSS and not (ROOT / each).is_dir()
    }
    assert strange == set()


def test_a_test_that_is_named_like_a_module_lies_where_that_module_does() -> None:
    """`reranker/evaluation/metrics.py` is tested by `tests/reranker/evaluation/test_metrics.py`."""
    places: dict[tuple[str, str], set[Path]] = {}
    for package in BELOW:
        for path in modules(ROOT / package):
            places.setdefault((package, path.stem), set()).add(path.parent.relative_to(ROOT))
    for path in modules(ROOT / "tests"):
        folder = path.parent.relative_to(ROOT / "tests")
        if path.name.startswith("test_") and folder.parts and folder.parts[0] in BELOW:
            named = places.get((folder.parts[0], path.stem.removeprefix("test_")))
            assert not named or folder in named, f"{path.relative_to(ROOT)} is named like a module of {named}"


def test_every_folder_of_modules_has_tests() -> None:
    folders = {path.parent.relative_to(ROOT) for package in BELOW for path in modules(ROOT / package)}
    without = {str(each) for each in folders if not any((ROOT / "tests" / each).glob("test_*.py"))}
    # Reindexing is nothing without a cluster.
    assert without == {"ingest/reindex"}
    assert (ROOT / "tests/integration/test_reindex.py").is_file()


def test_files_that_are_run_first_exist() -> None:
    assert [name for name in LONGEST if not (ROOT / "tests" / name).is_file()] == []
