"""Does a test fail when the code is broken? Breaks one place after another in a copy of the tree, and looks.

    python benchmarks/mutants.py                     # every mutant of benchmarks/mutants.toml: a quarter of an hour
    python benchmarks/mutants.py --without-node      # those that tests without OpenSearch are to catch: a third of that
    python benchmarks/mutants.py --only "dead letters" --only lease
    python benchmarks/mutants.py --list

A mutant is a text that stands once in a file, what is put in its place, and the tests that are to notice (arguments of
pytest). First those tests run on the untouched copy and must pass, or there is nothing to show. Then each mutant by
itself: `caught` by the first test that fails, `survived` where all pass. `broken` is what shows nothing either way: a
test that cannot be collected, a fixture that fails, a run that takes longer than `--timeout`.

What survives needs a test. A mutant whose text has gone needs another place; `--list` says which. Exit 1 unless every
mutant was caught.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import click
import msgspec

ROOT = Path(__file__).parents[1]
PACKAGES = ("indexer", "ingest", "reranker")
STOP_S = 60.0  # for fixtures to end their nodes
_FIRST = re.compile(r"^(FAILED|ERROR) (\S+?(?:::.+?)?)(?: - .*)?$", re.MULTILINE)


@dataclass(frozen=True)
class Mutant:
    """One place to break: `old`, which stands once in `file`, becomes `new`, and one of `tests` is to fail.

    `node` says that these need a real OpenSearch; without it, tests that do are left out.
    """

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]
    node: bool = False

    def applied(self, source: str) -> str:
        """The file's text with the place broken. Raises ClickException where that cannot be done as described."""
        if (count := source.count(self.old)) != 1:
            raise click.ClickException(f"{self.name!r}: its text stands {count} times in {self.file}, expected once.")
        broken = source.replace(self.old, self.new)
        compile(broken, self.file, "exec")  # a mutant that is no Python would be caught by anything
        return broken


@dataclass(frozen=True)
class Verdict:
    """What became of a mutant; `seen` is the test that failed first, or what kept the tests from running."""

    kind: Literal["caught", "survived", "broken"]
    seen: str
    seconds: float

    @property
    def told(self) -> str:
        return self.seen if self.kind == "caught" else f"**{self.kind}** {self.seen}".rstrip()


class Copy:
    """The tree's files in a folder of their own, to be broken and mended."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        # First on the path of every process that a test starts, wherever it runs: else it would find this tree.
        self.environment = {**os.environ, "PYTHONPATH": str(folder), "COLUMNS": "250"}
        for name in ("PYTEST_ADDOPTS", "PYTEST_XDIST_WORKER"):
            self.environment.pop(name, None)
        listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        found = subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True).stdout
        for name in filter(None, found.split("\0")):
            if (ROOT / name).is_file():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, folder / name)
        self._check_imports()

    def _check_imports(self) -> None:
        """Raises ClickException where a package would come from elsewhere, the editable installation say."""
        probe = f"import {', '.join(PACKAGES)}; print(*({', '.join(f'{name}.__file__' for name in PACKAGES)},))"
        for place in (self.folder, Path("/")):
            command = [sys.executable, "-c", probe]
            done = subprocess.run(command, cwd=place, env=self.environment, capture_output=True, text=True, check=True)
            for file in done.stdout.split():
                if self.folder.resolve() not in Path(file).resolve().parents:
                    raise click.ClickException(f"In {place} Python imports {file}, which is not of the copy.")

    @contextmanager
    def broken(self, mutant: Mutant) -> Iterator[None]:
        """The copy with one place broken, for the time of a `with` block."""
        file = self.folder / mutant.file
        source = file.read_text("utf-8")
        file.write_text(mutant.applied(source), "utf-8")
        try:
            yield
        finally:
            file.write_text(source, "utf-8")

    def test(self, tests: Sequence[str], node: bool, timeout_s: float) -> Verdict:
        """Run tests until one fails."""
        chosen = [] if node else ["-m", "not node"]
        options = ["-x", "-q", "-p", "no:randomly", "-p", "no:cacheprovider", "-n", "0", "--no-header", "--tb=short"]
        began = time.monotonic()
        with tempfile.TemporaryFile("w+", encoding="utf-8") as out:
            process = subprocess.Popen(
                [sys.executable, "-m", "pytest", *options, *chosen, *tests],
                cwd=self.folder,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            timed_out = not _ended(process, timeout_s)
            out.seek(0)
            said = out.read()
        seconds = time.monotonic() - began
        if timed_out:
            return Verdict("broken", f"no end within {timeout_s:g} s", seconds)
        return verdict(process.returncode, said, seconds)


def _ended(process: subprocess.Popen[bytes], timeout_s: float) -> bool:
    """Whether it ended in time; what did not, and what Ctrl-C ends, is interrupted first, so that it ends its nodes."""
    try:
        process.wait(timeout_s)
        return True
    except subprocess.TimeoutExpired:
        return False
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def verdict(code: int, said: str, seconds: float) -> Verdict:
    """What a run of pytest shows, by its exit code and its summary."""
    if code == 0:
        return Verdict("survived", "", seconds)
    first = _FIRST.search(said.rpartition("short test summary info")[2])
    if code == 1 and first and first.group(1) == "FAILED":
        return Verdict("caught", first.group(2), seconds)
    last = next((line for line in reversed(said.splitlines()) if line.strip()), "it said nothing")
    return Verdict("broken", f"{first.group(0)[:200] if first else last} (exit {code})", seconds)


def read(path: Path) -> list[Mutant]:
    """The mutants of a TOML file. Raises ClickException where two have one name."""
    mutants = msgspec.toml.decode(path.read_bytes(), type=dict[str, list[Mutant]])["mutant"]
    names = [mutant.name for mutant in mutants]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise click.ClickException(f"Two mutants are called {twice[0]!r}.")
    return mutants


def row(*cells: str) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"


@click.command()
@click.option("--only", multiple=True, help="Mutants whose name or file has this in it; may be given several times.")
@click.option("--without-node", is_flag=True, help="Leave out those that need OpenSearch.")
@click.option("--list", "listed", is_flag=True, help="Show the mutants, check that each still applies, and end.")
@click.option(
    "--timeout", "timeout_s", default=600.0, show_default=True, help="Seconds that a mutant's tests may take."
)
def main(only: tuple[str, ...], without_node: bool, listed: bool, timeout_s: float) -> None:
    """Break places of the code one at a time and show which test notices."""
    mutants = [
        mutant
        for mutant in read(Path(__file__).with_suffix(".toml"))
        if (not only or any(part.casefold() in f"{mutant.name} {mutant.file}".casefold() for part in only))
        and not (without_node and mutant.node)
    ]
    if not mutants:
        raise click.UsageError("No mutant is called so; --list shows them.")
    for mutant in mutants:
        mutant.applied((ROOT / mutant.file).read_text("utf-8"))
        if listed:
            print(f"{mutant.name}\n    {mutant.file}, {'on a node' if mutant.node else 'without a node'}")
    if listed:
        return
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        copy = Copy(Path(folder))
        for node in sorted({mutant.node for mutant in mutants}):
            tests = dict.fromkeys(test for mutant in mutants if mutant.node == node for test in mutant.tests)
            untouched = copy.test(list(tests), node, timeout_s * len(tests))
            if untouched.kind != "survived":
                raise click.ClickException(f"The untouched tree does not pass its own tests: {untouched.seen}")
        print(row("mutant", "file", "caught by", "seconds") + "\n" + "|---|---|---|---|", flush=True)
        found = []
        for mutant in mutants:
            with copy.broken(mutant):
                found.append(copy.test(mutant.tests, mutant.node, timeout_s))
            print(row(mutant.name, f"`{mutant.file}`", found[-1].told, f"{found[-1].seconds:.0f}"), flush=True)
    caught = sum(each.kind == "caught" for each in found)
    print(f"\n{caught} of {len(found)} caught, {sum(each.seconds for each in found):.0f} s")
    sys.exit(caught < len(found))


if __name__ == "__main__":
    main()
