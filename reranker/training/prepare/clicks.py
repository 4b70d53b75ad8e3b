"""Grades from clicks, carts and purchases in UBI logs, corrected for the position that a product was shown at."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec
import numpy as np

from indexer.errors import UsageError
from reranker.training.prepare import ubi
from reranker.training.prepare.collection import CLICKS, Collection, Evidence, place, query_key
from reranker.training.prepare.position import Curve, Floats, attractiveness, estimate

_RECENT = 200_000  # events remembered to know one that was logged twice
_HALF = 20.0  # looks at which a grade from clicks is half as sure as one from a judge

_PAIRS = "pairs of query and product in clicks"


class Options(msgspec.Struct, frozen=True):
    """How clicks become grades.

    A pair's value is its clicks, carts and purchases, times their weights, over how often it was looked at;
    `thresholds` are the least values of the grades 3, 2 and 1. `page` is how many results of a
    logged result list count as shown where no impressions were logged.
    """

    thresholds: tuple[float, float, float] = (0.3, 0.1, 0.03)
    min_impressions: int = 10
    prior: float = 5.0
    click_weight: float = 1.0
    cart_weight: float = 3.0
    purchase_weight: float = 5.0
    max_session_clicks: int = 100
    max_position: int = 50
    page: int = 10
    sure_clicks: int = 3

    def grade(self, value: float) -> int:
        return next((3 - at for at, least in enumerate(self.thresholds) if value >= least), 0)


class Summary(msgspec.Struct):
    """What the report says of clicks; `shown_by` names, for each application, where its impressions come from."""

    curve: Curve | None = None
    shown_by: dict[str, str] = {}
    bot_sessions: int = 0
    graded: int = 0
    without_impressions: int = 0


class _Application(msgspec.Struct):
    impressions: bool = False
    lists: bool = False
    first: int = 1  # the ordinal of the first position: some count from 0, some from 1

    @property
    def shown_by(self) -> str:
        return "impression events" if self.impressions else "result lists" if self.lists else "nothing"


class _Pair(msgspec.Struct):
    """What happened to one product under one query; `positions` is position (from 0) -> impressions, clicks."""

    positions: dict[int, list[int]] = {}
    carts: int = 0
    purchases: int = 0
    loose: dict[str, int] = {}  # actions of applications that do not say what they showed

    @property
    def shown(self) -> int:
        return sum(counts[0] for counts in self.positions.values())


class _Scan(msgspec.Struct):
    """What a first pass over the files tells: texts of queries, habits of applications, sessions that are bots."""

    texts: dict[str, str] = {}
    applications: dict[str, _Application] = {}
    clicks: Counter[str] = msgspec.field(default_factory=Counter)

    def application(self, name: str) -> _Application:
        return self.applications.setdefault(name, _Application())


def add_clicks(collection: Collection, files: Sequence[Path], options: Options) -> Summary:
    """Read UBI exports, twice, and add a grade for every pair that was seen often enough.

    Memory grows with the distinct queries, sessions that click, and pairs, not with the events. Where an application
    logs no impressions, its result lists stand for them (the first `page` results); where it logs no result lists
    either, nothing says what was seen and passed over, so that there are only positive grades: 3 for what was bought,
    2 for what was put in a cart or clicked `sure_clicks` times.
    """
    if not all(low < high for low, high in zip(options.thresholds[1:], options.thresholds, strict=False)):
        raise UsageError(f"The thresholds {options.thresholds} must fall: the least values of the grades 3, 2 and 1.")
    paths = list({path.resolve(): path for path in files}.values())  # searches and events may share a file
    scan = _first_pass(paths)
    pairs = _second_pass(collection, paths, scan, options)
    summary = Summary(
        shown_by={name or "(no name)": found.shown_by for name, found in sorted(scan.applications.items())},
        bot_sessions=sum(count > options.max_session_clicks for count in scan.clicks.values()),
    )
    _grade(collection, pairs, options, summary)
    return summary


def _first_pass(paths: Sequence[Path]) -> _Scan:
    scan = _Scan()
    lowest: dict[str, int] = {}
    for _, row in _rows(paths):
        if isinstance(row, ubi.Search):
            scan.texts.setdefault(row.id, row.text)
            about = scan.application(row.application)
            about.lists = about.lists or bool(row.hits)
        elif isinstance(row, ubi.Event):
            about = scan.application(row.application)
            about.impressions = about.impressions or row.action == ubi.IMPRESSION
            if row.ordinal >= 0:
                lowest[row.application] = min(lowest.get(row.application, 1), row.ordinal)
            if row.action == ubi.CLICK:
                scan.clicks[row.session] += 1
    scan.clicks.pop("", None)  # events without a session are not one session
    for name, first in lowest.items():
        scan.applications[name].first = first
    return scan


def _rows(paths: Sequence[Path]) -> Iterator[tuple[Path, ubi.Row]]:
    return ((path, row) for path in paths for _, row in ubi.rows(path))


class _Recent:
    """Remembers the last events, in two generations so that memory stays bounded."""

    def __init__(self) -> None:
        self._old: set[tuple[str, ...]] = set()
        self._new: set[tuple[str, ...]] = set()

    def repeats(self, key: tuple[str, ...]) -> bool:
        if key in self._new or key in self._old:
            return True
        self._new.add(key)
        if len(self._new) > _RECENT:
            self._old, self._new = self._new, set()
        return False


def _second_pass(
    collection: Collection, paths: Sequence[Path], scan: _Scan, options: Options
) -> dict[str, dict[str, _Pair]]:
    """Query key -> product -> what happened. Every row is counted as used, merged or rejected."""
    ledger = collection.ledger
    pairs: dict[str, dict[str, _Pair]] = {}
    recent, searched = _Recent(), set[str]()
    texts: dict[str, str] = {}
    for path in paths:
        counted = place("UBI rows", path)
        for number, row in ubi.rows(path):
            ledger.read(counted)
            if isinstance(row, ubi.Fault):
                ledger.rejected(counted, number, row.reason, row.value)
            elif isinstance(row, ubi.Search):
                if row.id in searched:
                    ledger.merged(counted)
                    continue
                searched.add(row.id)
                ledger.used(counted)
                if scan.applications[row.application].shown_by == "result lists":
                    key = _key(texts, row.text)
                    for at, product in enumerate(dict.fromkeys(row.hits[: options.page])):
                        _of(pairs, key, product).positions.setdefault(at, [0, 0])[0] += 1
            else:
                text = scan.texts.get(row.query_id) or row.text
                reason, value = _unusable(row, text, scan, options)
                if reason:
                    ledger.rejected(counted, number, reason, value)
                elif row.query_id and recent.repeats((row.application, row.query_id, row.product, row.action)):
                    ledger.merged(counted)
                else:
                    ledger.used(counted)
                    _count(_of(pairs, _key(texts, text), row.product), row, scan, options)
    for key, text in texts.items():
        if key in pairs:
            collection.add_query(text, CLICKS)
    return pairs


def _unusable(row: ubi.Event, text: str, scan: _Scan, options: Options) -> tuple[str, str]:
    """Why an event cannot be used, and the value; two empty texts when it can."""
    if not text:
        return "query_id is not among the queries, and the event has no user_query", row.query_id
    if scan.clicks.get(row.session, 0) > options.max_session_clicks:
        return f"its session has more than {options.max_session_clicks} clicks", row.session
    placed = row.action in (ubi.IMPRESSION, ubi.CLICK) and scan.applications[row.application].shown_by != "nothing"
    if placed and row.ordinal < 0:
        return "event_attributes.position.ordinal is no position", row.product
    return "", ""


def _key(texts: dict[str, str], text: str) -> str:
    key = query_key(text)
    texts.setdefault(key, text)
    return key


def _of(pairs: dict[str, dict[str, _Pair]], key: str, product: str) -> _Pair:
    return pairs.setdefault(key, {}).setdefault(product, _Pair())


def _count(pair: _Pair, row: ubi.Event, scan: _Scan, options: Options) -> None:
    about = scan.applications[row.application]
    if about.shown_by == "nothing":
        pair.loose[row.action] = pair.loose.get(row.action, 0) + 1
    elif row.action in (ubi.IMPRESSION, ubi.CLICK):
        # Positions that few look at are one, or nothing could be told of them.
        at = min(row.ordinal - about.first, options.max_position - 1)
        pair.positions.setdefault(at, [0, 0])[row.action == ubi.CLICK] += 1
    elif row.action == ubi.CART:
        pair.carts += 1
    else:
        pair.purchases += 1


def _grade(collection: Collection, pairs: dict[str, dict[str, _Pair]], options: Options, summary: Summary) -> None:
    """Add one piece of evidence for each pair that says enough; reject the others."""
    ledger = collection.ledger
    summary.curve = _curve(pairs)
    theta = np.array(summary.curve.theta) if summary.curve else np.ones(1)
    enough: list[tuple[str, str, _Pair]] = []
    for key, products in pairs.items():
        for product, pair in products.items():
            ledger.read(_PAIRS)
            if pair.shown >= options.min_impressions:
                enough.append((key, product, pair))
                continue
            grade = _loose_grade(pair, options)
            if grade:
                times = sum(pair.loose.values())
                collection.add(key, product, Evidence(CLICKS, grade, round(times / (times + _HALF), 4), _PAIRS))
                summary.without_impressions += 1
            else:
                few = f"fewer than {options.min_impressions} impressions"
                said = (
                    few
                    if pair.shown or not pair.loose
                    else f"no impressions, and fewer than {options.sure_clicks} clicks"
                )
                ledger.rejected(_PAIRS, collection.entries[key].text, said, product)
    if not enough:
        return
    looks = np.array([_looks(pair, theta) for _, _, pair in enough])
    actions = np.array([_actions(pair, options) for _, _, pair in enough])
    values = attractiveness(actions, looks, options.prior)
    for (key, product, _), value, looked, acted in zip(enough, values, looks, actions, strict=True):
        confidence = round(float(looked / (looked + _HALF)), 4)
        # What nobody ever touched is no positive, however well the prior thinks of it.
        grade = options.grade(float(value)) if acted else 0
        collection.add(key, product, Evidence(CLICKS, grade, confidence, _PAIRS))
    summary.graded = len(enough)


def _curve(pairs: dict[str, dict[str, _Pair]]) -> Curve | None:
    """The examination curve from all pairs, also those that are seen too seldom for a grade."""
    shown_pairs = [pair for products in pairs.values() for pair in products.values() if pair.positions]
    rows = [
        (index, at, shown, min(clicked, shown))  # fewer: a click on what was not logged as shown
        for index, pair in enumerate(shown_pairs)
        for at, (shown, clicked) in pair.positions.items()
        if shown
    ]
    if not rows:
        return None
    pair_at, position, shown, clicked = (np.array(column) for column in zip(*rows, strict=True))
    return estimate(pair_at, position, shown.astype(float), clicked.astype(float))


def _looks(pair: _Pair, theta: Floats) -> float:
    """Impressions that were looked at, as expected."""
    return sum(shown * float(theta[min(at, len(theta) - 1)]) for at, (shown, _) in pair.positions.items())


def _actions(pair: _Pair, options: Options) -> float:
    clicked = sum(min(counts) for counts in pair.positions.values())
    carts, purchases = pair.carts * options.cart_weight, pair.purchases * options.purchase_weight
    return clicked * options.click_weight + carts + purchases


def _loose_grade(pair: _Pair, options: Options) -> int:
    if pair.loose.get(ubi.PURCHASE):
        return 3
    return 2 if pair.loose.get(ubi.CART) or pair.loose.get(ubi.CLICK, 0) >= options.sure_clicks else 0
