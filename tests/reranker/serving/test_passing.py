"""What the gateway passes on, from the side of who wants to end what others have open."""

from __future__ import annotations

from typing import Any

import httpx
import msgspec
import pytest

from indexer.settings import Settings
from reranker.serving.keys import VARIABLE, new
from reranker.serving.turns import Share
from tests.reranker.serving.service import Running, running, with_serve

pytestmark = pytest.mark.node
JSON = {"content-type": "application/json"}

ALL: list[tuple[str, dict[str, Any]]] = [
    ("/_search/scroll/_all", {}),
    ("/_search/scroll/x,_all", {}),
    ("/_search/scroll?scroll_id=_all", {}),
    ("/_search/scroll?scroll_id=x,_all", {}),
    ("/_search/scroll", {"json": {"scroll_id": "_all"}}),
    ("/_search/scroll", {"json": {"scroll_id": ["x", "_all"]}}),
    ("/_search/scroll", {"content": b'{"scroll_id": "_al\\u006c"}'}),
    ("/_search/scroll", {"content": b'{scroll_id: "_all"}'}),
    ("/_search/scroll", {"content": b'{"scroll_id": /* */ "_all"}'}),
    ("/_search/point_in_time", {"json": {"pit_id": "_all"}}),
    ("/_search/point_in_time", {"json": {"pit_id": ["_all"]}}),
    ("/_search/point_in_time/_all", {}),
]


@pytest.mark.parametrize(("path", "body"), ALL, ids=[f"{path} {body}" for path, body in ALL])
def test_nobody_ends_what_others_have_open(
    service: Running, node: str, shop: str, path: str, body: dict[str, Any]
) -> None:
    scroll = httpx.post(f"{node}/{shop}/_search?scroll=1m&size=1", json={}).json()["_scroll_id"]
    pit = httpx.post(f"{node}/{shop}/_search/point_in_time?keep_alive=1m").json()["pit_id"]
    assert service.http.request("DELETE", path, headers=JSON, **body).status_code in (400, 403)
    assert httpx.post(f"{node}/_search/scroll", json={"scroll_id": scroll, "scroll": "1m"}).status_code == 200
    assert httpx.post(f"{node}/_search", json={"pit": {"id": pit}}).status_code == 200
    mine = service.http.request("DELETE", "/_search/scroll", json={"scroll_id": [scroll]})
    assert (mine.status_code, mine.json()["num_freed"]) == (200, 1)
    mine = service.http.request("DELETE", "/_search/point_in_time", json={"pit_id": [pit]})
    assert mine.json()["pits"][0]["successful"]


def test_only_an_administrator_ends_what_everybody_has_open(
    patient: Settings, node: str, shop: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where everything is passed on, too."""
    (reader, *lines), (writer, *more), (admin, *most) = (new(each, each) for each in ("search", "write", "admin"))
    monkeypatch.setenv(VARIABLE, "\n".join([*lines, *more, *most]))
    with running(with_serve(patient, forward="all"), wait=False) as found:
        scroll = httpx.post(f"{node}/{shop}/_search?scroll=1m&size=1", json={}).json()["_scroll_id"]
        for key in (reader, writer):
            for path, body in ALL:
                answer = found.http.request("DELETE", path, headers={**JSON, "x-api-key": key}, **body)
                assert answer.status_code in (400, 403), (path, body)
        assert httpx.post(f"{node}/_search/scroll", json={"scroll_id": scroll, "scroll": "1m"}).status_code == 200
        mine = {"json": {"scroll_id": [scroll]}, "headers": {"x-api-key": reader}}
        assert found.http.request("DELETE", "/_search/scroll", **mine).json()["num_freed"] == 1
        assert admin


@pytest.mark.parametrize("name", ["x-opaque-id", "accept", "traceparent", "authorization", "content-type"])
def test_a_header_of_any_bytes_is_no_failure_of_the_service(service: Running, shop: str, name: str) -> None:
    given = {"content-type": b"application/json", name: b"application/json; a=\xe9\xfc"}
    answer = service.http.post(f"/{shop}/_search", content=b"{}", headers=given)
    assert answer.status_code < 500


def test_an_answer_beyond_all_bounds_is_not_read_to_its_end(patient: Settings, shop: str) -> None:
    limits = msgspec.structs.replace(patient.limits, answer_bytes=1_000)
    with running(with_serve(msgspec.structs.replace(patient, limits=limits)), wait=False) as found:
        for method, path in (("POST", f"/{shop}/_search?size=100"), ("GET", f"/{shop}/_mapping")):
            answer = found.http.request(method, path, headers=JSON)
            assert (answer.status_code, "limits.answer_bytes" in answer.text) == (502, True), answer.text
        assert found.http.get(f"/{shop}/_count").status_code == 200


def test_pages_of_a_scroll_and_many_documents_wait_for_room(service: Running, shop: str) -> None:
    gateway = service.app.state.gateway
    asked: list[int] = []
    taken = gateway._room.taken

    def noted(share: Share, hits: int) -> Any:
        asked.append(hits)
        return taken(share, hits)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gateway._room, "taken", noted)
        service.http.post("/_search/scroll", json={"scroll_id": "x", "scroll": "1m"})
        service.http.post(f"/{shop}/_mget", json={"ids": list(map(str, range(1_500)))})
        service.http.post(f"/{shop}/_search", json={"size": "2000"})
        service.http.post(f"/{shop}/_count", json={})
    assert asked == [10_000, 1_500, 2_000, 0]
