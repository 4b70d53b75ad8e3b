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
