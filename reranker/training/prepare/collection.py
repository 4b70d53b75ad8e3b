"""Judged queries from several sources, merged by the text of the query."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Container, Mapping
from pathlib import Path
from typing import NamedTuple

import msgspec

from indexer.errors import InputError
from indexer.han import has_han
from indexer.lines import TooLong, raw_lines
from reranker.evaluation.judgments import read_qrels, read_queries
from reranker.training.prepare.ledger import Ledger

JUDGMENTS, PURCHASES, CLICKS = RANKING = ("judgments", "purchases", "clicks")
"""Sources, the most trusted first: where they disagree about a pair, the first that speaks is believed."""

SPLITS = ("train", "dev", "test")


class Evidence(NamedTuple):
    """What one source says about a query and a product; `place` is where the ledger counts it."""

    source: str
    grade: int
    confidence: float
    place: str


class Entry(msgspec.Struct):
    """One query; `columns` holds what else its file says; `origin` is the first source that had it."""

    id: str
    text: str
    origin: str
    columns: dict[str, str]
    place: str = ""

    @property
    def language(self) -> str:
        return self.columns.get("language") or ("zh" if has_han(self.text) else "en")

    @property
    def source(self) -> str:
        return self.columns.get("source") or self.origin


class Judgment(NamedTuple):
    """A row of the qrels to be."""

    grade: int
    confidence: float
    source: str


class Merges(msgspec.Struct):
    """What merging had to decide."""

    same_text: int = 0  # queries that were there already under another id, or in another file
    split_conflicts: list[str] = []  # their ids, where the two stood in different splits
    agreeing: int = 0  # pairs that several rows judged alike
    conflicts: int = 0  # pairs that rows of one source judged differently
    overruled: int = 0  # pairs that a less trusted source judged differently


def query_key(text: str) -> str:
    """The text by which queries are the same: NFKC, case-folded, white space collapsed."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def place(kind: str, path: Path) -> str:
    return f"{kind} of {path}"


class Collection:
    """Queries by key and, for each, products with what the sources say of them."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self.entries: dict[str, Entry] = {}
        self.evidence: dict[str, dict[str, list[Evidence]]] = {}
        self.merges = Merges()
        self._ids: set[str] = set()

    def add_query(self, text: str, origin: str, given_id: str = "", columns: Mapping[str, str] | None = None) -> str:
        """The key of a query, which is new or merged into the one that has it."""
        key = query_key(text)
        columns = {name: value for name, value in (columns or {}).items() if value}
        known = self.entries.get(key)
        if known is None:
            made = given_id or f"{origin[0]}-{hashlib.blake2s(key.encode(), digest_size=6).hexdigest()}"
            self.entries[key] = Entry(self._free(made), " ".join(text.split()), origin, dict(columns))
        else:
            split = columns.get("split")
            if split and known.columns.get("split", split) != split:
                self.merges.split_conflicts.append(known.id)
            for name, value in columns.items():
                known.columns.setdefault(name, value)
        return key

    def add(self, key: str, product: str, evidence: Evidence) -> None:
        self.evidence.setdefault(key, {}).setdefault(product, []).append(evidence)

    def add_judgments(self, queries_path: Path, qrels_path: Path) -> None:
        """Judged queries from a queries file and its qrels.

        Raises InputError for a file that cannot be read, naming line and value: people write these, and can mend them.
        """
        counted = place("queries", queries_path)
        keys: dict[str, str] = {}
        for query in read_queries(queries_path):
            split = query.columns.get("split", "")
            if split and split not in SPLITS:
                raise InputError(
                    f"{queries_path}: query {query.id!r} has the split {split!r}; allowed are {', '.join(SPLITS)}."
                )
            known = len(self.entries)
            key = keys[query.id] = self.add_query(query.text, JUDGMENTS, query.id, query.columns)
            self.ledger.read(counted)
            if len(self.entries) == known:
                self.merges.same_text += 1
                self.ledger.merged(counted)
            else:
                self.entries[key].place = counted
        counted = place("qrels", qrels_path)
        rows = 0
        for query_id, judged in read_qrels(qrels_path).items():
            rows += len(judged)
            for product, grade in judged.items():
                if query_id in keys:
                    self.add(keys[query_id], product, Evidence(JUDGMENTS, grade, 1.0, counted))
                else:
                    self.ledger.rejected(counted, query_id, f"query_id is not in {queries_path.name}", product)
        # The reader counts a repeated line once; it is a row all the same.
        repeated = max(_data_lines(qrels_path) - rows, 0)
        self.ledger.read(counted, rows + repeated)
        self.ledger.merged(counted, repeated)

    def resolve(self, products: Container[str] | None) -> dict[str, dict[str, Judgment]]:
        """One judgment a pair; every other row is merged into it.

        The most trusted source decides; its own rows that disagree are settled by their median, the lower one of two.
        A pair whose product is not among `products`, and a query that has no judgment then, are rejected.
        """
        judged: dict[str, dict[str, Judgment]] = {}
        for key, pairs in self.evidence.items():
            kept: dict[str, Judgment] = {}
            for product, rows in pairs.items():
                reason = _unusable(product, products)
                if reason:
                    for row in rows:
                        self.ledger.rejected(row.place, self.entries[key].id, reason, product)
                else:
                    kept[product] = self._settle(rows)
            if kept:
                judged[key] = kept
        for key in [key for key in self.entries if key not in judged]:
            entry = self.entries.pop(key)
            if entry.place:
                self.ledger.rejected(entry.place, entry.id, "no judgment of this query can be used", entry.text)
        for key in judged:
            if self.entries[key].place:
                self.ledger.used(self.entries[key].place)
        return {key: judged[key] for key in self.entries}

    def _settle(self, rows: list[Evidence]) -> Judgment:
        best = min((row.source for row in rows), key=RANKING.index)
        heard = sorted((row for row in rows if row.source == best), key=lambda row: row.grade)
        chosen = heard[(len(heard) - 1) // 2]
        self.ledger.used(chosen.place)
        for row in rows:
            if row is not chosen:
                self.ledger.merged(row.place)
        if heard[0].grade != heard[-1].grade:
            self.merges.conflicts += 1
        elif any(row.grade != chosen.grade for row in rows):
            self.merges.overruled += 1
        elif len(rows) > 1:
            self.merges.agreeing += 1
        return Judgment(chosen.grade, chosen.confidence, chosen.source)

    def _free(self, wanted: str) -> str:
        """The id, or where another query has it already (two files may both count from 1) one like it."""
        name, at = wanted, 1
        while name in self._ids:
            at += 1
            name = f"{wanted}~{at}"
        self._ids.add(name)
        return name


def _unusable(product: str, products: Container[str] | None) -> str:
    if re.search(r"[\t\r\n]", product) or not product.strip():
        return "product_id is empty or holds a tab or a line end"
    return "product_id is not in the products file" if products is not None and product not in products else ""


def _data_lines(path: Path) -> int:
    """Lines below the header that are not blank; 0 for formats that are not a row a line."""
    first: list[bytes] = []
    count = 0
    for raw in raw_lines(path):
        line = raw.start if isinstance(raw, TooLong) else raw
        if line.strip():
            first = first or line.split()
            count += 1
    if not first or first[0].startswith((b"{", b"[")):
        return 0
    trec = len(first) == 4 and re.fullmatch(rb"-?[0-9]+(\.0)?", first[3])
    return count if trec else count - 1
