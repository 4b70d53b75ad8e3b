"""Events from whoever wants to be believed: nothing is written that no search of this service stands behind."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from opensearchpy import OpenSearch

from indexer.settings import Settings
from reranker.serving.events_api import Counts
from reranker.serving.keys import new
from reranker.serving.query_ids import VARIABLE, new_secret
from tests.reranker.serving.service import Running, running, with_serve
from tests.waiting import until

pytestmark = pytest.mark.node

MINE = "the attacker's"


@pytest.fixture(scope="module")
def noted(patient: Settings, client: OpenSearch, shop: str) -> Iterator[Running]:
    """A service that writes events down."""
    with running(with_serve(patient, index=shop, ubi=True, events_each=3)) as found:
        yield found
    forget(client)


def forget(client: OpenSearch) -> None:
    """Leave no row to the next test."""
    everything = {"query": {"match_all": {}}}
    client.delete_by_query(index="ubi_*", body=everything, params={"refresh": "true", "conflicts": "proceed"})


@pytest.fixture
def rows(noted: Running, client: OpenSearch, shop: str) -> Any:
    """The events that were kept, once all that were sent before are: a last one of another client's is waited for."""

    def written() -> list[dict[str, Any]]:
        last = purchase(searched(noted, shop, "the last"), client_id="the last")
        assert noted.http.post("/v1/events", json=last).json() == {"kept": True}

        def all_written() -> list[dict[str, Any]]:
            client.indices.refresh(index="ubi_events", params={"ignore_unavailable": "true"})
            body = {"size": 1000, "query": {"match_all": {}}}
            hits = client.search(index="ubi_events", body=body, params={"ignore_unavailable": "true"})["hits"]["hits"]
            found = [hit["_source"] for hit in hits]
            return found if any(row["query_id"] == last["query_id"] for row in found) else []

        return [row for row in until(all_written) if row["client_id"] == MINE]

    yield written
    forget(client)


def searched(service: Running, shop: str, client_id: str = MINE, **headers: str) -> str:
    body = {"index": shop, "query": "cup", "client_id": client_id, "size": 2, "rerank": False}
    found: str = service.http.post("/v1/search", json=body, headers=headers).json()["query_id"]
    return found


def purchase(query_id: str, **more: Any) -> dict[str, Any]:
    return {
        "action_name": "purchase",
        "query_id": query_id,
        "client_id": MINE,
        "object_id": "a1",
        "position": 1,
        **more,
    }


def test_a_purchase_for_a_search_that_never_was_is_refused_and_not_written(
    noted: Running, shop: str, rows: Any
) -> None:
    real = searched(noted, shop)
    forged = ["q", "", "0" * 64, "a" * 200, real[:-1] + ("0" if real[-1] != "0" else "1"), real.upper() + "x"]
    forged += ["6d1a7f0e-5c0b-4b9e-9d3e-0f1f0a3a9b11"]  # as an earlier version gave it
    for query_id in forged:
        answer = noted.http.post("/v1/events", json=purchase(query_id))
        assert answer.status_code == 403, query_id
        assert "query_id" in answer.json()["message"]
        assert "right events" in answer.json()["message"]
    assert rows() == []


def test_an_event_of_a_search_is_written(noted: Running, shop: str, rows: Any) -> None:
    query_id = searched(noted, shop)
    answer = noted.http.post("/v1/events", json=purchase(query_id))
    assert (answer.status_code, answer.json()) == (202, {"kept": True})
    [row] = rows()
    assert (row["query_id"], row["action_name"], row["application"]) == (query_id, "purchase", "shelfrank")


def test_the_id_of_a_search_makes_no_second_shopper(noted: Running, shop: str, rows: Any) -> None:
    query_id = searched(noted, shop, "the victim")
    for client_id in (MINE, "", "the victim "):
        answer = noted.http.post("/v1/events", json=purchase(query_id, client_id=client_id))
        assert answer.status_code == 403
    assert rows() == []


def test_an_id_that_has_ended_is_refused_and_a_new_search_gives_another(
    noted: Running, shop: str, rows: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = searched(noted, shop)
    with monkeypatch.context() as later:
        later.setattr(noted.app.state.query_ids, "_clock", lambda: time.time() + 25 * 3600)
        refused = noted.http.post("/v1/events", json=purchase(old))
        assert refused.status_code == 403
        assert "has ended" in refused.json()["message"]
        young = searched(noted, shop)
        assert noted.http.post("/v1/events", json=purchase(young)).status_code == 202
    assert [row["query_id"] for row in rows()] == [young]


def test_one_search_has_no_more_events_than_a_page_makes(noted: Running, shop: str, rows: Any) -> None:
    query_id = searched(noted, shop)
    statuses = [noted.http.post("/v1/events", json=purchase(query_id)).status_code for _ in range(5)]
    assert statuses == [202, 202, 202, 429, 429]
    assert "serve.events_each" in noted.http.post("/v1/events", json=purchase(query_id)).json()["message"]
    assert noted.http.post("/v1/events", json=purchase(searched(noted, shop))).status_code == 202
    assert len(rows()) == 4


def test_searches_are_counted_in_bounded_memory() -> None:
    counts = Counts(1, searches=10)
    assert not any(counts.is_spent(str(number)) for number in range(1000))
    assert len(counts._taken) == 10
    assert counts.is_spent("999")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("action_name", "purchase\nclick"),
        ("action_name", "\x1b[2J"),
        ("action_name", ""),
        ("action_name", "p" * 101),
        ("client_id", "c\x00"),
        ("client_id", "\u2028c"),
        ("object_id", "a\x85"),
        ("object_id", "a" * 201),
        ("query_id", "q\r"),
        ("message", "m\x07"),
        ("message", "m" * 1001),
        ("position", 0),
        ("position", -1),
        ("position", 10**30),
        ("position", 1.5),
        ("position", "1e3"),
        ("timestamp", "1970-01-01T00:00:00Z"),
        ("application", "another"),
        ("event_attributes", {"object": {"object_id": "x"}}),
    ],
)
def test_what_no_shopper_does_is_refused_by_its_field(
    noted: Running, shop: str, rows: Any, field: str, value: Any
) -> None:
    answer = noted.http.post("/v1/events", json={**purchase(searched(noted, shop)), field: value})
    assert answer.status_code == 422
    assert field in answer.json()["message"]
    assert rows() == []


def test_half_a_character_is_refused(noted: Running, shop: str, rows: Any) -> None:
    for field in ("action_name", "client_id", "object_id", "message"):
        given = {"action_name": "click", "query_id": searched(noted, shop), "client_id": "c", field: "half"}
        body = json.dumps(given).replace("half", "\\ud800")
        answer = noted.http.post("/v1/events", content=body, headers={"content-type": "application/json"})
        assert answer.status_code == 422
    assert rows() == []


def test_ids_of_a_shops_own_need_a_right_of_their_own(
    patient: Settings, client: OpenSearch, shop: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = {right: new(right, right) for right in ("search", "rerank", "write", "events", "admin")}
    file = tmp_path / "keys"
    file.write_text("\n".join(line for _, line in made.values()), "utf-8")
    keys = {right: {"x-api-key": key} for right, (key, _) in made.items()}
    monkeypatch.setenv(VARIABLE, new_secret())
    with running(with_serve(patient, index=shop, ubi=True, keys_file=str(file))) as found:
        own = purchase("the-shop-s-own-7")
        for right, status in (("search", 403), ("rerank", 403), ("write", 403), ("admin", 403), ("events", 202)):
            assert found.http.post("/v1/events", json=own, headers=keys[right]).status_code == status, right
        assert found.http.post("/v1/events", json=own).status_code == 401
        assert found.http.post("/v1/events", json=own, headers={"x-api-key": "sr_guessed"}).status_code == 401
        # Who may write events down may not search, and who searches writes of its own searches.
        asked = {"index": shop, "query": "cup", "client_id": MINE}
        assert found.http.post("/v1/search", json=asked, headers=keys["events"]).status_code == 403
        query_id = searched(found, shop, **keys["search"])
        assert found.http.post("/v1/events", json=purchase(query_id), headers=keys["search"]).status_code == 202
        # Another process with the same secret takes it, one with another does not.
        with running(with_serve(patient, index=shop, ubi=True)) as second:
            assert second.http.post("/v1/events", json=purchase(query_id)).status_code == 202
        monkeypatch.setenv(VARIABLE, new_secret())
        with running(with_serve(patient, index=shop, ubi=True)) as third:
            assert third.http.post("/v1/events", json=purchase(query_id)).status_code == 403

        def written() -> list[str]:
            anywhere = {"ignore_unavailable": "true"}
            client.indices.refresh(index="ubi_events", params=anywhere)
            body = {"query": {"terms": {"query_id": ["the-shop-s-own-7", query_id]}}}
            hits = client.search(index="ubi_events", body=body, params=anywhere)["hits"]["hits"]
            return sorted(hit["_source"]["query_id"] for hit in hits)

        until(lambda: written() == sorted(["the-shop-s-own-7", query_id, query_id]))
    forget(client)


def test_one_who_floods_leaves_room_for_others(noted: Running, shop: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of events whose way to the cluster is blocked; the rule itself is tested with `ubi.Log`."""
    given: list[tuple[str, str]] = []

    def put(index: str, row: dict[str, Any], owner: str) -> bool:
        given.append((index, owner))
        return False

    monkeypatch.setattr(noted.app.state.ubi, "put", put)
    query_id = searched(noted, shop)
    answer = noted.http.post("/v1/events", json=purchase(query_id))
    assert (answer.status_code, answer.json()) == (202, {"kept": False})
    assert given == [("ubi_queries", "address 127.0.0.1"), ("ubi_events", "address 127.0.0.1")]
