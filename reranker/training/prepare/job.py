"""From files to a folder of training data: read, merge, check, split, write."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from indexer.errors import InputError
from indexer.lines import whole_lines
from reranker.evaluation.judgments import read_qrels, read_queries
from reranker.training.prepare import clicks, datasets, leakage, purchases, render, report
from reranker.training.prepare.collection import Collection, Entry, Judgment, query_key
from reranker.training.prepare.ledger import Ledger
from reranker.training.prepare.split import assign, check_shares

_PRODUCT_IDS = ("product_id", "id", "sku")
_LEADING = ("query_id", "query", "split", "language", "source", "origin")


class Options(msgspec.Struct, frozen=True):
    """Shares are of queries; `fix` moves queries that leak; `similarity` is from 0 to 1."""

    test_share: float = 0.2
    dev_share: float = 0.15
    seed: int = 13
    fix: bool = True
    similarity: float = leakage.SIMILARITY
    clicks: clicks.Options = clicks.Options()


def prepare(
    out: Path,
    judgments: Sequence[tuple[Path, Path]] = (),
    logs: Sequence[Path] = (),
    bought: Sequence[Path] = (),
    catalogue: Path | None = None,
    options: Options | None = None,
    published: datasets.Published | None = None,
) -> report.Report:
    """Write queries.tsv, qrels.tsv, report.json, report.txt and rejected.jsonl (and pairs.tsv) into `out`.

    `judgments` are pairs of a queries file and its qrels, `logs` UBI exports, `bought` purchase files, and `published`
    is a collection whose catalogue is written too. Raises InputError when nothing usable is left, or a file cannot be
    read.
    """
    options = options or Options()
    if published is not None and published.is_split:
        options = msgspec.structs.replace(options, test_share=0.0)  # of what is not for testing already
    check_shares(options.dev_share, options.test_share)
    known = read_product_ids(catalogue) if catalogue else None
    out.mkdir(parents=True, exist_ok=True)
    with Ledger(out / "rejected.jsonl") as ledger:
        collection = Collection(ledger)
        if published is not None:
            collection.add_judgments(*datasets.read(published, out, ledger))
        for queries_path, qrels_path in judgments:
            collection.add_judgments(queries_path, qrels_path)
        together: list[purchases.Together] = []
        baskets = 0
        for path in bought:
            summary = purchases.add_purchases(collection, path)
            together += summary.together
            baskets += summary.baskets
        clicked = clicks.add_clicks(collection, logs, options.clicks) if logs else None
        judged = collection.resolve(known)
    if bought:
        purchases.write_pairs(out / "pairs.tsv", together)
    if not judged and not together:
        raise InputError(f"None of the rows can be used. {out / 'rejected.jsonl'} says why, row by row.")
    entries = collection.entries
    groups, found, splits = _split(entries, judged, options)
    made = report.Report(
        parts=report.describe(entries, judged, splits) if judged else {},
        rows=ledger.places,
        merges=collection.merges,
        judgments_by_source=_by_source(judged),
        leaks=found,
        leaks_fixed=options.fix,
        clicks=clicked,
        together=len(together),
        baskets=baskets,
        products=len(known) if known is not None else None,
        unjudged_share=_unjudged(known, judged),
        seed=options.seed,
    )
    made.warnings = report.warnings(made, max(map(len, groups), default=0))
    made.next = report.outlook(made.parts)
    _write(out, entries, judged, splits)
    (out / "report.json").write_bytes(msgspec.json.format(msgspec.json.encode(made), indent=2) + b"\n")
    (out / "report.txt").write_text(render.as_text(made), "utf-8")
    return made


def check(
    queries: Sequence[Path], qrels: Sequence[Path] = (), similarity: float = leakage.SIMILARITY
) -> list[leakage.Leak]:
    """Leaks between the splits of files that have a column `split`; qrels also tell queries with the same answers."""
    ids: dict[str, str] = {}
    texts: dict[str, str] = {}
    splits: dict[str, str] = {}
    keys: dict[str, str] = {}
    twins: list[leakage.Alike] = []
    for path in queries:
        read = read_queries(path)
        if not any(query.columns.get("split") for query in read):
            raise InputError(f"{path} has no column `split`, so that nothing can leak. Name a file that is split.")
        for query in read:
            split = query.columns.get("split", "")
            key = query_key(query.text)
            if not split:
                continue
            if splits.get(key, split) != split:
                # The same text again is a query of its own here, or its other split would be lost.
                first, key = key, f"{key}\n{len(texts)}"
                twins.append(leakage.Alike(first, key, "query", 1.0))
            ids.setdefault(key, query.id)
            texts.setdefault(key, query.text)
            splits.setdefault(key, split)
            keys[query.id] = key
    grades: dict[str, dict[str, int]] = {}
    for path in qrels:
        for query_id, judged in read_qrels(path).items():
            if query_id in keys:
                grades.setdefault(keys[query_id], {}).update(judged)
    alike = leakage.similar([key for key in texts if "\n" not in key], similarity)
    return leakage.leaks([*twins, *alike, *leakage.same_answers(grades)], splits, ids, texts)


def read_product_ids(path: Path) -> set[str]:
    """Ids of a catalogue: JSON lines, CSV or TSV (also `.gz`) with a field product_id, id or sku."""
    ids = set()
    try:
        lines = whole_lines(path)
        if ".json" in path.name:
            for line in lines:
                if line.strip():
                    ids.add(_product_id(msgspec.json.decode(line, type=dict[str, object])))
        else:
            ids.update(map(_product_id, csv.DictReader(lines, delimiter="\t" if ".tsv" in path.name else ",")))
    except (csv.Error, msgspec.DecodeError) as error:
        raise InputError(f"{path} cannot be read as products: {error}. It must be JSON lines, CSV or TSV.") from error
    ids.discard("")
    if not ids:
        raise InputError(f"{path} names no product; it needs a field {', '.join(_PRODUCT_IDS)}.")
    return ids


def _product_id(row: Mapping[str, object]) -> str:
    return next((str(row[name]).strip() for name in _PRODUCT_IDS if row.get(name)), "")


def _split(
    entries: Mapping[str, Entry], judged: Mapping[str, Mapping[str, Judgment]], options: Options
) -> tuple[list[list[str]], list[leakage.Leak], dict[str, str]]:
    """Groups of queries that belong together, what leaks between given splits, and the splits after mending."""
    keys = list(entries)
    grades = {key: {product: each.grade for product, each in judged[key].items()} for key in keys}
    alike = [*leakage.similar(keys, options.similarity), *leakage.same_answers(grades)]
    groups = leakage.groups(keys, alike)
    splits = assign(entries, groups, options.dev_share, options.test_share, options.seed)
    ids, texts = {key: entries[key].id for key in keys}, {key: entries[key].text for key in keys}
    found = leakage.leaks(alike, splits, ids, texts)
    return groups, found, leakage.fixed(splits, groups) if options.fix else splits


def _by_source(judged: Mapping[str, Mapping[str, Judgment]]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for products in judged.values():
        for judgment in products.values():
            counts[judgment.source] = counts.get(judgment.source, 0) + 1
    return counts


def _unjudged(known: set[str] | None, judged: Mapping[str, Mapping[str, Judgment]]) -> float | None:
    if known is None:
        return None
    return 1 - len({product for products in judged.values() for product in products}) / len(known)


def _write(
    out: Path, entries: Mapping[str, Entry], judged: Mapping[str, Mapping[str, Judgment]], splits: Mapping[str, str]
) -> None:
    """queries.tsv and qrels.tsv, as `train reranker` and `evaluate` read them."""
    further = list(dict.fromkeys(name for entry in entries.values() for name in entry.columns if name not in _LEADING))
    with (out / "queries.tsv").open("w", encoding="utf-8") as file:
        file.write("\t".join([*_LEADING, *further]) + "\n")
        for key, entry in entries.items():
            leading = (entry.id, entry.text, splits[key], entry.language, entry.source, entry.origin)
            rest = (entry.columns.get(name, "") for name in further)
            file.write("\t".join(map(_field, (*leading, *rest))) + "\n")
    with (out / "qrels.tsv").open("w", encoding="utf-8") as file:
        file.write("query_id\tproduct_id\tgrade\tconfidence\tsource\n")
        for key, products in judged.items():
            for product, each in products.items():
                row = (entries[key].id, product, str(each.grade), f"{each.confidence:g}", each.source)
                file.write("\t".join(map(_field, row)) + "\n")


def _field(value: str) -> str:
    """A value as the reader of TSV gives it back: what looks quoted is quoted once more."""
    return '"' + value.replace('"', '""') + '"' if value[:1] == '"' == value[-1:] else value
