"""`rerank()` and `shelfrank rerank`: a list of texts or products, without a cluster."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from indexer.errors import InputError, ShelfrankError
from reranker import rerank, rerank_response
from reranker.commands import rerank_command
from reranker.scoring import CrossEncoder, Scores

TEXTS = ["garden chair, foldable", "insulated steel bottle 500 ml", "保温杯 500ml 不锈钢"]


def run(*arguments: str) -> Result:
    return CliRunner().invoke(rerank_command, list(arguments))


def test_every_document_comes_back_once_in_order_of_score(reranker: CrossEncoder) -> None:
    results = rerank("steel bottle", TEXTS, reranker)
    assert sorted(item.index for item in results) == [0, 1, 2]
    scores = [item.score for item in results]
    assert scores == sorted(scores, reverse=True)


@pytest.mark.parametrize(("query", "best"), [("insulated steel bottle", 1), ("不锈钢保温杯", 2), ("folding chair", 0)])
def test_the_right_document_comes_first_in_both_languages(query: str, best: int, reranker: CrossEncoder) -> None:
    assert rerank(query, TEXTS, reranker)[0].index == best


def test_the_order_of_documents_changes_no_score(reranker: CrossEncoder) -> None:
    forth = {TEXTS[item.index]: item.score for item in rerank("steel bottle", TEXTS, reranker)}
    back = {TEXTS[::-1][item.index]: item.score for item in rerank("steel bottle", TEXTS[::-1], reranker)}
    assert forth == back


def test_equal_documents_keep_their_order(reranker: CrossEncoder) -> None:
    assert [item.index for item in rerank("cup", ["a cup", "a cup", "a cup"], reranker)] == [0, 1, 2]


def test_nothing_in_gives_nothing_out(reranker: CrossEncoder) -> None:
    assert rerank("cup", [], reranker) == []


def test_products_and_texts_can_stand_side_by_side(reranker: CrossEncoder) -> None:
    documents = [{"title": "steel cup", "brand": None}, {"text": "steel cup"}, "steel cup", {}]
    scores = {item.index: item.score for item in rerank("steel cup", documents, reranker)}
    assert scores[0] == scores[1] == scores[2] != scores[3]


def test_a_document_of_another_type_is_named(reranker: CrossEncoder) -> None:
    with pytest.raises(InputError, match="Document 1 is a int"):
        rerank("cup", ["a cup", 7], reranker)  # type: ignore[list-item]


def test_too_many_documents_are_refused(reranker: CrossEncoder) -> None:
    with pytest.raises(InputError, match="1001 documents"):
        rerank("cup", ["x"] * 1001, reranker)


def test_a_passed_deadline_is_an_error_as_there_is_no_first_stage(reranker: CrossEncoder) -> None:
    with pytest.raises(ShelfrankError, match="0 of 3"):
        rerank("cup", TEXTS, reranker, deadline_ms=0)


def test_a_score_that_is_no_number_is_an_error(reranker: CrossEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reranker, "score", lambda *arguments: Scores(np.array([1.0, math.nan, 2.0]), 3, False))
    with pytest.raises(ShelfrankError, match="not a finite number"):
        rerank("cup", TEXTS, reranker)


def test_fields_of_another_index_are_mapped_to_ours(reranker: CrossEncoder) -> None:
    hits = [{"_id": str(at), "_score": 1.0, "_source": {"name": text}} for at, text in enumerate(TEXTS)]
    response = {"took": 3, "hits": {"total": {"value": 3}, "hits": hits}}
    changed = rerank_response(response, "不锈钢保温杯", reranker, blend=1.0, fields={"title": "name"})
    assert changed["hits"]["hits"][0]["_id"] == "2"
    assert changed["took"] == 3


def test_a_response_without_hits_stays_as_it_is(reranker: CrossEncoder) -> None:
    empty = {"hits": {"total": {"value": 0}, "hits": []}}
    assert rerank_response(empty, "cup", reranker)["hits"] == empty["hits"]


def test_the_command_prints_results_in_order_of_score(tmp_path: Path) -> None:
    file = tmp_path / "documents.jsonl"
    file.write_text("\n".join(json.dumps({"text": text}) for text in TEXTS), "utf-8")
    result = run("不锈钢保温杯", "--documents", str(file), "--json")
    assert result.exit_code == 0, result.output
    answer = json.loads(result.stdout)
    assert answer["results"][0]["index"] == 2
    assert set(answer["results"][0]) == {"index", "score"}
    assert "保温杯" in run("保温杯", "--documents", str(file)).stdout


@pytest.mark.parametrize(
    ("content", "message"),
    [('{"text": "a"}\n{"text": ', "line 2 is not JSON"), ('["a"]\n', "line 1 holds a list")],
)
def test_a_broken_line_is_named(content: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "documents.jsonl"
    file.write_text(content, "utf-8")
    result = run("cup", "--documents", str(file))
    assert isinstance(result.exception, InputError)
    assert message in str(result.exception)


def test_a_missing_file_is_wrong_use() -> None:
    assert run("cup", "--documents", "nowhere.jsonl").exit_code == 2
