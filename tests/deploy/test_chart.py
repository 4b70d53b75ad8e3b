"""The Helm chart: rendered by Helm itself, checked against Kubernetes' own schemas, its settings read by shelfrank."""

from __future__ import annotations

import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import helm_python
import kubernetes_validate
import pytest
import yaml

from indexer import settings
from tests.paths import ROOT

CHART = ROOT / "deploy" / "kubernetes" / "shelfrank"
EXAMPLE = yaml.safe_load((CHART.parent / "values.example.yaml").read_text("utf-8"))
EVERYTHING = {
    **EXAMPLE,
    "tls": {"secret": "shelfrank-tls"},
    "ingress": {"enabled": True, "className": "nginx", "host": "search.example.com", "tlsSecret": "search-tls"},
    "autoscaling": {"enabled": True, "queueLength": 8},
    "serviceMonitor": {"enabled": True, "labels": {"release": "prometheus"}, "keySecret": {"name": "metrics-key"}},
    "networkPolicy": {"from": [{"podSelector": {}}], "opensearch": [{"namespaceSelector": {}}]},
    "nodeSelector": {"disk": "ssd"},
    "tolerations": [{"key": "search", "operator": "Exists"}],
    "podAnnotations": {"team": "search"},
}
# Not Kubernetes' own: Prometheus Operator brings it.
FOREIGN = {"ServiceMonitor"}


def render(values: dict[str, Any]) -> dict[str, Any]:
    """Documents by kind."""
    with helm_python.Chart.load(str(CHART)) as chart:
        texts = chart.render(values, name="shop", namespace="search")
    documents = [each for name, text in texts.items() if name.endswith(".yaml") for each in yaml.safe_load_all(text)]
    return {_kind(document): document for document in documents if document}


def _kind(document: dict[str, Any]) -> str:
    """The kind, and what for where it is the second of it."""
    return str(document["kind"]) + (" for Prometheus" if document["metadata"]["name"].endswith("-ops") else "")


def test_helm_finds_nothing_to_mend() -> None:
    if helm := shutil.which("helm"):
        values = ["--values", str(CHART.parent / "values.example.yaml")]
        subprocess.run([helm, "lint", "--strict", str(CHART), *values], check=True)
    with helm_python.Chart.load(str(CHART)) as chart:
        chart.validate_schema(EXAMPLE)


@pytest.mark.parametrize("version", ["1.30.0", "1.37.0"])
@pytest.mark.parametrize("values", [EXAMPLE, EVERYTHING], ids=["example", "everything"])
def test_kubernetes_knows_every_field(values: dict[str, Any], version: str) -> None:
    documents = render(values)
    assert {"Deployment", "Service", "ConfigMap", "ServiceAccount", "NetworkPolicy"} <= set(documents)
    for kind, document in documents.items():
        if kind not in FOREIGN:
            kubernetes_validate.validate(document, version, strict=True)


def test_everything_can_be_switched_on_and_off() -> None:
    optional = {"Ingress", "HorizontalPodAutoscaler", "ServiceMonitor", "Service for Prometheus"}
    assert optional <= set(render(EVERYTHING))
    assert not optional & set(render(EXAMPLE))
    off = {**EXAMPLE, "networkPolicy": {"enabled": False}, "podDisruptionBudget": {"enabled": False}}
    assert not {"NetworkPolicy", "PodDisruptionBudget"} & set(render(off))


def test_shelfrank_reads_the_settings_that_the_chart_writes(tmp_path: Path) -> None:
    file = tmp_path / "shelfrank.toml"
    file.write_text(render(EVERYTHING)["ConfigMap"]["data"]["shelfrank.toml"], "utf-8")
    found = settings.load(file, {})
    assert found.cluster.url == "https://opensearch.search.svc:9200"
    assert found.cluster.ca_file == "/etc/shelfrank/ca/ca.crt"
    assert found.serve.host == "0.0.0.0"
    assert found.serve.keys_file == "/etc/shelfrank/keys/keys"
    assert found.serve.tls_cert == "/etc/shelfrank/tls/tls.crt"
    assert found.search.deadline_ms == 300
    assert found.serve.indexes["shop"].window == 50
    assert found.serve.indexes["shop"].fields == {"title": "name"}


def test_pods_have_no_rights_and_time_to_stop() -> None:
    spec = render({**EXAMPLE, "preStopSeconds": 7, "settings": {"serve": {"stop_s": 30.5}}})["Deployment"]["spec"]
    assert spec["strategy"]["rollingUpdate"]["maxUnavailable"] == 0
    pod = spec["template"]["spec"]
    assert pod["terminationGracePeriodSeconds"] > 30.5 + 7
    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    (container,) = pod["containers"]
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert container["lifecycle"]["preStop"] == {"sleep": {"seconds": 7}}
    assert container["readinessProbe"]["httpGet"]["path"] == "/readyz"
    assert container["livenessProbe"]["httpGet"]["path"] == "/healthz"


def test_health_and_metrics_have_a_port_that_no_load_balancer_shows() -> None:
    found = render({**EVERYTHING, "service": {"type": "LoadBalancer"}})
    (container,) = found["Deployment"]["spec"]["template"]["spec"]["containers"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    text = found["ConfigMap"]["data"]["shelfrank.toml"]
    assert tomllib.loads(text)["serve"]["ops_port"] == ports["ops"] != ports["http"]
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert container[probe]["httpGet"]["port"] == "ops"
    assert [port["targetPort"] for port in found["Service"]["spec"]["ports"]] == ["http"]
    second = found["Service for Prometheus"]["spec"]
    assert second["clusterIP"] == "None"
    assert second["ports"] == [{"name": "ops", "port": ports["ops"], "targetPort": "ops"}]
    (endpoint,) = found["ServiceMonitor"]["spec"]["endpoints"]
    assert endpoint["port"] == "ops"
    assert endpoint["authorization"]["credentials"] == {"name": "metrics-key", "key": "key"}


def test_who_may_call_the_service_need_not_be_who_watches_it() -> None:
    peers = [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}]
    policy = {"from": [{"podSelector": {}}], "monitoring": peers}
    ingress = render({**EXAMPLE, "networkPolicy": policy})["NetworkPolicy"]["spec"]["ingress"]
    assert {rule["ports"][0]["port"]: rule["from"] for rule in ingress} == {"http": policy["from"], "ops": peers}


def test_changed_settings_roll_the_pods() -> None:
    def checksum(values: dict[str, Any]) -> str:
        annotations = render(values)["Deployment"]["spec"]["template"]["metadata"]["annotations"]
        return str(annotations["checksum/settings"])

    assert checksum(EXAMPLE) == checksum(EXAMPLE)
    assert checksum(EXAMPLE) != checksum({**EXAMPLE, "settings": {"search": {"window": 20}}})


def test_more_load_and_longer_queues_make_more_pods() -> None:
    metrics = render(EVERYTHING)["HorizontalPodAutoscaler"]["spec"]["metrics"]
    assert [metric["type"] for metric in metrics] == ["Resource", "Pods"]
    assert metrics[1]["pods"]["metric"]["name"] == "shelfrank_queue"
    assert "replicas" not in render(EVERYTHING)["Deployment"]["spec"]


@pytest.mark.parametrize(
    "values",
    [
        {"keys": {"secret": "k"}},
        {**EXAMPLE, "opensearch": {"url": "https://admin:secret@opensearch:9200"}},
        {**EXAMPLE, "keys": {"secret": ""}},
        {**EXAMPLE, "replica": 3},
        {**EXAMPLE, "settings": {"serve": {"host": "127.0.0.1"}}},
        {**EXAMPLE, "settings": {"serve": {"ops_port": -1}}},
        {**EXAMPLE, "autoscaling": {"enabled": True, "cpuPercent": 0}},
        {**EXAMPLE, "serviceMonitor": {"enabled": True}},
    ],
)
def test_values_that_cannot_be_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises(helm_python.HelmError):
        render(values)
