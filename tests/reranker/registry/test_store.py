"""The registry on disk: whole or not at all, one current bundle, and a way back."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from indexer.errors import BundleError, UsageError
from reranker import bundle as bundles
from reranker.bundle import Bundle
from reranker.registry import store
from reranker.registry.store import Registry
from tests.reranker.registry.small import small

PROGRAM = """
import os, sys
from pathlib import Path
from reranker import bundle
from reranker.registry import store
home, folder, die = sys.argv[1:]
if die:
    store._sync = lambda folder: os._exit(9)  # dies like a killed process, with the files copied and nothing renamed
store.Registry(home).promote(bundle.verify(Path(folder), "reranker"), {})
"""


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(tmp_path / "My models 模型库")


@pytest.fixture
def made(tmp_path: Path) -> list[Bundle]:
    """Three rerankers that differ in their weights, which are far too small to load."""
    return [small(tmp_path / f"made {number}", number) for number in (1, 2, 3)]


def used(registry: Registry) -> Bundle:
    """What a search would use now."""
    return bundles.load("", "reranker", registry.home)


def unfinished(registry: Registry) -> list[str]:
    return sorted(path.name for path in (registry.home / "reranker").iterdir() if path.name.startswith((".u", ".r")))


def test_what_ships_is_used_until_something_is_promoted(registry: Registry, made: list[Bundle]) -> None:
    assert used(registry).origin == "shipped"
    registry.promote(made[0], {"ndcg@10": 0.7})
    assert (used(registry).id, used(registry).origin) == (made[0].id, "registry")
    assert bundles.load(made[1].folder, "reranker", registry.home).origin == "setting"
    assert bundles.load("", "encoder", registry.home).origin == "shipped"


def test_a_promoted_bundle_outlives_the_folder_that_it_was_made_in(registry: Registry, made: list[Bundle]) -> None:
    (made[0].folder / "notes.txt").write_text("no part of the bundle", "utf-8")
    registry.promote(made[0], {})
    shutil.rmtree(made[0].folder)
    assert used(registry).description == made[0].description
    assert not (used(registry).folder / "notes.txt").exists()


def test_rollback_goes_back_one_by_one_to_what_ships(registry: Registry, made: list[Bundle]) -> None:
    for bundle in made:
        registry.promote(bundle, {})
    assert registry.rollback("reranker").id == made[1].id
    assert registry.rollback("reranker").id == made[0].id
    assert registry.rollback("reranker").id == "shipped"
    assert used(registry).origin == "shipped"
    with pytest.raises(UsageError, match="nothing to go back to"):
        registry.rollback("reranker")


def test_rollback_to_an_id_skips_those_between(registry: Registry, made: list[Bundle]) -> None:
    for bundle in made:
        registry.promote(bundle, {})
    now = registry.rollback("reranker", made[0].id)
    assert (now.id, now.previous) == (made[0].id, ("shipped",))
    assert registry.rollback("reranker", bundles.load("", "reranker", "/nowhere").id).id == "shipped"
    with pytest.raises(BundleError, match="holds no bundle 'small-0'"):
        registry.rollback("reranker", "small-0")


def test_the_log_says_what_was_done_by_which_figures_and_why(registry: Registry, made: list[Bundle]) -> None:
    registry.promote(made[0], {"ndcg@10": 0.7})
    registry.promote(made[1], {}, "季节更换", ["quality"])
    registry.rollback("reranker")
    now = registry.current("reranker")
    assert now is not None
    assert [event.action for event in now.log] == ["rolled back", "promoted", "promoted"]
    assert (now.log[1].forced, now.log[1].failed) == ("季节更换", ("quality",))
    assert now.log[2].figures == {"ndcg@10": 0.7}
    assert "+00:00" in now.log[0].at


def test_promoting_the_same_bundle_twice_changes_nothing_but_its_card(
    registry: Registry, made: list[Bundle], tmp_path: Path
) -> None:
    registry.promote(made[0], {})
    registry.promote(made[0], {})
    now = registry.current("reranker")
    assert now is not None
    assert now.previous == ("shipped",)
    measured_again = small(tmp_path / "again", 1, blend=0.9)
    assert measured_again.id == made[0].id
    registry.promote(measured_again, {})
    assert used(registry).description.blend == 0.9
    assert unfinished(registry) == []


def test_a_damaged_current_bundle_is_told_and_can_be_left(registry: Registry, made: list[Bundle]) -> None:
    registry.promote(made[0], {})
    registry.promote(made[1], {})
    (used(registry).folder / "model.onnx").write_bytes(b"weights X")
    with pytest.raises(BundleError, match=r"is corrupt.*`shelfrank models rollback --kind reranker`"):
        used(registry)
    registry.rollback("reranker")
    assert used(registry).id == made[0].id
    with pytest.raises(BundleError, match="is corrupt"):
        registry.rollback("reranker", made[1].id)
    registry.promote(made[1], {})
    assert used(registry).id == made[1].id


def test_a_current_file_that_cannot_be_read_stops_searches_and_can_be_written_again(
    registry: Registry, made: list[Bundle]
) -> None:
    registry.promote(made[0], {})
    (registry.home / "reranker" / "current").write_text('{"id": ', "utf-8")
    with pytest.raises(BundleError, match=r"current cannot be read: .*rollback --kind reranker --to ID"):
        used(registry)
    assert [(entry.id, entry.current) for entry in registry.entries("reranker")][1:] == [(made[0].id, False)]
    assert "cannot be read" in registry.faults("reranker")[0]
    with pytest.raises(BundleError, match="cannot be read"):
        registry.clean("reranker", keep=0)
    registry.rollback("reranker", made[0].id)
    assert used(registry).id == made[0].id
    assert (registry.home / "reranker" / "current.broken").read_text("utf-8") == '{"id": '


def test_current_leads_to_no_other_folder(registry: Registry, made: list[Bundle]) -> None:
    registry.promote(made[0], {})
    (registry.home / "reranker" / "current").write_text('{"id": "../../elsewhere"}', "utf-8")
    with pytest.raises(BundleError, match="outside of the registry"):
        used(registry)


def test_a_process_that_dies_while_it_copies_leaves_what_was_current(registry: Registry, made: list[Bundle]) -> None:
    registry.promote(made[0], {})
    arguments = [str(registry.home), str(made[1].folder), "die"]
    done = subprocess.run([sys.executable, "-c", PROGRAM, *arguments], check=False)
    assert done.returncode == 9
    assert used(registry).id == made[0].id
    assert unfinished(registry) == [f".unfinished-{made[1].id}"]
    assert [entry.id for entry in registry.entries("reranker")][1:] == [made[0].id]
    registry.promote(made[1], {})
    assert used(registry).id == made[1].id
    assert unfinished(registry) == []


def test_a_process_that_dies_while_it_replaces_a_bundle_loses_neither(
    registry: Registry, made: list[Bundle], tmp_path: Path
) -> None:
    registry.promote(made[0], {})
    folder = used(registry).folder
    folder.rename(folder.with_name(f".replaced-{made[0].id}"))  # where it died: the old one aside, the new one not in
    registry.promote(made[1], {})
    assert registry.rollback("reranker").id == made[0].id
    assert used(registry).id == made[0].id


def test_a_full_disk_is_told_and_changes_nothing(
    registry: Registry, made: list[Bundle], monkeypatch: pytest.MonkeyPatch
) -> None:
    registry.promote(made[0], {})

    def full(source: Path, target: Path) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(store, "_copy", full)
        with pytest.raises(BundleError, match=r"No space left.*SHELFRANK_MODELS_HOME"):
            registry.promote(made[1], {})
    assert used(registry).id == made[0].id
    registry.promote(made[1], {})
    assert used(registry).id == made[1].id


def test_promotions_at_once_all_count(registry: Registry, made: list[Bundle]) -> None:
    running = [
        subprocess.Popen([sys.executable, "-c", PROGRAM, str(registry.home), str(bundle.folder), ""]) for bundle in made
    ]
    assert [each.wait(60) for each in running] == [0, 0, 0]
    now = registry.current("reranker")
    assert now is not None
    assert {now.id, *now.previous} == {*(bundle.id for bundle in made), "shipped"}
    assert [event.id for event in now.log] == [now.id, *now.previous[:2]]
    for id_ in (now.id, *now.previous[:2]):
        bundles.verify(registry.home / "reranker" / id_, "reranker")


def test_a_writer_that_never_ends_is_told_of(registry: Registry, made: list[Bundle]) -> None:
    hasty = Registry(registry.home, lock_s=0.1)
    inside, leave = threading.Event(), threading.Event()

    def hold() -> None:
        with registry._locked("reranker"):
            inside.set()
            leave.wait(30)

    holder = threading.Thread(target=hold)
    holder.start()
    assert inside.wait(10)
    with pytest.raises(BundleError, match=r"Another process has been changing .* for more than 0\.1 s"):
        hasty.promote(made[0], {})
    leave.set()
    holder.join()
    hasty.promote(made[0], {})


@contextmanager
def nobody() -> Iterator[None]:
    """Root may write anywhere, so it steps down."""
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)


def test_a_home_that_cannot_be_written_serves_and_is_told(made: list[Bundle], tmp_path: Path) -> None:
    # Not in pytest's own folder, which other users cannot enter.
    home = Path("/var/tmp") / f"shelfrank-read-only-{os.getpid()}"
    try:
        Registry(home).promote(made[0], {})
        for folder in (home, home / "reranker"):
            folder.chmod(0o555)
        with nobody():
            assert bundles.load("", "reranker", home).id == made[0].id
            with pytest.raises(BundleError, match=r"cannot be written: Permission denied.*SHELFRANK_MODELS_HOME"):
                Registry(home).rollback("reranker")
        home.chmod(0)
        with nobody(), pytest.raises(BundleError, match=r"may not be read by this user.*SHELFRANK_MODELS_HOME"):
            bundles.load("", "reranker", home)
    finally:
        for folder in (home, home / "reranker"):
            folder.chmod(0o755)
        shutil.rmtree(home)


def test_clean_keeps_the_current_one_and_the_newest(registry: Registry, made: list[Bundle]) -> None:
    for at, bundle in enumerate(made):
        registry.promote(bundle, {})
        os.utime(registry.home / "reranker" / bundle.id, (at, at))
    registry.rollback("reranker", made[0].id)
    assert registry.clean("reranker", keep=1) == [made[1].id]
    assert [entry.id for entry in registry.entries("reranker")][1:] == [made[2].id, made[0].id]
    registry.promote(made[2], {})
    assert registry.clean("reranker", keep=0) == [made[0].id]
    assert registry.rollback("reranker").id == "shipped"  # the one that went is not gone back to
    assert registry.clean("reranker", keep=0) == [made[2].id]
    assert [entry.origin for entry in registry.entries("reranker")] == ["shipped"]


def test_the_list_shows_what_is_damaged_or_gone(registry: Registry, made: list[Bundle]) -> None:
    for bundle in made:
        registry.promote(bundle, {})
    kept = registry.home / "reranker"
    (kept / made[0].id / "bundle.json").write_text("{", "utf-8")
    shutil.rmtree(kept / made[2].id)
    found = {entry.id: entry for entry in registry.entries("reranker")}
    assert "cannot be read" in found[made[0].id].fault
    assert found[made[1].id].fault == ""
    assert found[made[2].id].current
    assert "no such" in found[made[2].id].fault.lower() or "no bundle" in found[made[2].id].fault.lower()


def test_a_bundle_is_found_by_id_and_by_folder(registry: Registry, made: list[Bundle]) -> None:
    registry.promote(made[0], {})
    assert registry.find(made[0].id) == (registry.home / "reranker" / made[0].id, "reranker")
    assert registry.find(str(made[1].folder)) == (made[1].folder, "reranker")
    shipped = bundles.load("", "encoder", registry.home)
    assert registry.find(shipped.id) == (bundles.SHIPPED / "encoder", "encoder")
    with pytest.raises(BundleError, match=r"is no id in .* and no folder"):
        registry.find("small-0")
    with pytest.raises(BundleError, match="of kind reranker, and --kind says encoder"):
        registry.find(str(made[1].folder), "encoder")
