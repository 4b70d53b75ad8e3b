"""The gateway: OpenSearch's own search requests in, OpenSearch's own answers out, the window in a better order.

Hits, numbers and everything else of an answer stay the bytes that the cluster sent; only the order of the hits changes
and `ext.shelfrank` is added. An answer that is not reranked is passed on untouched.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar
from urllib.parse import parse_qsl, urlencode

import msgspec

from indexer.errors import InputError, ShelfrankError
from indexer.settings import Settings
from reranker.documents import renamed
from reranker.explaining.explained import Language
from reranker.explaining.explainer import MAX_HITS, TIME_LIMIT_MS, explain_page
from reranker.rescore import Candidate, Outcome, weighs_cosines
from reranker.retrieval import Filters, Hit
from reranker.search import Page, arrange
from reranker.serving import disclosure, source_filter
from reranker.serving import plan as plans
from reranker.serving.crew import Piece
from reranker.serving.engine import DEFAULT, Engine
from reranker.serving.metrics import Metrics
from reranker.serving.passing import Answer, Passage
from reranker.serving.plan import Json, Plan
from reranker.serving.room import Room
from reranker.serving.stored import StoredVectors
from reranker.serving.visits import Visit

STATUS_HEADER = "x-shelfrank-status"
MAX_SEARCHES = 100  # in one _msearch
REFUSED = "the cluster refused the request for the whole window"
UNREAD = "the cluster's answer is not JSON"
LONG_BYTES = 200_000
_AT_ONCE = "max_concurrent_searches"
_UNREADABLE = (msgspec.DecodeError, RecursionError)
_HITS_AT_ONCE = 40_000
# An explanation ends at the deadline by itself, with what it has; it is waited for a little.
_GRACE_S = 1.0
_OWN_PARAMS = ("from", "size")
T = TypeVar("T")
log = logging.getLogger("shelfrank")


class _Row(msgspec.Struct):
    """What is read of a hit; the hit itself stays as it came."""

    id: str = msgspec.field(name="_id", default="")
    score: float | None = msgspec.field(name="_score", default=None)
    source: dict[str, Any] = msgspec.field(name="_source", default_factory=dict)
    fields: dict[str, list[Any]] = {}


class Caller(msgspec.Struct, frozen=True):
    """Who asks, and since when: the headers that go on to the cluster, and whether the service's own user may be
    lent."""

    headers: Mapping[str, str]
    visit: Visit
    lend: bool = False


class Gateway:
    """Searches of one cluster, reranked on their way back."""

    def __init__(self, passage: Passage, engine: Engine, settings: Settings, metrics: Metrics) -> None:
        self.passage, self.engine, self.settings, self.metrics = passage, engine, settings, metrics
        self.stored = StoredVectors(passage, engine)
        self._room = Room(_HITS_AT_ONCE, settings.cluster.timeout_s)

    async def passed_on(self, method: str, raw_path: str, query: str, body: bytes, caller: Caller, hits: int) -> Answer:
        """What is no search, as it came. Raises ClusterError when no answer comes."""
        async with self._room.taken(caller.visit.share, hits):
            return await self.passage.send(method, raw_path, query, body, caller.headers, caller.lend)

    async def search(self, method: str, raw_path: str, index: str, query: str, body: bytes, caller: Caller) -> Answer:
        """One `_search`. Raises InputError for a wrong `ext.shelfrank` and ClusterError when no answer comes."""
        asked = parse_qsl(query, keep_blank_values=True)
        params = dict(asked)
        plan = await aside(len(body), partial(plans.read, body, index, self.settings, params))
        plan = await self._prepared(plan, index, params)
        if plan.skip:
            async with self._room.taken(caller.visit.share, plan.hits):
                answer = await self.passage.send(method, raw_path, query, plan.plain, caller.headers, caller.lend)
            return self._untouched(plan, answer, index)
        ours = _OWN_PARAMS if plan.source is None else (*_OWN_PARAMS, *source_filter.PARAMS)
        rest = urlencode([(name, value) for name, value in asked if name not in ours])
        headers = {"content-type": "application/json", **caller.headers}
        async with self._room.taken(caller.visit.share, plan.hits):
            answer = await self.passage.send(method, raw_path, rest, plan.wide, headers, caller.lend)
        if answer.status != 200:
            # Perhaps only the wider request is refused (max_result_window, say): the client's own decides.
            answer = await self.passage.send(method, raw_path, query, plan.plain, caller.headers, caller.lend)
            plan.skip = REFUSED
            return self._untouched(plan, answer, index)
        found = await _listed(plan, msgspec.Raw(answer.body), len(answer.body))
        if not isinstance(found, _Listed):
            return self._untouched(plan, answer, index)
        changed, status = await self._reranked(plan, found, index, caller.visit)
        body = await aside(len(answer.body), partial(msgspec.json.encode, changed))
        return Answer(200, {**answer.headers, STATUS_HEADER: status}, body)

    async def msearch(self, method: str, raw_path: str, index: str, query: str, body: bytes, caller: Caller) -> Answer:
        """One `_msearch`: each search by its own plan, all within one request to the cluster."""
        lines = [line for line in body.split(b"\n") if line.strip()]
        if len(lines) % 2 or len(lines) > 2 * MAX_SEARCHES:
            raise InputError(
                f"_msearch has {len(lines)} lines; it takes pairs of a header and a body, {MAX_SEARCHES} pairs at most."
            )
        headers, searches = lines[::2], lines[1::2]
        names = [_index_of(header, index) for header in headers]
        read = await aside(len(body), partial(self._read_all, searches, names, query))
        prepared = await asyncio.gather(
            *(self._prepared(plan, name, {}) for plan, name in zip(read, names, strict=True))
        )
        self._bound(prepared)
        sent = [plan.plain if plan.skip else plan.wide for plan in prepared]
        query = _few_at_once(query, self.settings.limits.searches_at_once)
        async with self._room.taken(caller.visit.share, sum(plan.hits for plan in prepared)):
            answer = await self._send_lines(method, raw_path, query, headers, sent, caller)
        if answer.status != 200 or all(plan.skip and plan.ask is None for plan in prepared):
            for plan, name in zip(prepared, names, strict=True):
                self.engine.count(name, plan.status)
            return Answer(answer.status, {**answer.headers, STATUS_HEADER: "skipped"}, answer.body)
        try:
            parts = await aside(len(answer.body), partial(msgspec.json.decode, answer.body, type=Json))
            responses = _responses(parts, len(prepared))
        except _UNREADABLE:
            return Answer(answer.status, {**answer.headers, STATUS_HEADER: "skipped"}, answer.body)
        refused = [at for at, plan in enumerate(prepared) if not plan.skip and _is_error(responses[at])]
        if refused:
            plain = [prepared[at].plain for at in refused]
            again = await self._send_lines(method, raw_path, query, [headers[at] for at in refused], plain, caller)
            for at in refused:
                prepared[at].skip = REFUSED
            with suppress(*_UNREADABLE):
                listed = _responses(msgspec.json.decode(again.body, type=Json), len(refused))
                responses = [listed[refused.index(at)] if at in refused else each for at, each in enumerate(responses)]
        # One after the other, and beside the event loop where they are long together: each is short, all are not.
        found = [
            await _listed(plan, response, len(answer.body)) for plan, response in zip(prepared, responses, strict=True)
        ]
        done = await asyncio.gather(
            *(
                self._reranked(plan, each, name, caller.visit)
                for plan, each, name in zip(prepared, found, names, strict=True)
            )
        )
        changed = {**parts, "responses": [response for response, _ in done]}
        status = ",".join(status for _, status in done)
        whole = await aside(len(answer.body), partial(msgspec.json.encode, changed))
        return Answer(200, {**answer.headers, STATUS_HEADER: status}, whole)

    def _bound(self, plans_of_all: Sequence[Plan]) -> None:
        """Windows beyond what one request may bring are not asked for."""
        left = self.settings.limits.hits_per_request
        for plan in plans_of_all:
            left -= plan.hits
            if left < 0 and not plan.skip:
                plan.skip = "the windows of these searches hold more hits than one request brings"
                plan.skip += f" ({self.settings.limits.hits_per_request}, limits.hits_per_request)"

    def _read_all(self, searches: Sequence[bytes], names: Sequence[str], query: str) -> list[Plan]:
        shaped = {name: value for name, value in parse_qsl(query, keep_blank_values=True) if name in plans.SHAPING}
        return [plans.read(each, name, self.settings, shaped) for each, name in zip(searches, names, strict=True)]

    async def _send_lines(
        self,
        method: str,
        raw_path: str,
        query: str,
        headers: Sequence[bytes],
        bodies: Sequence[bytes],
        caller: Caller,
    ) -> Answer:
        lines = [line for pair in zip(headers, bodies, strict=True) for line in pair]
        return await self.passage.send(method, raw_path, query, b"\n".join([*lines, b""]), caller.headers, caller.lend)

    async def _prepared(self, plan: Plan, index: str, params: Mapping[str, str]) -> Plan:
        if plan.skip:
            return plan
        try:
            reranker = self.engine.reranker(plan.bundle)
            vectors = await self.stored.fields(index) if weighs_cosines(reranker, plan.weight) else ()
            return plans.widened(plan, reranker, params, vectors)
        except ShelfrankError as error:
            plan.skip, plan.status = str(error), "error"
        except (*_UNREADABLE, AttributeError):
            plan.skip = "the body holds what OpenSearch itself will refuse"
        return plan

    def _untouched(self, plan: Plan, answer: Answer, index: str) -> Answer:
        """The cluster's answer; only a client that asked for reranking finds a word about it in the body."""
        self.engine.count(index, plan.status)
        body = _told(plan, msgspec.Raw(answer.body))
        return Answer(answer.status, {**answer.headers, STATUS_HEADER: plan.status}, bytes(body))

    async def _reranked(self, plan: Plan, found: _Listed | msgspec.Raw, index: str, visit: Visit) -> tuple[Any, str]:
        """The response with its page in the new order, and the status; one that is not taken apart as it is."""
        if not isinstance(found, _Listed):
            self.engine.count(index, plan.status)
            return _told(plan, found), plan.status
        listed = time.monotonic()
        self.metrics.phase.labels("first_stage").observe(listed - visit.arrived)
        if not found.is_list:
            return found.raw, "skipped"  # an error of this search alone
        outcome = await self.engine.rescore(
            plan.query,
            found.head,
            index=index,
            bundle=plan.bundle,
            weight=plan.weight,
            deadline=visit.deadline(plan.deadline_ms),
            share=visit.share,
        )
        word = outcome.summary()
        word["took_ms"] = {
            "first_stage": round((listed - visit.arrived) * 1000, 2),
            "rerank": round((time.monotonic() - listed) * 1000, 2),
        }
        if plan.ask is not None and plan.ask.experiment:
            word["experiment"] = plan.ask.experiment
        if plan.ask is not None and plan.ask.explain:
            word["explained"] = await self._explained(plan, index, found.head, outcome, visit)
        return await aside(len(found.raw), partial(found.in_order, outcome, word)), outcome.status

    async def _explained(
        self, plan: Plan, index: str, head: Sequence[Candidate], outcome: Outcome, visit: Visit
    ) -> Any:
        """Why the page's first hits stand where they stand, as far as there is time; never worth an error."""
        deadline = visit.deadline(plan.deadline_ms)
        listed = arrange([Hit(each.id, each.first_stage, dict(each.fields)) for each in head], outcome)
        page = Page(listed, len(listed), outcome.summary(), {})
        picked = listed[plan.start : plan.start + min(plan.size, MAX_HITS)]
        reranker = self.engine.rerankers.get(plan.bundle or DEFAULT)

        language: Language = plan.ask.language if plan.ask else "en"

        def told() -> Any:
            limit_ms = min(TIME_LIMIT_MS, max(0.0, deadline - time.monotonic()) * 1000)
            found = explain_page(index, plan.query, page, picked, reranker, Filters(), limit_ms, language)
            found.reading["reason"] = disclosure.reason(found.reading["status"], found.reading["reason"])
            return msgspec.to_builtins({"reading": found.reading, "hits": found.hits, "took_ms": found.took_ms})

        try:
            return await self.engine.model(told, Piece("explain", visit.share, deadline + _GRACE_S))
        except Exception as error:  # noqa: BLE001 - the page is there, whatever is wrong with what is said of it
            log.error("An explanation failed: %s", disclosure.untold(error) or error)
            return {"reading": {"status": "error", "reason": disclosure.told(error)}, "hits": []}


class _Listed:
    """A response of the cluster taken apart, to be put together in another order."""

    def __init__(self, raw: msgspec.Raw, plan: Plan) -> None:
        self.raw, self._plan = raw, plan
        self._parts = msgspec.json.decode(raw, type=Json)
        self.is_list = "hits" in self._parts
        self._hits = msgspec.json.decode(self._parts.get("hits", b"{}"), type=Json)
        self._rows = msgspec.json.decode(self._hits.get("hits", b"[]"), type=list[msgspec.Raw])
        self.head = [_candidate(at, row, plan.fields) for at, row in enumerate(self._rows[: plan.window])]

    def in_order(self, outcome: Outcome, word: dict[str, Any]) -> Json:
        """The response with the page that the outcome makes, and a word about it."""
        plan = self._plan
        order = [*outcome.order, *range(len(self.head), len(self._rows))]
        page = order[plan.start : plan.start + plan.size]
        self._hits["hits"] = msgspec.Raw(msgspec.json.encode([_pruned(self._rows[at], plan) for at in page]))
        self._parts["hits"] = msgspec.Raw(msgspec.json.encode(self._hits))
        scores = [_scores(place, at, self.head, outcome) for place, at in enumerate(page, start=plan.start + 1)]
        return _with_word(self._parts, {**word, "hits": scores})


async def _listed(plan: Plan, raw: msgspec.Raw, size: int) -> _Listed | msgspec.Raw:
    """A response taken apart, of so many bytes that are; as it is where it is not to be reranked, or not to be read."""
    if plan.skip:
        return raw
    try:
        return await aside(size, partial(_Listed, raw, plan))
    except _UNREADABLE:
        plan.skip = UNREAD
        return raw


def _few_at_once(query: str, most: int) -> str:
    """The parameters of an `_msearch`, of whose searches the cluster takes so many at once: all at once would stand in
    its queue before everybody else's."""
    given = parse_qsl(query, keep_blank_values=True, errors="surrogateescape")
    asked = dict(given).get(_AT_ONCE, "")
    if asked and not (asked.isascii() and asked.isdigit() and int(asked) > most):
        return query
    rest = [(name, value) for name, value in given if name != _AT_ONCE]
    return urlencode([*rest, (_AT_ONCE, str(most))], errors="surrogateescape")


async def aside(size: int, work: Callable[[], T]) -> T:
    """The result of work on so many bytes: what is long is done beside the event loop, which serves everybody."""
    return await asyncio.to_thread(work) if size > LONG_BYTES else work()


def _told(plan: Plan, raw: msgspec.Raw) -> msgspec.Raw:
    """The answer with why it was not reranked, for a client that asked; errors and whatever is no object stay."""
    if plan.ask is None or _is_error(raw):
        return raw
    parts = msgspec.json.decode(raw, type=Json)
    return msgspec.Raw(msgspec.json.encode(_with_word(parts, {"status": plan.status, "reason": plan.skip})))


def _responses(parts: Json, number: int) -> list[msgspec.Raw]:
    """The responses of an `_msearch`. Raises DecodeError where there are not as many."""
    found = msgspec.json.decode(parts.get("responses", b"null"), type=list[msgspec.Raw])
    if len(found) != number:
        raise msgspec.DecodeError(f"there are {len(found)} responses to {number} searches")
    return found


def _is_error(raw: msgspec.Raw) -> bool:
    try:
        return "hits" not in msgspec.json.decode(raw, type=Json)
    except _UNREADABLE:
        return True


def _index_of(header: bytes, otherwise: str) -> str:
    try:
        index = msgspec.json.decode(header, type=dict[str, Any]).get("index", otherwise)
    except _UNREADABLE:
        return otherwise
    return ",".join(map(str, index)) if isinstance(index, list) else str(index)


def _candidate(at: int, raw: msgspec.Raw, fields: Mapping[str, str]) -> Candidate:
    row = msgspec.json.decode(raw, type=_Row)
    found = {name: values[0] if len(values) == 1 else values for name, values in row.fields.items()}
    found.update(row.source)
    return Candidate(row.id or str(at), row.score or 0.0, renamed(found, fields))


def _pruned(raw: msgspec.Raw, plan: Plan) -> Any:
    """The hit without what only the reranker asked for."""
    if not plan.own_fields and plan.source is None:
        return raw
    hit = msgspec.json.decode(raw, type=Json)
    if "fields" in hit:
        fields = msgspec.json.decode(hit["fields"], type=Json)
        fields = {name: value for name, value in fields.items() if name not in plan.own_fields}
        hit["fields"] = msgspec.Raw(msgspec.json.encode(fields))
        if not fields:
            del hit["fields"]
    if plan.source is not None and "_source" in hit:
        source = plan.source.without(msgspec.json.decode(hit["_source"], type=Json), plan.own_source)
        hit["_source"] = msgspec.Raw(msgspec.json.encode(source))
        if not plan.source.shown:
            del hit["_source"]
    return hit


def _scores(place: int, at: int, head: Sequence[Candidate], outcome: Outcome) -> dict[str, Any]:
    """Where a hit of the page stands, where it stood, and its scores; a hit behind the window has none but its own."""
    found: dict[str, Any] = {"rank": place, "first_stage_rank": at + 1}
    if at < len(head):
        found["_id"] = head[at].id
        found["scores"] = {
            "first_stage": head[at].first_stage,
            "rerank": outcome.rerank[at],
            "final": outcome.final[at],
        }
    return found


def _with_word(parts: Json, word: Mapping[str, Any]) -> Json:
    extensions: Json = {}
    with suppress(*_UNREADABLE):  # of a cluster whose word is no object, ours alone is told
        extensions = msgspec.json.decode(parts.get("ext", b"{}"), type=Json)
    extensions["shelfrank"] = msgspec.Raw(msgspec.json.encode(word))
    return {**parts, "ext": msgspec.Raw(msgspec.json.encode(extensions))}
