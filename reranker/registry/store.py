"""Bundles on disk: copied in whole, one of each kind current, and changed by one process at a time.

`HOME/<kind>/<bundle id>/` holds a bundle and `HOME/<kind>/current` says which one is used. Both come to be by one
rename, so a reader never sees a half of either; the lock keeps two writers from losing each other's change. It is the
kernel's (`flock`): it ends with its process, so none is left behind by one that was killed.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, get_args

import msgspec

from indexer.errors import BundleError, UsageError
from reranker import bundle as bundles
from reranker.bundle import Bundle, Description, Kind, Origin
from reranker.registry.current import FILENAME, SHIPPED_ID, Current, Event, home_of, read

KINDS: tuple[Kind, ...] = get_args(Kind)
_LOCK_S = 60.0
_LOG = 100  # changes that are remembered
_UNFINISHED, _REPLACED = ".unfinished-", ".replaced-"


class Entry(msgspec.Struct, frozen=True):
    """One bundle that can be current; `fault` says why it cannot be described."""

    id: str
    kind: Kind
    folder: Path
    origin: Origin
    current: bool
    megabytes: float
    description: Description | None
    fault: str = ""


class Registry:
    """The registry in one folder."""

    def __init__(self, home: str | Path = "", lock_s: float = _LOCK_S) -> None:
        self.home = home_of(home)
        self._lock_s = lock_s

    def current(self, kind: Kind) -> Current | None:
        """What is current of a kind, None when nothing was ever promoted. Raises BundleError."""
        return read(self.home, kind)

    def faults(self, kind: Kind) -> list[str]:
        """Why what is current of a kind cannot be told; empty when it can."""
        try:
            self.current(kind)
        except BundleError as error:
            return [str(error)]
        return []

    def entries(self, kind: Kind) -> list[Entry]:
        """The bundle that ships, then the kept ones, newest first; none is current where `current` is unreadable."""
        try:
            chosen = self.current(kind)
            now = chosen.id if chosen else SHIPPED_ID
        except BundleError:
            now = ""  # the list is where to look for what to go back to, so it goes on
        kept = sorted(self._kept(kind), key=lambda folder: (-folder.stat().st_mtime, folder.name))
        found = _shipped(kind, now == SHIPPED_ID)
        found += [_entry(folder, kind, "registry", folder.name == now) for folder in kept]
        if now not in ("", SHIPPED_ID) and not any(each.current for each in found):
            found.append(_entry(self.home / kind / now, kind, "registry", True))
        return found

    def find(self, target: str, kind: Kind | None = None) -> tuple[Path, Kind]:
        """The folder and kind of an id, or of a folder's path. Raises BundleError when there is neither."""
        for each in KINDS if kind is None else (kind,):
            if Path(target).name == target and (self.home / each / target / bundles.DESCRIPTION).is_file():
                return self.home / each / target, each
            if any(target == entry.id for entry in _shipped(each)):
                return bundles.SHIPPED / each, each
        if not Path(target).exists():
            raise BundleError(
                f"There is no bundle {target!r}: it is no id in {self.home} and no folder. "
                "`shelfrank models list` shows the ids."
            )
        found = bundles.read_description(Path(target)).kind
        if kind is not None and found != kind:
            raise BundleError(f"{target} is a bundle of kind {found}, and --kind says {kind}. Give one of that kind.")
        return Path(target), found

    def promote(
        self, bundle: Bundle, figures: Mapping[str, Any], forced: str = "", failed: Sequence[str] = ()
    ) -> Current:
        """Copy a bundle in and make it current. Raises BundleError, and then what was current still is."""
        kind = bundle.description.kind
        with self._locked(kind):
            self._add(bundle)
            event = Event("promoted", bundle.id, _now(), dict(figures), forced, tuple(failed))
            before = self._readable(kind)
            gone = before.id if before else SHIPPED_ID
            previous = [each for each in (gone, *(before.previous if before else ())) if each != bundle.id]
            return self._write(kind, bundle.id, previous, event, before)

    def rollback(self, kind: Kind, to: str = "") -> Current:
        """Make the previous bundle current again, or the one named; `shipped` is the one that ships.

        Raises UsageError when there is nothing to go back to and BundleError when that bundle is gone or damaged.
        """
        with self._locked(kind):
            before = self._readable(kind) if to else self.current(kind)
            previous = before.previous if before else ()
            if not to and not previous:
                raise UsageError(f"Nothing was promoted before the present {kind}, so there is nothing to go back to.")
            wanted = to or previous[0]
            if any(wanted == entry.id for entry in _shipped(kind)) and wanted not in self._ids(kind):
                wanted = SHIPPED_ID
            if wanted != SHIPPED_ID:
                if wanted not in self._ids(kind):
                    raise BundleError(
                        f"The registry {self.home / kind} holds no bundle {wanted!r}. "
                        "`shelfrank models list` shows what it holds; name one of them with --to."
                    )
                bundles.verify(self.home / kind / wanted, kind)
            # What was left behind is not gone back to a second time.
            rest = previous[previous.index(wanted) + 1 :] if wanted in previous else previous
            return self._write(kind, wanted, rest, Event("rolled back", wanted, _now()), before)

    def clean(self, kind: Kind, keep: int) -> list[str]:
        """Remove all but the `keep` newest bundles beside the current one; returns the ids that went.

        Raises BundleError when `current` is unreadable, as nothing says then what must stay.
        """
        with self._locked(kind):
            before = self.current(kind)
            old = [each for each in self.entries(kind) if each.origin == "registry" and not each.current][keep:]
            if before and old:
                gone = {each.folder.name for each in old}
                previous = tuple(each for each in before.previous if each not in gone)
                # First forgotten, then removed: no interruption leaves an id that leads nowhere.
                self._replace(kind, msgspec.structs.replace(before, previous=previous))
            for each in old:
                # Out of sight in one step: half of a bundle would count as the newest.
                os.replace(each.folder, each.folder.with_name(f"{_UNFINISHED}{each.folder.name}"))
            self._remove_unfinished(kind)
            return [each.folder.name for each in old]

    def _ids(self, kind: Kind) -> set[str]:
        return {folder.name for folder in self._kept(kind)}

    def _kept(self, kind: Kind) -> list[Path]:
        folder = self.home / kind
        if not folder.is_dir():
            return []
        return [each for each in folder.iterdir() if each.is_dir() and not each.name.startswith(".")]

    def _readable(self, kind: Kind) -> Current | None:
        """What is current; an unreadable file is put aside, since it is about to be written again."""
        try:
            return self.current(kind)
        except BundleError:
            file = self.home / kind / FILENAME
            os.replace(file, file.with_name(f"{FILENAME}.broken"))
            return None

    def _add(self, bundle: Bundle) -> None:
        """Copy a bundle's files in; one that is already there whole, with the same card, stays."""
        kind, target = bundle.description.kind, self.home / bundle.description.kind / bundle.id
        if bundle.folder.resolve() == target.resolve():
            return
        if target.is_dir():
            try:
                if bundles.verify(target, kind).description == bundle.description:
                    os.utime(target)
                    return
            except BundleError:
                pass  # damaged: the whole one takes its place
        copy = target.with_name(f"{_UNFINISHED}{bundle.id}")
        copy.mkdir()
        for name in (*bundle.description.files, bundles.DESCRIPTION):
            _copy(bundle.folder / name, copy / name)
        _sync(copy)
        if bundles.verify(copy, kind).id != bundle.id:
            raise BundleError(f"{bundle.folder} changed while it was copied. Promote it again when nothing writes it.")
        if target.exists():
            os.replace(target, target.with_name(f"{_REPLACED}{bundle.id}"))
        os.replace(copy, target)
        _sync(target.parent)
        self._remove_unfinished(kind)

    def _write(self, kind: Kind, id_: str, previous: Sequence[str], event: Event, before: Current | None) -> Current:
        log = (event, *(before.log if before else ()))[:_LOG]
        made = Current(id_, tuple(dict.fromkeys(previous)), log)
        self._replace(kind, made)
        return made

    def _replace(self, kind: Kind, made: Current) -> None:
        file = self.home / kind / FILENAME
        temporary = file.with_name(f".{FILENAME}.new")
        with temporary.open("wb") as stream:
            stream.write(msgspec.json.format(msgspec.json.encode(made), indent=2) + b"\n")
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, file)
        _sync(file.parent)

    def _remove_unfinished(self, kind: Kind) -> None:
        for each in (self.home / kind).glob(f"{_REPLACED}*"):
            target = each.with_name(each.name.removeprefix(_REPLACED))
            if target.exists():
                shutil.rmtree(each)
            else:
                os.replace(each, target)
        for each in (self.home / kind).glob(f"{_UNFINISHED}*"):
            shutil.rmtree(each)

    @contextmanager
    def _locked(self, kind: Kind) -> Iterator[None]:
        """Alone among the writers of a kind; what an interrupted one left is cleared away first."""
        folder = self.home / kind
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with (folder / ".lock").open("a") as stream:
                self._wait(stream.fileno(), folder)
                self._remove_unfinished(kind)
                yield
        except OSError as error:
            raise BundleError(
                f"The model registry {folder} cannot be written: {error.strerror or error}. Make room or allow it, or "
                "name another folder in models.home (SHELFRANK_MODELS_HOME)."
            ) from error

    def _wait(self, handle: int, folder: Path) -> None:
        deadline = time.monotonic() + self._lock_s
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise BundleError(
                        f"Another process has been changing {folder} for more than {self._lock_s:g} s. "
                        "Wait for it or end it, then run the command again."
                    ) from None
                time.sleep(0.05)
            else:
                return


def _shipped(kind: Kind, current: bool = False) -> list[Entry]:
    """The bundle of a kind that ships, where one does."""
    folder = bundles.SHIPPED / kind
    return [_entry(folder, kind, "shipped", current)] if folder.is_dir() else []


def _entry(folder: Path, kind: Kind, origin: Origin, current: bool) -> Entry:
    try:
        size = sum(path.stat().st_size for path in folder.iterdir()) / 1e6
        description = bundles.read_description(folder)
        id_ = Bundle(folder, description).id
    except (BundleError, OSError, KeyError) as error:
        return Entry(folder.name, kind, folder, origin, current, 0.0, None, str(error))
    fault = f"its files make it {id_}" if origin == "registry" and id_ != folder.name else ""
    return Entry(id_, kind, folder, origin, current, round(size, 1), description, fault)


def _copy(source: Path, target: Path) -> None:
    with source.open("rb") as reader, target.open("xb") as writer:
        shutil.copyfileobj(reader, writer, 1 << 20)
        writer.flush()
        os.fsync(writer.fileno())


def _sync(folder: Path) -> None:
    """Make what was renamed in a folder survive a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
