"""The connections of a listener: how many, how much may wait for clients that do not read, and who makes room."""

from __future__ import annotations

import asyncio
import logging
import ssl
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

from reranker.serving.addresses import network
from reranker.serving.handshake import Handshake
from reranker.serving.protocol import Patient

log = logging.getLogger("shelfrank")
_BODY_GRACE_S = 5.0  # by then the application has said itself that the body is late


class Connections:
    """At most `most` connections, on which at most `unread_bytes` wait to be read, none of them for `write_s` seconds.

    When all are taken, a newcomer gets the place of the one that keeps the service waiting, of those from the address
    that holds most: the one that has done so longest. `count` is told why a connection was ended.
    """

    def __init__(
        self,
        most: int,
        *,
        read_s: float,
        write_s: float,
        unread_bytes: int,
        tls: ssl.SSLContext | None = None,
        count: Callable[[str], None] | None = None,
    ) -> None:
        self.most, self.body_s, self.write_s, self.unread_bytes = most, read_s + _BODY_GRACE_S, write_s, unread_bytes
        self._tls, self._count = tls, count
        self._networks: dict[Patient, str] = {}
        self._unread: dict[Patient, float] = {}

    def protocol(self, **parts: Any) -> asyncio.Protocol:
        """What uvicorn makes for each connection."""
        patient = Patient(self, **parts)
        return Handshake(patient, self._tls, self.write_s) if self._tls is not None else patient

    def __len__(self) -> int:
        return len(self._networks)

    def enter(self, newcomer: Patient, peer: Any) -> bool:
        """Whether there is room for a newcomer, once somebody who keeps the service waiting has gone."""
        if len(self) >= self.most and (keeps_waiting := self._who_keeps_waiting()) is not None:
            self.end(keeps_waiting, "displaced")
        self._networks[newcomer] = network(str(peer[0])) if isinstance(peer, tuple) and peer else ""
        return len(self) <= self.most

    def _who_keeps_waiting(self) -> Patient | None:
        held = Counter(self._networks.values())
        waits = {each: since for each in self._networks if (since := each.waits_since) is not None}
        return max(waits, key=lambda each: (held[self._networks[each]], -waits[each]), default=None)

    def leave(self, patient: Patient) -> None:
        self._networks.pop(patient, None)
        self._unread.pop(patient, None)

    def end(self, patient: Patient, why: str) -> None:
        """Close a connection at once."""
        self.leave(patient)
        self.ended(why)
        patient.abort()

    def ended(self, why: str) -> None:
        if self._count is not None:
            self._count(why)

    def unread(self, patient: Patient) -> None:
        """The client does not read what it was sent. Whoever has not read for longest goes where too much waits."""
        self._unread.setdefault(patient, time.monotonic())
        while sum(each.unsent for each in self._unread) > self.unread_bytes:
            self.end(next(iter(self._unread)), "unread")

    def read(self, patient: Patient) -> None:
        """The client has read everything."""
        self._unread.pop(patient, None)

    async def sweep(self) -> None:
        """End every connection whose client's time is up; called each second."""
        now = time.monotonic()
        for patient, since in tuple(self._unread.items()):
            if now - since > self.write_s:
                self.end(patient, "unread")
        for patient in tuple(self._networks):
            patient.check(now)
