"""`shelfrank models promote` on the real node: a candidate is searched with beside the current bundle."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import pytest
from click.testing import CliRunner, Result
from onnx import helper, numpy_helper
from opensearchpy import OpenSearch

from indexer.errors import ClusterError, InputError, ShelfrankError, UsageError
from indexer.mappings import index_body, made
from indexer.settings import Models, Settings
from reranker import bundle as bundles
from reranker.bundle import Bundle, Kind, fingerprint, write_description
from reranker.encoder import Encoder
from reranker.registry.command import models
from tests.shared import ask_little

pytestmark = pytest.mark.node

Run = Callable[..., Result]
INDEX, REINDEXED = "shelfrank-test-promote", "shelfrank-test-promote-candidate"
PRODUCTS = {
    "cup": "steel cup 500 ml",
    "kettle": "electric kettle",
    "sofa": "grey sofa with two seats",
    "lamp": "LED desk lamp",
    "杯": "不锈钢保温杯 500 毫升",
    "鞋": "男款跑步鞋",
    "灯": "护眼台灯",
}
QUERIES = "query_id\tquery\tsplit\nen-1\tsteel cup\tdev\nen-2\tkettle\tdev\nzh-1\t保温杯\tdev\nzh-2\t台灯\ttest\n"
QRELS = "query_id\tproduct_id\tgrade\nen-1\tcup\t3\nen-2\tkettle\t3\nzh-1\t杯\t3\nzh-2\t灯\t3\n"


def copied(kind: Kind, folder: Path, **changes: Any) -> Bundle:
    shutil.copytree(bundles.SHIPPED / kind, folder)
    return write_description(folder, msgspec.structs.replace(bundles.read_description(folder), **changes))


def fill(client: OpenSearch, index: str, encoder: Encoder) -> None:
    vectors = encoder.embed_products([{"title": title} for title in PRODUCTS.values()])
    client.indices.delete(index=index, ignore_unavailable=True)
    about = made(Settings().index, encoder.bundle_id, encoder.dimension)
    client.indices.create(index=index, body=index_body(Settings().index, about))
    lines: list[dict[str, Any]] = []
    for (product, title), vector in zip(PRODUCTS.items(), vectors, strict=True):
        lines += [{"index": {"_id": product}}, {"id": product, "title": title, "vector": vector.tolist()}]
    assert not client.bulk(body=lines, index=index, params={"refresh": "true"})["errors"]


@pytest.fixture(scope="module")
def new_encoder(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The shipped encoder, reading less of a text."""
    recipe = bundles.read_description(bundles.SHIPPED / "encoder").recipe
    shorter = msgspec.structs.replace(recipe, max_tokens=64)
    return copied("encoder", tmp_path_factory.mktemp("encoder") / "bundle", name="shorter", recipe=shorter)


@pytest.fixture(scope="module", autouse=True)
def indexes(client: OpenSearch, new_encoder: Bundle) -> Iterator[None]:
    fill(client, INDEX, Encoder.load())
    fill(client, REINDEXED, Encoder(new_encoder, Models()))
    yield
    client.indices.delete(index=f"{INDEX},{REINDEXED}")


@pytest.fixture(autouse=True)
def _few_probes(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the gate asks of a model by itself is tested in its own file; here it asks little of it."""
    ask_little(monkeypatch)


@pytest.fixture
def run(node: str, tmp_path: Path) -> Run:
    (tmp_path / "queries.tsv").write_text(QUERIES, "utf-8")
    (tmp_path / "qrels.tsv").write_text(QRELS, "utf-8")
    judged = ["--queries", str(tmp_path / "queries.tsv"), "--qrels", str(tmp_path / "qrels.tsv")]

    def invoke(bundle: Bundle, *flags: str, index: str = INDEX, **environ: str) -> Result:
        environ = {"OPENSEARCH_URL": node, "SHELFRANK_MODELS_HOME": str(tmp_path / "home"), **environ}
        arguments = ["promote", str(bundle.folder), "--index", index, *judged, *flags]
        result = CliRunner(env=environ).invoke(models, arguments, standalone_mode=False)
        if result.exception and not isinstance(result.exception, ShelfrankError):
            raise result.exception
        return result

    return invoke


def upside_down(folder: Path) -> Bundle:
    """A reranker that puts last what the shipped one puts first, and trusts itself alone."""
    copied("reranker", folder)
    model = onnx.load(str(folder / "model.onnx"))
    graph = model.graph
    name = graph.output[0].name
    for node in graph.node:
        node.output[:] = ["before" if each == name else each for each in node.output]
    graph.initializer.append(numpy_helper.from_array(np.array(-1, np.float32), "minus"))
    graph.node.append(helper.make_node("Mul", ["before", "minus"], [name]))
    onnx.save(model, str(folder / "model.onnx"))
    return write_description(folder, msgspec.structs.replace(bundles.read_description(folder), blend=1.0, weights={}))


def test_a_candidate_as_good_as_the_current_one_is_promoted_with_its_figures(run: Run, tmp_path: Path) -> None:
    same = copied("reranker", tmp_path / "same", name="same")
    answer = json.loads(run(same, "--json").stdout)
    assert answer["promoted"]
    assert answer["checks"][-1]["name"] == "quality"
    assert answer["figures"]["difference"] == 0
    assert answer["figures"]["queries"] == 4
    kept = json.loads((tmp_path / "home" / "reranker" / "current").read_text("utf-8"))
    assert kept["log"][0]["figures"] == answer["figures"]
    assert kept["log"][0]["figures"]["before"] == bundles.load("", "reranker", "/nowhere").id


def test_a_candidate_below_the_margin_is_refused_with_the_interval(run: Run, tmp_path: Path) -> None:
    worse = upside_down(tmp_path / "worse")
    result = run(worse, "--json")
    assert result.exception is not None
    answer = json.loads(result.stdout)
    assert answer["promoted"] is False
    assert [check["name"] for check in answer["checks"] if not check["passed"]] == ["quality"]
    assert answer["figures"]["low"] <= answer["figures"]["difference"] <= answer["figures"]["high"] < -0.005
    assert "95 %" in str(result.exception)
    assert not (tmp_path / "home").exists()
    assert run(worse, "--margin", "1", "--json").exception is None


def test_a_split_limits_the_queries_and_is_recorded(run: Run, tmp_path: Path) -> None:
    same = copied("reranker", tmp_path / "same", name="same")
    figures = json.loads(run(same, "--split", "dev", "--json").stdout)["figures"]
    assert (figures["queries"], figures["split"]) == (3, "dev")
    assert isinstance(run(same, "--split", "none").exception, InputError)


def test_a_candidate_that_was_trained_on_the_queries_is_told(run: Run, tmp_path: Path) -> None:
    seen = copied("reranker", tmp_path / "seen", name="seen", trained_on=(fingerprint("保温杯"),))
    told = json.loads(run(seen, "--json").stdout)["warnings"]
    assert any("candidate was trained on 1 of 4 queries (zh-1)" in line for line in told)


def test_judgments_of_another_shop_are_refused(run: Run, tmp_path: Path) -> None:
    same = copied("reranker", tmp_path / "same", name="same")
    foreign = tmp_path / "foreign.tsv"
    foreign.write_text("query_id\tproduct_id\tgrade\nen-1\tB01\t3\n", "utf-8")
    result = run(same, "--qrels", str(foreign))
    assert isinstance(result.exception, InputError)
    assert "not those of" in str(result.exception)


def test_an_encoder_is_compared_only_on_an_index_of_its_own(run: Run, new_encoder: Bundle) -> None:
    result = run(new_encoder)
    assert isinstance(result.exception, ClusterError)
    told = str(result.exception)
    assert "the candidate encoder is shorter-" in told
    assert f"SHELFRANK_MODELS_ENCODER={new_encoder.folder} shelfrank ingest" in told
    assert "--candidate-index" in told


def test_an_encoder_with_its_own_index_is_compared_and_promoted(run: Run, new_encoder: Bundle, tmp_path: Path) -> None:
    answer = json.loads(run(new_encoder, "--candidate-index", REINDEXED, "--json").stdout)
    assert answer["promoted"]
    assert answer["figures"]["index"] == REINDEXED
    assert any("shelfrank reindex start" in line for line in answer["notes"])
    assert bundles.load("", "encoder", tmp_path / "home").id == new_encoder.id


def test_a_reranker_needs_no_second_index(run: Run, tmp_path: Path) -> None:
    same = copied("reranker", tmp_path / "same", name="same")
    assert isinstance(run(same, "--candidate-index", REINDEXED).exception, UsageError)


def test_a_reranker_is_not_compared_behind_another_encoder(run: Run, tmp_path: Path) -> None:
    same = copied("reranker", tmp_path / "same", name="same")
    result = run(same, index=REINDEXED)
    assert isinstance(result.exception, ClusterError)
    assert "SHELFRANK_MODELS_ENCODER" in str(result.exception)
    assert run(same, index=REINDEXED, SHELFRANK_SEARCH_MODE="bm25").exception is None
