"""Is what is about to be seen still the shop? An index that shrinks, loses what its products had, or prices that jump
stop a job before they are live; whoever means it says so by name, and the job goes on.

A reindex is judged before its switch, an ingest before its first write (a sample of the file against the same products
as they are stored), a feed event by event over the last ones.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Literal

import msgspec
from opensearchpy import OpenSearch

from indexer import bulk
from indexer.errors import InputError
from indexer.patience import Patience
from indexer.settings import Guards
from ingest.clean import Cleaned, clean
from ingest.sample import Sample
from ingest.settle import is_older
from ingest.sources import Catalogue, Row

Allowed = Literal["fewer", "missing", "prices", "deletions"]
_ALLOWED_BY: Mapping[str, Allowed] = {"d": "deletions", "m": "missing", "p": "prices"}  # kind of event -> its flag
FIELDS = {"price": "a price", "image": "an image", "category": "a category"}
SAMPLE = 1000
_SEEN = ("price", "currency", "image", "category")
_FEW = 10  # so few products are not a kind of fault; what concerns less is never stopped
_SEED = 1  # the same index gives the same sample

Product = Mapping[str, Any]


class GuardError(InputError):
    """A job was stopped because the shop would change more than its settings allow."""


class Finding(msgspec.Struct, frozen=True):
    """One thing that is beyond the settings: what is seen, the limit that it is beyond, and which flag allows it."""

    allow: Allowed
    seen: str
    limit: float


def refuse(findings: Iterable[Finding], allow: Collection[str], what: str, command: str) -> None:
    """Raise GuardError with all findings that are not allowed: what did not happen, why, and the `command` that goes on
    if it is meant."""
    if left := [each for each in findings if each.allow not in allow]:
        seen = "; ".join(f"{each.seen} (guards.{each.allow} is {each.limit:g})" for each in left)
        flags = " ".join(dict.fromkeys(f"--allow-{each.allow}" for each in left))
        raise GuardError(f"{what}: {seen}. If that is meant, go on with `{command} {flags}`.")


def refuse_empty(products: int, what: str) -> None:
    """Raise GuardError where no product is left: that is never meant, and no flag allows it."""
    if not products:
        raise GuardError(
            f"{what} has no products, and an empty index is never put live. Look at where the products come from; to "
            "end a catalogue, delete its index."
        )


def fewer(live: int, new: int, guards: Guards) -> list[Finding]:
    """Whether an index of `new` products may stand in for one of `live`."""
    if new >= live * (1 - guards.fewer):
        return []
    seen = f"{new:,} products would stand where {live:,} do, {_percent(live - new, live)} fewer"
    return [Finding("fewer", seen, guards.fewer)]


def missing(live: Sequence[Product], new: Sequence[Product], guards: Guards) -> list[Finding]:
    """Whether products have fewer prices, images or categories than they had."""
    findings = []
    for field, called in FIELDS.items():
        had, have = _having(live, field), _having(new, field)
        fall = had / max(len(live), 1) - have / max(len(new), 1)
        if fall > guards.missing and fall * len(live) >= _FEW:
            seen = (
                f"{_percent(have, len(new))} of the products would have {called}, where {_percent(had, len(live))} do"
            )
            findings.append(Finding("missing", seen, guards.missing))
    return findings


def prices(pairs: Sequence[tuple[Product, Product]], guards: Guards) -> list[Finding]:
    """Whether too many prices jump: stored products, each with what it would become."""
    known = [pair for pair in pairs if all("price" in each for each in pair)]
    jumps = sum(jumped(old, new, guards.price_factor) for old, new in known)
    if jumps < _FEW or jumps <= guards.prices * len(known):
        return []
    seen = f"{_percent(jumps, len(known))} of the prices would change by a factor of {guards.price_factor:g} or more"
    return [Finding("prices", seen, guards.prices)]


def jumped(old: Product, new: Product, factor: float) -> bool:
    """Whether a price became another thing altogether."""
    if "price" not in old or "price" not in new:
        return False
    if old.get("currency", "") != new.get("currency", ""):
        return True
    low, high = sorted((float(old["price"]), float(new["price"])))
    return high >= factor * low


def indexes(client: OpenSearch, live: str, new: str, guards: Guards, patience: Patience) -> list[Finding]:
    """A new index, refreshed, against the live one."""
    counts = {index: int(patience.call(lambda: client.count(index=index))["count"]) for index in (live, new)}  # noqa: B023
    old, fresh = _sample(client, live, patience), _sample(client, new, patience)
    there = bulk.stored(client, new, list(old), patience, list(_SEEN))
    pairs = [(product, there[key]["_source"]) for key, product in old.items() if key in there]
    return [
        *fewer(counts[live], counts[new], guards),
        *missing(list(old.values()), list(fresh.values()), guards),
        *prices(pairs, guards),
    ]


def file(client: OpenSearch, index: str, catalogue: Catalogue, guards: Guards, patience: Patience) -> list[Finding]:
    """A catalogue file against those of its products that the live index has. Reads the file once."""
    rows = Sample[Row](SAMPLE, str(_SEED))
    for row in catalogue.rows():
        if isinstance(row, Row):
            rows.offer(row)
    cleaned = [each for row in rows.entries if isinstance(each := clean(row, catalogue.mapping), Cleaned)]
    new = {each.product["id"]: each.product for each in cleaned}
    versions = {each.product["id"]: each.version for each in cleaned}
    there = bulk.stored(client, index, list(new), patience, [*_SEEN, "version"])
    changed = [key for key, found in there.items() if not is_older(versions[key], found["_source"])]
    pairs = [(there[key]["_source"], new[key]) for key in changed]
    return [*missing([old for old, _ in pairs], [fresh for _, fresh in pairs], guards), *prices(pairs, guards)]


class Window:
    """The last events of a feed: how many of them delete, take something away, or make a price jump.

    `products` is how many the catalogue has: of a small one fewer events are enough. `past` is what an earlier run had
    seen, so that stopping and starting again does not begin anew: one letter an event, d for a deletion, n for a new
    product, m where something is missing, p for a price, - for none of these.
    """

    def __init__(self, products: int, guards: Guards, past: str = "") -> None:
        self._guards, self._size = guards, max(1, min(guards.window, products))
        self._kinds = deque(past, maxlen=guards.window)

    def see(self, old: Product, new: Product | None) -> None:
        """Take in what an event makes of a product, of nothing where there was none; None: it is deleted."""
        if new is None:
            self._kinds.append("d" if old else "-")
        elif not old:
            self._kinds.append("n")
        elif any(name in old and name not in new for name in FIELDS):
            self._kinds.append("m")
        elif jumped(old, new, self._guards.price_factor):
            self._kinds.append("p")
        else:
            self._kinds.append("-")

    def kinds(self) -> str:
        """What it has taken in, to go back to."""
        return "".join(self._kinds)

    def go_back(self, kinds: str) -> None:
        """Forget what came after `kinds`: it was not applied."""
        self._kinds = deque(kinds, maxlen=self._guards.window)

    def without(self, allow: Collection[str]) -> str:
        """The kinds for the next run to begin with: what was allowed in this one is none of them."""
        allowed = {kind for kind, name in _ALLOWED_BY.items() if name in allow}
        return "".join("-" if kind in allowed else kind for kind in self._kinds)

    def findings(self) -> list[Finding]:
        """What is beyond the settings by now."""
        counts = Counter(self._kinds)
        doing = {
            "d": "delete a product",
            "m": "take away a price, an image or a category",
            "p": f"change a price by a factor of {self._guards.price_factor:g} or more",
        }
        findings = []
        for kind, what in doing.items():
            allow = _ALLOWED_BY[kind]
            limit = float(getattr(self._guards, allow))
            seen = f"{counts[kind]:,} of the last {len(self._kinds):,} events {what}"
            # Of a small catalogue what is gone in the end: its few products may well come and go all day.
            left = counts[kind] - (counts["n"] if kind == "d" else 0)
            small = left > limit * self._size
            if small and self._size < self._guards.window:
                seen += f", in a catalogue of {self._size:,} products"
            if counts[kind] >= _FEW and (small or counts[kind] > limit * self._guards.window):
                findings.append(Finding(allow, seen, limit))
        return findings


def _having(products: Iterable[Product], field: str) -> int:
    return sum(product.get(field) not in (None, "", [], {}) for product in products)


def _percent(part: int, whole: int) -> str:
    share = 100 * part / max(whole, 1)
    # Neither all nor none where it is only nearly so.
    return f"{share:.0f} %" if share in (0, 100) or 0.5 < share < 99.5 else f"{min(max(share, 0.1), 99.9):.1f} %"


def _sample(client: OpenSearch, index: str, patience: Patience) -> dict[str, Product]:
    query = {"function_score": {"query": {"match_all": {}}, "random_score": {"seed": _SEED, "field": "_seq_no"}}}
    body = {"query": query, "size": SAMPLE, "_source": list(_SEEN)}
    hits = patience.call(lambda: client.search(index=index, body=body))["hits"]["hits"]
    return {hit["_id"]: hit["_source"] for hit in hits}
