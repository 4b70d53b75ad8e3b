"""One client and all the others: what it asks for, leaves behind or waits for stops nobody else."""

from __future__ import annotations

import gc
import json
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from indexer import client as clusters
from indexer import node as nodes
from indexer.embedded import process
from indexer.settings import Models, Node, Settings
from reranker.serving.engine import DEFAULT
from reranker.serving.keys import new
from tests.reranker.serving.service import Running, running, with_serve
from tests.waiting import until

pytestmark = pytest.mark.node

BODY: dict[str, Any] = {"query": {"match": {"title": "bottle without straw"}}, "size": 8}


def asking(window: int = 20, deadline_ms: float | None = None) -> dict[str, Any]:
    ask = {"window": window} | ({} if deadline_ms is None else {"deadline_ms": deadline_ms})
    return {**BODY, "ext": {"shelfrank": ask}}


def word(answer: httpx.Response) -> dict[str, Any]:
    found: dict[str, Any] = answer.json()["ext"]["shelfrank"]
    return found


def posting(path: str, body: bytes) -> bytes:
    """The head of a request of a client that says no more and waits for nothing."""
    head = f"POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
    return f"{head}content-length: {len(body)}\r\n\r\n".encode()


def slowed(service: Running, monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """Each forward pass of the reranker takes so much longer."""
    session = service.app.state.engine.rerankers[DEFAULT].reader("bottle", ()).session
    whole = session.run

    def slow(*arguments: Any) -> Any:
        time.sleep(seconds)
        return whole(*arguments)

    monkeypatch.setattr(session, "run", slow)


def breaker_is_open(service: Running) -> bool:
    return 'shelfrank_breaker_open{bundle="default"} 1.0' in service.http.get("/metrics").text


def test_waiting_and_windows_that_clients_choose_are_no_fault_of_the_model(
    patient: Settings, shop: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    search = msgspec.structs.replace(patient.search, deadline_ms=2000.0, window=20)
    settings = msgspec.structs.replace(patient, search=search)
    with running(with_serve(settings, cache_scores=0, breaker_failures=3, breaker_s=600.0)) as found:
        slowed(found, monkeypatch, 0.1)
        with ThreadPoolExecutor(8) as clients:
            answers = list(clients.map(lambda _: found.search(shop, asking(100)), range(40)))
        assert {word(answer)["status"] for answer in answers} & {"timeout", "skipped"}
        assert not breaker_is_open(found)
        assert word(found.search(shop, asking(2)))["status"] == "applied"


@pytest.mark.parametrize("endpoint", ["gateway", "search"])
def test_a_model_that_is_itself_too_slow_is_left_alone_whatever_clients_choose(
    patient: Settings, shop: str, monkeypatch: pytest.MonkeyPatch, endpoint: str
) -> None:
    search = msgspec.structs.replace(patient.search, deadline_ms=300.0)
    settings = msgspec.structs.replace(patient, search=search)
    with running(with_serve(settings, cache_scores=0, breaker_failures=3, breaker_s=600.0)) as found:
        slowed(found, monkeypatch, 0.5)
        for _ in range(4):
            if endpoint == "gateway":
                found.search(shop, asking(3, 20_000))
            else:
                asked = {"index": shop, "query": "bottle", "mode": "bm25", "window": 3, "deadline_ms": 20_000}
                found.http.post("/v1/search", json=asked)
        assert breaker_is_open(found)


def test_a_model_that_hangs_is_left_alone_and_costs_no_page(
    patient: Settings, shop: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    search = msgspec.structs.replace(patient.search, deadline_ms=300.0)
    settings = msgspec.structs.replace(patient, search=search)
    with running(with_serve(settings, cache_scores=0, breaker_failures=3, breaker_s=600.0)) as found:
        session = found.app.state.engine.rerankers[DEFAULT].reader("bottle", ()).session
        whole, over = session.run, threading.Event()

        def hanging(*arguments: Any) -> Any:
            over.wait(60)
            return whole(*arguments)

        monkeypatch.setattr(session, "run", hanging)
        try:
            for _ in range(8):
                assert found.search(shop, BODY).status_code == 200
                asked = {"index": shop, "query": "bottle", "mode": "bm25"}
                page = found.http.post("/v1/search", json=asked)
                assert page.status_code == 200
                assert page.json()["rerank"]["status"] in ("timeout", "error")
                assert not over.is_set()
            assert breaker_is_open(found)
        finally:
            over.set()


@pytest.fixture
def two_clients(patient: Settings, tmp_path: Path) -> Iterator[tuple[Running, Callable[[str], dict[str, str]]]]:
    """A service with two keys, and the headers of each."""
    made = {name: new(name, "search,rerank") for name in ("greedy", "honest")}
    file = tmp_path / "keys"
    file.write_text("\n".join(line for _, line in made.values()), "utf-8")
    with running(with_serve(patient, keys_file=str(file), cache_scores=0, workers=1)) as found:
        yield found, lambda name: {"x-api-key": made[name][0]}


def test_one_clients_many_long_searches_make_no_other_skip(
    two_clients: Any, shop: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    found, of = two_clients
    slowed(found, monkeypatch, 0.01)
    lines = [json.dumps({"index": shop}), json.dumps(asking(50, 60_000))] * 30
    body = "\n".join([*lines, ""]).encode()
    headers = {**of("greedy"), "content-type": "application/x-ndjson"}
    with ThreadPoolExecutor(4) as pool:
        greedy = [pool.submit(found.http.post, "/_msearch", content=body, headers=headers) for _ in range(2)]
        engine = found.app.state.engine
        until(lambda: engine._models.turns.waiting > 20)
        words = [word(found.search(shop, asking(5, 5_000), **of("honest"))) for _ in range(10)]
        assert not all(each.done() for each in greedy)
        assert [each["status"] for each in words] == ["applied"] * 10
        assert {each.result().status_code for each in greedy} == {200}
        told = [part["ext"]["shelfrank"]["status"] for each in greedy for part in each.result().json()["responses"]]
        assert told.count("applied") > 20  # nothing is held back from who asks for much


def test_embeddings_that_nobody_waits_for_end_and_keep_no_search_waiting(
    patient: Settings, shop: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with running(with_serve(patient)) as found:
        encoder = found.app.state.engine.encoder
        whole, passes = encoder.session.run, []

        def counted(*arguments: Any) -> Any:
            passes.append(time.monotonic())
            time.sleep(0.05)
            return whole(*arguments)

        monkeypatch.setattr(encoder.session, "run", counted)
        body = json.dumps({"input": ["a bottle of steel " * 200] * 512}).encode()
        head = posting("/v1/embeddings", body)
        port = int(found.url.rpartition(":")[2])
        for _ in range(2):
            with socket.create_connection(("127.0.0.1", port), timeout=15) as connection:
                connection.sendall(head + body)
                until(lambda: len(passes) > 0)
        until(lambda: not found.app.state.engine._aside.turns.holding)
        begun = len(passes)
        assert begun < 100
        assert word(found.search(shop, asking(5)))["status"] == "applied"
        assert 'shelfrank_requests_total{route="/v1/embeddings",status="499"} 2.0' in found.http.get("/metrics").text
    gc.collect()
    assert "never retrieved" not in caplog.text


def test_embeddings_end_at_their_deadline(patient: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    with running(with_serve(patient, embed_deadline_ms=300)) as found:
        encoder = found.app.state.engine.encoder
        whole = encoder.session.run

        def slow(*arguments: Any) -> Any:
            time.sleep(0.1)
            return whole(*arguments)

        monkeypatch.setattr(encoder.session, "run", slow)
        answer = found.http.post("/v1/embeddings", json={"input": ["a bottle of steel " * 50] * 200})
        assert answer.status_code == 503
        assert "deadline" in answer.json()["error"]["message"]
        until(lambda: not found.app.state.engine._aside.turns.holding)


def test_a_list_of_documents_that_nobody_waits_for_is_not_scored_on(
    patient: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running(with_serve(patient)) as found:
        session = found.app.state.engine.rerankers[DEFAULT].reader("bottle", ()).session
        whole, passes = session.run, []

        def counted(*arguments: Any) -> Any:
            passes.append(0)
            time.sleep(0.05)
            return whole(*arguments)

        monkeypatch.setattr(session, "run", counted)
        body = json.dumps({"query": "bottle", "texts": [f"a bottle of steel {n} " * 20 for n in range(900)]}).encode()
        head = posting("/rerank", body)
        with socket.create_connection(("127.0.0.1", int(found.url.rpartition(":")[2])), timeout=15) as connection:
            connection.sendall(head + body)
            until(lambda: len(passes) > 0)
        until(lambda: not found.app.state.engine._models.turns.holding)
        assert len(passes) < 60


@contextmanager
def silent_cluster() -> Iterator[str]:
    """The address of a cluster that takes every request and answers none."""
    with socket.create_server(("127.0.0.1", 0), backlog=512) as listening:
        taken: list[socket.socket] = []
        over = threading.Event()

        def take() -> None:
            listening.settimeout(0.1)
            while not over.is_set():
                try:
                    taken.append(listening.accept()[0])
                except TimeoutError:
                    continue

        thread = threading.Thread(target=take, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            over.set()
            thread.join()
            for each in taken:
                each.close()


def test_a_cluster_that_hangs_keeps_no_list_of_documents_waiting(patient: Settings) -> None:
    with silent_cluster() as url:
        cluster = msgspec.structs.replace(patient.cluster, url=url, timeout_s=8.0)
        settings = with_serve(msgspec.structs.replace(patient, cluster=cluster), workers=1, queue=4)
        with running(settings, wait=False) as found:
            until(lambda: DEFAULT in found.app.state.engine.rerankers and found.app.state.engine.encoder is not None)
            asked = {"index": "shop", "query": "cup"}
            with ThreadPoolExecutor(16) as pool:
                for _ in range(16):
                    pool.submit(_given_up, found.url, "/v1/search", asked)
                    pool.submit(_given_up, found.url, "/shop/_search", BODY)
                until(lambda: in_flight(found) >= 12)
                for _ in range(5):
                    listed = found.http.post("/rerank", json={"query": "cup", "texts": ["cup"]}, timeout=20)
                    assert listed.status_code == 200
                assert found.http.get("/healthz").status_code == 200


def in_flight(service: Running) -> float:
    lines = service.http.get("/metrics").text.splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith("shelfrank_requests_in_flight "))


def _given_up(url: str, path: str, body: Any) -> None:
    try:
        httpx.post(f"{url}{path}", json=body, timeout=3)
    except httpx.TimeoutException:
        """Nobody waits for ever."""


def test_a_cluster_that_is_stopped_and_goes_on(patient: Settings, own_node: Node) -> None:
    own_node = msgspec.structs.replace(own_node, port=process.own_ports(1)[0])
    nodes.start(own_node)
    settings = msgspec.structs.replace(patient, node=own_node)
    client = clusters.connect(settings)
    client.index(index="things", id="1", body={"title": "cup"}, params={"refresh": "true"})
    cluster = msgspec.structs.replace(settings.cluster, url=nodes.ensure(own_node), timeout_s=2.0)
    body = {"query": {"match": {"title": "cup"}}, "ext": {"shelfrank": {"deadline_ms": 500}}}
    pid = nodes.status(own_node).pid
    with running(with_serve(msgspec.structs.replace(settings, cluster=cluster))) as found:
        assert word(found.search("things", body))["status"] in ("applied", "timeout")
        os.kill(pid, signal.SIGSTOP)
        try:
            hung = found.search("things", body)
            assert hung.status_code == 502
            asked = {"index": "things", "query": "cup", "mode": "bm25"}
            assert found.http.post("/v1/search", json=asked).status_code in (502, 503)
            assert found.http.post("/rerank", json={"query": "cup", "texts": ["cup"]}).status_code == 200
        finally:
            os.kill(pid, signal.SIGCONT)
        until(lambda: found.search("things", body).status_code == 200)


def test_a_first_stage_that_is_slower_than_the_deadline_comes_unreranked(
    patient: Settings, shop: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running(with_serve(patient)) as found:
        passage = found.app.state.passage
        whole = passage.send

        async def late(*arguments: Any, **named: Any) -> Any:
            answer = await whole(*arguments, **named)
            time.sleep(0.4)
            return answer

        monkeypatch.setattr(passage, "send", late)
        answer = found.search(shop, asking(20, 300))
        assert answer.status_code == 200
        assert word(answer)["status"] == "timeout"
        assert word(answer)["scored"] == 0
        assert len(answer.json()["hits"]["hits"]) == 8


def test_an_explanation_shares_the_deadline(patient: Settings, shop: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with running(with_serve(patient)) as found:
        found.search(shop, asking(10))
        slowed(found, monkeypatch, 0.1)
        body = asking(10, 600)
        body["ext"]["shelfrank"]["explain"] = True
        told = word(found.search(shop, body))
        assert told["status"] == "applied"
        assert told["explained"]["reading"]["status"] in ("partial", "error", "skipped")
        assert told["took_ms"]["first_stage"] + told["took_ms"]["rerank"] < 600


def test_what_takes_long_of_one_kind_makes_another_kind_skip_nothing(
    patient: Settings, shop: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running(with_serve(patient, cache_scores=0, workers=1)) as found:
        encoder = found.app.state.engine.encoder
        whole = encoder.session.run

        def slow(*arguments: Any) -> Any:
            time.sleep(0.2)
            return whole(*arguments)

        with monkeypatch.context() as patch:
            patch.setattr(encoder.session, "run", slow)
            for _ in range(5):
                found.http.post("/v1/embeddings", json={"input": ["a bottle"]})
        with ThreadPoolExecutor(3) as clients:
            answers = list(clients.map(lambda _: found.search(shop, asking(3, 10_000)), range(6)))
        assert [word(answer)["status"] for answer in answers] == ["applied"] * 6


@pytest.mark.parametrize("name", ["a" * 70_000, "a," * 35_000, "%00", "\\ud800", "杯" * 30_000])
@pytest.mark.parametrize("where", ["msearch", "path", "v1"])
def test_an_index_that_cannot_be_is_the_clients_own_fault(service: Running, name: str, where: str) -> None:
    headers = {"content-type": "application/x-ndjson"}
    body = json.dumps(asking())
    if where == "msearch":
        lines = f'{{"index": "{name}"}}\n{body}\n'
        answer = service.http.post("/_msearch", content=lines.encode(), headers=headers)
    elif where == "path":
        answer = service.http.post(f"/{name[:7_000]}/_search", content=body, headers=headers)
    else:
        answer = service.http.post("/v1/search", json={"index": name, "query": "cup"})
    if answer.status_code == 200:
        assert [part["status"] for part in answer.json()["responses"]] == [404]
    else:
        assert 400 <= answer.status_code < 500
    assert service.http.get("/healthz").status_code == 200


def test_what_nobody_foresaw_counts_as_500(patient: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    missing = msgspec.structs.replace(patient, models=Models(encoder="/nowhere", reranker="/nowhere"))
    with running(with_serve(missing), wait=False) as found:

        def broken(*_: Any) -> Any:
            raise ZeroDivisionError

        monkeypatch.setattr(found.app.state.gateway, "search", broken)
        assert found.http.post("/shop/_search", json=BODY).status_code == 500
        told = httpx.get(f"{found.url}/metrics").text  # the connection of a failure is closed
        assert 'shelfrank_requests_total{route="/{index}/_search",status="500"} 1.0' in told


def test_answers_that_are_not_json_are_passed_on(service: Running, shop: str) -> None:
    answer = service.http.post(f"/{shop}/_search?format=yaml", json=asking())
    assert (answer.status_code, answer.headers["x-shelfrank-status"]) == (200, "skipped")
    assert answer.text.startswith("---")
    lines = f"{json.dumps({'index': shop})}\n{json.dumps(asking())}\n".encode()
    headers = {"content-type": "application/x-ndjson", "accept": "application/yaml"}
    assert service.http.post("/_msearch", content=lines, headers=headers).status_code in (200, 406)
