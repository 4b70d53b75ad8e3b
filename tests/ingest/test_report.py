"""Counts and examples come out as JSON and as a table; rejected rows land in a file."""

from __future__ import annotations

import io
import os
from pathlib import Path

import msgspec
import pytest
from rich.console import Console

from indexer.errors import InputError
from ingest.report import DeadLetters, Report
from ingest.sources import Rejection


def test_the_summary_is_json_with_counts_and_examples() -> None:
    report = Report(read=3, clean=2, rejected=1, written=2, seconds=4.0)
    for row in range(1, 6):
        report.count(report.flags, "missing_brand", row, str(row), "x" * 900)
    summary = msgspec.json.decode(msgspec.json.encode(report.summary()))
    assert (summary["read"], summary["clean"], summary["rejected"]) == (3, 2, 1)
    assert (summary["written"], summary["unchanged"], summary["docs_per_second"]) == (2, 0, 0.5)
    assert summary["flags"] == {"missing_brand": 5}
    assert [example["row"] for example in summary["examples"]["missing_brand"]] == [1, 2, 3]
    assert len(summary["examples"]["missing_brand"][0]["value"]) == 500


def test_the_tables_name_every_flag_and_take_no_text_for_markup() -> None:
    report = Report(read=1)
    report.count(report.flags, "price_impossible", 4, "a", "[/bold] -5")
    console = Console(width=120, record=True, file=io.StringIO())
    for table in report.tables():
        console.print(table)
    text = console.export_text()
    assert "price_impossible" in text
    assert "[/bold] -5" in text


def test_dead_letters_are_one_json_object_a_line(tmp_path: Path) -> None:
    path = tmp_path / "rejected.jsonl"
    with DeadLetters(path) as letters:
        letters.add(Rejection(3, "title", "保温杯", "no title"))
        letters.add(Rejection(4, "", "half a pair \ud83d", "malformed"))
        assert letters.written == str(path)
    lines = [msgspec.json.decode(line) for line in path.read_bytes().splitlines()]
    assert lines[0] == {"row": 3, "field": "title", "value": "保温杯", "reason": "no title"}
    assert lines[1]["value"] == "half a pair ?"


def test_a_device_or_pipe_is_written_to_and_never_taken_away(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with DeadLetters(pipe):
        pass
    assert pipe.is_fifo()


def test_without_rejections_no_file_is_left_not_even_an_older_one(tmp_path: Path) -> None:
    path = tmp_path / "rejected.jsonl"
    path.write_text("of an earlier run\n")
    with DeadLetters(path) as letters:
        pass
    assert letters.written == ""
    assert not path.exists()


def test_a_file_that_cannot_be_written_is_an_error_with_the_cure(tmp_path: Path) -> None:
    with (
        DeadLetters(tmp_path / "absent" / "rejected.jsonl") as letters,
        pytest.raises(InputError, match="--dead-letter"),
    ):
        letters.add(Rejection(1, "", "", "malformed"))
