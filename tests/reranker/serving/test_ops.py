"""The listener for health and metrics: it answers when the service cannot, tells no one more, and has its own port."""

from __future__ import annotations

import re
import socket
import threading
from pathlib import Path
from typing import Any

import httpx
import pytest

from indexer.errors import UsageError
from indexer.settings import Serve, Settings, load
from reranker.serving import ops
from reranker.serving.keys import new
from reranker.serving.listening import listen, listen_for_operations, port_of
from tests.reranker.serving.raw import connect
from tests.reranker.serving.service import Running, running, with_serve
from tests.waiting import until

NAMES = ("serve.host", "serve.port")
HALF = b"POST /v1/rerank HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n{"


def get(found: Running, path: str, **headers: str) -> httpx.Response:
    return httpx.get(f"{found.ops}{path}", headers=headers, timeout=30, trust_env=False)


@pytest.mark.node
def test_it_says_what_the_service_says(service: Running) -> None:
    assert get(service, "/healthz").json() == service.http.get("/healthz").json() == {"status": "ok"}
    assert get(service, "/readyz").json() == service.http.get("/readyz").json() == {"status": "ready", "missing": []}
    metrics = get(service, "/metrics")
    counted = re.search(r'shelfrank_requests_total{route="/readyz",status="200"} ([\d.]+)', metrics.text)
    assert counted
    again = get(service, "/readyz") and get(service, "/metrics")
    assert f'shelfrank_requests_total{{route="/readyz",status="200"}} {float(counted[1]) + 1}' in again.text
    assert metrics.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert 'shelfrank_connections{listener="service"}' in metrics.text


@pytest.mark.node
@pytest.mark.parametrize(
    "path", ["/", "/v1/about", "/v1/search", "/x/_search", "/_shelfrank/", "/openapi.json", "/_cluster/health"]
)
def test_it_serves_nothing_else(service: Running, path: str) -> None:
    assert get(service, path).status_code == 404


@pytest.mark.node
def test_it_answers_while_others_hold_every_connection_of_the_service(patient: Settings) -> None:
    with running(with_serve(patient, connections=4, read_timeout_s=60.0), wait=False) as found:
        port = int(found.url.rpartition(":")[2])
        held = [connect(port, HALF) for _ in range(4)]
        for _ in range(3):
            assert get(found, "/healthz").status_code == 200
            assert "shelfrank_connections" in get(found, "/metrics").text
        for each in held:
            each.close()


@pytest.mark.node
def test_a_hung_event_loop_is_told(patient: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ops, "PULSE_S", 0.5)
    monkeypatch.setattr(ops, "CLUSTER_S", 0.5)
    go = threading.Event()
    with running(with_serve(patient), wait=False) as found:
        assert get(found, "/healthz").status_code == 200
        found.app.state.loop.call_soon_threadsafe(go.wait, 60)
        try:
            for _ in range(2):
                hung = get(found, "/healthz")
                assert hung.status_code == 503
                assert hung.json() == {"status": "the event loop does not answer"}
            assert get(found, "/readyz").json()["missing"] == ["the event loop does not answer"]
            assert get(found, "/metrics").status_code == 200
        finally:
            go.set()
        until(lambda: get(found, "/healthz").status_code == 200)


@pytest.mark.node
def test_metrics_need_the_right_admin_where_there_are_keys(patient: Settings, tmp_path: Path) -> None:
    made = {right: new(right, right) for right in ("search", "admin")}
    file = tmp_path / "keys"
    file.write_text("\n".join(line for _, line in made.values()), "utf-8")
    with running(with_serve(patient, keys_file=str(file)), wait=False) as found:
        refused = get(found, "/metrics")
        assert refused.status_code == 401
        assert refused.headers["www-authenticate"] == "Bearer"
        assert get(found, "/metrics", authorization=f"Bearer {made['search'][0]}").status_code == 403
        assert get(found, "/metrics", authorization=f"Bearer {made['admin'][0]}").status_code == 200
        assert get(found, "/healthz").status_code == 200


@pytest.mark.node
def test_without_keys_it_answers_to_names_of_this_machine_alone(service: Running) -> None:
    for path in ("/healthz", "/readyz", "/metrics"):
        assert get(service, path, host="evil.example.com").status_code == 403
        assert get(service, path, origin="https://evil.example.com").status_code == 403
        assert get(service, path, host="localhost:1").status_code == 200


@pytest.mark.node
def test_many_who_ask_whether_it_is_ready_are_one_question_to_the_cluster(
    patient: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running(with_serve(patient)) as found:
        asked: list[str] = []
        send = found.app.state.passage.send

        async def counted(method: str, path: str, *rest: Any, **more: Any) -> Any:
            asked.append(path)
            return await send(method, path, *rest, **more)

        monkeypatch.setattr(found.app.state.passage, "send", counted)
        monkeypatch.setattr(ops, "_FRESH_S", 600.0)
        for _ in range(20):
            assert found.http.get("/readyz").status_code == 200
            assert get(found, "/readyz").status_code == 200
        assert len(asked) <= 1


def test_it_takes_the_port_beside_the_services_or_any_or_the_one_that_it_is_given() -> None:
    def chosen(serve: Serve, port: int) -> int:
        found = listen_for_operations(serve, port)
        try:
            return port_of(found) if found else -1
        finally:
            for each in found:
                each.close()

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert chosen(Serve(), port - 1) not in (port, -1)
        assert chosen(Serve(ops_port=-1), port) == -1
        assert chosen(Serve(ops_port=0), port) not in (port, -1)
        with pytest.raises(UsageError, match=rf"{port}.*serve.ops_host and serve.ops_port"):
            listen_for_operations(Serve(ops_port=port), 8100)
        with pytest.raises(UsageError, match=rf"{port}.*serve.host and serve.port"):
            listen("127.0.0.1", port, NAMES)
    assert chosen(Serve(), 65_535) > 0
    assert chosen(Serve(ops_port=port), 8100) == port
    assert chosen(Serve(), port - 1) == port


@pytest.mark.parametrize(("said", "meant"), [("8101", 8101), ("-1", -1), ("0", 0)])
def test_the_environment_says_its_port(said: str, meant: int) -> None:
    assert load(None, {"SHELFRANK_SERVE_OPS_PORT": said}).serve.ops_port == meant


def test_a_name_is_listened_to_on_all_its_addresses_at_one_port() -> None:
    found = listen("localhost", 0, NAMES)
    try:
        assert len({each.getsockname()[1] for each in found}) == 1
        for each in found:
            socket.create_connection(each.getsockname()[:2], 5).close()
    finally:
        for each in found:
            each.close()
    with pytest.raises(UsageError, match=r"nowhere\.invalid"):
        listen("nowhere.invalid", 0, NAMES)
