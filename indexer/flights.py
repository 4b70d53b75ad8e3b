"""Writes on their way in threads of their own: as many at once as the cluster takes well."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from types import TracebackType

from indexer.bulk import BulkWriter, Document, Outcome

Landed = Callable[[Outcome], None]


class Flights:
    """Sends documents by one writer without waiting for each answer; `writer.pace.requests` says how many may be out.

    What is written at once must not depend on each other's order. `landed` is called in the thread that sends, with the
    outcome as far as there is one, also where the write failed. The end of the `with` block waits for all of them; when
    it ends by an exception, what fails then is not tried again.
    """

    def __init__(self, writer: BulkWriter) -> None:
        self._writer = writer
        self._pool = ThreadPoolExecutor(writer.pace.max_requests, "shelfrank-bulk")
        self._out: dict[Future[Outcome], tuple[Outcome, Landed]] = {}

    def send(self, documents: Sequence[Document], landed: Landed) -> None:
        """Begin to write, when there is room. Raises the ClusterError of an earlier write that failed."""
        self._land(self._writer.pace.requests - 1)
        outcome = Outcome()
        self._out[self._pool.submit(self._writer.write, documents, outcome)] = outcome, landed

    def _land(self, left: int) -> None:
        """Wait until no more than so many are out."""
        while len(self._out) > left:
            done, _ = wait(self._out, return_when=FIRST_COMPLETED)
            for flight in done:
                self._tell(flight)
                flight.result()

    def _tell(self, flight: Future[Outcome]) -> None:
        outcome, landed = self._out.pop(flight)
        landed(outcome)

    def __enter__(self) -> Flights:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        try:
            if kind is None:
                self._land(0)
        finally:
            self._writer.give_up()
            self._pool.shutdown()
            for flight in list(self._out):
                self._tell(flight)
