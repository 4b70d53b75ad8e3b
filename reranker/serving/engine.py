"""The models of the service: loaded by name, run by a few threads with a bounded queue, each behind a breaker."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any, TypeVar

import msgspec

from indexer.errors import ShelfrankError
from indexer.settings import Settings
from reranker.cache import Cache
from reranker.encoder import Encoder, QueryVectors
from reranker.rescore import Candidate, Outcome, Status, rescore, untouched, weighs_cosines
from reranker.scoring import CrossEncoder
from reranker.serving.breaker import Breaker
from reranker.serving.metrics import Metrics

DEFAULT = "default"
_RETRY_S = 30.0
T = TypeVar("T")
log = logging.getLogger("shelfrank")


class BusyError(ShelfrankError):
    """More work waits than `serve.queue` allows."""


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
        self._pool = ThreadPoolExecutor(serve.workers, "shelfrank-model")
        self._waiting = 0
        self._closed = False
        self._typical_s = 0.0  # of the last pieces of work, the newer the more
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
            self.missing[what] = str(error)
            log.error("The %s cannot be loaded: %s", what, error)
        if self._closed:
            self._let_go()

    def _load_reranker(self, name: str) -> None:
        models = self.settings.models
        if name != DEFAULT:
            models = msgspec.structs.replace(models, reranker=self.settings.serve.bundles[name])
        reranker = CrossEncoder.load(models)
        reranker.score("warm", [reranker.text_tokens("warm")])
        reranker.on_batch = self.metrics.tokens.observe
        reranker.cache = self._cache("scores", self.settings.serve.cache_scores)
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
        bundle: str = "",
        weight: float | None = None,
        deadline: float = float("inf"),
        own_deadline: bool = True,
    ) -> Outcome:
        """What `reranker.rescore` does, in a worker thread, answered when the deadline comes, whatever runs.

        `own_deadline` says that it is the service's own and not one that a client chose: only then is a timeout a
        failure of the model.
        """
        if why := self.unavailable(bundle):
            return untouched(window, "error", why)
        reranker = self.reranker(bundle)
        if not self._in_time(deadline):
            reason = f"{self._waiting} rerankings are in hand, and this one would come too late"
            return untouched(window, "skipped", reason, reranker)
        try:
            with self.span("rerank"):
                vectors = QueryVectors(query, self.encoders) if weighs_cosines(reranker, weight) else None
                work = partial(rescore, query, window, reranker, weight, deadline, vectors)
                outcome = await self._within(deadline, work, len(window))
        except BusyError as error:
            return untouched(window, "skipped", str(error), reranker)
        if outcome is None:
            outcome = untouched(window, "timeout", "the deadline came while the window was scored", reranker)
        self.record(bundle, outcome.status, own_deadline)
        return outcome

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

    def record(self, bundle: str, status: Status, own_deadline: bool) -> None:
        """What came of a reranking, for the breaker."""
        breaker = self._breakers[bundle or DEFAULT]
        breaker.record(status == "error" or (status == "timeout" and own_deadline))
        self.metrics.breaker.labels(bundle or DEFAULT).set(breaker.is_open)

    def count(self, index: str, status: Status) -> None:
        """One window more; indexes that the settings do not name count as one, for labels are not for clients."""
        self.metrics.rerank.labels(index if index in self.settings.serve.indexes else "other", status).inc()

    def _in_time(self, deadline: float) -> bool:
        """Whether a reranking that has to queue would be done by its deadline, if each takes as long as the last ones.

        One that is not would take its time from those that are: under more load than it can carry, the service would
        end up with half-done rerankings alone.
        """
        workers = self.settings.serve.workers
        ahead = self._waiting - workers + 1
        return ahead <= 0 or time.monotonic() + (ahead / workers + 1) * self._typical_s < deadline

    async def _within(self, deadline: float, work: Callable[[], T], hits: int) -> T | None:
        """The result of `work`, or None when the deadline comes first (the work then ends by itself)."""
        self.metrics.window.observe(hits)
        left = None if deadline == float("inf") else deadline - time.monotonic()
        if left is not None and left <= 0:
            return None
        future = asyncio.ensure_future(self.run(work))
        done, _ = await asyncio.wait({future}, timeout=left)
        return future.result() if done else None

    async def run(self, work: Callable[[], T], phase: str = "rerank") -> T:
        """Run `work` in a worker thread and measure it as this phase. Raises BusyError when too many wait."""
        serve = self.settings.serve
        if self._waiting >= serve.workers + serve.queue:
            raise BusyError(f"{self._waiting} requests are in hand already; the service takes no more at once.")
        self._waiting += 1
        began = time.monotonic()

        def timed() -> T:
            started = time.monotonic()
            self.metrics.phase.labels("queue").observe(started - began)
            result = work()
            took = time.monotonic() - started
            self.metrics.phase.labels(phase).observe(took)
            self._typical_s += 0.1 * (took - self._typical_s)
            return result

        try:
            self.metrics.waiting.set(max(0, self._waiting - serve.workers))
            return await asyncio.get_running_loop().run_in_executor(self._pool, timed)
        finally:
            self._waiting -= 1
            self.metrics.waiting.set(max(0, self._waiting - serve.workers))

    async def model(self, work: Callable[[], T], phase: str = "rerank") -> T:
        """`run` for what has no first stage to fall back to: any fault of a model is a ShelfrankError."""
        try:
            return await self.run(work, phase)
        except ShelfrankError:
            raise
        except Exception as error:
            raise ShelfrankError(f"The model failed: {type(error).__name__}: {error}") from error

    def close(self) -> None:
        """End the work and let go of the models: an application is full of cycles, and they are some 500 MB."""
        self._closed = True
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._let_go()

    def _let_go(self) -> None:
        self.rerankers.clear()
        self.encoder = self.next_encoder = None
