"""Whatever breaks, a search is answered: in the first stage's order, with the right word about it."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from indexer import client as clusters
from indexer import node as nodes
from indexer.embedded import process
from indexer.settings import Node, Settings
from reranker import bundle
from reranker.serving.crew import Piece
from reranker.serving.disclosure import MODEL_FAILED, NOT_LOADED
from reranker.serving.engine import DEFAULT
from tests.reranker.serving.service import Running, running, with_serve
from tests.waiting import until

pytestmark = pytest.mark.node

BODY: dict[str, Any] = {"query": {"match": {"title": "bottle without straw"}}, "size": 8}
ASKED: dict[str, Any] = {**BODY, "ext": {"shelfrank": {}}}


def ids(answer: Any) -> list[str]:
    return [hit["_id"] for hit in answer["hits"]["hits"]]


@pytest.fixture
def first_stage(service: Running, shop: str) -> list[str]:
    return ids(service.search(shop, {**BODY, "ext": {"shelfrank": {"rerank": False}}}).json())


@pytest.fixture
def broken(service: Running, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Any], None]]:
    """Puts another function in the place of the model's forward pass."""
    reranker = service.app.state.engine.rerankers[DEFAULT].reader("bottle", ())
    session = reranker.session
    monkeypatch.setattr(reranker, "cache", None)
    yield lambda run: monkeypatch.setattr(session, "run", run)
    service.app.state.engine._breakers[DEFAULT].record(False)


def raising(*_: Any) -> Any:
    raise RuntimeError("made by the test")


def not_numbers(rows: Any, *_: Any) -> Any:
    return np.full((len(rows), 1), np.nan, np.float32)


@pytest.mark.parametrize(("run", "named"), [(raising, "made by the test"), (not_numbers, "not a finite number")])
def test_a_model_that_fails_costs_no_page(
    service: Running,
    shop: str,
    first_stage: list[str],
    broken: Callable[[Any], None],
    run: Any,
    named: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    broken(run)
    answer = service.search(shop, {**ASKED, "ext": {"shelfrank": {"explain": True}}})
    assert answer.status_code == 200
    assert ids(answer.json()) == first_stage
    word = answer.json()["ext"]["shelfrank"]
    assert word["status"] == answer.headers["x-shelfrank-status"] == "error"
    assert word["reason"] == MODEL_FAILED
    assert named in caplog.text
    assert named not in answer.text
    page = service.http.post("/v1/search", json={"index": shop, "query": "bottle", "mode": "bm25"}).json()
    assert page["rerank"]["status"] == "error"
    assert [hit["rank"] for hit in page["hits"]] == [hit["first_stage_rank"] for hit in page["hits"]]
    listed = service.http.post("/v1/rerank", json={"query": "cup", "documents": ["cup"]})
    assert listed.status_code == 503  # a list has no first stage
    told = service.http.post("/v1/explain", json={"index": shop, "query": "bottle", "mode": "bm25"})
    assert told.status_code == 200
    assert "made by the test" not in listed.text + told.text  # what is not finite is told in our own words


def test_a_model_that_fails_again_and_again_is_left_alone_and_tried_again(
    patient: Settings, shop: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running(with_serve(patient, breaker_failures=3, breaker_s=1.0)) as found:
        session = found.app.state.engine.rerankers[DEFAULT].reader("bottle", ()).session
        calls: list[int] = []

        def counted(*_: Any) -> Any:
            calls.append(1)
            raise RuntimeError("made by the test")

        with monkeypatch.context() as patch:
            patch.setattr(session, "run", counted)
            words = [found.search(shop, ASKED).json()["ext"]["shelfrank"] for _ in range(6)]
        assert [word["status"] for word in words] == ["error"] * 6
        assert len(calls) == 3
        assert "left alone" in words[-1]["reason"]
        assert 'shelfrank_breaker_open{bundle="default"} 1.0' in found.http.get("/metrics").text
        time.sleep(1.1)
        assert found.search(shop, ASKED).json()["ext"]["shelfrank"]["status"] == "applied"
        assert 'shelfrank_breaker_open{bundle="default"} 0.0' in found.http.get("/metrics").text


def test_a_deadline_that_comes_at_once(service: Running, shop: str, first_stage: list[str]) -> None:
    for _ in range(8):  # which a client chose, and is no fault of the model
        answer = service.search(shop, {**BODY, "ext": {"shelfrank": {"deadline_ms": 1}}})
        assert ids(answer.json()) == first_stage
        assert answer.json()["ext"]["shelfrank"]["status"] == "timeout"
    assert service.search(shop, ASKED).json()["ext"]["shelfrank"]["status"] == "applied"


def test_the_answer_comes_at_the_deadline_also_when_a_forward_pass_hangs(
    service: Running, shop: str, first_stage: list[str], broken: Callable[[Any], None]
) -> None:
    over = threading.Event()

    def hanging(rows: Any, *_: Any) -> Any:
        over.wait(30)
        return np.zeros((len(rows), 1), np.float32)

    broken(hanging)
    try:
        answer = service.search(shop, {**BODY, "ext": {"shelfrank": {"deadline_ms": 1500}}})
        assert not over.is_set()
        assert answer.json()["ext"]["shelfrank"]["status"] == "timeout"
        assert ids(answer.json()) == first_stage
    finally:
        over.set()


def test_what_waits_too_long_is_answered_without(
    patient: Settings, shop: str, first_stage: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with running(with_serve(patient, workers=1, queue=0)) as found:
        session = found.app.state.engine.rerankers[DEFAULT].reader("bottle", ()).session
        begun, over = threading.Event(), threading.Event()
        whole = session.run

        def slow(*arguments: Any) -> Any:
            begun.set()
            over.wait(30)
            return whole(*arguments)

        monkeypatch.setattr(session, "run", slow)
        answers: list[Any] = []
        thread = threading.Thread(target=lambda: answers.append(found.search(shop, ASKED).json()))
        thread.start()
        assert begun.wait(30)
        answer = found.search(shop, ASKED).json()
        assert ids(answer) == first_stage
        assert answer["ext"]["shelfrank"]["status"] == "skipped"
        assert "in hand already" in answer["ext"]["shelfrank"]["reason"]
        refused = found.http.post("/rerank", json={"query": "cup", "texts": ["cup"]})
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
        over.set()
        thread.join()
        assert answers[0]["ext"]["shelfrank"]["status"] == "applied"


def test_what_would_come_too_late_is_answered_at_once(
    patient: Settings, shop: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running(with_serve(patient, workers=1, cache_scores=0)) as found:
        engine = found.app.state.engine
        session = engine.rerankers[DEFAULT].reader("bottle", ()).session
        whole = session.run
        goes_on = threading.Event()
        goes_on.set()

        def slow(*arguments: Any) -> Any:
            time.sleep(0.4)
            goes_on.wait(30)
            return whole(*arguments)

        monkeypatch.setattr(session, "run", slow)
        body = {**BODY, "ext": {"shelfrank": {"window": 3, "deadline_ms": 20_000}}}

        def ask(_: object = None) -> dict[str, Any]:
            answer: dict[str, Any] = found.search(shop, body).json()["ext"]["shelfrank"]
            return answer

        for _ in range(12):  # until it knows how long one takes
            found.search(shop, {**BODY, "ext": {"shelfrank": {"window": 3}}})
        costs = engine._models.costs
        assert costs.expected(Piece("rerank", units=3)) > 0.2
        # As if each took so long, and the first one does not end: it does not matter how quickly the shoppers come.
        costs._seconds["rerank"] = 5.0 / 3
        goes_on.clear()
        with ThreadPoolExecutor(24) as shoppers:
            answers = [shoppers.submit(ask) for _ in range(24)]

            def late() -> list[dict[str, Any]]:
                done = [answer.result() for answer in answers if answer.done()]
                return [answer for answer in done if "too late" in answer["reason"]]

            until(lambda: len(late()) >= 5)
            goes_on.set()
        assert all(answer["status"] == "skipped" and answer["took_ms"]["rerank"] < 5000 for answer in late())
        until(lambda: ask()["status"] == "applied")


def test_a_model_that_is_not_there_is_waited_for(
    patient: Settings,
    shop: str,
    first_stage: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr("reranker.serving.engine._RETRY_S", 0.2)
    folder = tmp_path / "bundle"
    shutil.copytree(bundle.SHIPPED / "reranker", folder)
    (folder / "model.onnx").rename(tmp_path / "aside")
    models = msgspec.structs.replace(patient.models, reranker=str(folder))
    with running(with_serve(msgspec.structs.replace(patient, models=models)), wait=False) as found:
        until(lambda: "reranker default: it cannot be loaded" in found.http.get("/readyz").text)
        assert "model.onnx" in caplog.text
        until(lambda: found.http.get("/readyz").status_code == 503)  # it is looked up once in a while
        answer = found.search(shop, ASKED)
        assert ids(answer.json()) == first_stage
        assert answer.json()["ext"]["shelfrank"]["status"] == "error"
        assert "reranker default: it cannot be loaded" in answer.json()["ext"]["shelfrank"]["reason"]
        about = found.http.get("/v1/about")
        assert about.json()["missing"] == {"reranker default": NOT_LOADED}
        listed = found.http.post("/v1/rerank", json={"query": "cup", "documents": ["cup"]})
        assert listed.status_code == 503
        for shown in (answer, about, listed, found.http.get("/readyz")):
            assert str(tmp_path) not in shown.text
            assert "model.onnx" not in shown.text
        implicit = found.search(shop, BODY)
        assert "ext" not in implicit.json()
        assert implicit.headers["x-shelfrank-status"] == "error"
        page = found.http.post("/v1/search", json={"index": shop, "query": "bottle", "mode": "bm25"}).json()
        assert page["rerank"]["status"] == "error"
        (tmp_path / "aside").rename(folder / "model.onnx")
        until(lambda: found.http.get("/readyz").status_code == 200)
        assert found.search(shop, ASKED).json()["ext"]["shelfrank"]["status"] == "applied"


def test_a_cluster_that_goes_and_comes_back(patient: Settings, own_node: Node) -> None:
    own_node = msgspec.structs.replace(own_node, port=process.own_ports(1)[0])  # where it comes back to
    nodes.start(own_node)
    settings = msgspec.structs.replace(patient, node=own_node)
    client = clusters.connect(settings)
    client.index(index="things", id="1", body={"title": "cup"}, params={"refresh": "true"})
    body = {"query": {"match": {"title": "cup"}}, "ext": {"shelfrank": {}}}
    with running(with_serve(settings)) as found:
        assert found.search("things", body).json()["ext"]["shelfrank"]["status"] == "applied"
        nodes.stop(own_node)
        answer = found.search("things", body)
        assert answer.status_code == 502
        assert "cannot be reached" in answer.json()["error"]["reason"]
        assert answer.json()["status"] == 502
        until(lambda: found.http.get("/readyz").status_code == 503)  # it is looked up once in a while
        assert found.http.get("/healthz").status_code == 200
        assert found.http.post("/v1/rerank", json={"query": "cup", "documents": ["cup"]}).status_code == 200
        asked = {"index": "things", "query": "cup", "mode": "bm25"}
        assert found.http.post("/v1/search", json=asked).status_code == 502
        nodes.start(own_node)
        until(lambda: found.http.get("/readyz").status_code == 200)
        assert found.search("things", body).json()["ext"]["shelfrank"]["status"] == "applied"
