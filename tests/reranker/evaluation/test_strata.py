"""Groups of queries come from a column, or from the query's own text in both languages."""

from __future__ import annotations

import importlib.util

import pytest

from indexer.errors import UsageError
from reranker.evaluation import strata as module
from reranker.evaluation.compare import ESCI_GAINS, difference, measure, parse_gains
from reranker.evaluation.judgments import Query
from reranker.evaluation.strata import count_words, groups_by, language_of, length_of, strata


def test_queries_are_grouped_by_a_column_and_those_without_it_left_out() -> None:
    queries = [Query("1", "cup", {"source": "log"}), Query("2", "杯子", {"source": "ad"}), Query("3", "mug")]
    assert groups_by("source", queries) == {"ad": ["2"], "log": ["1"]}


def test_language_is_told_by_the_script_unless_a_column_says_it() -> None:
    queries = [Query("1", "保温杯 500ml"), Query("2", "steel cup")]
    assert groups_by("language", queries) == {"en": ["2"], "zh": ["1"]}
    said = [Query("1", "保温杯", {"language": "ja"}), Query("2", "cup")]
    assert groups_by("language", said) == {"ja": ["1"]}
    assert (language_of("café"), language_of("usb线")) == ("en", "zh")


@pytest.mark.parametrize(
    ("query", "words"), [("cup", 1), ("water bottle without straw", 4), ("- & cup", 1), ("24-inch screen", 2), ("", 0)]
)
def test_words_stand_between_spaces(query: str, words: int) -> None:
    assert count_words(query) == words


def test_han_words_are_counted_by_two_characters_without_a_dictionary(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert count_words("保温杯") == 2
    assert count_words("适合送爸爸的保温杯 500ml") == 6
    assert length_of("不锈钢保温杯") == "3-4 words"


def test_han_words_are_counted_by_a_dictionary_where_there_is_one() -> None:
    pytest.importorskip("jieba", reason="jieba comes with the extra `train`")
    assert count_words("保温杯") == 1
    assert count_words("不锈钢保温杯 500ml") == 3


def test_lengths_are_three_groups_in_order() -> None:
    queries = [Query("5", "a b c d e"), Query("3", "a b c"), Query("2", "a b"), Query("1", "a"), Query("4", "a b c d")]
    assert groups_by("length", queries) == {"1-2 words": ["2", "1"], "3-4 words": ["3", "4"], "5+ words": ["5"]}


def test_a_column_that_no_query_has_is_refused_with_those_there_are() -> None:
    with pytest.raises(UsageError, match="they have language, length, split"):
        groups_by("tongue", [Query("1", "cup", {"language": "en", "split": "test"})])


def test_each_group_has_means_and_differences_of_its_own_queries() -> None:
    qrels = {"1": {"E": 3}, "2": {"E": 3}, "3": {"E": 3}}
    gain = parse_gains(ESCI_GAINS)
    base = measure({"1": ["E"], "2": ["X"], "3": ["X", "E"]}, qrels, gain)
    ours = measure({"1": ["E"], "2": ["E"], "3": ["E"]}, qrels, gain)
    found = strata({"en": ["1", "2"], "zh": ["3"]}, {"base": base, "ours": ours}, "base")
    assert (found["en"].queries, found["zh"].queries) == (2, 1)
    assert found["en"].means["base"]["ndcg@10"] == 1 / 2
    assert found["en"].differences.keys() == {"ours"}
    assert found["en"].differences["ours"].mean == 1 / 2
    assert (found["en"].differences["ours"].low, found["en"].differences["ours"].high) == (0, 1)
    two = {query: ours[query] for query in ("1", "2")}, {query: base[query] for query in ("1", "2")}
    assert found["en"].differences["ours"] == difference(*two)
    assert strata({"en": ["1"]}, {"ours": ours}, "")["en"].differences == {}
    assert module.DERIVED.keys() == {"language", "length"}
