"""What shoppers did with the hits of a search: events, taken by what their query_id proves."""

from __future__ import annotations

from typing import Annotated, Any

from cachetools import LRUCache
from fastapi import APIRouter, Depends, Request
from pydantic import BaseModel, ConfigDict, Field, StringConstraints
from starlette.exceptions import HTTPException

from reranker.search import MAX_REACH
from reranker.serving import access, ubi
from reranker.serving.access import DeniedError
from reranker.serving.query_ids import QueryIds

router = APIRouter()

# Searches whose events are counted, the latest ones.
_COUNTED = 50_000
# Control characters and line separators stand in no name, and break the lines of whoever exports them.
_ONE_LINE = r"^[^\x00-\x1f\x7f-\x9f\u2028\u2029]*$"
_LINES = r"^[^\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u2028\u2029]*$"
Line = Annotated[str, StringConstraints(max_length=200, pattern=_ONE_LINE)]


class EventRequest(BaseModel):
    """One thing a shopper did with a result, as UBI has it."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "example": {
                "action_name": "click",
                "query_id": "5f0c…",
                "client_id": "c1",
                "object_id": "a1",
                "position": 1,
            }
        },
    )
    action_name: Annotated[str, StringConstraints(min_length=1, max_length=100, pattern=_ONE_LINE)]
    query_id: Annotated[Line, Field(description="That of the search, as `/v1/search` gave it.")]
    client_id: Annotated[Line, Field(description="That of the search.")]
    object_id: Line = ""
    position: Annotated[int, Field(ge=1, le=MAX_REACH)] | None = None
    message: Annotated[str, StringConstraints(max_length=1000, pattern=_LINES)] = ""


class Counts:
    """How many events of each search this process has taken."""

    def __init__(self, most: int, searches: int = _COUNTED) -> None:
        self.most = most
        self._taken: LRUCache[str, int] = LRUCache(searches)

    def is_spent(self, query_id: str) -> bool:
        """Whether a search has had as many events as one may have; one more is counted where it has not."""
        taken: int = self._taken.get(query_id, 0)
        if taken >= self.most:
            return True
        self._taken[query_id] = taken + 1
        return False


async def _takes_own_ids(request: Request) -> bool:
    """Whether the key has the right `events`. Raises DeniedError where it may not even search."""
    try:
        return access.check(request, "events") is not None
    except DeniedError as error:
        if error.status != 403:
            raise
        access.check(request, "search")
        return False


_ANSWERS: dict[int | str, dict[str, Any]] = {
    403: {"description": "The query_id proves nothing, and the key lacks the right `events`."},
    429: {"description": "The search has had as many events as one may have."},
}


@router.post("/v1/events", status_code=202, summary="Write down what a shopper did with a result", responses=_ANSWERS)
async def event(
    request: Request, asked: EventRequest, own_ids: Annotated[bool, Depends(_takes_own_ids)]
) -> dict[str, Any]:
    """Kept in the cluster's `ubi_events` where `serve.ubi` is on; `kept` says whether it was taken.

    The query_id is one that `/v1/search` gave to the same client_id; ids of a shop's own need a key with the right
    `events`.
    """
    if not request.app.state.settings.serve.ubi:
        return {"kept": False}
    if not own_ids:
        _check(request, asked)
    row = ubi.event_row(**asked.model_dump())
    return {"kept": request.app.state.ubi.put(ubi.EVENTS, row, access.visit(request).share.name)}


def _check(request: Request, asked: EventRequest) -> None:
    """Raises DeniedError for an id that proves nothing, HTTPException for one that has been named too often."""
    query_ids: QueryIds = request.app.state.query_ids
    counts: Counts = request.app.state.event_counts
    if fault := query_ids.fault(asked.query_id, asked.client_id):
        raise DeniedError(
            403, f"{fault} Search again for a new one; ids of your own need an API key with the right events."
        )
    if counts.is_spent(asked.query_id):
        raise HTTPException(429, f"This search has had {counts.most} events, the most of one (serve.events_each).")
