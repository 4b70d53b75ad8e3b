"""A catalogue is an alias to a dated index, so that a new one can be built beside it and put in its place."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import msgspec
from opensearchpy import OpenSearch
from opensearchpy.exceptions import NotFoundError

from indexer.errors import ClusterError, UsageError
from indexer.mappings import Made
from indexer.patience import Patience

_NAME = re.compile(r'[^A-Z\\/*?"<>| ,#:\x00-\x1f]+')
_PATIENCE_S = 30.0  # a cluster that is busy or just starting gets a moment
_MAX_NAME_BYTES = 200  # OpenSearch takes 255; the date comes behind


@dataclass(frozen=True)
class Live:
    """The index behind an alias, and what it was made with."""

    index: str
    made: Made


def check_name(name: str) -> None:
    """Refuse a name that OpenSearch would. Raises UsageError."""
    if not _NAME.fullmatch(name) or name.startswith(("-", "_", "+", ".")) or len(name.encode()) > _MAX_NAME_BYTES:
        raise UsageError(
            f"{name!r} cannot name an index: use lower case letters, digits, '-' and '_', starting with a letter "
            f"or digit, at most {_MAX_NAME_BYTES} bytes."
        )


def live(client: OpenSearch, name: str) -> Live | None:
    """The index that the alias stands for, or None when there is nothing of that name.

    Raises UsageError for an impossible name, ClusterError for an index (not an alias) of that name, for an
    alias to several indices, and for an index that shelfrank did not make.
    """
    check_name(name)
    found = Patience(_PATIENCE_S).call(lambda: client.indices.get(index=name, params={"ignore_unavailable": "true"}))
    if not found:
        return None
    if name in found:
        raise ClusterError(
            f"{name} is an index, where an alias is expected. Ingest under another name, or delete it first "
            f"(DELETE /{name}) if it is not needed."
        )
    if len(found) > 1:
        raise ClusterError(
            f"The alias {name} stands for several indices ({', '.join(sorted(found))}); expected one. "
            "Remove it from all but the live one."
        )
    index, description = next(iter(found.items()))
    meta = description.get("mappings", {}).get("_meta", {}).get("shelfrank")
    try:
        return Live(index, msgspec.convert(meta, Made))
    except msgspec.ValidationError as error:
        raise ClusterError(
            f"The alias {name} stands for {index}, which shelfrank did not make: its mapping has no usable "
            "`_meta.shelfrank`. Ingest under another name."
        ) from error


def dated(name: str) -> str:
    """A name for a new index of the catalogue that no other has."""
    return f"{name}-{datetime.now(UTC):%Y%m%d-%H%M%S-%f}"


def make(client: OpenSearch, index: str, body: dict[str, Any], patience: Patience) -> None:
    """Make an index unless it is there, also when another is faster."""
    if patience.call(lambda: client.indices.exists(index=index)):
        return
    try:
        patience.call(lambda: client.indices.create(index=index, body=body))
    except ClusterError as error:
        if "resource_already_exists" not in str(error.__cause__):
            raise


def blocked(client: OpenSearch, index: str) -> bool:
    """Whether an index has a write block. Raises ClusterError."""
    found = Patience(_PATIENCE_S).call(lambda: client.indices.get_settings(index=index, name="index.blocks.write"))
    block = found.get(index, {}).get("settings", {}).get("index", {}).get("blocks", {}).get("write", "false")
    return str(block).lower() == "true"


def swap(client: OpenSearch, name: str, old: str, new: str) -> None:
    """Point the alias from `old` (empty: from nothing) to `new` in one step, so that no search finds nothing.

    Raises ClusterError when it points elsewhere by now: somebody else has moved it.
    """
    actions: list[dict[str, Any]] = [{"add": {"index": new, "alias": name}}]
    if old:
        actions.insert(0, {"remove": {"index": old, "alias": name, "must_exist": True}})

    def held() -> list[str]:
        # A name that is not there yet answers 404, and the client calls that an error.
        found = client.indices.get_alias(params={"expand_wildcards": "open"})
        return sorted(index for index, each in found.items() if name in each.get("aliases", {}))

    def move() -> None:
        now = held()
        if now == [old] * bool(old):
            try:
                client.indices.update_aliases(body={"actions": actions})
                return
            except NotFoundError:
                now = held()  # somebody was faster, or this client itself, whose first answer was lost
        if now != [new]:
            raise ClusterError(f"{name} stands for {', '.join(now) or 'nothing'} now, and not for {old or 'nothing'}.")

    Patience(_PATIENCE_S).call(move)


def leftovers(client: OpenSearch, name: str) -> list[str]:
    """Dated indices of this catalogue that no alias points to: old ones, and builds that did not end."""
    found = Patience(_PATIENCE_S).call(
        lambda: client.indices.get_alias(index=f"{name}-*", params={"expand_wildcards": "open"})
    )
    dated = re.compile(re.escape(name) + r"-\d{8}-\d{6}-\d{6}")
    return sorted(index for index, held in found.items() if dated.fullmatch(index) and not held.get("aliases"))
