"""Whose turn it is: no slot idle while somebody waits, and nobody kept waiting by who asks for more."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

import pytest
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from reranker.pace import goes_on
from reranker.serving.turns import BusyError, Share, Turn, Turns

A, B, C = Share("a"), Share("b"), Share("c")


class Clock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


async def begun(turns: Turns, share: Share, cost_s: float = 1.0, deadline: float = float("inf")) -> asyncio.Task[Turn]:
    """A turn that was asked for, and perhaps has its slot."""
    task = asyncio.ensure_future(turns.begin(share, cost_s, deadline))
    await settled()
    return task


async def settled() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def has_slot(task: asyncio.Task[Turn]) -> bool:
    return task.done() and not task.cancelled() and task.exception() is None


def test_who_comes_alone_gets_every_slot() -> None:
    async def told() -> list[bool]:
        turns = Turns(2, 10)
        return [has_slot(await begun(turns, A)) for _ in range(3)]

    assert asyncio.run(told()) == [True, True, False]


def test_one_that_asks_for_little_is_next_whatever_another_has_waiting() -> None:
    async def told() -> list[str]:
        clock = Clock()
        turns = Turns(1, 100, clock)
        tasks = {f"a{number}": await begun(turns, A) for number in range(20)}
        clock.now += 1
        tasks["b"] = await begun(turns, B)
        tasks["c"] = await begun(turns, C)
        served: list[str] = []
        while tasks:
            name, task = next((name, task) for name, task in tasks.items() if has_slot(task))
            served.append(name)
            del tasks[name]
            clock.now += 1
            turns.end(task.result())
            await settled()
        return served

    served = asyncio.run(told())
    assert len(served) == 22
    assert served.index("b") <= 2
    assert served.index("c") <= 3


@pytest.mark.parametrize("weight", [1, 3])
def test_a_heavier_share_gets_as_much_more_and_nothing_is_saved_up(weight: int) -> None:
    async def told() -> dict[str, int]:
        clock = Clock()
        turns = Turns(1, 1000, clock)
        heavy = Share("heavy", float(weight))
        for _ in range(50):  # alone for a while, which costs it nothing later and earns another nothing
            turn = (await begun(turns, heavy)).result()
            clock.now += 1
            turns.end(turn)
        tasks = [await begun(turns, share) for _ in range(40) for share in (heavy, B)]
        served = {"heavy": 0, "b": 0}
        for _ in range(40):
            task = next(each for each in tasks if has_slot(each))
            tasks.remove(task)
            served[task.result().share.name] += 1
            clock.now += 1
            turns.end(task.result())
            await settled()
        for task in tasks:
            task.cancel()
        return served

    served = asyncio.run(told())
    assert abs(served["heavy"] - 40 * weight / (weight + 1)) <= 2


def test_a_long_piece_hands_its_slot_on_between_passes_and_goes_on_later() -> None:
    async def told() -> list[str]:
        clock = Clock()
        turns = Turns(1, 10, clock)
        order: list[str] = []
        long = await turns.begin(A, 100.0)
        step = threading.Semaphore(0)

        def passes() -> None:
            with turns.working(long):
                for number in range(6):
                    step.acquire()
                    if not goes_on():
                        order.append("stopped")
                        return
                    order.append(f"pass {number}")
                    clock.now += 0.2

        thread = asyncio.create_task(asyncio.to_thread(passes))
        step.release(2)
        while len(order) < 2:
            await asyncio.sleep(0.001)
        short = asyncio.ensure_future(turns.begin(B, 0.1))
        await settled()
        assert not short.done()
        step.release()  # before its third pass it has held the slot for 0.4 s
        try:
            turn = await asyncio.wait_for(short, 10)
            order.append("short")
            clock.now += 0.1
            turns.end(turn)
        finally:
            step.release(10)
            await thread
        assert (turns.holding, turns.waiting) == (0, 0)
        return order

    assert asyncio.run(told()) == ["pass 0", "pass 1", "short", *(f"pass {number}" for number in range(2, 6))]


@pytest.mark.parametrize(("waits_s", "passes_before"), [(0.1, 1), (0.9, 4)])
def test_a_slot_is_handed_on_at_once_for_what_is_shorter_than_what_is_left(waits_s: float, passes_before: int) -> None:
    """One second of work in passes of a sixteenth; what takes longer than what is left of it waits for the quantum."""

    async def told() -> int:
        clock = Clock()
        turns = Turns(1, 10, clock)
        turn = await turns.begin(A, 0.9)
        waits = await begun(turns, B, waits_s)
        done = 0

        def passes() -> None:
            nonlocal done
            with turns.working(turn):
                while goes_on(clock.now + 1) and not waits.done():
                    clock.now += 0.0625
                    done += 1

        thread = asyncio.create_task(asyncio.to_thread(passes))
        turns.end(await asyncio.wait_for(waits, 10))
        before = done
        await thread
        return before

    assert asyncio.run(told()) == passes_before


def test_what_gives_way_rests_between_its_passes_and_is_never_starved() -> None:
    async def told() -> tuple[int, float]:
        pages = Turns(1, 10)
        aside = Turns(1, 10, before=pages)
        page = await pages.begin(A)
        turn = await aside.begin(B)
        passes = 0

        def work() -> None:
            nonlocal passes
            with aside.working(turn):
                while goes_on() and passes < 4:
                    threading.Event().wait(0.02)
                    passes += 1

        began = time.monotonic()
        await asyncio.to_thread(work)
        rested = time.monotonic() - began
        pages.end(page)
        return passes, rested - turn.held_s

    passes, rested = asyncio.run(told())
    assert passes == 4
    assert rested >= 0.02 * 3 * 4  # and what it rests is not charged


def test_what_gives_way_goes_on_when_nobody_wants_a_page() -> None:
    async def told() -> bool:
        pages = Turns(1, 10)
        aside = Turns(1, 10, before=pages)
        page, turn = await pages.begin(A), await aside.begin(B)
        resting, gone_on = threading.Event(), threading.Event()

        def work() -> None:
            with aside.working(turn):
                turn.since = time.monotonic() - 1000  # a pass that took long
                resting.set()
                if goes_on():
                    gone_on.set()

        thread = asyncio.create_task(asyncio.to_thread(work))
        await asyncio.to_thread(resting.wait, 10)
        held = gone_on.is_set()
        pages.end(page)
        await asyncio.wait_for(thread, 10)
        return gone_on.is_set() and not held

    assert asyncio.run(told())


@pytest.mark.parametrize(("short_s", "rests"), [(0.1, True), (20.0, False)])
def test_a_long_piece_rests_while_a_shorter_one_has_another_slot(short_s: float, rests: bool) -> None:
    async def told() -> tuple[float, bool]:
        turns = Turns(2, 10)
        long = await turns.begin(A, 10.0)
        short = await turns.begin(B, short_s)
        rested = 0.0

        def work() -> None:
            nonlocal rested
            with turns.working(long):
                threading.Event().wait(0.05)
                began = time.monotonic()
                assert goes_on()
                rested = time.monotonic() - began

        await asyncio.to_thread(work)
        turns.end(short)
        return rested, long.held_s < 0.15

    rested, uncharged = asyncio.run(told())
    assert (rested >= 0.05 * 3) == rests  # no longer than some passes: it is never starved
    assert uncharged


def test_a_long_piece_goes_on_when_the_shorter_one_is_done() -> None:
    async def told() -> bool:
        turns = Turns(2, 10)
        long, short = await turns.begin(A, 10.0), await turns.begin(B, 0.1)
        gone_on = threading.Event()

        def work() -> None:
            with turns.working(long):
                long.since = time.monotonic() - 1000  # a pass that took long
                if goes_on():
                    gone_on.set()

        thread = asyncio.create_task(asyncio.to_thread(work))
        held = not await asyncio.to_thread(gone_on.wait, 0.2)
        turns.end(short)
        await asyncio.wait_for(thread, 10)
        return gone_on.is_set() and held

    assert asyncio.run(told())


def test_a_short_piece_is_not_interrupted() -> None:
    async def told() -> int:
        clock = Clock()
        turns = Turns(1, 10, clock)
        turn = await turns.begin(A, 0.2)
        waits = await begun(turns, B, 0.2)

        def passes() -> int:
            done = 0
            with turns.working(turn):
                for _ in range(4):
                    clock.now += 0.05
                    done += goes_on()
                return done

        found = await asyncio.to_thread(passes)
        await waits
        return found

    assert asyncio.run(told()) == 4


def test_what_would_come_too_late_is_refused_and_what_would_not_is_not() -> None:
    async def told() -> list[str]:
        clock = Clock()
        turns = Turns(1, 100, clock)
        for _ in range(10):
            await begun(turns, A, 1.0)
        found = []
        for share, within in ((A, 5.0), (A, 12.0), (B, 1.5), (B, 3.5)):
            task = await begun(turns, share, 1.0, clock.now + within)
            found.append(str(task.exception()) if task.done() else "waits")
            task.cancel()
            await settled()
        return found

    late = "10 requests are in hand, and this one would come too late"
    assert asyncio.run(told()) == [late, "waits", late, "waits"]


def test_a_full_queue_makes_room_for_another_share_and_not_for_its_own() -> None:
    async def told() -> tuple[str, bool, str]:
        turns = Turns(1, 3)
        tasks = [await begun(turns, A) for _ in range(4)]
        own = await begun(turns, A)
        other = await begun(turns, B)
        refused = [task for task in tasks if task.done() and task.exception()]
        assert refused == [tasks[-1]]
        found = str(own.exception()), other.done(), str(refused[0].exception())
        for task in (*tasks, other):
            task.cancel()
        return found

    own, other_is_refused, evicted = asyncio.run(told())
    assert "takes no more at once" in own
    assert "takes no more at once" in evicted
    assert not other_is_refused


def test_who_leaves_gives_up_the_place() -> None:
    async def told() -> tuple[int, int]:
        turns = Turns(1, 10)
        first = (await begun(turns, A)).result()
        waits = await begun(turns, B)
        waits.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waits
        turns.end(first)
        return turns.holding, turns.waiting

    assert asyncio.run(told()) == (0, 0)


def test_a_pass_that_does_not_end_is_known_of() -> None:
    async def told() -> list[bool]:
        clock = Clock()
        turns = Turns(1, 10, clock)
        turn = await turns.begin(A, 0.1)
        clock.now += 1
        found = [turns.stuck(0.5), turns.pass_s(turn) > 0.5]
        turns.end(turn)
        return [*found, turns.stuck(0.5)]

    assert asyncio.run(told()) == [True, True, False]


class Service(RuleBasedStateMachine):
    """Turns against a list of who wants one."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.clock = Clock()
        self.slots, self.queue = 2, 4
        self.turns = Turns(self.slots, self.queue, self.clock)
        self.tasks: list[tuple[str, asyncio.Task[Turn]]] = []

    def run(self, coroutine: Any) -> Any:
        return self.loop.run_until_complete(coroutine)

    def teardown(self) -> None:
        for _, task in self.tasks:
            task.cancel()
        self.run(settled())
        self.loop.close()

    @property
    def holders(self) -> list[tuple[str, asyncio.Task[Turn]]]:
        return [each for each in self.tasks if has_slot(each[1])]

    @rule(name=st.sampled_from("abc"), weight=st.sampled_from([1.0, 2.0]), cost=st.sampled_from([0.0, 0.5, 3.0]))
    def ask(self, name: str, weight: float, cost: float) -> None:
        self.tasks.append((name, self.run(begun(self.turns, Share(name, weight), cost))))
        self.forget_refused()

    @rule(seconds=st.sampled_from([0.1, 1.0, 10.0]))
    def wait(self, seconds: float) -> None:
        self.clock.now += seconds

    @precondition(lambda self: self.holders)
    @rule(data=st.data())
    def finish(self, data: st.DataObject) -> None:
        chosen = data.draw(st.sampled_from(self.holders))
        self.turns.end(chosen[1].result())
        self.tasks.remove(chosen)
        self.run(settled())

    @precondition(lambda self: len(self.tasks) > len(self.holders))
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        chosen = data.draw(st.sampled_from([each for each in self.tasks if each not in self.holders]))
        chosen[1].cancel()
        self.tasks.remove(chosen)
        self.run(settled())

    def forget_refused(self) -> None:
        for each in list(self.tasks):
            if each[1].done() and each[1].exception():
                assert isinstance(each[1].exception(), BusyError)
                # Only a full house refuses.
                assert len(self.tasks) - 1 >= self.slots + self.queue
                self.tasks.remove(each)

    @invariant()
    def no_slot_is_idle_and_none_is_given_twice(self) -> None:
        assert len(self.holders) == self.turns.holding == min(self.slots, len(self.tasks))
        assert self.turns.waiting == len(self.tasks) - len(self.holders) <= self.queue


TestService = Service.TestCase
TestService.settings = hypothesis_settings(max_examples=60, stateful_step_count=40, deadline=None)
