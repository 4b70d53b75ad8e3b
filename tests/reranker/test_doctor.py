from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from reranker.doctor import doctor


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.node
def test_a_healthy_set_up_passes(node: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENSEARCH_URL", node)
    result = CliRunner().invoke(doctor, ["--json"])
    answer = json.loads(result.stdout)
    assert result.exit_code == 0, answer
    states = {check["name"]: check["state"] for check in answer["checks"]}
    assert {states[name] for name in ("cluster", "k-NN", "neural-search", "encoder", "reranker")} == {"ok"}


def test_what_is_missing_is_told_and_the_rest_is_still_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENSEARCH_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("SHELFRANK_MODELS_RERANKER", str(tmp_path / "nowhere"))
    result = CliRunner().invoke(doctor, ["--json"])
    assert result.exit_code == 1
    checks = {check["name"]: check for check in json.loads(result.stdout)["checks"]}
    assert "OPENSEARCH_URL" in checks["cluster"]["detail"]
    assert "nowhere" in checks["reranker"]["detail"]
    assert checks["encoder"]["state"] == "ok"
    assert "cluster" in CliRunner().invoke(doctor, []).stdout
