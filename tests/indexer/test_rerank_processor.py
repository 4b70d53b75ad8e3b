"""What is sent to make OpenSearch's rerank processor call the rerank API, and what is refused before."""

from __future__ import annotations

import json
import re

import msgspec
import pytest
from click.testing import CliRunner
from opensearchpy import OpenSearch

from indexer import client as clusters
from indexer import node as nodes
from indexer.commands import connect
from indexer.connect import ML_COMMONS, Connection
from indexer.errors import ClusterError, NodeError, UsageError
from indexer.rerank_processor import TRUSTED, Plan
from indexer.settings import Settings
from tests.paths import ROOT

TEMPLATES = ROOT / "deploy" / "rerank-processor"


def test_the_templates_are_what_the_command_sends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHELFRANK_API_KEY", "sr_secret")
    shown = CliRunner().invoke(connect, ["--dry-run"])
    assert shown.exit_code == 0
    requests = json.loads(shown.stdout)
    assert "sr_secret" not in shown.output
    assert {name: json.loads((TEMPLATES / f"{name}.json").read_text("utf-8")) for name in requests} == requests


def test_fields_are_kept_apart_and_one_field_needs_nothing() -> None:
    several = Plan(fields=("title=name", "brand=maker", "tint")).pipeline("m")["response_processors"]
    assert [next(iter(each)) for each in several] == ["split", "rerank"]
    separator = several[0]["split"]["target_field"]
    assert several[1]["rerank"]["context"]["document_fields"] == ["name", separator, "maker", separator, "tint"]
    one = Plan(fields=("text",)).pipeline("m")["response_processors"]
    assert [next(iter(each)) for each in one] == ["rerank"]


def test_a_strict_pipeline_fails_and_another_does_not() -> None:
    for strict in (True, False):
        for each in Plan(strict=strict).pipeline("m")["response_processors"]:
            assert next(iter(each.values()))["ignore_failure"] is not strict


def test_oversampling_fetches_more_and_cuts_the_page() -> None:
    pipeline = Plan(oversample=5).pipeline("m")
    assert pipeline["request_processors"] == [{"oversample": {"sample_factor": 5}}]
    assert pipeline["response_processors"][-1] == {"truncate_hits": {}}
    assert "request_processors" not in Plan().pipeline("m")


@pytest.mark.parametrize("service", ["http://10.0.0.5:8100", "https://rank.shop-a.example/"])
def test_only_the_service_itself_becomes_trusted(service: str) -> None:
    plan = Plan(service=service)
    trusted = plan.settings(["^https://other/.*$"])[TRUSTED]
    assert trusted[0] == "^https://other/.*$"
    assert re.fullmatch(trusted[1], plan.url)
    assert not re.fullmatch(trusted[1], plan.url.replace(".", "x", 1))
    assert not re.fullmatch(trusted[1], f"https://evil.example/{plan.url}")


@pytest.mark.parametrize("service", ["10.0.0.5:8100", "ftp://shop", "http://", "http://li:secret@shop"])
def test_an_address_that_cannot_be_called_is_refused(service: str) -> None:
    with pytest.raises(UsageError, match="such as http://10"):
        Connection(None, Plan(service=service))  # type: ignore[arg-type]


def test_fields_may_not_be_empty() -> None:
    refused = CliRunner().invoke(connect, ["--fields", " , "])
    assert isinstance(refused.exception, UsageError)


@pytest.mark.node
def test_a_cluster_without_ml_commons_is_told_what_to_do(node_settings: Settings, client: OpenSearch) -> None:
    if ML_COMMONS in clusters.capabilities(client).plugins:
        pytest.skip("this cluster has it")
    with pytest.raises(ClusterError, match="no ml-commons"):
        Connection(client, Plan()).connect("")
    if not node_settings.cluster.url:
        with pytest.raises(NodeError, match="already runs without ml-commons"):
            nodes.start(msgspec.structs.replace(node_settings.node, ml_commons=True))
