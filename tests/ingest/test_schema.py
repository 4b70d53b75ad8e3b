"""A mapping is checked when it is read, and an error says where, what and how to mend it."""

from __future__ import annotations

from pathlib import Path

import pytest

from indexer.errors import ConfigError
from ingest.schema import load_mapping, parse_mapping

GOOD = '[columns]\nid = "sku"\ntitle = "name"\n'


def test_a_small_mapping_has_sensible_defaults() -> None:
    mapping = parse_mapping(GOOD.encode(), "shop.toml")
    assert mapping.columns.named() == ["sku", "name"]
    assert (mapping.values.rating_scale, mapping.values.decimal, mapping.file.encoding) == (5.0, "auto", "utf-8")


def test_a_field_may_come_from_several_columns() -> None:
    mapping = parse_mapping((GOOD + 'bullets = ["b1", "b2"]\nattributes = ["weight"]\n').encode(), "shop.toml")
    assert mapping.columns.of("bullets") == ("b1", "b2")
    assert mapping.columns.named() == ["sku", "name", "b1", "b2", "weight"]


def test_a_byte_order_mark_in_front_is_no_trouble() -> None:
    assert parse_mapping(b"\xef\xbb\xbf" + GOOD.encode(), "shop.toml").columns.id == "sku"


def test_the_ready_mapping_for_esci_is_found_by_name() -> None:
    assert load_mapping("esci").columns.id == "product_id"


def test_a_mapping_in_a_file_is_found_by_path(tmp_path: Path) -> None:
    path = tmp_path / "shop.toml"
    path.write_text(GOOD)
    assert load_mapping(str(path)).columns.title == "name"


def test_an_unknown_name_is_told_with_the_ready_ones() -> None:
    with pytest.raises(ConfigError, match=r"esc is neither a file nor a ready mapping \(.*esci.*\)"):
        load_mapping("esc")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('[columns]\nid = "sku"\ntitel = "name"', r"shop.toml: \[columns\] has a key 'titel'.*did you mean 'title'"),
        ('[column]\nid = "sku"', r"'column'.*did you mean 'columns'"),
        ('[columns]\nid = "sku"', r"shop.toml: .*missing required field `title` in \[columns\]"),
        ('[columns]\nid = 3\ntitle = "name"', r"shop.toml: columns.id is 3: Expected `str`"),
        (GOOD + '[values]\ndecimal = ";"', r"values.decimal is ';'.*Use one of 'auto', '.', ','"),
        (GOOD + '[file]\nformat = "xml"', r"file.format is 'xml'.*'csv', 'tsv', 'jsonl', 'parquet'"),
        (GOOD + "[values]\nrating_scale = 0", r"values.rating_scale is 0"),
        (GOOD + '[values]\ncategory_separator = " "', r"category_separator is empty"),
        (GOOD + '[file]\nencoding = "utf-7000"', r"file.encoding is 'utf-7000'.*gb18030"),
        (GOOD + '[file]\ndelimiter = "||"', r"file.delimiter is '\|\|'"),
        ('[columns]\nid = ""\ntitle = "name"', r"columns.id is empty"),
        ("[columns", r"shop.toml is not valid TOML"),
        ("columns = 3", r"shop.toml: Expected `object`"),
    ],
)
def test_what_is_not_allowed_is_refused_with_place_and_value(content: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_mapping(content.encode(), "shop.toml")
