"""The record of a catalogue: no change is lost, and whoever has lost a job, or has died with it, is known to have."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest
from opensearchpy import OpenSearch

from indexer import jobs
from indexer.jobs import Board, Lease, LostError, Record, is_dead, new_owner
from tests.waiting import until

NAME = "test-jobs"


@pytest.fixture
def board(client: OpenSearch) -> Iterator[Board]:
    def remove() -> None:
        client.delete(index=jobs.INDEX, id=NAME, params={"refresh": "true"}, ignore=(404,))

    remove()
    yield Board(client)
    remove()


@pytest.mark.node
@pytest.mark.parametrize("there", [False, True], ids=["a new record", "a record that is there"])
def test_of_two_changes_at_once_both_count(board: Board, there: bool) -> None:
    if there:
        board.change(NAME, lambda record: setattr(record, "total", 9))
    tries: list[str] = []

    def edit(record: Record) -> None:
        tries.append(record.problem)
        if len(tries) == 1:  # between our reading and our writing
            board.change(NAME, lambda other: setattr(other, "problem", "another's"))
        record.done = 5

    board.change(NAME, edit)
    assert tries == ["", "another's"]
    found = board.read(NAME)
    assert (found.problem, found.done, found.total) == ("another's", 5, 9 if there else None)


@pytest.mark.node
def test_a_lease_that_another_took_is_lost_when_its_renewal_finds_out(board: Board) -> None:
    def take(record: Record) -> None:
        record.owner, record.lease_until = "another", time.time() + 600

    with Lease(board, NAME, lease_s=20.0) as lease:  # renewed every 5 s
        lease.check()
        board.change(NAME, take)
        until(lambda: not lease._thread.is_alive(), "the renewal did not find out")
        with pytest.raises(LostError, match="another works on test-jobs"):
            lease.check()
    assert board.read(NAME).owner == "another"


class Clock:
    """A clock of the test's own, which sleeping moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def holder_elsewhere(board: Board, **changes: object) -> None:
    """A lease that a machine of its own holds, or has left behind."""

    def take(record: Record) -> None:
        record.owner, record.lease, record.lease_s = "elsewhere/7/boot:1/abc", 3, 60.0
        record.lease_until = time.time() + 60
        for name, value in changes.items():
            setattr(record, name, value)

    board.change(NAME, take)


@pytest.mark.node
@pytest.mark.parametrize("ahead_s", [-3600.0, 0.0, 90.0, 3600.0], ids="clock {:+.0f} s".format)
def test_a_live_lease_is_not_taken_whatever_the_time_is(
    board: Board, monkeypatch: pytest.MonkeyPatch, ahead_s: float
) -> None:
    holder_elsewhere(board)
    clock = Clock()
    monkeypatch.setattr(jobs, "_clock", lambda: clock.now)
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + ahead_s)

    def sleep(seconds: float) -> None:
        clock.sleep(seconds)
        if clock.now > 1030.0:  # the holder renews it, as it does every few seconds
            board.change(NAME, lambda record: setattr(record, "renewals", record.renewals + 1))

    told: list[str] = []
    with (
        pytest.raises(LostError, match="process 7 on elsewhere works on test-jobs"),
        Lease(board, NAME, sleep=sleep, tell=told.append),
    ):
        pass
    assert len(told) == 1
    assert board.read(NAME).lease == 3


@pytest.mark.node
def test_a_lease_is_taken_over_when_nothing_was_heard_of_it_for_its_length(
    board: Board, monkeypatch: pytest.MonkeyPatch
) -> None:
    holder_elsewhere(board, lease_until=time.time() + 10**6)  # by a clock that is far ahead
    clock = Clock()
    monkeypatch.setattr(jobs, "_clock", lambda: clock.now)
    with Lease(board, NAME, sleep=clock.sleep, tell=lambda text: None) as lease:
        assert 60 < clock.now - 1000 < 65
        assert lease.number == board.read(NAME).lease == 4
        assert board.read(NAME).owner == lease.owner
    assert board.read(NAME).owner == ""


@pytest.mark.node
def test_a_holder_that_slept_too_long_has_lost_its_lease_by_its_number(board: Board) -> None:
    with Lease(board, NAME, owner="here/1/x/abc") as lease:
        # Another took it and gave it back, and somebody of the first one's name has it again.
        board.change(NAME, lambda record: setattr(record, "lease", record.lease + 2))
        with pytest.raises(LostError):
            lease.change(lambda record: None)
        with pytest.raises(LostError):
            lease.check()


@pytest.mark.node
def test_a_record_of_an_older_version_is_read_and_taken(board: Board) -> None:
    old = {"catalogue": NAME, "owner": "", "lease_until": 0.0, "phase": "build", "done": 7}
    board.read(NAME)
    board._client.index(index=jobs.INDEX, id=NAME, body=old, params={"refresh": "true"})
    with Lease(board, NAME) as lease:
        record = lease.change(lambda record: None)
    assert (record.phase, record.done, record.lease) == ("build", 7, 1)


PROGRAM = "import sys; from indexer.jobs import new_owner; print(new_owner(), flush=True); sys.stdin.read()"


def test_an_owner_is_dead_when_its_process_has_gone() -> None:
    with subprocess.Popen([sys.executable, "-c", PROGRAM], stdin=-1, stdout=-1, text=True) as other:
        assert other.stdout is not None
        owner = other.stdout.readline().strip()
        assert not is_dead(owner)
    assert is_dead(owner)


def test_of_owners_elsewhere_nobody_knows_whether_they_live() -> None:
    host, _, realm, chance = new_owner().split("/")
    gone = 2**22 + 1  # no process has such a number
    assert is_dead(f"{host}/{gone}/{realm}/{chance}")
    assert not is_dead(f"{host}/{gone}/another-boot:pid:[1]/{chance}")
    assert not is_dead(f"{host}/{gone}//{chance}")
    assert not is_dead("somebody")


def test_a_lease_of_this_process_that_nobody_holds_is_dead() -> None:
    owner = new_owner()
    assert owner.split("/")[1] == str(os.getpid())
    assert is_dead(owner)
    jobs._held.add(owner)
    try:
        assert not is_dead(owner)
    finally:
        jobs._held.discard(owner)
