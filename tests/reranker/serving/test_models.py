"""The models of a service that runs: what they made is used again, and a catalogue may move to another encoder."""

from __future__ import annotations

import gc
import uuid
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from opensearchpy import OpenSearch
from prometheus_client.parser import text_string_to_metric_families

from indexer.settings import Models, Settings
from reranker.bundle import Bundle
from reranker.encoder import Encoder
from reranker.serving.engine import DEFAULT
from tests.integration.test_promote import PRODUCTS, copied, fill
from tests.reranker.serving.service import Running, running, with_serve

pytestmark = pytest.mark.node

BODY: dict[str, Any] = {"query": {"match": {"title": "bottle without straw"}}, "size": 8, "ext": {"shelfrank": {}}}


def looked_up(service: Running) -> dict[tuple[str, str], float]:
    """What `/metrics` says of the cache."""
    families = text_string_to_metric_families(service.http.get("/metrics").text)
    return {
        (sample.labels["what"], sample.labels["result"]): sample.value
        for family in families
        for sample in family.samples
        if sample.name == "shelfrank_cache_total"
    }


def told(answer: Any) -> Any:
    """An answer without its times."""
    word = answer["ext"]["shelfrank"]
    return {**answer, "took": 0, "ext": {"shelfrank": {**word, "took_ms": 0}}}


def test_a_search_that_comes_again_costs_no_forward_pass(
    patient: Settings, shop: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running(with_serve(patient, index=shop)) as found:
        assert set(looked_up(found).values()) == {0}
        first = found.search(shop, BODY).json()
        window = float(first["ext"]["shelfrank"]["window"])
        assert window > 8
        page = {"index": shop, "query": "保温杯", "mode": "hybrid", "window": 10}
        listed = found.http.post("/v1/search", json=page).json()
        assert looked_up(found) == {
            ("scores", "hit"): 0,
            ("scores", "miss"): window + 10,
            ("query_vectors", "hit"): 0,
            ("query_vectors", "miss"): 2,  # the gateway's order weighs cosines too
        }

        def broken(*_: Any) -> Any:
            raise AssertionError("a forward pass")

        monkeypatch.setattr(found.app.state.engine.rerankers[DEFAULT].reader("bottle", ()).session, "run", broken)
        monkeypatch.setattr(found.app.state.engine.encoder.session, "run", broken)
        assert told(found.search(shop, BODY).json()) == told(first)
        again = found.http.post("/v1/search", json=page).json()
        assert again["hits"] == listed["hits"]
        assert again["rerank"]["status"] == "applied"
        assert looked_up(found)["scores", "hit"] == window + 10
        assert looked_up(found)["query_vectors", "hit"] == 2


def test_nothing_is_kept_where_nothing_is_to_be(patient: Settings, shop: str) -> None:
    with running(with_serve(patient, cache_scores=0, cache_queries=0)) as found:
        answers = [told(found.search(shop, BODY).json()) for _ in range(2)]
        assert answers[0] == answers[1]
        assert answers[0]["ext"]["shelfrank"]["status"] == "applied"
        assert set(looked_up(found).values()) == {0}


@pytest.fixture
def other(tmp_path: Path) -> Bundle:
    """The encoder that ships, under another name."""
    return copied("encoder", tmp_path / "other", name="other")


@pytest.fixture
def moved(client: OpenSearch, other: Bundle) -> Iterator[str]:
    """An index with vectors of the other encoder."""
    name = f"test-moved-{uuid.uuid4().hex[:8]}"
    fill(client, name, Encoder(other, Models()))
    yield name
    client.indices.delete(index=name)


def test_while_a_catalogue_moves_each_index_is_asked_by_its_own_encoder(
    patient: Settings, shop: str, moved: str, other: Bundle
) -> None:
    def search(found: Running, index: str) -> Any:
        return found.http.post("/v1/search", json={"index": index, "query": "steel cup", "mode": "vector"})

    with running(with_serve(patient)) as found:
        assert search(found, shop).status_code == 200
        refused = search(found, moved)
        assert refused.status_code == 502
        assert "models.next_encoder" in refused.text
    models = msgspec.structs.replace(patient.models, next_encoder=str(other.folder))
    with running(with_serve(msgspec.structs.replace(patient, models=models))) as found:
        assert search(found, shop).status_code == 200
        assert search(found, moved).json()["hits"][0]["title"] == PRODUCTS["cup"]
        assert search(found, moved).status_code == 200
        assert looked_up(found) == {
            ("scores", "hit"): len(PRODUCTS),
            ("scores", "miss"): len(PRODUCTS) + 50,
            ("query_vectors", "hit"): 1,
            ("query_vectors", "miss"): 2,
        }


def test_a_service_that_has_ended_lets_go_of_its_models_at_once(patient: Settings, shop: str) -> None:
    gc.disable()  # which would free them too, some day
    try:
        with running(with_serve(patient, index=shop)) as found:
            assert found.search(shop, BODY).headers["x-shelfrank-status"] == "applied"
            assert found.http.post("/v1/search", json={"index": shop, "query": "bottle"}).status_code == 200
            engine = found.app.state.engine
            held = [weakref.ref(engine.encoder.session), weakref.ref(engine.reranker(DEFAULT).session)]
        assert [each() for each in held] == [None, None]
        engine.load()
        assert not engine.rerankers
        assert engine.encoder is None
    finally:
        gc.enable()
