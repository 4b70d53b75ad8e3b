"""`shelfrank evaluate` on the real node: figures that trec_eval confirms, in both languages, and nothing hidden."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import pytrec_eval
from click.testing import CliRunner, Result
from opensearchpy import OpenSearch

from indexer.errors import ShelfrankError, UsageError
from indexer.mappings import index_body, made
from indexer.settings import Settings
from reranker import bundle as bundles
from reranker.bundle import fingerprint, write_description
from reranker.encoder import Encoder
from reranker.evaluation.command import evaluate
from reranker.evaluation.judgments import Query, read_qrels, read_run
from reranker.evaluation.runs import System as EvaluatedSystem
from reranker.evaluation.runs import run_system
from reranker.scoring import CrossEncoder, Scores
from reranker.search import Searcher

pytestmark = pytest.mark.node

INDEX = "shelfrank-test-evaluate"
# No product shares a word with two queries, so that BM25's lists can be told by eye.
PRODUCTS = {
    "cup": "steel cup 500 ml",
    "cup-lid": "spare lid for steel cup",
    "kettle": "electric kettle",
    "sofa": "grey sofa with two seats",
    "杯": "不锈钢保温杯",
    "杯套": "保温杯杯套",
    "灯": "护眼台灯",
}
QUERIES = """query_id\tquery\tlanguage\tsplit
en-1\tsteel cup\ten\ttest
en-2\tsettee\ten\ttest
zh-1\t保温杯\tzh\ttest
zh-2\t台灯\tzh\ttrain
"""
QRELS = """query_id\tproduct_id\tgrade
en-1\tcup\t3
en-1\tcup-lid\t1
en-2\tsofa\t3
zh-1\t杯\t3
zh-1\t杯套\t1
zh-2\t灯\t3
"""


@pytest.fixture(scope="module")
def index(client: OpenSearch) -> Iterator[str]:
    encoder = Encoder.load()
    vectors = encoder.embed_products([{"title": title} for title in PRODUCTS.values()])
    client.indices.delete(index=INDEX, ignore_unavailable=True)
    client.indices.create(
        index=INDEX, body=index_body(Settings().index, made(Settings().index, encoder.bundle_id, encoder.dimension))
    )
    lines: list[dict[str, Any]] = []
    for (product, title), vector in zip(PRODUCTS.items(), vectors, strict=True):
        lines += [{"index": {"_id": product}}, {"id": product, "title": title, "vector": vector.tolist()}]
    assert not client.bulk(body=lines, index=INDEX, params={"refresh": "true"})["errors"]
    yield INDEX
    client.indices.delete(index=INDEX)


@pytest.fixture
def judged(tmp_path: Path) -> list[str]:
    (tmp_path / "queries.tsv").write_text(QUERIES, "utf-8")
    (tmp_path / "qrels.tsv").write_text(QRELS, "utf-8")
    return ["--queries", str(tmp_path / "queries.tsv"), "--qrels", str(tmp_path / "qrels.tsv")]


@pytest.fixture
def run(node: str, index: str, judged: list[str]) -> Any:
    def invoke(*flags: str, **environ: str) -> Result:
        result = CliRunner(env={"OPENSEARCH_URL": node, **environ}).invoke(
            evaluate, ["--index", index, *judged, *flags], standalone_mode=False
        )
        if result.exception and not isinstance(result.exception, ShelfrankError):
            raise result.exception
        return result

    return invoke


def test_json_has_a_key_for_each_system_and_the_rest_under_comparison(run: Any) -> None:
    answer = json.loads(run("--systems", "bm25,vector,hybrid,rerank", "--json").stdout)
    assert list(answer) == ["bm25", "vector", "hybrid", "rerank", "comparison"]
    for name in ("bm25", "vector", "hybrid", "rerank"):
        assert {"ndcg@10", "mrr", "recall@100", "queries"} <= answer[name].keys()
        assert answer[name]["queries"] == 4
    # BM25 finds everything but the settee that is called a sofa.
    assert answer["bm25"]["recall@100"] == answer["bm25"]["mrr"] == 0.75
    assert answer["vector"]["recall@100"] == answer["hybrid"]["recall@100"] == answer["rerank"]["recall@100"] == 1
    assert answer["comparison"]["baseline"] in ("vector", "hybrid")
    assert answer["rerank"]["unfinished"] == 0
    assert answer["comparison"]["warnings"] == answer["comparison"]["seen_in_training"] == []


def test_trec_eval_gives_the_same_figures_from_the_run_that_was_written(run: Any, tmp_path: Path) -> None:
    answer = json.loads(run("--gains", "linear", "--run-dir", str(tmp_path / "runs"), "--json").stdout)
    names = {"ndcg_cut.10", "recip_rank", "recall.100", "P.10", "map"}
    qrels = read_qrels(tmp_path / "qrels.tsv")
    for name in ("bm25", "vector", "hybrid", "rerank"):
        with (tmp_path / "runs" / f"{name}.run").open(encoding="utf-8") as file:
            theirs = pytrec_eval.RelevanceEvaluator(qrels, names).evaluate(pytrec_eval.parse_run(file))
        pairs = {"ndcg@10": "ndcg_cut_10", "mrr": "recip_rank", "recall@100": "recall_100", "map": "map"}
        for ours, metric in pairs.items():
            # A query without a hit is in no run; trec_eval leaves it out and it counts 0 here.
            total = sum(values[metric] for values in theirs.values())
            assert answer[name][ours] == pytest.approx(total / 4, abs=1e-6)


def test_the_values_of_each_query_add_up_to_the_mean(run: Any, tmp_path: Path) -> None:
    lines, table = tmp_path / "each.jsonl", tmp_path / "each.tsv"
    answer = json.loads(run("--systems", "bm25,vector", "--per-query", str(lines), "--json").stdout)
    rows = [json.loads(line) for line in lines.read_text("utf-8").splitlines()]
    assert len(rows) == 8
    assert [row["query"] for row in rows if row["query_id"] == "zh-1"] == ["保温杯", "保温杯"]
    bm25 = [row for row in rows if row["system"] == "bm25"]
    assert sum(row["ndcg@10"] for row in bm25) / 4 == pytest.approx(answer["bm25"]["ndcg@10"], abs=1e-6)
    run("--systems", "bm25,vector", "--per-query", str(table))
    header, *body = [line.split("\t") for line in table.read_text("utf-8").splitlines()]
    assert [dict(zip(header, row, strict=True)) for row in body] == [
        {name: str(value) for name, value in row.items()} for row in rows
    ]


def test_a_split_and_a_column_choose_and_group_queries(run: Any) -> None:
    answer = json.loads(run("--systems", "bm25", "--split", "test", "--by", "language", "--json").stdout)
    assert answer["bm25"]["queries"] == answer["comparison"]["queries"] == 3
    groups = answer["comparison"]["by"]["language"]
    assert (groups["en"]["queries"], groups["en"]["bm25"]["mrr"]) == (2, 0.5)
    assert (groups["zh"]["queries"], groups["zh"]["bm25"]["mrr"]) == (1, 1.0)


def test_the_table_names_systems_differences_and_queries(run: Any) -> None:
    shown = run("--systems", "bm25,vector", "--by", "language").stdout
    assert "4 queries" in shown
    assert "bm25" in shown
    assert "vector" in shown
    assert "ndcg@10 by language" in shown


def test_the_deadline_of_live_search_does_not_change_a_figure(run: Any) -> None:
    answer = json.loads(run("--systems", "rerank", "--json", SHELFRANK_SEARCH_DEADLINE_MS="0").stdout)
    assert answer["rerank"]["unfinished"] == 0


def test_a_model_that_saw_the_queries_in_training_is_told_on(run: Any, tmp_path: Path) -> None:
    folder = tmp_path / "bundle"
    folder.mkdir()
    shipped = bundles.load("", "reranker")
    for name in shipped.description.files:
        (folder / name).symlink_to(shipped.folder / name)
    seen = msgspec.structs.replace(shipped.description, trained_on=(fingerprint("保温杯"), fingerprint("other")))
    write_description(folder, seen)
    environ = {"SHELFRANK_MODELS_RERANKER": str(folder)}
    answer = json.loads(run("--systems", "bm25,rerank", "--json", **environ).stdout)
    assert answer["comparison"]["seen_in_training"] == ["zh-1"]
    assert "1 of 4 queries (zh-1) were used to train" in " ".join(run("--systems", "rerank", **environ).stdout.split())
    assert json.loads(run("--systems", "bm25", "--json", **environ).stdout)["comparison"]["seen_in_training"] == []
    unseen = json.loads(run("--systems", "bm25,rerank", "--unseen", "--json", **environ).stdout)
    assert unseen["rerank"]["queries"] == 3
    assert unseen["comparison"]["seen_in_training"] == []


class FailsOn(CrossEncoder):
    """A model that breaks on one query."""

    def __init__(self, query: str) -> None:
        whole = CrossEncoder.load()
        super().__init__(whole.bundle, Settings().models)
        self.query = query

    def score(self, query: str, products: Sequence[Sequence[int]], deadline: float = float("inf")) -> Scores:
        if query == self.query:
            return Scores(np.full(len(products), np.nan), len(products), timed_out=False)
        return super().score(query, products, deadline)


def test_a_query_that_the_model_fails_on_keeps_its_first_stage_order_and_is_counted(
    node_settings: Settings, index: str
) -> None:
    connected = Searcher.connect(node_settings, encoder=False, reranker=False)
    searcher = Searcher(connected.retriever, FailsOn("steel cup"), node_settings)
    queries = [Query("en-1", "steel cup"), Query("zh-1", "保温杯"), Query("en-2", "couch")]
    plain = run_system(searcher, index, queries, EvaluatedSystem("bm25", "bm25", rerank=False))
    found = run_system(searcher, index, queries, EvaluatedSystem("rerank", "bm25", rerank=True))
    assert found.statuses == {"en-1": "error", "zh-1": "applied", "en-2": "skipped"}
    assert found.rankings["en-1"] == plain.rankings["en-1"] == ["cup", "cup-lid"]
    assert "rerank: 1 of 3 queries were not reranked" in found.warnings()[0]
    assert not found.all_faulty
    assert run_system(searcher, index, queries[:1], found.system).all_faulty


def test_an_index_that_is_not_there_is_told(node: str, judged: list[str]) -> None:
    flags = ["--index", "no-such-shop", *judged, "--systems", "bm25", "--json"]
    result = CliRunner(env={"OPENSEARCH_URL": node}).invoke(evaluate, flags, standalone_mode=False)
    assert "no such index [no-such-shop]" in str(result.exception)
    assert result.stdout == ""


def test_in_the_judged_protocol_only_judged_products_are_ranked_by_every_system(run: Any, tmp_path: Path) -> None:
    flags = ["--protocol", "judged", "--run-dir", str(tmp_path / "runs"), "--json"]
    answer = json.loads(run(*flags).stdout)
    assert (answer["comparison"]["protocol"], answer["comparison"]["window"]) == ("judged", None)
    qrels = read_qrels(tmp_path / "qrels.tsv")
    for name in ("bm25", "vector", "hybrid", "rerank"):
        found = read_run(tmp_path / "runs" / f"{name}.run")
        assert {query: set(products) for query, products in found.items()} == {
            query: set(grades) for query, grades in qrels.items()
        }
        assert answer[name]["recall@100"] == 1
    # No word of "settee" is in the sofa's title: BM25 finds nothing, and the only judged product comes last and first.
    assert read_run(tmp_path / "runs" / "bm25.run")["en-2"] == ["sofa"]


def test_the_judged_protocol_refuses_a_pool_that_the_first_stage_cannot_reach(
    searcher: Searcher, node_settings: Settings, index: str
) -> None:
    pool = {"1": {f"P{at}": 1 for at in range(node_settings.search.depth + 1)}}
    system = EvaluatedSystem("vector", "vector", rerank=False)
    with pytest.raises(UsageError, match="Query '1' has 401 judged products, and the first stage reaches 400"):
        run_system(searcher, index, [Query("1", "cup")], system, pool=pool)


def test_an_outside_run_is_measured_beside_the_live_systems(run: Any, tmp_path: Path) -> None:
    run("--systems", "bm25", "--run-dir", str(tmp_path / "runs"), "--json")
    live = ["--systems", "bm25,vector", "--run", f"old={tmp_path / 'runs' / 'bm25.run'}"]
    answer = json.loads(run(*live, "--baseline", "old", "--json").stdout)
    assert list(answer) == ["bm25", "vector", "old", "comparison"]
    assert answer["old"]["ndcg@10"] == answer["bm25"]["ndcg@10"]
    assert answer["comparison"]["baseline"] == "old"
    assert answer["comparison"]["differences"]["bm25"]["mean"] == 0
    assert answer["comparison"]["warnings"] == ["old: no hit for 1 queries (en-2); they count 0"]
    assert answer["bm25"]["latency_ms"]["p95"] >= answer["bm25"]["latency_ms"]["median"] > 0
    assert "latency_ms" not in answer["old"]


def test_the_page_shows_titles_from_the_index_beside_grades(run: Any, tmp_path: Path) -> None:
    run("--systems", "bm25,vector,rerank", "--by", "length", "--html", str(tmp_path / "page.html"), "--json")
    page = (tmp_path / "page.html").read_text("utf-8")
    assert "不锈钢保温杯" in page
    assert "spare lid for steel cup" in page
    assert "ndcg@10 by length" in page
    assert 'aria-label="grade 3"' in page


def test_strata_have_intervals_and_other_gains_other_figures(run: Any) -> None:
    flags = ["--systems", "bm25,vector", "--by", "language", "--by", "length", "--also-gains", "exponential", "--json"]
    comparison = json.loads(run(*flags).stdout)["comparison"]
    assert list(comparison["by"]) == ["language", "length"]
    other = "bm25" if comparison["baseline"] == "vector" else "vector"
    found = comparison["by"]["language"]["en"][other]["difference"]
    assert found["low"] <= found["mean"] <= found["high"]
    assert comparison["also_gains"]["exponential"]["means"].keys() == {"bm25", "vector"}
    assert 0 <= comparison["differences"][other]["both_halves"] <= 1


def test_folds_measure_a_tuned_first_stage_and_the_reranker_on_it(run: Any, tmp_path: Path) -> None:
    found = json.loads(run("--systems", "hybrid,rerank", "--folds", "2", "--run-dir", str(tmp_path), "--json").output)
    for name in ("bm25-tuned", "min_max-tuned", "rrf-tuned", "fusion-tuned", "rerank-tuned", "rerank-refit"):
        assert found[name]["queries"] == 4
        # Words alone find no settee, so a run of BM25 has no line for it.
        nothing = {"en-2"} if name == "bm25-tuned" else set()
        assert set(read_run(tmp_path / f"{name}.run")) == {"en-1", "en-2", "zh-1", "zh-2"} - nothing
    # Four queries are too few to refit anything on, so the bundle's own weights stay.
    assert read_run(tmp_path / "rerank-refit.run") == read_run(tmp_path / "rerank-tuned.run")
    assert found["comparison"]["folds"] == 2
    assert found["comparison"]["tuned_on_all"]["rrf-tuned"]["fusion"] == "rrf"


def test_folds_in_the_judged_pool_rank_judged_products_alone(run: Any, tmp_path: Path) -> None:
    run("--systems", "hybrid,rerank", "--folds", "2", "--protocol", "judged", "--run-dir", str(tmp_path))
    assert set(read_run(tmp_path / "rerank-tuned.run")["zh-1"]) == {"杯", "杯套"}


@pytest.mark.parametrize("flags", [("--folds", "9"), ("--folds", "2", "--systems", "bm25")])
def test_folds_that_cannot_be_are_told(run: Any, flags: tuple[str, ...]) -> None:
    assert "--folds" in str(run(*flags).exception)
