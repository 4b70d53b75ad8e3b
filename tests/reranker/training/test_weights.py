"""`train weights`: the last mile of a bundle learns from a shop's own judgments, and says how it does on others."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from indexer.errors import InputError, ShelfrankError, UsageError
from reranker.blend import COLUMNS, WITHOUT_VECTOR
from reranker.bundle import fingerprint, verify
from reranker.evaluation.judgments import Query, read_queries
from reranker.training.command import train
from tests.paths import ROOT, SAMPLE_SHOP

Run = Callable[..., Result]

pytestmark = pytest.mark.node


@pytest.fixture(scope="module")
def judged() -> list[Query]:
    queries = read_queries(SAMPLE_SHOP / "queries.tsv")
    return [query for query in queries if query.columns["split"] == "dev"][:12]


@pytest.fixture
def run(node: str, shop: str, tmp_path: Path, judged: Sequence[Query]) -> Run:
    def invoke(*flags: str, queries: Sequence[Query] = judged) -> Result:
        lines = ["query_id\tquery\tsplit", *(f"{query.id}\t{query.text}\tmine" for query in queries)]
        (tmp_path / "queries.tsv").write_text("\n".join(lines) + "\n", "utf-8")
        files = ["--queries", str(tmp_path / "queries.tsv"), "--qrels", str(SAMPLE_SHOP / "qrels.tsv")]
        environ = {"OPENSEARCH_URL": node, "SHELFRANK_SEARCH_WINDOW": "12"}
        arguments = ["weights", "--index", shop, *files, "--out", str(tmp_path / "out"), *flags]
        result = CliRunner(env=environ).invoke(train, arguments, standalone_mode=False)
        if result.exception and not isinstance(result.exception, ShelfrankError):
            raise result.exception
        return result

    return invoke


def test_a_bundle_with_new_weights_is_whole_and_knows_what_it_saw(
    run: Run, judged: Sequence[Query], tmp_path: Path
) -> None:
    answer = json.loads(run("--anew", "--name", "ours", "--split", "mine", "--json").stdout)
    bundle = verify(tmp_path / "out", "reranker")
    assert answer["id"] == bundle.id
    assert bundle.id.startswith("ours-")
    assert set(bundle.description.weights) == set(WITHOUT_VECTOR)
    assert set(bundle.description.vector_weights) == set(COLUMNS)
    assert bundle.description.vector_weights["vector"] != 0
    assert {fingerprint(query.text) for query in judged} <= set(bundle.description.weighed_on)
    assert answer["queries"] == 12
    gained = answer["gain over first stage"]
    assert gained["low"] <= gained["mean"] <= gained["high"]
    assert "gain over old weights" not in answer, "those may have seen the same queries"
    assert isinstance(run("--json").exception, UsageError)  # the folder is not empty


def test_a_dozen_queries_change_the_weights_a_little_or_not_at_all(run: Run, tmp_path: Path) -> None:
    run()
    before = verify(ROOT / "reranker" / "bundles" / "reranker", "reranker").description
    after = verify(tmp_path / "out", "reranker").description
    for cosines in (True, False):
        old, new = before.last_mile(cosines), after.last_mile(cosines)
        assert max(abs(new[name] - old.get(name, 0.0)) for name in new) < 2


def test_too_few_queries_are_told(run: Run, judged: Sequence[Query], tmp_path: Path) -> None:
    assert isinstance(run(queries=judged[:4]).exception, InputError)
    assert not (tmp_path / "out").exists()
