"""A process that changes the registry dies before any line that it runs; the same command again ends as if it had
not."""

from __future__ import annotations

import os
import random
import shutil
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from reranker import bundle as bundles
from reranker.bundle import Bundle
from reranker.registry import store
from reranker.registry.store import Registry
from tests.reranker.registry.small import small
from tests.workers import LONG, SEED

# Lines of each command that one run tries; a long one tries all.
POINTS = 20
Work = Callable[[Registry, list[Bundle]], object]
WORKS: dict[str, Work] = {
    "promote": lambda registry, made: registry.promote(made[3], {}),
    "promote what is kept already": lambda registry, made: registry.promote(made[0], {}),
    "promote in a damaged one's place": lambda registry, made: registry.promote(made[1], {}),
    "roll back": lambda registry, made: registry.rollback("reranker", made[0].id),
    "clean": lambda registry, made: registry.clean("reranker", 1),
}


def lines_until(at: int, work: Callable[[], object]) -> int:
    """Do it in a process that ends before line number `at` of those that the registry and the removal of folders run;
    how many it ran."""
    files, count = {store.__file__, shutil.__file__}, 0
    reader, writer = os.pipe()

    def trace(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal count
        if frame.f_code.co_filename not in files:
            return None
        if event == "line":
            count += 1
            if count == at:
                os._exit(9)
        return trace

    child = os.fork()
    if not child:
        sys.settrace(trace)
        try:
            work()
            sys.settrace(None)
            os.write(writer, str(count).encode())
        finally:
            os._exit(0)
    os.close(writer)
    os.waitpid(child, 0)
    with os.fdopen(reader) as told:
        return int(told.read() or at)


def prepared(folder: Path, made: list[Bundle], damaged: bool) -> Registry:
    """Three bundles promoted one after the other; the second may have lost a file since."""
    registry = Registry(folder)
    for bundle in made[:3]:
        registry.promote(bundle, {})
    for age, bundle in enumerate(reversed(made[:3])):
        aged(registry, bundle, 100.0 * (age + 1))
    if damaged:
        (registry.home / "reranker" / made[1].id / "model.onnx").unlink()
        aged(registry, made[1], 200.0)
    return registry


def aged(registry: Registry, bundle: Bundle, seconds: float) -> None:
    folder = registry.home / "reranker" / bundle.id
    at = time.time() - seconds
    os.utime(folder, (at, at))


def state(registry: Registry) -> dict[str, Any]:
    """All that matters of it: what is current, what was before, and whether each kept one is whole."""
    current = registry.current("reranker")
    assert current is not None
    kept = {each.name for each in (registry.home / "reranker").iterdir() if each.name not in ("current", ".lock")}
    whole = {name for name in kept if bundles.verify(registry.home / "reranker" / name, "reranker").id == name}
    return {"current": current.id, "previous": current.previous, "whole": whole}


@pytest.mark.parametrize("work", WORKS)
def test_a_death_before_any_line_is_made_good_by_the_same_command(tmp_path: Path, work: str) -> None:
    made = [small(tmp_path / f"made {number}", number) for number in range(4)]
    before = prepared(tmp_path / "before", made, damaged="damaged" in work).home

    def undisturbed(name: str) -> Registry:
        shutil.copytree(before, tmp_path / name)
        return Registry(tmp_path / name)

    registry = undisturbed("wanted")
    lines = lines_until(10**9, lambda: WORKS[work](registry, made))
    wanted = state(registry)
    chosen = range(1, lines + 1) if LONG else random.Random(f"{SEED} {work}").sample(range(1, lines + 1), POINTS)
    for at in chosen:
        registry = undisturbed(f"died {at}")
        assert lines_until(at, partial(WORKS[work], registry, made)) == at
        used = bundles.load("", "reranker", registry.home).id  # searches go on meanwhile
        assert used in (made[2].id, wanted["current"])
        WORKS[work](registry, made)
        assert state(registry) == wanted, f"line {at} of {lines}"
