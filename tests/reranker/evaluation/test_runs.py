"""Runs that other systems made are measured like those of live ones, and both protocols mean what they say."""

from __future__ import annotations

import pytest

from indexer.errors import InputError, UsageError
from reranker.evaluation.compare import ESCI_GAINS, compare, doubts, parse_gains
from reranker.evaluation.judgments import Query
from reranker.evaluation.results import Options, evaluate_runs, headline, latency
from reranker.evaluation.runs import DEPTH, Run, System, in_pool, outside_run, to_depth

ESCI = parse_gains(ESCI_GAINS)
QUERIES = [Query("1", "cup"), Query("2", "保温杯")]
QRELS = {"1": {"E": 3, "S": 2, "X": 0}, "2": {"E": 3}}


def outside(name: str, first: list[str], second: list[str]) -> Run:
    return outside_run(name, {"1": first, "2": second}, QUERIES, QRELS)


def test_a_query_that_an_outside_run_lacks_counts_zero_and_is_told() -> None:
    run = outside_run("old", {"1": ["E"], "9": ["E"]}, QUERIES, QRELS)
    assert run.rankings == {"1": ["E"], "2": []}
    found = compare([run], QRELS, ESCI)
    assert found.means["old"]["mrr"] == 1 / 2
    assert doubts([run], found) == ["old: no hit for 1 queries (2); they count 0"]


def test_a_run_of_other_queries_is_refused() -> None:
    with pytest.raises(InputError, match="The run old ranks none of the queries: its first id is 'q9', theirs is '1'"):
        outside_run("old", {"q9": ["E"]}, QUERIES, QRELS)


def test_ids_whose_spaces_a_trec_file_replaced_are_known_again() -> None:
    queries, qrels = [Query("steel cup", "steel cup")], {"steel cup": {"A 1": 3}}
    assert outside_run("old", {"steel_cup": ["B", "A_1"]}, queries, qrels).rankings == {"steel cup": ["B", "A 1"]}


def test_outside_lists_are_cut_to_the_depth_of_live_ones() -> None:
    deep = outside("deep", [f"P{at}" for at in range(DEPTH)] + ["E"], ["E"])
    assert (
        compare([deep], QRELS, ESCI).means["deep"]["map"] > compare([to_depth(deep)], QRELS, ESCI).means["deep"]["map"]
    )


def test_in_the_pool_only_judged_products_are_ranked_and_missing_ones_come_last_by_id() -> None:
    run = outside("old", ["P", "X", "Q", "E"], ["P"])
    assert in_pool(run, QRELS).rankings == {"1": ["X", "E", "S"], "2": ["E"]}


def test_the_named_baseline_is_taken_and_an_unknown_one_refused() -> None:
    runs = [outside("a", ["E"], ["E"]), outside("b", ["X"], ["E"])]
    assert compare(runs, QRELS, ESCI, baseline="b").differences["a"].mean > 0
    with pytest.raises(UsageError, match="no system 'c' to compare with; there are a, b"):
        compare(runs, QRELS, ESCI, baseline="c")


def test_without_a_live_baseline_the_first_outside_run_is_it() -> None:
    worse, better = outside("worse", ["X"], ["E"]), outside("better", ["E"], ["E"])
    assert compare([worse, better], QRELS, ESCI).baseline == "worse"
    live = Run(System("bm25", "bm25", rerank=False), {"1": ["X"], "2": ["X"]})
    assert compare([worse, better, live], QRELS, ESCI).baseline == "bm25"
    reranked = Run(System("rerank", "bm25", rerank=True), {"1": ["X"], "2": ["X"]})
    assert compare([reranked, worse], QRELS, ESCI).baseline == "worse"


def test_swapped_gains_swap_the_winner_and_keep_the_baseline() -> None:
    # `a` puts the substitute first, `b` the complement.
    qrels = {"1": {"S": 2, "C": 1}}
    runs = [
        Run(System(name, "bm25", rerank=False), {"1": ranking})
        for name, ranking in (("a", ["S", "C"]), ("b", ["C", "S"]))
    ]
    swapped = "3:1,2:0.01,1:0.1,0:0"
    found = evaluate_runs(QUERIES[:1], qrels, runs, Options(also_gains=(swapped,)))
    assert found.comparison.means["a"]["ndcg@10"] == 1 > found.comparison.means["b"]["ndcg@10"]
    other = found.other_gains[swapped]
    assert other.means["b"]["ndcg@10"] == 1 > other.means["a"]["ndcg@10"]
    assert other.means["b"]["mrr"] == found.comparison.means["b"]["mrr"]
    assert other.baseline == found.comparison.baseline == "a"
    assert other.differences["b"].mean > 0 > found.comparison.differences["b"].mean


def test_every_mean_has_an_interval_around_it() -> None:
    found = compare([outside("a", ["E"], ["X"])], QRELS, ESCI).intervals["a"]
    assert (found.low, found.mean, found.high) == (0, 1 / 2, 1) or found.low < found.mean < found.high


def test_latency_is_the_median_and_the_95th_percentile_of_what_was_timed() -> None:
    run = Run(System("bm25", "bm25", rerank=False), took_ms={str(at): float(at) for at in range(101)})
    assert latency(run) == {"median": 50.0, "p95": 95.0}
    assert latency(outside("old", ["E"], ["E"])) == {}


def test_the_headline_names_queries_protocol_gains_and_window() -> None:
    results = evaluate_runs(QUERIES, QRELS, [outside("a", ["E"], ["E"])], Options(protocol="judged", gains="linear"))
    assert headline(results) == "2 queries · protocol judged · gains linear"
