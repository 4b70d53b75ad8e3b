"""Rows come out with their numbers and as they were written, and a malformed one costs only itself."""

from __future__ import annotations

import csv
import gzip
import io
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from indexer.errors import ConfigError, InputError
from ingest.schema import CatalogMapping, Columns, File
from ingest.sources import Rejection, Row, open_catalogue

PLAIN = CatalogMapping(Columns(id="sku", title="name"))


def write(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    raw = content if isinstance(content, bytes) else content.encode()
    path.write_bytes(gzip.compress(raw) if name.endswith(".gz") else raw)
    return path


def read(path: Path, mapping: CatalogMapping = PLAIN) -> list[Row | Rejection]:
    return list(open_catalogue(path, mapping).rows())


def values(rows: list[Row | Rejection]) -> list[dict[str, Any]]:
    return [row.values for row in rows if isinstance(row, Row)]


TWO = [{"sku": "007", "name": "保温杯 500ml"}, {"sku": "8", "name": "Bottle"}]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("shop.csv", "sku,name\n007,保温杯 500ml\n8,Bottle\n"),
        ("shop.csv", "\ufeffsku,name\r\n007,保温杯 500ml\r\n\r\n8,Bottle"),
        ("shop.csv.gz", "sku,name\n007,保温杯 500ml\n8,Bottle\n"),
        ("shop.tsv", "sku\tname\n007\t保温杯 500ml\n8\tBottle\n"),
        ("shop.tsv.gz", "sku\tname\n007\t保温杯 500ml\n8\tBottle\n"),
        ("shop.jsonl", '{"sku": "007", "name": "保温杯 500ml"}\n\n{"sku": "8", "name": "Bottle"}\n'),
        ("shop.jsonl.gz", '{"sku": "007", "name": "保温杯 500ml"}\n{"sku": "8", "name": "Bottle"}\n'),
    ],
)
def test_every_text_format_gives_the_same_rows(tmp_path: Path, name: str, content: str) -> None:
    assert read(write(tmp_path, name, content)) == [Row(1, TWO[0]), Row(2, TWO[1])]


def test_parquet_gives_the_same_rows_and_keeps_its_types(tmp_path: Path) -> None:
    path = tmp_path / "shop.parquet"
    pq.write_table(
        pa.Table.from_pylist([{**TWO[0], "tags": ["a", "b"], "price": 3.5}, {**TWO[1], "price": None}]), path
    )
    assert read(path) == [
        Row(1, {**TWO[0], "tags": ["a", "b"], "price": 3.5}),
        Row(2, {**TWO[1], "tags": None, "price": None}),
    ]


def test_a_brand_called_none_and_an_empty_field_stay_text(tmp_path: Path) -> None:
    path = write(tmp_path, "shop.csv", "sku,name,brand\n1,NA,None\n2,nan,\n3,true,1e5\n")
    assert [list(row.values()) for row in values(read(path))] == [
        ["1", "NA", "None"],
        ["2", "nan", ""],
        ["3", "true", "1e5"],
    ]


def test_quoted_fields_may_hold_line_ends_commas_and_quotes(tmp_path: Path) -> None:
    path = write(tmp_path, "shop.csv", 'sku,name\n1,"two\nlines, and a ""quote"""\n2,12" pan\n')
    assert [row["name"] for row in values(read(path))] == ['two\nlines, and a "quote"', '12" pan']


def test_malformed_rows_are_rejected_in_their_place_and_the_rest_goes_on(tmp_path: Path) -> None:
    lines = ["sku,name", "1,fine", "2,too,many", "3", '4,"never closed', "5,fine", '6,"quote"after', "7,fine", ""]
    rows = read(write(tmp_path, "shop.csv", "\n".join(lines)))
    assert [row.number for row in rows if isinstance(row, Row)] == [1, 5, 7]
    assert [(row.row, row.value) for row in rows if isinstance(row, Rejection)] == [
        (2, "2,too,many"),
        (3, "3"),
        (4, '4,"never closed'),
        (6, '6,"quote"after'),
    ]
    assert "the row has 3 fields, the header has 2" in str(rows[1])
    assert "never closed" in str(rows[3])


def test_a_quote_that_never_closes_does_not_swallow_a_long_file(tmp_path: Path) -> None:
    lines = ["sku,name", '0,"open', *(f"{number},fine" for number in range(1, 5001))]
    rows = read(write(tmp_path, "shop.csv", "\n".join(lines)))
    assert sum(isinstance(row, Rejection) for row in rows) == 1
    assert len(values(rows)) == 5000


def test_malformed_json_lines_are_rejected_with_the_reason(tmp_path: Path) -> None:
    path = write(
        tmp_path, "shop.jsonl", '{"sku": 1, "name": "a"}\n{"sku": 2,\n[3]\n{"sku": 4, "name": "d", "price": NaN}\n'
    )
    rows = read(path)
    assert [row.number for row in rows if isinstance(row, Row)] == [1, 4]
    reasons = [row.reason for row in rows if isinstance(row, Rejection)]
    assert reasons[0].startswith("not valid JSON")
    assert reasons[1] == "expected a JSON object, got list"


def test_one_broken_byte_rejects_one_row_and_says_where(tmp_path: Path) -> None:
    path = write(tmp_path, "shop.csv", "sku,name\n1,保温杯\n".encode() + b"2,caf\xe9\n" + "3,茶\n".encode())
    rows = read(path)
    assert [row.values["name"] for row in rows if isinstance(row, Row)] == ["保温杯", "茶"]
    assert isinstance(rows[1], Rejection)
    assert "byte 26 (0xe9, line 3)" in rows[1].reason


def test_a_file_in_another_encoding_is_refused_with_its_likely_name(tmp_path: Path) -> None:
    path = write(tmp_path, "shop.csv", "sku,name\n1,不锈钢保温杯\n2,紫砂茶壶\n".encode("gb18030"))
    with pytest.raises(InputError, match=r"is not utf-8: byte 11 .* line 2.*encoding = \"gb18030\""):
        read(path)
    chinese = CatalogMapping(PLAIN.columns, file=File(encoding="gb18030"))
    assert [row["name"] for row in values(read(path, chinese))] == ["不锈钢保温杯", "紫砂茶壶"]


def test_utf_16_as_spreadsheets_save_it_is_read_when_the_mapping_says_so(tmp_path: Path) -> None:
    path = write(tmp_path, "shop.tsv", "sku\tname\n1\t保温杯\n".encode("utf-16"))
    with pytest.raises(InputError, match="utf-16"):
        read(path)
    wide = CatalogMapping(PLAIN.columns, file=File(encoding="utf-16"))
    assert values(read(path, wide)) == [{"sku": "1", "name": "保温杯"}]


def test_a_truncated_gzip_file_is_an_error_that_names_the_line(tmp_path: Path) -> None:
    whole = gzip.compress("".join(["sku,name\n", *(f"{n},{n * n}\n" for n in range(20000))]).encode())
    path = tmp_path / "shop.csv.gz"
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=r"damaged gzip file.*after line"):
        read(path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("shop.csv", "", "is empty"),
        ("shop.csv", "sku,name,sku\n", "'sku' more than once"),
        ("shop.parquet", "not parquet", "not a Parquet file"),
        ("shop.jsonl", '[\n{"sku": 1}\n', "which no row|one object a line"),
        ("shop.json", '[{"sku": 1}]', "one object a line"),
    ],
)
def test_a_file_that_is_not_what_it_says_is_an_error(tmp_path: Path, name: str, content: str, message: str) -> None:
    with pytest.raises((InputError, ConfigError), match=message):
        read(write(tmp_path, name, content))


def test_a_missing_file_and_an_unknown_ending_are_errors(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        read(tmp_path / "absent.csv")
    with pytest.raises(ConfigError, match="format"):
        read(write(tmp_path, "shop.xlsx", "PK"))


def test_a_column_that_is_not_there_is_told_with_the_nearest_one(tmp_path: Path) -> None:
    mapping = CatalogMapping(Columns(id="sku", title="nmae"))
    with pytest.raises(ConfigError, match=r"'nmae' .did you mean 'name'"):
        read(write(tmp_path, "shop.csv", "sku,name\n1,a\n"), mapping)
    with pytest.raises(ConfigError, match=r"'nmae'.*did you mean 'name'"):
        read(write(tmp_path, "shop.jsonl", '{"sku": 1, "name": "a"}\n'), mapping)


def test_columns_that_the_mapping_does_not_use_are_told(tmp_path: Path) -> None:
    path = write(tmp_path, "shop.csv", "sku,name,weight\n1,a,3\n")
    assert open_catalogue(path, PLAIN).unused == ["weight"]
    everything = CatalogMapping(Columns(id="sku", title="name", attributes="*"))
    assert open_catalogue(path, everything).unused == []


# What Python's own csv module writes is read back unchanged, whatever the text (a NUL cannot be kept).
cells = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=8)


@given(st.lists(st.tuples(cells, cells), max_size=6))
def test_any_text_survives_csv(tmp_path_factory: pytest.TempPathFactory, table: list[tuple[str, str]]) -> None:
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer, quoting=csv.QUOTE_ALL)
    writer.writerows([("sku", "name"), *table])
    path = write(tmp_path_factory.mktemp("csv"), "shop.csv", buffer.getvalue())
    assert [(row["sku"], row["name"]) for row in values(read(path))] == table
