"""What the prepared data are like, and what a trainer should know of them before starting."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence

import msgspec

from reranker.evaluation.judgments import MAX_QUERIES
from reranker.training.prepare import clicks
from reranker.training.prepare.collection import SPLITS, Entry, Judgment, Merges
from reranker.training.prepare.leakage import Leak
from reranker.training.prepare.ledger import Count
from reranker.training.prepare.position import MIN_CLICKS

RARE = 0.01  # share of the judgments below which a grade is hardly learned
FEW_QUERIES = 50
EXACT = 3
_SPREAD = 0.2  # usual standard deviation, over queries, of a difference in nDCG@10


class Part(msgspec.Struct):
    """Figures of one split, or of all (`per_query` and `words` are minimum, median and maximum)."""

    queries: int
    judgments: int
    grades: dict[str, int]
    per_query: tuple[int, float, int]
    characters: tuple[int, float, int]
    languages: dict[str, int]
    sources: dict[str, int]
    one_grade: int


class Report(msgspec.Struct):
    """`report.json`."""

    parts: dict[str, Part]
    rows: dict[str, Count]
    merges: Merges
    judgments_by_source: dict[str, int]
    leaks: list[Leak]
    leaks_fixed: bool
    clicks: clicks.Summary | None
    together: int
    baskets: int
    products: int | None
    unjudged_share: float | None
    seed: int
    warnings: list[str] = []
    next: list[str] = []


def describe(
    entries: Mapping[str, Entry],
    judged: Mapping[str, Mapping[str, Judgment]],
    splits: Mapping[str, str],
) -> dict[str, Part]:
    """Figures by split, splits without queries left out, and of `all`."""
    chosen = {name: [key for key in entries if splits[key] == name] for name in SPLITS}
    return {name: _part(entries, judged, keys) for name, keys in {**chosen, "all": list(entries)}.items() if keys}


def _part(entries: Mapping[str, Entry], judged: Mapping[str, Mapping[str, Judgment]], keys: Sequence[str]) -> Part:
    grades = Counter(judgment.grade for key in keys for judgment in judged[key].values())
    return Part(
        queries=len(keys),
        judgments=sum(grades.values()),
        grades={str(grade): grades[grade] for grade in sorted(grades, reverse=True)},
        per_query=_range([len(judged[key]) for key in keys]),
        characters=_range([len(entries[key].text) for key in keys]),
        languages=_counts(entries[key].language for key in keys),
        sources=_counts(entries[key].source for key in keys),
        one_grade=sum(len({judgment.grade for judgment in judged[key].values()}) == 1 for key in keys),
    )


def _range(values: Sequence[int]) -> tuple[int, float, int]:
    return min(values), statistics.median(values), max(values)


def _counts(values: object) -> dict[str, int]:
    return dict(sorted(Counter(values).items(), key=lambda item: (-item[1], item[0])))  # type: ignore[call-overload]


def warnings(report: Report, largest_group: int) -> list[str]:
    """What may go wrong with these data, in sentences."""
    told = _part_warnings(report.parts) if report.parts else ["There is no judgment: nothing to train a reranker on."]
    whole = report.parts.get("all")
    if whole and largest_group > max(0.05 * whole.queries, 10):
        told.append(f"{largest_group} near-identical queries hang together and fill one split; raise --similarity.")
    if report.merges.split_conflicts:
        told.append(
            f"{len(report.merges.split_conflicts)} queries stood in two splits under two ids; the first one counts."
        )
    if report.leaks and not report.leaks_fixed:
        told.append(f"{len(report.leaks)} pairs of queries leak between splits; without --no-fix they would be moved.")
    told += _click_warnings(report.clicks)
    if report.baskets:
        told.append(
            f"{report.baskets:,} baskets know no query: {report.together:,} pairs of products bought together are in "
            "pairs.tsv, for related products and pre-training, and none is a judgment."
        )
    return told


def _part_warnings(parts: Mapping[str, Part]) -> list[str]:
    told = []
    whole = parts["all"]
    if whole.queries < FEW_QUERIES:
        told.append(f"There are {whole.queries} queries; with fewer than {FEW_QUERIES} no figure will be certain.")
    if whole.queries > MAX_QUERIES:
        told.append(f"There are more than {MAX_QUERIES:,} queries, which is more than `evaluate` reads; sample them.")
    for grade in range(max(map(int, whole.grades)), -1, -1):
        count = whole.grades.get(str(grade), 0)
        if count < RARE * whole.judgments:
            told.append(
                f"Grade {grade} has {count} of {whole.judgments:,} judgments, below {RARE:.0%}: hardly learned."
            )
    for name in SPLITS:
        part = parts.get(name)
        if part is None:
            told.append(f"The split {name} has no query.")
        elif not part.grades.get(str(EXACT)):
            told.append(f"The split {name} has no exact product (grade {EXACT}).")
    if whole.one_grade:
        told.append(
            f"{whole.one_grade} of {whole.queries} queries have judgments of one grade only: they order nothing."
        )
    return told


def _click_warnings(summary: clicks.Summary | None) -> list[str]:
    if summary is None:
        return []
    told = []
    if summary.curve and not summary.curve.estimated:
        told.append(
            f"How far shoppers look cannot be told from these clicks, so 1 / position is assumed: it takes {MIN_CLICKS}"
            f" clicks, and products seen at several positions ({summary.curve.linked:.1%} of the impressions)."
        )
    lists = [name for name, shown in summary.shown_by.items() if shown == "result lists"]
    nothing = [name for name, shown in summary.shown_by.items() if shown == "nothing"]
    if lists:
        told.append(
            f"No impressions were logged by {', '.join(lists)}: the first page of each result list counts as shown."
        )
    if nothing:
        told.append(
            f"Neither impressions nor result lists were logged by {', '.join(nothing)}: its clicks give no grade 0, "
            "grade 3 to what was bought, 2 to what was put in a cart or clicked several times."
        )
    if summary.bot_sessions:
        told.append(f"{summary.bot_sessions} sessions with too many clicks for a person were left out.")
    return told


def outlook(parts: Mapping[str, Part]) -> list[str]:
    """What training will make of these data."""
    told = []
    train, test = parts.get("train"), parts.get("test")
    if train:
        ordering = train.queries - train.one_grade
        told.append(
            f"Training will see {train.queries} queries with {train.judgments:,} judgments; {ordering} order products."
        )
        if train.judgments < 10_000:
            told.append(
                "That is little for a cross-encoder: expect most from negatives mined in the catalogue and from "
                "queries made of titles, which need no judgment."
            )
    if test:
        half = 1.96 * _SPREAD / math.sqrt(test.queries)
        told.append(
            f"On {test.queries} test queries a difference in nDCG@10 comes with about ±{half:.3f} (95 %, at a "
            f"spread of {_SPREAD} between queries): smaller ones will not show."
        )
    told.append("Next: shelfrank train reranker --index INDEX --queries queries.tsv --qrels qrels.tsv --out RUN")
    return told
