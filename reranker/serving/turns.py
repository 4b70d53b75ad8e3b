"""Whose turn it is at the models: a few slots, shared fairly by all who want one.

Every share has used some time, less where it weighs more, and the one that has used least is next. No slot is idle
while somebody waits. Where another share has had less, a slot is handed on between two forward passes when it was held
for long, and at once for a piece that takes less than what is left of this one: a long piece of work keeps nobody
waiting for longer than a pass, and pieces of one size do not interrupt each other. Slots share the cores: for the same
reasons, a long piece in one slot rests between its passes while a shorter one has another.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import msgspec

from indexer.errors import ShelfrankError
from reranker.pace import paced

# Longer than an ordinary window takes, for a window that is begun late may as well not be begun.
_QUANTUM_S = 0.25
_COURTESY = 3.0  # passes that work which gives way, or rests, waits for at most, before each of its own


class BusyError(ShelfrankError):
    """There is no room or no time for this piece of work: more waits than may, or it would come too late."""


class Share(msgspec.Struct, frozen=True):
    """Who shares: a key or an address, and how much of the models is its due beside others."""

    name: str = ""
    weight: float = 1.0


EVERYBODY = Share()


class Turn:
    """A piece of work's claim to a slot. `cost_s` is what it is expected to take; `held_s` what it has held a slot for;
    `alone` says that nobody else wanted one meanwhile."""

    def __init__(self, share: Share, cost_s: float, deadline: float) -> None:
        self.share, self.cost_s, self.deadline = share, cost_s, deadline
        self.held_s = 0.0
        self.longest_pass_s = 0.0
        self.since: float | None = None  # when it got its slot, or its last pass began
        self.hold_s = 0.0  # since it got the slot it has
        self.begun = False
        self.refused = ""
        self.alone = True
        self.stopped = False
        self.wake: Callable[[], None] = lambda: None

    @property
    def left_s(self) -> float:
        """Seconds that it is expected to take still."""
        return max(0.0, self.cost_s - self.held_s)

    def stop(self) -> None:
        """Nobody waits for it any more: it ends before its next pass."""
        self.stopped = True


class _Party:
    """The turns of one share; `used` is in seconds for its weight."""

    def __init__(self, used: float) -> None:
        self.used = used
        self.waiting: deque[Turn] = deque()
        self.holding: list[Turn] = []

    def ahead_s(self) -> float:
        """Seconds that its turns still want."""
        return sum(each.left_s for each in (*self.waiting, *self.holding))


class Turns:
    """A few slots; safe to use from the event loop and from the threads that work. Those of `before` go first: while
    one of them is held, what works here rests between its passes, for three quarters of the time at most."""

    def __init__(
        self, slots: int, queue: int, clock: Callable[[], float] = time.monotonic, before: Turns | None = None
    ) -> None:
        self.slots, self.queue, self._before = slots, queue, before
        self._clock = clock
        self._lock = threading.RLock()
        self._ended = threading.Condition(self._lock)
        self._parties: dict[str, _Party] = {}
        self._reached = 0.0  # what the last one that was chosen had used

    @property
    def waiting(self) -> int:
        with self._lock:
            return sum(len(party.waiting) for party in self._parties.values())

    @property
    def holding(self) -> int:
        with self._lock:
            return sum(len(party.holding) for party in self._parties.values())

    def stuck(self, limit_s: float) -> bool:
        """Whether every slot is held by a forward pass that has taken longer than this."""
        with self._lock:
            held = [turn for party in self._parties.values() for turn in party.holding]
            return len(held) == self.slots and all(self._pass_s(turn) > limit_s for turn in held)

    def held_s(self, turn: Turn) -> float:
        """Seconds that it has held a slot for."""
        with self._lock:
            return turn.held_s + self._pass_s(turn)

    def pass_s(self, turn: Turn) -> float:
        """Seconds of its longest forward pass, the present one's so far among them."""
        with self._lock:
            return max(turn.longest_pass_s, self._pass_s(turn))

    async def begin(self, share: Share, cost_s: float = 0.0, deadline: float = float("inf")) -> Turn:
        """A turn that has its slot. Raises BusyError for one that there is no room for, or that would not be done by
        its deadline: it would take its time from those that are. Raises TimeoutError when the deadline comes first."""
        loop = asyncio.get_running_loop()
        granted = asyncio.Event()
        turn = Turn(share, cost_s, deadline)
        turn.wake = lambda: _tell(loop, granted)
        with self._lock:
            self._enter(turn)
        try:
            if not turn.begun:
                left = None if deadline == float("inf") else max(0.0, deadline - self._clock())
                await asyncio.wait_for(granted.wait(), left)
        except BaseException:
            self.end(turn)
            raise
        if turn.refused:
            raise BusyError(turn.refused)
        return turn

    @contextmanager
    def working(self, turn: Turn) -> Iterator[None]:
        """The block is the turn's work, in its own thread: each forward pass in it asks first; it ends with it."""
        try:
            with paced(lambda deadline: self._goes_on(turn, min(deadline, turn.deadline))):
                yield
        finally:
            self.end(turn)

    def end(self, turn: Turn) -> None:
        """The turn is over, whether it had a slot or waited for one."""
        with self._lock:
            party = self._parties.get(turn.share.name)
            if party is None:
                return
            if turn in party.holding:
                self._charge(turn, party)
                party.holding.remove(turn)
                turn.since = None
            elif turn in party.waiting:
                party.waiting.remove(turn)
            if not party.waiting and not party.holding:
                del self._parties[turn.share.name]
            self._hand_out()
            self._ended.notify_all()

    def rest(self, most_s: float) -> None:
        """Wait until no slot is held and none wanted, or for so many seconds."""
        with self._ended:
            self._ended.wait_for(lambda: not self._parties, most_s)

    def _goes_on(self, turn: Turn, deadline: float) -> bool:
        """Between two passes: whether there is time for another; where another share is next, when that has been."""
        with self._lock:
            party = self._parties.get(turn.share.name)
            if party is None or turn not in party.holding:
                return False  # its time came while it waited
            took_s = self._pass_s(turn)
            self._charge(turn, party)
        self._rest(turn, party, min(took_s * _COURTESY, deadline - self._clock()))
        with self._lock:
            if turn.stopped or self._clock() >= deadline:
                return False
            if not self._is_another_next(turn, party):
                return True
            granted = threading.Event()
            turn.wake, turn.since = granted.set, None
            party.holding.remove(turn)
            party.waiting.appendleft(turn)
            self._hand_out()
        granted.wait(None if deadline == float("inf") else max(0.0, deadline - self._clock()))
        with self._lock:
            if turn in party.waiting:
                party.waiting.remove(turn)
            return turn in party.holding and not turn.stopped and self._clock() < deadline

    def _rest(self, turn: Turn, party: _Party, most_s: float) -> None:
        """Wait for those before this, or for a shorter piece in another slot; it is not charged for that."""
        if most_s <= 0:
            return
        turn.since = None
        if self._before is not None:
            self._before.rest(most_s)
        with self._ended:
            if self._before is None:
                self._ended.wait_for(lambda: turn.stopped or not self._is_in_the_way(turn, party), most_s)
            turn.since = self._clock()

    def _is_another_next(self, turn: Turn, party: _Party) -> bool:
        """Whether a share that waits has used less, and the turn has had its time or would take longer than what waits;
        what would need one more thread than there are does not count."""
        begun = sum(each.begun for other in self._parties.values() for each in (*other.waiting, *other.holding))
        room = begun < self.slots + self.queue
        left_s = self._patience_s(turn)
        others = (each for each in self._parties.values() if each is not party and each.waiting)
        return any(
            each.used < party.used and each.waiting[0].left_s < left_s and (room or each.waiting[0].begun)
            for each in others
        )

    def _is_in_the_way(self, turn: Turn, party: _Party) -> bool:
        """Whether a share that has used less has a shorter piece in another slot."""
        left_s = self._patience_s(turn)
        others = [each for each in self._parties.values() if each is not party]
        return any(each.used < party.used and held.left_s < left_s for each in others for held in each.holding)

    @staticmethod
    def _patience_s(turn: Turn) -> float:
        """A piece of another share that takes less than this goes before the turn."""
        return float("inf") if turn.hold_s >= _QUANTUM_S else turn.left_s

    def _enter(self, turn: Turn) -> None:
        party = self._parties.get(turn.share.name)
        others = [each for name, each in self._parties.items() if name != turn.share.name]
        if self.holding >= self.slots:
            self._check_time(turn, party, others)
            self._make_room(turn, party)
        if party is None:
            party = self._parties[turn.share.name] = _Party(self._reached)
        turn.alone = not self.holding
        for each in self._parties.values():
            for held in each.holding:
                held.alone = False
        party.waiting.append(turn)
        self._hand_out()

    def _check_time(self, turn: Turn, party: _Party | None, others: list[_Party]) -> None:
        own = (party.ahead_s() if party else 0.0) + turn.cost_s
        # Until it is done, another share gets no more than this one, for its weight, and no more than it wants.
        ahead = own - turn.cost_s + sum(min(each.ahead_s(), self._due(each, turn) * own) for each in others)
        if self._clock() + ahead / self.slots + turn.cost_s >= turn.deadline:
            raise BusyError(f"{self.waiting + self.holding} requests are in hand, and this one would come too late")

    @staticmethod
    def _due(party: _Party, turn: Turn) -> float:
        """What a share gets for each second that the turn's gets."""
        weights = [each.share.weight for each in (*party.waiting, *party.holding)]
        return max(weights, default=0.0) / turn.share.weight

    def _make_room(self, turn: Turn, own: _Party | None) -> None:
        """Raises BusyError where too many wait; a share that has more waiting than another gives up its last for it."""
        if self.waiting < self.queue:
            return
        in_hand = f"{self.waiting + self.holding} requests are in hand already; the service takes no more at once."
        mine = (len(own.waiting) if own else 0) / turn.share.weight
        fullest = max(self._parties.values(), key=lambda each: self._waits(each), default=None)
        last = fullest.waiting[-1] if fullest is not None and fullest.waiting else None
        if fullest is None or last is None or last.begun or self._waits(fullest) <= mine + 1 / turn.share.weight:
            raise BusyError(in_hand)
        fullest.waiting.pop()
        last.refused = in_hand
        last.wake()

    @staticmethod
    def _waits(party: _Party) -> float:
        return len(party.waiting) / party.waiting[-1].share.weight if party.waiting else 0.0

    def _hand_out(self) -> None:
        """Give free slots to those who are next."""
        while self.holding < self.slots:
            party = min((each for each in self._parties.values() if each.waiting), key=lambda e: e.used, default=None)
            if party is None:
                return
            turn = party.waiting.popleft()
            party.holding.append(turn)
            self._reached = max(self._reached, party.used)
            turn.begun, turn.since, turn.hold_s = True, self._clock(), 0.0
            turn.wake()

    def _charge(self, turn: Turn, party: _Party) -> None:
        took = self._pass_s(turn)
        turn.longest_pass_s = max(turn.longest_pass_s, took)
        turn.held_s += took
        turn.hold_s += took
        turn.since = self._clock()
        party.used += took / turn.share.weight

    def _pass_s(self, turn: Turn) -> float:
        return 0.0 if turn.since is None else self._clock() - turn.since


def _tell(loop: asyncio.AbstractEventLoop, granted: asyncio.Event) -> None:
    try:
        loop.call_soon_threadsafe(granted.set)
    except RuntimeError:
        """The loop is closed: nobody waits."""
