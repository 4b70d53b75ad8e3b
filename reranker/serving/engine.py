"""The models of the service: loaded by name, shared fairly by those who want them, each behind a breaker."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any, TypeVar

import msgspec

from indexer.errors import ShelfrankError
from indexer.settings import Settings
from reranker.bundle import NONE
from reranker.cache import Cache
from reranker.encoder import Encoder, QueryVectors
from reranker.rescore import Candidate, Outcome, rescore, untouched, weighs_cosines
from reranker.scoring import CrossEncoder
from reranker.serving import disclosure
from reranker.serving.breaker import Breaker
from reranker.serving.crew import Crew, Piece
from reranker.serving.metrics import Metrics
from reranker.serving.turns import EVERYBODY, BusyError, Share, Turn

DEFAULT = "default"
_RETRY_S = 30.0
T = TypeVar("T")
log = logging.getLogger("shelfrank")


class Engine:
    """Reranks windows for many requests at once; a model that is missing or fails never costs a page."""

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        self.settings, self.metrics = settings, metrics
        self.rerankers: dict[str, CrossEncoder] = {}
        self.encoder: Encoder | None = None
        self.next_encoder: Encoder | None = None
        self.missing: dict[str, str] = {}
        serve = settings.serve
        self._breakers = {name: Breaker(serve.breaker_failures, serve.breaker_s) for name in (DEFAULT, *serve.bundles)}
        self._closed = False
        seconds = metrics.phase
        self._models = Crew("shelfrank-model", serve.workers, serve.queue, seconds)
        # What may take long and nobody's page waits for has a slot of its own, and gives way to pages.
        self._aside = Crew("shelfrank-aside", 1, serve.queue, seconds, before=self._models)
        # These wait for the cluster, and never keep a model waiting.
        self._searching = Crew("shelfrank-search", serve.searches, serve.queue, seconds)
        metrics.waiting.set_function(lambda: self._models.turns.waiting)
        # Begins a span of a trace, where there are traces.
        self.span: Callable[[str], AbstractContextManager[Any]] = nullcontext

    def load(self) -> None:
        """Load and warm every model that is not there yet; what cannot be loaded is kept in `missing` with why."""
        for name in (DEFAULT, *self.settings.serve.bundles):
            if name not in self.rerankers:
                self._attempt(f"reranker {name}", partial(self._load_reranker, name))
        if self.encoder is None:
            self._attempt("encoder", self._load_encoder)

    async def keep_loading(self) -> None:
        """Load what is there, and try again from time to time while a model is missing."""
        await asyncio.to_thread(self.load)
        while self.missing:
            await asyncio.sleep(_RETRY_S)
            await asyncio.to_thread(self.load)

    def _attempt(self, what: str, load: Callable[[], None]) -> None:
        if self._closed:
            return
        try:
            load()
            self.missing.pop(what, None)
        except Exception as error:  # noqa: BLE001 - searches go on with the first stage, whatever is wrong with a model
            self.missing[what] = disclosure.NOT_LOADED
            log.error("The %s cannot be loaded: %s", what, error)
        if self._closed:
            self._let_go()

    def _load_reranker(self, name: str) -> None:
        models = self.settings.models
        if name != DEFAULT:  # a bundle that is asked for by name reads every query
            models = msgspec.structs.replace(models, reranker=self.settings.serve.bundles[name], reranker_en=NONE)
        reranker = CrossEncoder.load(models)
        for part in reranker.parts:
            part.score("warm", [part.text_tokens("warm")])
            part.on_batch = self.metrics.tokens.observe
            part.cache = self._cache("scores", self.settings.serve.cache_scores)
        self.rerankers[name] = reranker

    def _load_encoder(self) -> None:
        encoder = Encoder.load(self.settings.models)
        encoder.embed_queries(["warm"])
        following = Encoder.named(self.settings.models.next_encoder, self.settings.models)
        for each in filter(None, (encoder, following)):
            each.cache = self._cache("query_vectors", self.settings.serve.cache_queries)
        self.encoder, self.next_encoder = encoder, following

    def _cache(self, what: str, size: int) -> Cache[Any] | None:
        """A cache whose looks are counted, None where the settings want none."""
        hit, miss = (self.metrics.cache.labels(what, result) for result in ("hit", "miss"))

        def count(hits: int, misses: int) -> None:
            hit.inc(hits)
            miss.inc(misses)

        return Cache(size, count) if size > 0 else None

    def check_ready(self) -> None:
        """Raises ShelfrankError with what is missing."""
        if self.missing or self.encoder is None or DEFAULT not in self.rerankers:
            missing = "; ".join(f"{what}: {why}" for what, why in self.missing.items())
            raise ShelfrankError(missing or "the models are being loaded")

    def reranker(self, name: str = "") -> CrossEncoder:
        """A loaded reranker by name. Raises ShelfrankError saying why it is not there."""
        name = name or DEFAULT
        found = self.rerankers.get(name)
        if found is None:
            known = (DEFAULT, *self.settings.serve.bundles)
            otherwise = "it is being loaded" if name in known else f"the service knows {', '.join(known)}"
            raise ShelfrankError(f"There is no reranker {name}: {self.missing.get(f'reranker {name}', otherwise)}.")
        return found

    async def rescore(
        self,
        query: str,
        window: Sequence[Candidate],
        *,
        index: str = "",
        bundle: str = "",
        weight: float | None = None,
        deadline: float = float("inf"),
        share: Share = EVERYBODY,
        vectors: QueryVectors | None = None,
    ) -> Outcome:
        """What `reranker.rescore` does, when it is the share's turn, answered when the deadline comes, whatever runs.

        What came of it is counted for the index, and a fault of the model for its breaker.
        """
        if why := self.unavailable(bundle):
            return self._counted(untouched(window, "error", why), index)
        reranker = self.reranker(bundle)
        own_window, slow_s = self._own_bounds(index)
        if self._models.turns.stuck(slow_s):
            self._record(bundle, failed=True)
            why = f"no forward pass has ended for {slow_s:g} s"
            return self._counted(untouched(window, "error", why, reranker), index)
        if deadline <= time.monotonic():
            why = "the deadline came before the window could be scored"
            return self._counted(untouched(window, "timeout", why, reranker), index)
        self.metrics.window.observe(len(window))
        if vectors is None and weighs_cosines(reranker, weight):
            vectors = QueryVectors(query, self.encoders)
        piece = Piece("rerank", share, deadline, len(window))
        work = partial(rescore, query, window, reranker, weight, deadline, vectors)
        future = asyncio.ensure_future(self.run(work, piece))
        try:
            with self.span("rerank"):
                left = None if deadline == float("inf") else deadline - time.monotonic()
                done, _ = await asyncio.wait({future}, timeout=left)
                outcome = future.result() if done else None
        except BusyError as error:
            return self._counted(untouched(window, "skipped", str(error), reranker), index, "overload")
        except TimeoutError:
            outcome = None
        finally:
            piece.let_go(future)
        if outcome is None:
            outcome = untouched(window, "timeout", "the deadline came while the window was scored", reranker)
        slow = piece.turn is not None and self._is_slow(piece.turn, outcome, own_window, slow_s)
        self._record(bundle, slow or outcome.status == "error")
        outcome.reason = disclosure.reason(outcome.status, outcome.reason)
        return self._counted(outcome, index)

    def _own_bounds(self, index: str) -> tuple[int, float]:
        """The window that the settings want for an index, and the seconds that they want it in."""
        search, policy = self.settings.search, self.settings.serve.indexes.get(index)
        window = policy.window if policy is not None and policy.window is not None else search.window
        deadline = policy.deadline_ms if policy is not None and policy.deadline_ms is not None else search.deadline_ms
        return window, deadline / 1000

    def _is_slow(self, turn: Turn, outcome: Outcome, own_window: int, slow_s: float) -> bool:
        """Whether the model itself was too slow: in one pass, which scores a few hits, or for a window of the service's
        own size with nobody beside it. To wait for a turn or the cluster, and a window that a client chose, is not."""
        if self._models.turns.pass_s(turn) > slow_s:
            return True
        ordinary = turn.alone and outcome.window <= own_window
        return outcome.status == "timeout" and ordinary and self._models.turns.held_s(turn) > slow_s / 2

    @property
    def encoders(self) -> list[Encoder]:
        """The loaded encoders, the one in use first."""
        return [each for each in (self.encoder, self.next_encoder) if each is not None]

    def unavailable(self, bundle: str) -> str:
        """Why a reranker is not to be tried now; empty where it is."""
        try:
            self.reranker(bundle)
        except ShelfrankError as error:
            return str(error)
        breaker = self._breakers[bundle or DEFAULT]
        return "" if breaker.allows() else breaker.reason()

    def _record(self, bundle: str, failed: bool) -> None:
        breaker = self._breakers[bundle or DEFAULT]
        breaker.record(failed)
        self.metrics.breaker.labels(bundle or DEFAULT).set(breaker.is_open)

    def count(self, index: str, status: str) -> None:
        """One window more; indexes that the settings do not name count as one, for labels are not for clients."""
        self.metrics.rerank.labels(index if index in self.settings.serve.indexes else "other", status).inc()

    def _counted(self, outcome: Outcome, index: str, status: str = "") -> Outcome:
        self.count(index, status or outcome.status)
        return outcome

    async def run(self, work: Callable[[], T], piece: Piece) -> T:
        """The result of `work`, by the crew for its kind. Raises as `Crew.run`."""
        crew = {"search": self._searching, "embed": self._aside, "explain": self._aside}.get(piece.kind, self._models)
        return await crew.run(work, piece)

    async def search(self, work: Callable[[], T], piece: Piece) -> T:
        """`run` for a search that waits for the cluster. Raises BusyError where no thread is free in time."""
        future = asyncio.ensure_future(self.run(work, piece))
        try:
            return await future
        except TimeoutError:
            raise BusyError("Every thread waits for OpenSearch, which does not answer. Try again later.") from None
        finally:
            piece.let_go(future)

    async def model(self, work: Callable[[], T], piece: Piece) -> T:
        """`run` for what has no first stage to fall back to: any fault of a model is a ShelfrankError."""
        future = asyncio.ensure_future(self.run(work, piece))
        try:
            left = None if piece.deadline == float("inf") else max(0.0, piece.deadline - time.monotonic())
            return await asyncio.wait_for(future, left)
        except TimeoutError:
            raise ShelfrankError("The deadline came before the models were done. Send less at once.") from None
        except ShelfrankError:
            raise
        except Exception as error:
            raise ShelfrankError("The model failed; the service's log says why.") from error
        finally:
            piece.let_go(future)

    def close(self) -> None:
        """End the work and let go of the models: an application is full of cycles, and they are some 500 MB."""
        self._closed = True
        for crew in (self._searching, self._aside, self._models):
            crew.close()
        self._let_go()

    def _let_go(self) -> None:
        self.rerankers.clear()
        self.encoder = self.next_encoder = None
