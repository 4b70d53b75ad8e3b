"""Where does the time of a test run go? By file, by fixture, and by what was waited for.

    python benchmarks/suite.py -n auto         # the whole suite, as `make test` runs it
    python benchmarks/suite.py tests/indexer   # any arguments of pytest

The same file is a pytest plugin: each process that runs tests writes a line for every phase of a test, every fixture
and everything that its main thread waited for. What is waited for within something else (a node's start sleeps) counts
once, as the outer one. "Processor" is what the process and the commands that it ran took of one core, nodes not
counted: a test that waits takes little of it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Any, TextIO

import pytest

LOG = "SHELFRANK_SUITE_LOG"


class Recorder:
    """Writes what this process did, a JSON line each."""

    def __init__(self, out: TextIO) -> None:
        self.out = out
        self.test = ""
        self.outer = False

    def write(self, **fields: object) -> None:
        self.out.write(json.dumps(fields) + "\n")
        self.out.flush()

    @contextmanager
    def measured(self, **fields: object) -> Iterator[None]:
        used, began = processor_seconds(), time.monotonic()
        try:
            yield
        finally:
            self.write(**fields, wall=time.monotonic() - began, processor=processor_seconds() - used)

    def waits(self, what: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """`function`, its time written down as spent on `what` when the main thread calls it, outermost only."""

        @wraps(function)
        def recorded(*given: Any, **named: Any) -> Any:
            if self.outer or threading.current_thread() is not threading.main_thread():
                return function(*given, **named)
            self.outer = True
            try:
                with self.measured(kind="wait", what=what, test=self.test):
                    return function(*given, **named)
            finally:
                self.outer = False

        return recorded

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[object]:
        self.test = item.nodeid
        with self.measured(kind="test", test=item.nodeid):
            return (yield)

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef: Any) -> Iterator[object]:
        with self.measured(kind="fixture", name=fixturedef.argname, test=self.test):
            return (yield)


def processor_seconds() -> float:
    """Seconds of one core that this process and its ended children have taken."""
    return sum(os.times()[:4])


def program(command: object) -> str:
    """What a command line runs, in a word."""
    words = [str(word) for word in command] if isinstance(command, list | tuple) else str(command).split()
    line = " ".join(words)
    if " pip " in f" {line} ":
        return "pip"
    name = Path(words[0]).name if words else ""
    return "python or shelfrank" if name.startswith(("python", "shelfrank")) else name


def pytest_configure(config: pytest.Config) -> None:
    if LOG not in os.environ:
        return
    worker = os.environ.get("PYTEST_XDIST_WORKER", "main")
    recorder = Recorder((Path(os.environ[LOG]) / f"{worker}.jsonl").open("a"))
    config.pluginmanager.register(recorder)

    import onnxruntime

    from indexer import node as nodes

    nodes.start = recorder.waits("node start", nodes.start)
    nodes.stop = recorder.waits("node stop", nodes.stop)
    onnxruntime.InferenceSession.__init__ = recorder.waits("model load", onnxruntime.InferenceSession.__init__)
    time.sleep = recorder.waits("sleep", time.sleep)
    threading.Event.wait = recorder.waits("event", threading.Event.wait)  # type: ignore[method-assign]
    threading.Thread.join = recorder.waits("thread join", threading.Thread.join)  # type: ignore[method-assign]
    wait = subprocess.Popen.wait
    communicate = subprocess.Popen.communicate

    def waited(process: Any, *given: Any, **named: Any) -> Any:
        return recorder.waits(f"process: {program(process.args)}", wait)(process, *given, **named)

    def communicated(process: Any, *given: Any, **named: Any) -> Any:
        return recorder.waits(f"process: {program(process.args)}", communicate)(process, *given, **named)

    subprocess.Popen.wait = waited  # type: ignore[method-assign, assignment]
    subprocess.Popen.communicate = communicated  # type: ignore[method-assign, assignment]


def table(title: str, rows: dict[str, list[dict[str, float]]], most: int = 40) -> None:
    print(f"\n| {title} | times | seconds | processor |\n|---|---|---|---|")
    seconds, processor = (
        {name: sum(row[what] for row in found) for name, found in rows.items()} for what in ("wall", "processor")
    )
    for name in sorted(seconds, key=seconds.__getitem__, reverse=True)[:most]:
        print(f"| {name} | {len(rows[name])} | {seconds[name]:.1f} | {processor[name]:.1f} |")
    times = sum(len(found) for found in rows.values())
    print(f"| all {len(rows)} | {times} | {sum(seconds.values()):.1f} | {sum(processor.values()):.1f} |")


def report(folder: Path) -> None:
    """Print the tables of a run whose lines lie in `folder`."""
    by_file, by_fixture, by_wait, by_test = (defaultdict[str, list[dict[str, float]]](list) for _ in range(4))
    for path in sorted(folder.glob("*.jsonl")):
        for line in path.read_text().splitlines():
            row = json.loads(line)
            match row["kind"]:
                case "test":
                    by_file[row["test"].split("::")[0]].append(row)
                    by_test[row["test"]].append(row)
                case "fixture":
                    by_fixture[row["name"]].append(row)
                case "wait":
                    by_wait[row["what"]].append(row)
    table("file", by_file)
    table("fixture (with the fixtures that it asks for)", by_fixture, 25)
    table("the main thread waited for", by_wait, 25)
    table("test", by_test, 20)


def main(given: list[str]) -> int:
    with tempfile.TemporaryDirectory(prefix="suite-") as folder:
        os.environ[LOG] = os.environ.get(LOG, folder)
        os.environ["PYTHONPATH"] = os.pathsep.join(
            [str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])]
        )
        began = time.monotonic()
        code = subprocess.run([sys.executable, "-m", "pytest", "-p", "suite", *given]).returncode
        print(f"\n{time.monotonic() - began:.0f} s on {os.cpu_count()} cores, exit {code}")
        report(Path(os.environ[LOG]))
    return code


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
