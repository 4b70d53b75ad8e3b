"""Public collections of judged shop queries, as their authors publish them: ESCI and WANDS.

ESCI: Reddy et al., "Shopping Queries Dataset", 2022 (`git clone https://github.com/amazon-science/esci-data`). WANDS:
Chen et al., "WANDS: Dataset for Product Search Relevance Assessment", ECIR 2022 (`git clone
https://github.com/wayfair/WANDS`). Products become a catalogue that `shelfrank ingest` reads, and judgments the files
that `train prepare` reads.
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TextIO

import msgspec

from indexer.errors import InputError, UsageError
from reranker.training.prepare.ledger import Ledger

if TYPE_CHECKING:
    import pyarrow as pa

NAMES = ("esci", "wands")
ESCI_GRADES = {"e": 3, "s": 2, "c": 1, "i": 0}
WANDS_GRADES = {"exact": 3, "partial": 2, "irrelevant": 0}
CATALOGUE = "products.jsonl"


class _Judged(NamedTuple):
    """A row of a collection: whose ids may be numbers, and whose texts may be missing."""

    query: object
    text: str | None
    product: object
    label: object
    split: object


class Published(msgspec.Struct, frozen=True):
    """A collection in a folder. Of ESCI only what is of the `locale` is taken, and with `large` easier queries too."""

    name: str
    folder: Path
    locale: str = "us"
    large: bool = False

    @property
    def is_split(self) -> bool:
        """Whether its authors say which queries are for testing."""
        return self.name == "esci"


def read(published: Published, out: Path, ledger: Ledger) -> tuple[Path, Path]:
    """Write the catalogue into `out`, and below it a queries file and its qrels, which are returned.

    Rows that cannot be used are the ledger's. Raises InputError where the folder does not hold the collection.
    """
    (out / published.name).mkdir(exist_ok=True)
    writing = _Writing(out, out / published.name, ledger)
    if published.name == "esci":
        writing.esci(published)
    elif published.name == "wands":
        writing.wands(published.folder)
    else:
        raise UsageError(f"There is no collection {published.name!r}; {', '.join(NAMES)} are known.")
    return writing.queries, writing.qrels


class _Writing:
    """The three files that come of a collection."""

    def __init__(self, out: Path, work: Path, ledger: Ledger) -> None:
        self.catalogue, self.queries, self.qrels = out / CATALOGUE, work / "queries.tsv", work / "qrels.tsv"
        self._ledger = ledger

    def esci(self, published: Published) -> None:
        judged = _found(published.folder, "shopping_queries_dataset_examples.parquet")
        products = _found(published.folder, "shopping_queries_dataset_products.parquet")
        columns = ["query_id", "query", "product_id", "product_locale", "esci_label", "split"]
        small = "small_version" in _names(judged) and not published.large
        rows = (
            _Judged(row["query_id"], row["query"], row["product_id"], row["esci_label"], row["split"])
            for row in _rows(judged, [*columns, "small_version"] if small else columns)
            if row["product_locale"] == published.locale and (not small or row["small_version"] == 1)
        )
        wanted = self._judgments(judged, rows, ESCI_GRADES)
        if not wanted:
            raise InputError(f"{judged} judges nothing of the locale {published.locale!r}; it has us, es and jp.")
        names = {
            "title": "product_title",
            "description": "product_description",
            "bullet_points": "product_bullet_point",
        }
        names |= {"brand": "product_brand", "color": "product_color"}
        self._products(
            {"product_id": row["product_id"], **{ours: row[theirs] for ours, theirs in names.items()}}
            for row in _rows(products, ["product_id", "product_locale", *names.values()])
            if row["product_locale"] == published.locale and str(row["product_id"]) in wanted
        )

    def wands(self, folder: Path) -> None:
        texts = {row["query_id"]: row["query"] for row in _lines(_found(folder, "query.csv"), "query_id", "query")}
        labels = _found(folder, "label.csv")
        rows = (
            _Judged(row["query_id"], texts.get(row["query_id"]), row["product_id"], row["label"], None)
            for row in _lines(labels, "query_id", "product_id", "label")
        )
        self._judgments(labels, rows, WANDS_GRADES)
        self._products(
            {
                "product_id": row["product_id"],
                "title": row["product_name"],
                "description": row.get("product_description"),
                "bullet_points": _parts(row.get("product_features"), "|"),
                "category": _parts(row.get("category hierarchy"), "/"),
                "rating": row.get("average_rating"),
                "rating_count": row.get("review_count"),
            }
            for row in _lines(_found(folder, "product.csv"), "product_id", "product_name")
        )

    def _judgments(self, path: Path, rows: Iterable[_Judged], grades: Mapping[str, int]) -> set[str]:
        """Write the queries and their grades; which products are judged. Queries without a split are left without."""
        products: set[str] = set()
        known: set[str] = set()
        with _written(self.queries) as queries, _written(self.qrels) as qrels:
            queries.write("query_id\tquery\tsplit\n")
            qrels.write("query_id\tproduct_id\tgrade\n")
            for number, row in enumerate(rows, start=1):
                grade, text = grades.get(str(row.label).strip().lower()), _plain(row.text or "")
                if grade is None or not text:
                    why = f"unknown label, not one of {', '.join(grades)}" if grade is None else "no query text"
                    self._ledger.read(f"rows of {path}")
                    self._ledger.rejected(f"rows of {path}", number, why, row.label if grade is None else row.query)
                    continue
                if str(row.query) not in known:
                    known.add(str(row.query))
                    queries.write(f"{_plain(row.query)}\t{text}\t{'test' if row.split == 'test' else ''}\n")
                products.add(str(row.product))
                qrels.write(f"{_plain(row.query)}\t{_plain(row.product)}\t{grade}\n")
        return products

    def _products(self, products: Iterable[Mapping[str, object]]) -> None:
        with self.catalogue.open("wb") as file:
            for product in products:
                file.write(msgspec.json.encode({key: value for key, value in product.items() if value}) + b"\n")


def _parts(text: str | None, separator: str) -> list[str]:
    return [part.strip() for part in (text or "").split(separator) if part.strip()]


def _written(path: Path) -> TextIO:
    return path.open("w", encoding="utf-8", newline="\n")


def _plain(value: object) -> str:
    """A value as the reader of TSV gives it back: on one line, and quoted once more where it looks quoted."""
    text = " ".join(str(value).split())
    return '"' + text.replace('"', '""') + '"' if text[:1] == '"' == text[-1:] else text


def _found(folder: Path, name: str) -> Path:
    """A file of the collection, in the folder or one below, as its repository has it."""
    places = sorted(path for path in (folder / name, *folder.glob(f"*/{name}")) if path.is_file())
    if not places:
        raise InputError(f"{folder} holds no {name}, nor does a folder in it. Give the folder of the collection.")
    return places[0]


def _names(path: Path) -> list[str]:
    return [str(name) for name in _parquet(path).schema_arrow.names]


def _rows(path: Path, columns: list[str]) -> Iterator[dict[str, Any]]:
    """Rows of a Parquet file, a few thousand in memory at a time. Raises InputError."""
    file = _parquet(path)
    if missing := [name for name in columns if name not in file.schema_arrow.names]:
        raise InputError(f"{path} has no column {missing[0]}; it has {', '.join(file.schema_arrow.names)}.")
    batch: pa.RecordBatch
    for batch in file.iter_batches(batch_size=4096, columns=columns):
        yield from batch.to_pylist()


def _parquet(path: Path) -> Any:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.ParquetFile(path)
    except (OSError, pa.ArrowInvalid) as error:
        raise InputError(f"{path} is not a Parquet file: {error}. Where it came by Git LFS, fetch it.") from error


def _lines(path: Path, *needed: str) -> Iterator[dict[str, str]]:
    """Rows of a file whose values tabs separate, as the WANDS ones are. Raises InputError naming the line."""
    csv.field_size_limit(min(sys.maxsize, 10_000_000))
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file, delimiter="\t")
        if missing := [name for name in needed if name not in (reader.fieldnames or [])]:
            raise InputError(f"{path} has no column {missing[0]}; it has {', '.join(reader.fieldnames or [])}.")
        try:
            for row in reader:
                yield {key: value or "" for key, value in row.items() if isinstance(key, str)}
        except (csv.Error, UnicodeDecodeError) as error:
            raise InputError(f"{path} cannot be read from line {reader.line_num} on: {error}.") from error
