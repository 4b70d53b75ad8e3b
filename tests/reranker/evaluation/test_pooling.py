"""Pools as text and grades read back; what does not fit is told with its place."""

from __future__ import annotations

from pathlib import Path

import pytest

from indexer.errors import InputError
from reranker.evaluation.pooling import Pool, read_grades, read_pools, shown, write_pools

POOLS = [Pool("q1", "steel cup", ("cup", "lid")), Pool("q2", "保温杯", ("杯",))]
PRODUCTS = {
    "cup": {"title": "Steel cup", "brand": "Acme", "price": 9.5, "currency": "USD"},
    "lid": {"title": "Lid\nfor cups", "brand": "Lid", "color": None},
    "杯": {"title": "保温杯"},
}


def graded(folder: Path, text: str) -> Path:
    write_pools(folder, POOLS, PRODUCTS.__getitem__, per_file=1)
    (folder / "grades-01.txt").write_text(text, "utf-8")
    return folder


def test_pools_come_back_and_read_as_text(tmp_path: Path) -> None:
    files = write_pools(tmp_path, POOLS, PRODUCTS.__getitem__, per_file=1)
    assert read_pools(tmp_path) == POOLS
    assert [file.name for file in files] == ["pool-01.txt", "pool-02.txt"]
    text = files[0].read_text("utf-8")
    assert "## q1: steel cup (2 products)\n1. Steel cup [brand Acme; price 9.5 USD]\n2. Lid for cups\n" in text
    assert "3 exact" in text


def test_a_product_is_one_line_that_says_nothing_twice() -> None:
    assert shown({"title": "Acme cup", "brand": "ACME"}) == "Acme cup"
    assert "\n" not in shown({"title": "a\nb", "brand": "c\nd"})
    assert shown({}) == ""


def test_grades_become_judgments(tmp_path: Path) -> None:
    folder = graded(tmp_path, "# mine\nq1: 3 1\n\nq2: 0\n")
    assert read_grades(folder, POOLS) == {"q1": {"cup": 3, "lid": 1}, "q2": {"杯": 0}}


def test_queries_without_grades_are_left_out(tmp_path: Path) -> None:
    assert list(read_grades(graded(tmp_path, "q2: 3\n"), POOLS)) == ["q2"]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("q1 3 1\n", "line 1: 'q1 3 1' is not"),
        ("\nq9: 3\n", "line 2: there is no query 'q9'"),
        ("q1: 3\n", "1 grades for the 2 products of q1"),
        ("q1: 31 200\n", "the grade 200 is above"),
        ("q1: 3 1\nq1: 3 1\n", "q1 is graded twice"),
        ("", "holds no grades"),
    ],
)
def test_what_does_not_fit_is_told_with_its_place(text: str, told: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=told):
        read_grades(graded(tmp_path, text), POOLS)


def test_a_folder_without_pools_is_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="judgments pool"):
        read_pools(tmp_path)
