"""Which of two is newer: a row of a file, or what is known of its product already."""

from __future__ import annotations

from pathlib import Path

import pytest

from ingest.documents import Entry
from ingest.report import DeadLetters, Report
from ingest.settle import There


@pytest.mark.parametrize(
    ("version", "stays_deleted"),
    [(6, True), (7, True), (8, False), (None, True)],
    ids=["older", "same", "newer", "none"],
)
def test_only_a_row_newer_than_its_products_deletion_brings_it_back(
    version: int | None, stays_deleted: bool, tmp_path: Path
) -> None:
    report = Report()
    with DeadLetters(tmp_path / "rejected.jsonl") as letters:
        row = Entry({"id": "cup"}, version=version)
        assert There({}, {"cup": 7}).is_deleted(row, report, letters) == stays_deleted
        assert (report.deleted, bool(letters.written)) == (stays_deleted, stays_deleted)


@pytest.mark.parametrize(("version", "newer"), [(6, True), (7, False), (8, False), (None, False)])
def test_a_row_gives_way_to_a_higher_version_alone(version: int | None, newer: bool) -> None:
    there = There({"cup": {"_source": {"version": 7}}}, {})
    assert there.is_newer(Entry({"id": "cup"}, version=version)) == newer
    assert not there.is_newer(Entry({"id": "new"}, version=version))
