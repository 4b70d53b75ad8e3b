"""Queries and judgments come in as they were written, and a bad line is named."""

from __future__ import annotations

from pathlib import Path

import pytest
import pytrec_eval

from indexer.errors import InputError
from reranker.evaluation import judgments
from reranker.evaluation.judgments import Query, of_split, read_qrels, read_queries, write_run


def write(folder: Path, content: str | bytes, name: str = "file.tsv") -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_queries_keep_their_further_columns_and_order(tmp_path: Path) -> None:
    path = write(
        tmp_path, "query_id\tquery\tlanguage\tsplit\n2\t不含酒精的湿巾\tzh\ttest\n1\tquiet keyboard\ten\ttrain\n"
    )
    assert read_queries(path) == [
        Query("2", "不含酒精的湿巾", {"language": "zh", "split": "test"}),
        Query("1", "quiet keyboard", {"language": "en", "split": "train"}),
    ]


def test_columns_may_stand_in_any_order_and_lines_end_in_any_way(tmp_path: Path) -> None:
    path = write(tmp_path, "\ufeffquery\tquery_id\r\nquiet keyboard\t1\r\n\r\n茶壶\t2")
    assert [(query.id, query.text) for query in read_queries(path)] == [("1", "quiet keyboard"), ("2", "茶壶")]


def test_quotes_mean_inches_unless_a_csv_writer_doubled_them(tmp_path: Path) -> None:
    path = write(tmp_path, 'query_id\tquery\n1\t24" monitor\n2\t"24"" monitor"\n3\t"exact words"\n4\t"5" or 6"\n')
    assert [query.text for query in read_queries(path)] == [
        '24" monitor',
        '24" monitor',
        '"exact words"',
        '"5" or 6"',
    ]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "line 1: the header '' has no query_id and no query"),
        ("id\tquery\n1\tcup\n", "has no query_id"),
        ("query_id\tquery\n", "holds no query"),
        ("query_id\tquery\n1\tcup\textra\n", "line 2 has 3 columns and not 2"),
        ("query_id\tquery\n1\t \n", "line 2: query is empty"),
        ("query_id\tquery\n\tcup\n", "line 2: query_id is empty"),
        ("query_id\tquery\n1\tcup\n2\tmug\n1\tpot\n", "line 4: query_id '1' is already on line 2"),
        ("query_id\tquery\n1\t杯子\n".encode("gb18030"), r"line 2 is not UTF-8 \(byte b'\\xb1'\)"),
        ("query_id\tquery\n1\t" + "cup " * 20_000, "line 2 is longer than 65,536 bytes"),
    ],
)
def test_a_queries_file_that_cannot_be_read_is_named_with_line_and_value(
    tmp_path: Path, content: str | bytes, said: str
) -> None:
    with pytest.raises(InputError, match=said) as raised:
        read_queries(write(tmp_path, content, "queries.tsv"))
    assert "queries.tsv" in str(raised.value)


def test_qrels_are_read_by_header_and_further_columns_are_ignored(tmp_path: Path) -> None:
    path = write(tmp_path, "query_id\tproduct_id\tgrade\tlabel\n1\tA\t3\tE\n1\tB\t0\tI\n2\tA\t2.0\tS\n")
    assert read_qrels(path) == {"1": {"A": 3, "B": 0}, "2": {"A": 2}}


@pytest.mark.parametrize("gap", [" ", "\t", "   "])
def test_trec_qrels_are_read_without_a_header(tmp_path: Path, gap: str) -> None:
    rows = [["1", "0", "A", "3"], ["1", "0", "B", "-1"], ["2", "Q0", "A", "1"]]
    path = write(tmp_path, "\n".join(gap.join(row) for row in rows), "qrels.txt")
    assert read_qrels(path) == {"1": {"A": 3, "B": 0}, "2": {"A": 1}}


def test_the_same_judgment_twice_counts_once(tmp_path: Path) -> None:
    assert read_qrels(write(tmp_path, "1 0 A 3\n1 0 A 3\n")) == {"1": {"A": 3}}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "has no query_id and no product_id and no grade"),
        ("1\tA\t3\n", "has no query_id"),
        ("query_id\tproduct_id\tgrade\n", "holds no judgment"),
        ("query_id\tproduct_id\tgrade\n1\tA\tE\n", "line 2: grade is 'E'; it must be a whole number, 0 to 100"),
        ("query_id\tproduct_id\tgrade\n1\tA\t2.5\n", "line 2: grade is '2.5'"),
        ("query_id\tproduct_id\tgrade\n1\tA\t101\n", "line 2: grade is '101'"),
        ("query_id\tproduct_id\tgrade\n1\t\t3\n", "line 2: query_id or product_id is empty"),
        ("1 0 A 3\n1 0 A 2\n", "line 2: product 'A' has grade 2 for query '1', and 3 on an earlier line"),
        ("1 0 A 3\n1 0 two words 2\n", "line 2 has 5 columns and not 4"),
    ],
)
def test_a_qrels_file_that_cannot_be_read_is_named_with_line_and_value(tmp_path: Path, content: str, said: str) -> None:
    with pytest.raises(InputError, match=said) as raised:
        read_qrels(write(tmp_path, content, "qrels.tsv"))
    assert "qrels.tsv" in str(raised.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"absent.tsv cannot be read: No such file"):
        read_queries(tmp_path / "absent.tsv")


def test_a_file_of_too_many_lines_is_refused_before_it_fills_the_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(judgments, "MAX_JUDGMENTS", 3)
    with pytest.raises(InputError, match="has more than 3 lines"):
        read_qrels(write(tmp_path, "1 0 A 3\n1 0 B 3\n1 0 C 3\n1 0 D 3\n"))


def test_a_split_keeps_its_queries_and_an_unknown_one_names_those_there_are(tmp_path: Path) -> None:
    path = write(tmp_path, "query_id\tquery\tsplit\n1\tcup\ttrain\n2\tmug\ttest\n3\tpot\t\n")
    queries = read_queries(path)
    assert [query.id for query in of_split(queries, "test", path)] == ["2"]
    with pytest.raises(InputError, match="no query of the split 'dev'; it has 'test', 'train'"):
        of_split(queries, "dev", path)
    with pytest.raises(InputError, match="it has no column `split`"):
        of_split([Query("1", "cup")], "dev", path)


def test_trec_eval_reads_a_run_in_the_order_that_was_written(tmp_path: Path) -> None:
    path = tmp_path / "bm25.run"
    write_run(path, {"1": ["B", "A 2", "C"], "2": []}, "bm25")
    assert path.read_text() == "1 Q0 B 1 3 bm25\n1 Q0 A_2 2 2 bm25\n1 Q0 C 3 1 bm25\n"
    with path.open() as file:
        run = pytrec_eval.parse_run(file)
    values = pytrec_eval.RelevanceEvaluator({"1": {"A_2": 1}}, {"recip_rank"}).evaluate(run)
    assert values["1"]["recip_rank"] == 1 / 2
