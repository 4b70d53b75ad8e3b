"""What the gateway passes on, from the side of who wants to end what others have open."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from tests.reranker.serving.service import Running

pytestmark = pytest.mark.node

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
    headers = {"content-type": "application/json"}
    assert service.http.request("DELETE", path, headers=headers, **body).status_code in (400, 403)
    assert httpx.post(f"{node}/_search/scroll", json={"scroll_id": scroll, "scroll": "1m"}).status_code == 200
    assert httpx.post(f"{node}/_search", json={"pit": {"id": pit}}).status_code == 200
    mine = service.http.request("DELETE", "/_search/scroll", json={"scroll_id": [scroll]})
    assert (mine.status_code, mine.json()["num_freed"]) == (200, 1)
    mine = service.http.request("DELETE", "/_search/point_in_time", json={"pit_id": [pit]})
    assert mine.json()["pits"][0]["successful"]
