"""Runs are measured as judged, differences are paired, and what makes a figure doubtful is said."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from indexer.errors import InputError, UsageError
from reranker.bundle import fingerprint
from reranker.evaluation import command
from reranker.evaluation.compare import (
    ESCI_GAINS,
    compare,
    difference,
    doubts,
    mean,
    measure,
    parse_gains,
    warnings,
)
from reranker.evaluation.judgments import Query
from reranker.evaluation.runs import Run, System, parse_systems, seen_in_training

BM25 = System("bm25", "bm25", rerank=False)
VECTOR = System("vector", "vector", rerank=False)
RERANK = System("rerank", "hybrid", rerank=True)

# Three queries; product E is exact, S a substitute, X irrelevant.
QRELS = {"1": {"E": 3, "S": 2, "X": 0}, "2": {"E": 3}, "3": {"E": 3}}
FOUND_FIRST, FOUND_SECOND, NOT_FOUND = ["E", "X"], ["X", "E"], ["X"]
ESCI = parse_gains(ESCI_GAINS)


def test_systems_are_named_by_mode_and_rerank_takes_the_settings_mode() -> None:
    assert parse_systems("bm25, rerank,rerank:vector", "hybrid") == [
        BM25,
        RERANK,
        System("rerank:vector", "vector", rerank=True),
    ]


@pytest.mark.parametrize("text", ["", "bm25,", "colbert", "rerank:", "rerank:colbert", "bm25:vector"])
def test_an_unknown_system_is_refused_with_those_there_are(text: str) -> None:
    with pytest.raises(UsageError, match="name some of bm25, vector, hybrid, rerank, rerank:bm25"):
        parse_systems(text, "hybrid")


def test_gains_are_a_list_or_a_convention() -> None:
    assert [ESCI(grade) for grade in (3, 2, 1, 0, 7)] == [1.0, 0.1, 0.01, 0.0, 0.0]
    assert parse_gains("linear")(3) == 3
    assert parse_gains("exponential")(3) == 7


@pytest.mark.parametrize("text", ["", "3", "3:", "E:1", "3:much", "3:-1", "3:nan", "3:inf", "3:1,,1:0"])
def test_a_gain_that_cannot_be_read_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="Cannot read the gain"):
        parse_gains(text)


def test_a_run_is_measured_query_by_query() -> None:
    values = measure({"1": ["X", "S", "E"], "2": NOT_FOUND}, QRELS, ESCI)
    assert values["1"] == {
        "ndcg@10": pytest.approx((0.1 / math.log2(3) + 1 / 2) / (1 + 0.1 / math.log2(3))),
        "mrr": 1 / 2,
        "recall@100": 1.0,
        "precision@10": 2 / 10,
        "map": pytest.approx((1 / 2 + 2 / 3) / 2),
        "judged@10": 1.0,
    }
    assert set(values["2"].values()) == {0.0}
    assert mean(values)["mrr"] == 1 / 4


def test_min_grade_moves_what_counts_as_relevant_and_leaves_ndcg_alone() -> None:
    ranking = {"1": ["S", "E"]}
    loose, strict = measure(ranking, QRELS, ESCI), measure(ranking, QRELS, ESCI, min_grade=3)
    assert (loose["1"]["mrr"], strict["1"]["mrr"]) == (1.0, 1 / 2)
    assert loose["1"]["ndcg@10"] == strict["1"]["ndcg@10"]


def runs() -> list[Run]:
    """bm25 finds one of three at the top, vector two, the reranker all three."""
    return [
        Run(BM25, {"1": FOUND_FIRST, "2": FOUND_SECOND, "3": NOT_FOUND}),
        Run(VECTOR, {"1": FOUND_FIRST, "2": FOUND_FIRST, "3": NOT_FOUND}),
        Run(RERANK, {"1": FOUND_FIRST, "2": FOUND_FIRST, "3": FOUND_FIRST}),
    ]


def test_the_baseline_is_the_best_system_that_does_not_rerank() -> None:
    found = compare(runs(), QRELS, ESCI)
    assert found.baseline == "vector"
    assert set(found.differences) == {"bm25", "rerank"}
    assert found.differences["rerank"].mean == pytest.approx(1 / 3)
    assert (found.differences["rerank"].better, found.differences["rerank"].worse) == (1, 0)
    assert found.differences["bm25"].mean < 0
    assert (found.differences["bm25"].better, found.differences["bm25"].worse) == (0, 1)


def test_without_a_system_that_does_not_rerank_nothing_is_compared() -> None:
    found = compare([runs()[2]], QRELS, ESCI)
    assert (found.baseline, found.differences) == ("", {})


def test_a_difference_does_not_depend_on_which_other_systems_are_compared() -> None:
    bm25, vector, rerank = runs()
    all_three, two = compare([bm25, vector, rerank], QRELS, ESCI), compare([rerank, vector], QRELS, ESCI)
    assert all_three.differences["rerank"] == two.differences["rerank"]


def test_the_same_seed_gives_the_same_interval_and_another_seed_another_one() -> None:
    rng = np.random.default_rng(3)
    ours, theirs = ({str(at): {"ndcg@10": float(rng.random())} for at in range(20)} for _ in range(2))
    assert difference(ours, theirs, seed=1) == difference(ours, theirs, seed=1) != difference(ours, theirs, seed=2)


def test_differences_are_paired_by_query_and_not_by_place() -> None:
    ours = {"1": {"ndcg@10": 0.9}, "2": {"ndcg@10": 0.1}}
    theirs = {"2": {"ndcg@10": 0.1}, "1": {"ndcg@10": 0.9}}
    found = difference(ours, theirs)
    assert (found.mean, found.low, found.high, found.p, found.better, found.worse) == (0, 0, 0, 1, 0, 0)


def test_queries_and_judgments_that_do_not_meet_are_told() -> None:
    queries = [Query("1", "cup"), Query("4", "mug"), Query("5", "pot")]
    told = warnings(queries, {**QRELS, "5": {"X": 0}})
    assert told == [
        "Query ids of the judgments that are not among the queries: 2 (2, 3)",
        "Queries without a judgment, left out: 1 (4)",
        "Queries with no product of grade 1 or better, 0 in mrr, recall, precision and map: 1 (5)",
    ]
    assert warnings([Query("1", "cup")], {"1": QRELS["1"]}) == []


def test_a_run_whose_hits_nobody_judged_is_told() -> None:
    strangers = Run(BM25, {"1": ["P"], "2": ["Q"], "3": []})
    assert "bm25: none of its first 10 hits is judged" in doubts([strangers], compare([strangers], QRELS, ESCI))[0]
    assert doubts(runs(), compare(runs(), QRELS, ESCI)) == []


def test_queries_that_the_reranker_could_not_finish_are_counted_and_named() -> None:
    rankings = {"1": FOUND_FIRST, "2": FOUND_FIRST, "3": []}
    run = Run(RERANK, rankings, {"1": "error", "2": "applied", "3": "skipped"}, {"1": "the score of hit E is NaN"})
    assert run.warnings() == [
        "rerank: 1 of 3 queries were not reranked and count in their first-stage order (1): "
        "1 x the score of hit E is NaN"
    ]
    assert not run.all_faulty
    assert Run(RERANK, rankings, {"1": "error", "2": "timeout", "3": "skipped"}, {"1": "a", "2": "b"}).all_faulty
    assert Run(BM25, rankings, dict.fromkeys(rankings, "skipped")).warnings() == []


def test_queries_of_the_training_set_are_recognised_in_any_case_and_spacing() -> None:
    seen = {fingerprint("Quiet keyboard"), fingerprint("静音键盘")}
    queries = [Query("1", "quiet  KEYBOARD"), Query("2", "静音键盘"), Query("3", "loud keyboard")]
    assert seen_in_training(queries, seen) == ["1", "2"]
    assert "1 of 2 queries (1) were used to train" in command.seen_sentence(["1"], 2)


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    (tmp_path / "q.tsv").write_text("query_id\tquery\tsplit\n1\tcup\ttest\n", "utf-8")
    (tmp_path / "r.tsv").write_text("query_id\tproduct_id\tgrade\n9\tE\t3\n", "utf-8")
    return ["--index", "shop", "--queries", str(tmp_path / "q.tsv"), "--qrels", str(tmp_path / "r.tsv")]


@pytest.mark.parametrize(
    ("flags", "error", "said"),
    [
        (["--systems", "bm52"], UsageError, "Unknown system 'bm52'"),
        (["--gains", "3=1"], UsageError, "Cannot read the gain '3=1'"),
        (["--per-query", "no/such/folder/q.jsonl"], UsageError, "there is no folder"),
        (["--split", "dev"], InputError, "no query of the split 'dev'; it has 'test'"),
        ([], InputError, "judges none of the 1 queries"),
    ],
)
def test_wrong_input_is_told_before_the_cluster_is_asked(
    files: list[str], flags: list[str], error: type[Exception], said: str
) -> None:
    result = CliRunner().invoke(command.evaluate, files + flags, standalone_mode=False)
    assert isinstance(result.exception, error)
    assert said in str(result.exception)


def test_a_missing_file_is_wrong_use(tmp_path: Path) -> None:
    flags = ["--index", "shop", "--queries", str(tmp_path / "q.tsv"), "--qrels", str(tmp_path / "r.tsv")]
    assert CliRunner().invoke(command.evaluate, flags).exit_code == 2


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ([], "--index is missing"),
        (["--systems", ""], "There is nothing to evaluate"),
        (["--systems", "", "--run", "old"], "is no NAME=FILE"),
        (["--systems", "", "--run", "a/b=x.run"], "is no NAME=FILE"),
        (["--systems", "", "--run", "old=absent.run"], "there is no file 'absent.run'"),
        (["--index", "shop", "--run", "bm25=x.run"], "the name 'bm25' is taken"),
        (["--systems", "", "--run", "comparison=x.run"], "the name 'comparison' is taken"),
        (["--index", "shop", "--baseline", "old"], "--baseline old is no system of this evaluation"),
        (["--index", "shop", "--also-gains", "3=1"], "Cannot read the gain '3=1'"),
        (["--index", "shop", "--protocol", "judged", "--window", "9"], "--window has no place in --protocol judged"),
        (["--systems", "", "--run", "old={run}", "--unseen"], "without live systems there is none"),
        (["--systems", "", "--run", "old={run}", "--html", "no/such/p.html"], "there is no folder"),
        (["--systems", "", "--run", "old={run}", "--by", "tongue"], "The queries have no column 'tongue'"),
    ],
)
def test_flags_that_cannot_be_meant_are_told(outside: list[str], tmp_path: Path, flags: list[str], said: str) -> None:
    flags = [flag.format(run=tmp_path / "x.run") for flag in flags]
    result = CliRunner().invoke(command.evaluate, outside + flags, standalone_mode=False)
    assert isinstance(result.exception, UsageError)
    assert said in str(result.exception)


@pytest.fixture
def outside(tmp_path: Path) -> list[str]:
    (tmp_path / "q.tsv").write_text("query_id\tquery\n1\tcup\n2\t保温杯\n", "utf-8")
    (tmp_path / "r.tsv").write_text("1 0 E 3\n1 0 X 0\n2 0 E 3\n", "utf-8")
    (tmp_path / "x.run").write_text("1 Q0 P 1 3 x\n1 Q0 X 2 2 x\n1 Q0 E 3 1 x\n2 Q0 E 1 1 x\n", "utf-8")
    (tmp_path / "y.run").write_text("1 Q0 E 1 1 y\n2 Q0 E 1 1 y\n", "utf-8")
    return ["--queries", str(tmp_path / "q.tsv"), "--qrels", str(tmp_path / "r.tsv")]


def test_outside_runs_need_no_cluster_and_both_protocols_are_named(outside: list[str], tmp_path: Path) -> None:
    runs = ["--systems", "", "--run", f"x={tmp_path / 'x.run'}", "--run", f"y={tmp_path / 'y.run'}"]
    runner = CliRunner(env={"OPENSEARCH_URL": "http://127.0.0.1:9"})
    full, pool = (
        json.loads(runner.invoke(command.evaluate, outside + runs + flags + ["--json"]).stdout)
        for flags in ([], ["--protocol", "judged"])
    )
    assert (full["comparison"]["protocol"], pool["comparison"]["protocol"]) == ("full", "judged")
    # Rank 3 in the catalogue, rank 2 among the judged.
    assert (full["x"]["mrr"], pool["x"]["mrr"]) == (pytest.approx((1 / 3 + 1) / 2, abs=1e-6), (1 / 2 + 1) / 2)
    assert full["comparison"]["baseline"] == "x"
    assert full["comparison"]["window"] is None
    assert full["comparison"]["runs"] == {"x": str(tmp_path / "x.run"), "y": str(tmp_path / "y.run")}
    shown = runner.invoke(command.evaluate, [*outside, *runs, "--protocol", "judged"]).stdout
    assert "2 queries · protocol judged" in shown
    assert "milliseconds" not in shown
