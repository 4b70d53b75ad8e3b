"""The gateway: OpenSearch's own search requests in, OpenSearch's own answers out, the window in a better order.

Hits, numbers and everything else of an answer stay the bytes that the cluster sent; only the order of the hits changes
and `ext.shelfrank` is added. An answer that is not reranked is passed on untouched.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from typing import Any
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
from reranker.serving import plan as plans
from reranker.serving import source_filter
from reranker.serving.engine import DEFAULT, Engine
from reranker.serving.metrics import Metrics
from reranker.serving.passing import Answer, Passage
from reranker.serving.plan import Json, Plan
from reranker.serving.stored import StoredVectors

STATUS_HEADER = "x-shelfrank-status"
MAX_SEARCHES = 100  # in one _msearch
REFUSED = "the cluster refused the request for the whole window"
_OWN_PARAMS = ("from", "size")


class _Row(msgspec.Struct):
    """What is read of a hit; the hit itself stays as it came."""

    id: str = msgspec.field(name="_id", default="")
    score: float | None = msgspec.field(name="_score", default=None)
    source: dict[str, Any] = msgspec.field(name="_source", default_factory=dict)
    fields: dict[str, list[Any]] = {}


class Caller(msgspec.Struct, frozen=True):
    """Who asks: the headers that go on to the cluster, and whether the service's own user may be lent."""

    headers: Mapping[str, str]
    lend: bool = False


class Gateway:
    """Searches of one cluster, reranked on their way back."""

    def __init__(self, passage: Passage, engine: Engine, settings: Settings, metrics: Metrics) -> None:
        self.passage, self.engine, self.settings, self.metrics = passage, engine, settings, metrics
        self.stored = StoredVectors(passage, engine)

    async def search(self, method: str, raw_path: str, index: str, query: str, body: bytes, caller: Caller) -> Answer:
        """One `_search`. Raises InputError for a wrong `ext.shelfrank` and ClusterError when no answer comes."""
        began = time.monotonic()
        asked = parse_qsl(query, keep_blank_values=True)
        params = dict(asked)
        plan = await self._prepared(plans.read(body, index, self.settings, params), index, params)
        if plan.skip:
            answer = await self.passage.send(method, raw_path, query, plan.plain, caller.headers, caller.lend)
            return self._untouched(plan, answer, index)
        ours = _OWN_PARAMS if plan.source is None else (*_OWN_PARAMS, *source_filter.PARAMS)
        rest = urlencode([(name, value) for name, value in asked if name not in ours])
        headers = {"content-type": "application/json", **caller.headers}
        answer = await self.passage.send(method, raw_path, rest, plan.wide, headers, caller.lend)
        if answer.status != 200:
            # Perhaps only the wider request is refused (max_result_window, say): the client's own decides.
            answer = await self.passage.send(method, raw_path, query, plan.plain, caller.headers, caller.lend)
            plan.skip = REFUSED
            return self._untouched(plan, answer, index)
        changed, status = await self._reranked(plan, msgspec.Raw(answer.body), index, began)
        return Answer(200, {**answer.headers, STATUS_HEADER: status}, msgspec.json.encode(changed))

    async def msearch(self, method: str, raw_path: str, index: str, query: str, body: bytes, caller: Caller) -> Answer:
        """One `_msearch`: each search by its own plan, all within one request to the cluster."""
        began = time.monotonic()
        lines = [line for line in body.split(b"\n") if line.strip()]
        if len(lines) % 2 or len(lines) > 2 * MAX_SEARCHES:
            raise InputError(
                f"_msearch has {len(lines)} lines; it takes pairs of a header and a body, {MAX_SEARCHES} pairs at most."
            )
        headers, searches = lines[::2], lines[1::2]
        names = [_index_of(header, index) for header in headers]
        prepared = [
            await self._prepared(plans.read(each, name, self.settings, {}), name, {})
            for each, name in zip(searches, names, strict=True)
        ]
        sent = [plan.wide or plan.plain for plan in prepared]
        answer = await self._send_lines(method, raw_path, query, headers, sent, caller)
        if answer.status != 200 or all(plan.skip and plan.ask is None for plan in prepared):
            for plan, name in zip(prepared, names, strict=True):
                self.engine.count(name, plan.status)
            return Answer(answer.status, {**answer.headers, STATUS_HEADER: "skipped"}, answer.body)
        parts = msgspec.json.decode(answer.body, type=Json)
        responses = msgspec.json.decode(parts["responses"], type=list[msgspec.Raw])
        refused = [at for at, plan in enumerate(prepared) if not plan.skip and _is_error(responses[at])]
        if refused:
            plain = [prepared[at].plain for at in refused]
            again = await self._send_lines(method, raw_path, query, [headers[at] for at in refused], plain, caller)
            found = msgspec.json.decode(again.body, type=Json).get("responses", msgspec.Raw(b"[]"))
            for at, response in zip(refused, msgspec.json.decode(found, type=list[msgspec.Raw]), strict=False):
                responses[at], prepared[at].skip = response, REFUSED
        done = await asyncio.gather(
            *(
                self._reranked(plan, response, name, began)
                for plan, response, name in zip(prepared, responses, names, strict=True)
            )
        )
        parts["responses"] = msgspec.Raw(msgspec.json.encode([response for response, _ in done]))
        status = ",".join(status for _, status in done)
        return Answer(200, {**answer.headers, STATUS_HEADER: status}, msgspec.json.encode(parts))

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
        except (msgspec.DecodeError, AttributeError, RecursionError):
            plan.skip = "the body holds what OpenSearch itself will refuse"
        return plan

    def _untouched(self, plan: Plan, answer: Answer, index: str) -> Answer:
        """The cluster's answer; only a client that asked for reranking finds a word about it in the body."""
        self.engine.count(index, plan.status)
        body = _told(plan, msgspec.Raw(answer.body))
        return Answer(answer.status, {**answer.headers, STATUS_HEADER: plan.status}, bytes(body))

    async def _reranked(self, plan: Plan, raw: msgspec.Raw, index: str, began: float) -> tuple[Any, str]:
        """The response with its page in the new order, and the status."""
        if plan.skip:
            self.engine.count(index, plan.status)
            return _told(plan, raw), plan.status
        parts = msgspec.json.decode(raw, type=Json)
        if "hits" not in parts:
            return raw, "skipped"  # an error of this search alone
        listed = time.monotonic()
        self.metrics.phase.labels("first_stage").observe(listed - began)
        hits = msgspec.json.decode(parts["hits"], type=Json)
        rows = msgspec.json.decode(hits.get("hits", b"[]"), type=list[msgspec.Raw])
        head = [_candidate(at, row, plan.fields) for at, row in enumerate(rows[: plan.window])]
        outcome = await self.engine.rescore(
            plan.query,
            head,
            bundle=plan.bundle,
            weight=plan.weight,
            deadline=began + plan.deadline_ms / 1000,
            own_deadline=plan.ask is None or plan.ask.deadline_ms is None,
        )
        order = [*outcome.order, *range(len(head), len(rows))]
        page = order[plan.start : plan.start + plan.size]
        hits["hits"] = msgspec.Raw(msgspec.json.encode([_pruned(rows[at], plan) for at in page]))
        parts["hits"] = msgspec.Raw(msgspec.json.encode(hits))
        self.engine.count(index, outcome.status)
        word = outcome.summary()
        word["took_ms"] = {
            "first_stage": round((listed - began) * 1000, 2),
            "rerank": round((time.monotonic() - listed) * 1000, 2),
        }
        if plan.ask is not None and plan.ask.experiment:
            word["experiment"] = plan.ask.experiment
        word["hits"] = [_scores(place, at, head, outcome) for place, at in enumerate(page, start=plan.start + 1)]
        if plan.ask is not None and plan.ask.explain:
            word["explained"] = await self._explained(plan, index, head, outcome)
        return _with_word(parts, word), outcome.status

    async def _explained(self, plan: Plan, index: str, head: Sequence[Candidate], outcome: Outcome) -> Any:
        """Why the page's first hits stand where they stand; never worth an error."""
        listed = arrange([Hit(each.id, each.first_stage, dict(each.fields)) for each in head], outcome)
        page = Page(listed, len(listed), outcome.summary(), {})
        picked = listed[plan.start : plan.start + min(plan.size, MAX_HITS)]
        reranker = self.engine.rerankers.get(plan.bundle or DEFAULT)

        language: Language = plan.ask.language if plan.ask else "en"

        def told() -> Any:
            found = explain_page(index, plan.query, page, picked, reranker, Filters(), TIME_LIMIT_MS, language)
            return msgspec.to_builtins({"reading": found.reading, "hits": found.hits, "took_ms": found.took_ms})

        try:
            return await self.engine.run(told, "explain")
        except Exception as error:  # noqa: BLE001 - the page is there, whatever is wrong with what is said of it
            return {"reading": {"status": "error", "reason": f"{type(error).__name__}: {error}"}, "hits": []}


def _told(plan: Plan, raw: msgspec.Raw) -> msgspec.Raw:
    """The answer with why it was not reranked, for a client that asked; errors and whatever is no object stay."""
    if plan.ask is None or _is_error(raw):
        return raw
    parts = msgspec.json.decode(raw, type=Json)
    return msgspec.Raw(msgspec.json.encode(_with_word(parts, {"status": plan.status, "reason": plan.skip})))


def _is_error(raw: msgspec.Raw) -> bool:
    try:
        return "hits" not in msgspec.json.decode(raw, type=Json)
    except (msgspec.DecodeError, RecursionError):
        return True


def _index_of(header: bytes, otherwise: str) -> str:
    try:
        index = msgspec.json.decode(header, type=dict[str, Any]).get("index", otherwise)
    except (msgspec.DecodeError, RecursionError):
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
    extensions = msgspec.json.decode(parts["ext"], type=Json) if "ext" in parts else {}
    extensions["shelfrank"] = msgspec.Raw(msgspec.json.encode(word))
    return {**parts, "ext": msgspec.Raw(msgspec.json.encode(extensions))}
