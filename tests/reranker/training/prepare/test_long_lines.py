"""Files whose one line would fill the memory: whatever reads them says so, and takes little."""

from __future__ import annotations

import gzip
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest

from indexer.errors import InputError
from reranker.commands import read_documents
from reranker.training.prepare import ubi
from reranker.training.prepare.collection import Collection
from reranker.training.prepare.job import read_product_ids
from reranker.training.prepare.ledger import Ledger
from reranker.training.prepare.purchases import add_purchases

LENGTH = 60_000_000
READERS: dict[str, tuple[str, Callable[[Path], object]]] = {
    "products": ("products.jsonl.gz", read_product_ids),
    "products in a table": ("products.csv.gz", read_product_ids),
    "purchases": (
        "orders.csv.gz",
        lambda path: add_purchases(Collection(Ledger(path.with_name("ledger.jsonl"))), path),
    ),
    "documents": ("documents.jsonl.gz", read_documents),
}


def packed(path: Path) -> Path:
    with gzip.open(path, "wb", compresslevel=1) as file:
        file.write(b"product_id,query\n" if ".csv" in path.name else b'{"id": "first"}\n')
        for _ in range(LENGTH // 1_000_000):
            file.write(b"x" * 1_000_000)
    return path


@pytest.mark.parametrize("what", READERS)
def test_a_line_of_any_length_is_told_and_takes_little(tmp_path: Path, what: str) -> None:
    name, read = READERS[what]
    path = packed(tmp_path / name)
    tracemalloc.start()
    try:
        with pytest.raises(InputError, match=r"line 2: too long: the line has 60,000,000 bytes"):
            read(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < LENGTH / 2


def test_behaviour_goes_on_after_it(tmp_path: Path) -> None:
    path = packed(tmp_path / "events.ndjson.gz")
    with gzip.open(path, "ab") as file:
        file.write(b'\n{"query_id": "q1", "user_query": "lamp"}\n')
    rows = [row for _, row in ubi.rows(path)]
    faults = [row.reason for row in rows if isinstance(row, ubi.Fault)]
    assert any("60,000,001 bytes" in reason for reason in faults)
    assert [row.text for row in rows if isinstance(row, ubi.Search)] == ["lamp"]
