"""What is being done to a catalogue, kept in the cluster itself: any machine can look, pause, go on or take over.

One document a catalogue in the index `shelfrank-jobs`: the present job with its phase and counts, and the indexes that
were live before. Every change is conditional on the document being as it was read (sequence number and primary term),
so that two machines never both believe that it is theirs. The holder of a job renews a lease; when it has gone, nothing
changes any more, and another that has seen nothing change for the length of the lease takes the job over.
"""

from __future__ import annotations

import os
import socket
import threading
import time
import uuid
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, TypeVar

import msgspec
from opensearchpy import OpenSearch
from opensearchpy.exceptions import ConflictError, NotFoundError

from indexer import aliases, terminal
from indexer.errors import ClusterError, UsageError
from indexer.patience import Patience

T = TypeVar("T")

INDEX = "shelfrank-jobs"
LEASE_S = 60.0
_MAX_LEASE_S = 3600.0  # whatever a record says
Phase = Literal["none", "ingest", "build", "verify", "switch", "done", "refused", "cancelled"]
OPEN_PHASES = ("ingest", "build", "verify", "switch")

_BODY = {
    "settings": {"index": {"number_of_shards": 1, "auto_expand_replicas": "0-1", "hidden": True}},
    # Whatever a later version adds is kept and not indexed: the documents are read by id alone.
    "mappings": {"dynamic": False, "properties": {}},
}


class Kept(msgspec.Struct):
    """An index that was live and can be again. `marks` and `deleted_marks` are the sequence numbers of its successor
    and of the tombstones at the switch: what came after them is what a rollback must bring back."""

    index: str
    left_at: float
    marks: dict[str, int] = {}
    deleted_marks: dict[str, int] = {}


class Record(msgspec.Struct):
    """The document of one catalogue. Times are seconds since 1970, of the machine that wrote them. `lease` counts how
    often the job was taken, `renewals` how often its holder was heard of.

    Phase `ingest` is a first ingest, into an index that no alias stands for yet; the others are a reindex's.
    """

    catalogue: str
    job: str = ""
    phase: Phase = "none"
    source: dict[str, Any] = {}
    target: str = ""
    live: str = ""
    encoder: str = ""
    second_encoder: str = ""
    tokens: str = ""
    marks: dict[str, int] = {}
    deleted_marks: dict[str, int] = {}
    done: int = 0
    total: int | None = None
    wanted: Literal["", "pause", "cancel"] = ""
    paused: bool = False
    owner: str = ""
    lease: int = 0
    lease_s: float = LEASE_S
    renewals: int = 0
    lease_until: float = 0.0
    started_at: float = 0.0
    updated_at: float = 0.0
    problem: str = ""
    checks: list[dict[str, Any]] = []
    history: list[Kept] = []

    @property
    def is_open(self) -> bool:
        """Whether a job is begun and not ended."""
        return self.phase in OPEN_PHASES

    def must_be_reindex(self) -> None:
        """Raise UsageError unless a reindex is open."""
        if self.phase == "ingest":
            raise UsageError(
                f"The first ingest of {self.catalogue} is unfinished. Give the same `shelfrank ingest` command again, "
                f"or throw it away with `shelfrank reindex cancel {self.catalogue}`."
            )
        if not self.is_open:
            raise UsageError(
                f"No reindex of {self.catalogue} is open (the last one: {self.phase}). Begin one with `start`."
            )

    @property
    def held(self) -> tuple[str, int, int, float]:
        """What changes whenever its holder is heard of; the last of it with holders of older versions too."""
        return self.owner, self.lease, self.renewals, self.lease_until

    def held_by_other(self, owner: str, now: float) -> bool:
        """Whether somebody else seems to work on it, if the machines' clocks agree: to be told, not relied on."""
        return bool(self.owner) and self.owner != owner and now < self.lease_until and not is_dead(self.owner)


class Board:
    """Reads and changes the records of a cluster."""

    def __init__(self, client: OpenSearch, patience_s: float = 30.0) -> None:
        self._client, self.patience_s = client, patience_s

    def read(self, catalogue: str) -> Record:
        """The catalogue's record; an empty one where there is none."""
        return self._read(catalogue)[0]

    def all(self) -> list[Record]:
        """The records of all catalogues, by name."""
        answer = self._absent_is_empty(lambda: self._client.search(index=INDEX, body={"size": 1000}))
        hits = answer.get("hits", {}).get("hits", [])
        return sorted((msgspec.convert(hit["_source"], Record) for hit in hits), key=lambda record: record.catalogue)

    def change(self, catalogue: str, edit: Callable[[Record], None]) -> Record:
        """Apply `edit` to the record as it is now; when another was faster, to what that one left. `edit` may raise."""
        while True:
            record, condition = self._read(catalogue)
            edit(record)
            record.updated_at = time.time()
            body = msgspec.to_builtins(record)
            params = {**condition, "refresh": "true"}
            try:
                self._call(partial(self._client.index, index=INDEX, id=catalogue, body=body, params=params))
            except ClusterError as error:
                if isinstance(error.__cause__, ConflictError):
                    # Also after our own write whose answer was lost: an edit may come twice, and must not mind.
                    continue
                raise
            return record

    def _read(self, catalogue: str) -> tuple[Record, dict[str, Any]]:
        answer = self._absent_is_empty(lambda: self._client.get(index=INDEX, id=catalogue))
        if "error" in answer:
            aliases.make(self._client, INDEX, _BODY, Patience(self.patience_s))
        if not answer.get("found"):
            return Record(catalogue), {"op_type": "create"}
        record = msgspec.convert(answer["_source"], Record)
        return record, {"if_seq_no": answer["_seq_no"], "if_primary_term": answer["_primary_term"]}

    def _absent_is_empty(self, request: Callable[[], Any]) -> dict[str, Any]:
        """The answer; where index or document is missing, what the server says of that."""

        def read() -> dict[str, Any]:
            try:
                return dict(request())
            except NotFoundError as error:
                return error.info if isinstance(error.info, dict) else {}

        return self._call(read)

    def _call(self, request: Callable[[], T]) -> T:
        # A patience of its own for each: the lease is renewed from another thread.
        return Patience(self.patience_s).call(request)


_held: set[str] = set()  # owners that are leases of this process


def new_owner() -> str:
    """A name that no other lease has: machine's name, process, where that process number counts, and chance."""
    return f"{socket.gethostname()}/{os.getpid()}/{_realm()}/{uuid.uuid4().hex[:12]}"


def shown(owner: str) -> str:
    """An owner as a person needs it: which process on which machine."""
    host, _, rest = owner.partition("/")
    return f"process {rest.partition('/')[0]} on {host}" if rest else owner


def is_dead(owner: str) -> bool:
    """Whether a lease's process is known to have gone: it was one of this machine's, and is there no more.

    Then nobody needs to wait for the lease to run out.
    """
    parts = owner.split("/")
    if len(parts) != 4 or not parts[1].isdigit() or parts[2] != _realm() or not _realm():
        return False
    if int(parts[1]) == os.getpid():
        return owner not in _held
    try:
        os.kill(int(parts[1]), 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False


@cache
def _realm() -> str:
    """Names this machine since its last start and, in a container, this container; empty where that cannot be told."""
    try:
        booted = Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
        return f"{booted}:{os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


class LostError(ClusterError):
    """Another process has taken the job over; this one must touch nothing more."""


class Lease:
    """Holds a catalogue's job while a `with` block runs: taken at its start, renewed beside it, given back at its end.

    A lease that its holder does not give back is taken over when it was seen unchanged for its whole length, by the
    taker's own clock that only goes forward: no two machines need to agree on the time. Where the holder was a process
    of this machine that has gone, nobody needs to wait. `check` raises LostError once it is no longer ours, and must be
    called before every step that writes; a holder that slept through its own end, and writes before it notices, meets
    the conditions of its writes: every document, tombstone and alias is written as it was when it was looked at.
    """

    def __init__(
        self,
        board: Board,
        catalogue: str,
        *,
        lease_s: float = LEASE_S,
        owner: str = "",
        sleep: Callable[[float], object] = time.sleep,
        tell: Callable[[str], object] = terminal.note,
    ) -> None:
        self.owner = owner or new_owner()
        self.wanted = ""
        self.number = 0  # how often the job was taken before, and now
        self._board, self._catalogue, self._lease_s = board, catalogue, lease_s
        self._sleep, self._tell = sleep, tell
        self._until = 0.0  # by `_clock`; others wait from a later moment on
        self._lost = ""
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._renewing, name="lease", daemon=True)

    def __enter__(self) -> Lease:
        _held.add(self.owner)
        try:
            self._take()
        except BaseException:
            _held.discard(self.owner)
            raise
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end.set()
        self._thread.join()
        _held.discard(self.owner)
        if not self._lost:
            # After a failure the cluster may be away: the lease is given back if that is quick, else it runs out.
            self._board.patience_s = self._board.patience_s if kind is None else min(1.0, self._board.patience_s)
            try:
                self.change(lambda record: None, release=True)
            except LostError:
                pass  # given back already, by a first try whose answer was lost
            except ClusterError:
                if kind is None:
                    raise

    def check(self) -> None:
        """Raise LostError when the lease has run out or was taken."""
        if self._lost:
            raise LostError(self._lost)
        if _clock() > self._until:
            # The cluster was away, or this process asleep, for longer than the lease. If nobody took it, it is ours.
            self.change(lambda record: None)

    def change(self, edit: Callable[[Record], None], *, release: bool = False) -> Record:
        """Change the record if it is still ours, which renews the lease. Raises LostError."""
        begun = _clock()

        def owned(record: Record) -> None:
            if (record.owner, record.lease) != (self.owner, self.number):
                self._lost = self._taken(record)
                raise LostError(self._lost)
            edit(record)
            self._hold(record)
            if release:
                record.owner, record.lease_until = "", 0.0

        record = self._board.change(self._catalogue, owned)
        self._until = begun + self._lease_s
        self.wanted = record.wanted
        return record

    def _hold(self, record: Record) -> None:
        record.owner, record.lease, record.lease_s = self.owner, self.number, self._lease_s
        record.renewals += 1
        # For people and for older versions; nobody here goes by the time of another machine.
        record.lease_until = time.time() + self._lease_s

    def _take(self) -> None:
        """Take the lease, at once where nobody holds it. Raises LostError when somebody does."""
        seen: Record | None = None
        since = 0.0
        while True:
            asked = _clock()
            record = self._board.read(self._catalogue)
            if seen is not None and record.owner and record.held != seen.held:
                raise LostError(self._taken(record))
            free = record.owner in ("", self.owner) or is_dead(record.owner)
            if free or (seen is not None and asked - since > min(seen.lease_s, _MAX_LEASE_S)):
                if self._claim(record):
                    return
            elif seen is None:
                seen, since = record, _clock()
                self._tell(
                    f"{shown(record.owner)} held {self._catalogue} when it was last heard of. If nothing "
                    f"is heard of it for {record.lease_s:.0f} s, this takes over."
                )
            else:
                self._sleep(min(1.0, record.lease_s / 20))

    def _claim(self, found: Record) -> bool:
        """Take the lease if it is as it was found."""
        begun = _clock()

        def claim(record: Record) -> None:
            if record.owner != self.owner:  # else it is our own claim, whose answer was lost
                if record.held != found.held:
                    raise _ChangedError
                self.number = record.lease + 1
            self._hold(record)

        try:
            record = self._board.change(self._catalogue, claim)
        except _ChangedError:
            return False
        self._until = begun + self._lease_s
        self.wanted = record.wanted
        return True

    def _renewing(self) -> None:
        while not self._end.wait(self._lease_s / 8):
            try:
                self.change(lambda record: None)
            except LostError:
                return
            except ClusterError:
                continue  # the cluster is away; `check` says so when it has been for too long

    def _taken(self, record: Record) -> str:
        if not record.owner:
            return (
                f"Nothing was heard of this process for {self._lease_s:.0f} s, so another one has taken over what it "
                f"did for {self._catalogue}, and has ended. See `shelfrank reindex status {self._catalogue}`."
            )
        return (
            f"{shown(record.owner)} works on {self._catalogue}. See `shelfrank "
            f"reindex status {self._catalogue}`; wait for it, or stop that process."
        )


class _ChangedError(Exception):
    """The lease is not as it was found."""


def _clock() -> float:
    """Seconds that pass also while the machine sleeps, and that nobody sets."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))
