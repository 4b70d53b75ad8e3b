"""What was searched stands in the log where the operator wants it, and nowhere otherwise."""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest
from starlette.requests import Request

from indexer.settings import Settings
from reranker.serving.notes import note, note_queries
from tests.reranker.serving.service import Running, running, with_serve
from tests.waiting import until

TEXT = "a very particular cup"
SEARCH = {"query": {"match": {"title": TEXT}}}
SORTED = {**SEARCH, "sort": ["price"]}
COUNT = {**SEARCH, "size": 0}


def ask(found: Running, shop: str) -> None:
    """One of each search, under ids of its own."""
    lines = [{"index": shop}, SEARCH, {"index": shop}, SORTED]
    many = "".join(json.dumps(line) + "\n" for line in lines)
    calls: dict[str, tuple[str, dict[str, Any]]] = {
        "gateway": (f"/{shop}/_search", {"json": SEARCH}),
        "sorted": (f"/{shop}/_search", {"json": SORTED}),
        "count": (f"/{shop}/_search", {"json": COUNT}),
        "address": (f"/{shop}/_search", {"params": {"q": TEXT}}),
        "several": ("/_msearch", {"content": many, "headers": {"content-type": "application/x-ndjson"}}),
        "search": ("/v1/search", {"json": {"index": shop, "query": TEXT}}),
        "explain": ("/v1/explain", {"json": {"index": shop, "query": TEXT, "size": 1}}),
        "cohere": ("/v2/rerank", {"json": {"query": TEXT, "documents": ["cup"]}}),
        "tei": ("/rerank", {"json": {"query": TEXT, "texts": ["cup"]}}),
    }
    for name, (path, given) in calls.items():
        headers = {"x-request-id": name, **given.pop("headers", {})}
        answer = found.http.post(path, headers=headers, **given)
        assert answer.status_code == 200, (name, answer.text)


def lines(caplog: pytest.LogCaptureFixture) -> dict[str, dict[str, Any]]:
    """The last lines of the log, by the ids of their requests."""
    told = [json.loads(record.getMessage()) for record in caplog.records if record.name == "shelfrank.access"]
    return {line["id"]: line for line in told}


@pytest.mark.node
def test_each_search_is_logged_with_its_text_where_that_is_asked_for(
    patient: Settings, shop: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "shelfrank"), running(with_serve(patient, log_queries=True)) as found:
        ask(found, shop)
        until(lambda: "tei" in lines(caplog))
    told = lines(caplog)
    several = told.pop("several")
    assert several["queries"] == [TEXT, TEXT]
    for name in ("gateway", "sorted", "count", "address", "search", "explain", "cohere", "tei"):
        assert told[name]["queries"] == [TEXT], name


@pytest.mark.node
def test_no_text_is_logged_unless_that_is_asked_for(
    patient: Settings, shop: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG), running(with_serve(patient)) as found:
        ask(found, shop)
        until(lambda: "tei" in lines(caplog))
    assert "particular" not in " ".join(r.getMessage() for r in caplog.records if r.name.startswith("shelfrank"))


class App:
    """An application that logs queries, or does not."""

    def __init__(self, log_queries: bool) -> None:
        serve = with_serve(Settings(), log_queries=log_queries)
        self.state = type("State", (), {"settings": serve})()


def request(log_queries: bool) -> Request:
    return Request({"type": "http", "app": App(log_queries), "headers": []})


def test_a_text_is_cut_and_breaks_no_line() -> None:
    asked = request(True)
    note_queries(asked, ["a\nb\x1b[2Jc\u2028d\u202ee\x85f\ud800g", "杯" * 1000])
    line = json.dumps(asked.state.log, ensure_ascii=False)
    assert line.isprintable()
    line.encode("utf-8")
    assert asked.state.log["queries"] == ["a b [2Jc d e f g", "杯" * 200]


def test_a_note_keeps_those_before_it() -> None:
    asked = request(False)
    note(asked, cause="x")
    note_queries(asked, [TEXT])
    note(asked, more=1)
    assert asked.state.log == {"cause": "x", "more": 1}
