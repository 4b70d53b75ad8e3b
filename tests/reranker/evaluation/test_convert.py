"""Queries, judgments and runs of other tools are read as those tools mean them, and written as they take them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import pytrec_eval
from click.testing import CliRunner, Result

from indexer.errors import InputError, ShelfrankError, UsageError
from reranker.evaluation import workbench
from reranker.evaluation.convert import judgments
from reranker.evaluation.judgments import (
    Query,
    read_qrels,
    read_queries,
    read_run,
    write_qrels,
    write_queries,
    write_run,
    write_trec_qrels,
)

QUERY_SET = {
    "name": "cups",
    "sampling": "manual",
    "querySetQueries": [{"queryText": "steel cup", "language": "en"}, {"queryText": "保温杯", "query_id": "zh-1"}],
}
JUDGMENTS = {
    "name": "cups",
    "type": "IMPORT_JUDGMENT",
    "judgmentRatings": [
        {"query": "steel cup", "ratings": [{"docId": "A", "rating": "3.000"}, {"docId": "B", "rating": 0}]},
        {"query": "保温杯", "ratings": [{"docId": "杯", "rating": "1"}]},
    ],
}


def write(path: Path, content: Any) -> Path:
    path.write_text(content if isinstance(content, str) else json.dumps(content, ensure_ascii=False), "utf-8")
    return path


def test_a_query_set_is_known_by_its_content_and_its_texts_are_its_ids(tmp_path: Path) -> None:
    assert read_queries(write(tmp_path / "set.tsv", QUERY_SET)) == [
        Query("steel cup", "steel cup", {"language": "en"}),
        Query("zh-1", "保温杯"),
    ]


@pytest.mark.parametrize(
    "wrapped", [lambda d: d, lambda d: {"_source": d}, lambda d: {"hits": {"hits": [{"_source": d}]}}]
)
def test_a_judgment_list_is_read_as_it_is_sent_stored_or_found(tmp_path: Path, wrapped: Any) -> None:
    path = write(tmp_path / "list.json", wrapped(JUDGMENTS))
    assert read_qrels(path) == {"steel cup": {"A": 3, "B": 0}, "保温杯": {"杯": 1}}


def test_a_judgment_list_goes_by_the_ids_of_the_queries_that_have_its_texts(tmp_path: Path) -> None:
    queries = [Query("en-1", "steel cup"), Query("en-2", "steel cup"), Query("3", "mug")]
    qrels = read_qrels(write(tmp_path / "list.json", JUDGMENTS), queries)
    assert qrels == {"en-1": {"A": 3, "B": 0}, "en-2": {"A": 3, "B": 0}, "保温杯": {"杯": 1}}


def test_tsv_judgments_are_by_id_even_where_an_id_is_another_querys_text(tmp_path: Path) -> None:
    path = write(tmp_path / "qrels.tsv", "query_id\tproduct_id\tgrade\ncup\tA\t3\n")
    assert read_qrels(path, [Query("1", "cup"), Query("cup", "mug")]) == {"cup": {"A": 3}}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "starts as JSON and is none"),
        ("[]", "is JSON but no object"),
        ({"hits": {"hits": []}}, "holds 0 documents"),
        ({"querySetQueries": []}, "without a list `judgmentRatings` of objects; it has querySetQueries"),
        ({"judgmentRatings": [{"query": "cup"}]}, "judged query 1: it needs a text `query` and a list"),
        ({"judgmentRatings": [{"query": "cup", "ratings": [{"docId": "A"}]}]}, "query 'cup': a rating needs"),
        ({"judgmentRatings": [{"query": "cup", "ratings": []}]}, "holds no judgment"),
        (
            {"judgmentRatings": [{"query": "cup", "ratings": [{"docId": "A", "rating": "0.372"}]}]},
            "query 'cup', product 'A': grade is '0.372'; it must be a whole number",
        ),
    ],
)
def test_a_judgment_list_that_cannot_be_read_is_named_with_its_place(tmp_path: Path, content: Any, said: str) -> None:
    with pytest.raises(InputError, match=said) as raised:
        read_qrels(write(tmp_path / "list.json", content))
    assert "list.json" in str(raised.value)


def test_a_query_without_a_text_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="query 2: queryText is None"):
        read_queries(write(tmp_path / "set.json", {"querySetQueries": [{"queryText": "cup"}, {"query": "mug"}]}))


def test_queries_and_qrels_come_back_as_they_were_written(tmp_path: Path) -> None:
    queries = [Query("1", '24" monitor', {"language": "en"}), Query("2", "保温杯", {"split": "test"})]
    write_queries(tmp_path / "q.tsv", queries)
    assert read_queries(tmp_path / "q.tsv") == [
        Query("1", '24" monitor', {"language": "en", "split": ""}),
        Query("2", "保温杯", {"language": "", "split": "test"}),
    ]
    qrels = {"1": {"A": 3, "B 2": 0}, "2": {"杯": 1}}
    write_qrels(tmp_path / "r.tsv", qrels)
    assert read_qrels(tmp_path / "r.tsv") == qrels
    write_trec_qrels(tmp_path / "r.txt", qrels)
    assert read_qrels(tmp_path / "r.txt") == {"1": {"A": 3, "B_2": 0}, "2": {"杯": 1}}


def test_a_tab_within_a_query_does_not_become_a_column(tmp_path: Path) -> None:
    write_queries(tmp_path / "q.tsv", [Query("1", "steel\tcup")])
    assert read_queries(tmp_path / "q.tsv") == [Query("1", "steel cup")]


RUN = """1 Q0 A 9 0.5 mine
1 Q0 C 1 0.5 mine
1 Q0 B 2 0.75 mine
1 Q0 D 3 -1e3 mine
2 Q0 杯 1 2 mine
"""


def test_a_run_is_ordered_by_score_and_ties_by_id_from_last_to_first(tmp_path: Path) -> None:
    assert read_run(write(tmp_path / "x.run", RUN)) == {"1": ["B", "C", "A", "D"], "2": ["杯"]}


@pytest.mark.parametrize(
    "scores", [("0.5", "0.5", "0.5"), ("1.00000001", "1.0", "1.00000002"), ("3", "0.1", "-2"), ("1e30", "2e30", "0")]
)
def test_trec_eval_sees_the_same_order(tmp_path: Path, scores: tuple[str, ...]) -> None:
    lines = [f"1 Q0 {product} 1 {score} mine\n" for product, score in zip("ABC", scores, strict=True)]
    path = write(tmp_path / "x.run", "".join(lines))
    order = read_run(path)["1"]
    with path.open() as file:
        run = pytrec_eval.parse_run(file)
    for product in "ABC":
        theirs = pytrec_eval.RelevanceEvaluator({"1": {product: 1}}, {"recip_rank"}).evaluate(run)["1"]["recip_rank"]
        assert theirs == pytest.approx(1 / (order.index(product) + 1))


def test_a_written_run_comes_back_in_its_order(tmp_path: Path) -> None:
    rankings = {"1": ["B", "A", "C"], "2": ["杯"]}
    write_run(tmp_path / "x.run", rankings, "x")
    assert read_run(tmp_path / "x.run") == rankings


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "holds no line of a run"),
        ("1 Q0 A 1 0.5\n", "line 1 has 5 columns and not 6"),
        ("1 Q0 A 1 high mine\n", "line 1: the score is 'high'"),
        ("1 Q0 A 1 nan mine\n", "line 1: the score is 'nan'"),
        ("1 Q0 A 1 1 x\n1 Q0 A 2 0 x\n", "line 2: product 'A' is in the list of '1' a second time"),
    ],
)
def test_a_run_that_cannot_be_read_is_named_with_line_and_value(tmp_path: Path, content: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        read_run(write(tmp_path / "x.run", content))


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    write(tmp_path / "q.tsv", "query_id\tquery\tlanguage\nen-1\tsteel cup\ten\nzh-1\t保温杯\tzh\n")
    write(tmp_path / "r.tsv", "query_id\tproduct_id\tgrade\nen-1\tA\t3\nen-1\tB\t0\nzh-1\t杯\t1\n")
    return tmp_path


def convert(*arguments: str | Path) -> Result:
    result = CliRunner().invoke(judgments, [str(each) for each in arguments], standalone_mode=False)
    if result.exception and not isinstance(result.exception, ShelfrankError):
        raise result.exception
    return result


def test_judgments_go_to_the_workbench_and_back(shop: Path) -> None:
    done = convert(
        "convert", shop / "r.tsv", shop / "w.json", "--to", "workbench", "--queries", shop / "q.tsv", "--json"
    )
    assert json.loads(done.stdout) == {"queries": 2, "judgments": 3, "to": "workbench", "path": str(shop / "w.json")}
    body = json.loads((shop / "w.json").read_text("utf-8"))
    assert (body["name"], body["type"]) == ("w", "IMPORT_JUDGMENT")
    assert body["judgmentRatings"][0] == {
        "query": "steel cup",
        "ratings": [{"docId": "A", "rating": "3.000"}, {"docId": "B", "rating": "0.000"}],
    }
    convert("convert", shop / "w.json", shop / "back.tsv", "--to", "tsv", "--queries", shop / "q.tsv")
    assert read_qrels(shop / "back.tsv") == read_qrels(shop / "r.tsv")


def test_judgments_go_to_trec(shop: Path) -> None:
    convert("convert", shop / "r.tsv", shop / "r.txt", "--to", "trec")
    assert (shop / "r.txt").read_text("utf-8") == "en-1 0 A 3\nen-1 0 B 0\nzh-1 0 杯 1\n"


def test_the_workbench_needs_the_texts_of_the_queries(shop: Path) -> None:
    found = convert("convert", shop / "r.tsv", shop / "w.json", "--to", "workbench").exception
    assert isinstance(found, UsageError)
    assert "give --queries FILE" in str(found)
    write(shop / "few.tsv", "query_id\tquery\nen-1\tsteel cup\n")
    found = convert(
        "convert", shop / "r.tsv", shop / "w.json", "--to", "workbench", "--queries", shop / "few.tsv"
    ).exception
    assert "no text of 1 judged queries (zh-1)" in str(found)


def test_two_queries_of_one_text_must_agree_in_the_workbench(shop: Path) -> None:
    write(shop / "q.tsv", "query_id\tquery\nen-1\tcup\nzh-1\tcup\n")
    write(shop / "r.tsv", "query_id\tproduct_id\tgrade\nen-1\tA\t3\nzh-1\tA\t1\n")
    found = convert(
        "convert", shop / "r.tsv", shop / "w.json", "--to", "workbench", "--queries", shop / "q.tsv"
    ).exception
    assert "Two queries read 'cup' and judge product 'A' 3 and 1" in str(found)


def test_queries_go_to_the_workbench_and_what_it_refuses_is_told(shop: Path) -> None:
    write(shop / "q.tsv", 'query_id\tquery\treferenceAnswer\n1\t24" monitor\t\n2\t保温杯\t杯\n3\t保温杯\t杯\n')
    done = convert("queries", shop / "q.tsv", shop / "s.json", "--to", "workbench", "--name", "n" * 60)
    body = json.loads((shop / "s.json").read_text("utf-8"))
    assert body["sampling"] == "manual"
    assert body["querySetQueries"] == [
        {"queryText": '24" monitor'},
        {"queryText": "保温杯", "referenceAnswer": "杯"},
    ]
    assert len(body["name"]) == workbench.MAX_NAME
    assert '1 (24" monitor)' in " ".join(done.stderr.split())
    convert("queries", shop / "s.json", shop / "back.tsv", "--to", "tsv")
    assert [query.text for query in read_queries(shop / "back.tsv")] == ['24" monitor', "保温杯"]


def test_a_place_that_cannot_be_written_is_told(shop: Path) -> None:
    found = convert("convert", shop / "r.tsv", shop / "no" / "r.txt", "--to", "trec").exception
    assert "cannot be written: No such file" in str(found)
