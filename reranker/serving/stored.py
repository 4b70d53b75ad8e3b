"""Which indexes hold vectors that a loaded encoder made: what the gateway asks the cluster for itself."""

from __future__ import annotations

import asyncio
from typing import Any
from urllib.parse import quote, urlencode

import msgspec
from cachetools import TTLCache

from indexer.errors import ClusterError
from indexer.mappings import vector_fields
from reranker.serving.engine import Engine
from reranker.serving.passing import Passage

_KEPT_S = 60.0
_KEPT = 1_000  # names; clients choose them
_LIMIT_S = 1.0  # a search waits for it
_LONGEST = 2_000  # of one name, or several; no address that OpenSearch reads holds many more characters
# `local`: without an elected manager the cluster would let a look at its mappings wait, while it answers searches.
_ONLY = urlencode({"filter_path": "*.mappings._meta.shelfrank", "local": "true"})


class StoredVectors:
    """Looks up what an index was made with, with the service's own user, and remembers it for a minute.

    A name that has been moved meanwhile does no harm: each document says itself which encoder made its vector.
    """

    def __init__(self, passage: Passage, engine: Engine) -> None:
        self._passage, self._engine = passage, engine
        self._known: TTLCache[str, frozenset[str]] = TTLCache(_KEPT, _KEPT_S)

    async def fields(self, index: str) -> frozenset[str]:
        """Names of the fields that hold vectors of loaded encoders, in one index or several ("a,b", "a*", "" for all);
        empty where there are none, or nothing is told."""
        if not self._engine.encoders or len(index) > _LONGEST:
            return frozenset()
        found = self._known.get(index)
        if found is None:
            try:
                found = await asyncio.wait_for(self._look_up(index), _LIMIT_S)
            except (ClusterError, TimeoutError, msgspec.DecodeError):
                found = frozenset()  # the search itself will tell what is wrong with the cluster
            self._known[index] = found
        return found

    async def _look_up(self, index: str) -> frozenset[str]:
        path = f"/{quote(index, safe=',*-')}/_mapping" if index else "/_mapping"
        answer = await self._passage.send("GET", path, _ONLY, lend=True)
        if answer.status != 200:
            return frozenset()
        loaded = {each.bundle_id for each in self._engine.encoders}
        indexes = msgspec.json.decode(answer.body, type=dict[str, dict[str, Any]])
        of_encoders = [vector_fields(each["mappings"]["_meta"]["shelfrank"]) for each in indexes.values()]
        return frozenset(field for each in of_encoders for name, field in each.items() if name in loaded)
