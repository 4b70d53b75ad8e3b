"""Files that are too much: each line, row and field is bounded, and what is beyond costs its own row."""

from __future__ import annotations

import csv
import gzip
import resource
import tracemalloc
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from indexer.errors import InputError
from indexer.lines import BrokenLine
from indexer.settings import Bounds
from ingest import sources
from ingest.schema import CatalogMapping, Columns
from ingest.sources import Rejection, Row, open_catalogue

PLAIN = CatalogMapping(Columns(id="id", title="title"))
SMALL = Bounds(line_bytes=1000, row_characters=1000, field_characters=100, unpacked_bytes=50_000)


def rows(path: Path, bounds: Bounds = SMALL) -> list[Row | Rejection]:
    return list(open_catalogue(path, PLAIN, bounds).rows())


def seen(found: Iterable[Row | Rejection]) -> list[str]:
    """Of each row its id, or what is wrong with it."""
    return [each.values["id"] if isinstance(each, Row) else each.reason for each in found]


LONG = "x" * 5000


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("shop.csv", f"id,title\na,A\nb,{LONG}\nc,C\n"),
        ("shop.tsv", f"id\ttitle\na\tA\nb\t{LONG}\nc\tC\n"),
        ("shop.jsonl", f'{{"id":"a","title":"A"}}\n{{"id":"b","title":"{LONG}"}}\n{{"id":"c","title":"C"}}\n'),
    ],
)
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_a_line_that_is_too_long_is_one_row(tmp_path: Path, name: str, text: str, packed: bool, encoding: str) -> None:
    path = tmp_path / (name + ".gz" * packed)
    data = text.encode(encoding)
    path.write_bytes(gzip.compress(data) if packed else data)
    file = type(PLAIN.file)(encoding=encoding)
    mapping = CatalogMapping(PLAIN.columns, file=file)
    first, second, third = seen(open_catalogue(path, mapping, SMALL).rows())
    assert (first, third) == ("a", "c")
    assert "at most" in second


def test_a_field_that_is_too_long_is_named(tmp_path: Path) -> None:
    path = tmp_path / "shop.csv"
    path.write_text(f'id,title\na,A\nb,"{LONG[:200]}"\nc,C\n')
    found = rows(path)
    assert seen(found) == ["a", "too long: the field has 200 characters; at most 100 are read", "c"]
    assert isinstance(found[1], Rejection)
    assert found[1].field == "title"


def test_a_text_of_parquet_that_is_too_long_is_named(tmp_path: Path) -> None:
    path = tmp_path / "shop.parquet"
    ids = [str(number) for number in range(5000)]
    titles = [LONG if number % 100 == 7 else f"T {number}" for number in range(5000)]
    pq.write_table(pa.table({"id": ids, "title": titles}), path)
    found = rows(path, msgspec.structs.replace(SMALL, unpacked_bytes=500_000))
    refused = [each for each in found if isinstance(each, Rejection)]
    assert [each.row for each in refused] == [number + 1 for number in range(5000) if number % 100 == 7]
    assert {each.field for each in refused} == {"title"}
    assert [each.values["id"] for each in found if isinstance(each, Row)] == [i for i in ids if int(i) % 100 != 7]


def test_rows_of_parquet_that_would_fill_the_memory_are_not_read(tmp_path: Path) -> None:
    path = tmp_path / "shop.parquet"
    schema = pa.schema({"id": pa.string(), "title": pa.string()})
    with pq.ParquetWriter(path, schema, compression="zstd", use_dictionary=False) as writer:
        for ids, title in ((["a", "b"], "A"), (["c"], "y" * 120_000_000), (["d"], "D")):
            writer.write_table(pa.table({"id": ids, "title": [title] * len(ids)}, schema))
    assert path.stat().st_size < 100_000
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found = rows(path, Bounds())
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 60_000  # kB
    assert [each.values["id"] for each in found if isinstance(each, Row)] == ["a", "b", "d"]
    [refused] = [each for each in found if isinstance(each, Rejection)]
    assert refused.row == 3
    assert "column title has 120,000," in refused.reason
    with pytest.raises(InputError, match=r"unpacks to more than 1,000,000 bytes.*bounds.unpacked_bytes"):
        rows(path, Bounds(unpacked_bytes=1_000_000))


def test_a_file_that_unpacks_to_too_much_ends_there(tmp_path: Path) -> None:
    path = tmp_path / "shop.csv.gz"
    path.write_bytes(gzip.compress(b"id,title\n" + b"a,A\n" * 100_000))
    with pytest.raises(InputError, match=r"unpacks to more than 50,000 bytes.*bounds.unpacked_bytes"):
        rows(path)


def test_one_line_of_many_megabytes_takes_no_memory(tmp_path: Path) -> None:
    path = tmp_path / "shop.jsonl.gz"
    with gzip.open(path, "wb", 1) as file:
        file.write(b'{"id":"a","title":"A"}\n{"id":"b","title":"')
        for _ in range(100):
            file.write(b"x" * 1_000_000)
        file.write(b'"}\n{"id":"c","title":"C"}\n')
    tracemalloc.start()
    found = seen(rows(path, Bounds(line_bytes=1_000_000)))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (found[0], found[2], len(found)) == ("a", "c", 3)
    assert peak < 20_000_000


# Lines that begin inside or outside quotes, end inside or outside, and look harmless.
PIECES = st.sampled_from(['x","z', 'a,"b', '"', '""', '"""', "a,b", '"a","b"', 'a"', ',"', 'a,"b ""c"" d"', "é,台灯"])


def slowly(lines: list[str], limit: int) -> list[str]:
    """What the records are, each begun anew: as simple as can be, and quadratic."""
    found, at = [], 0
    while at < len(lines):
        problem, taken = "", 0
        for taken in range(1, len(lines) - at + 1):
            record = "".join(lines[at : at + taken])
            try:
                read = list(csv.reader([*lines[at : at + taken]], strict=True))
                problem = "" if len(read) == 1 else "more"
                break
            except csv.Error as error:
                problem = str(error)
                if problem != "unexpected end of data" or len(record) >= limit:
                    break
        found.append("".join(lines[at : at + taken]) if not problem else f"bad: {lines[at].rstrip()}")
        at += 1 if problem else taken
    return found


@given(st.lists(PIECES, max_size=12))
def test_records_are_those_of_the_simplest_reading(pieces: list[str]) -> None:
    lines = [piece + "\n" for piece in pieces]
    found = sources._records(iter(lines), ",", Bounds())
    assert [each if isinstance(each, str) else f"bad: {each.text}" for each in found] == slowly(lines, 5_000_000)


@pytest.mark.parametrize("line", ['x","z', 'a,"b', '"""', '"', 'a,"b ""c', '"a""'])
def test_every_line_is_read_a_few_times_at_most_whatever_its_quotes(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    read = 0
    reader = csv.reader

    def counted(lines: Iterable[str], **chosen: Any) -> Any:
        def each() -> Iterable[str]:
            nonlocal read
            for one in lines:
                read += 1
                yield one

        return reader(each(), **chosen)

    monkeypatch.setattr(sources.csv, "reader", counted)
    count = 3000
    found = list(sources._records(iter([line + "\n"] * count), ",", Bounds()))
    assert sum(isinstance(each, str | BrokenLine) for each in found) <= count
    assert read <= 4 * count
