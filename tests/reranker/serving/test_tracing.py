"""Traces: what a collector receives of a search, and what it does not."""

from __future__ import annotations

import gzip
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from indexer.errors import ConfigError
from indexer.settings import Settings
from reranker.serving.tracing import trace
from tests.reranker.serving.service import running, with_serve


@pytest.fixture
def collector() -> Iterator[tuple[str, list[bytes]]]:
    """The address of something that takes traces, and what it got."""
    bodies: list[bytes] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            bodies.append(gzip.decompress(body) if self.headers.get("content-encoding") == "gzip" else body)
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", bodies
    server.shutdown()
    server.server_close()


@pytest.mark.node
def test_a_search_leaves_spans_without_its_text(
    patient: Settings, shop: str, collector: tuple[str, list[bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    url, bodies = collector
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", url)
    with running(with_serve(patient)) as found:
        answer = found.http.get(f"/{shop}/_search", params={"q": "title:secretword OR bottle"})
        assert answer.headers["x-shelfrank-status"] == "applied"
    spans = [
        span
        for body in bodies
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans
        for scope in resource.scope_spans
        for span in scope.spans
    ]
    reranking = next(span for span in spans if span.name == "rerank")
    trace_id = reranking.trace_id
    assert {span.name for span in spans if span.trace_id == trace_id} >= {"rerank", "GET"}
    # The request, the first looks at what is hidden and what the index holds, the search itself, the reranking.
    assert len([span for span in spans if span.trace_id == trace_id]) == 5
    assert not any(b"secretword" in body for body in bodies)


def test_traces_without_the_extra_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    with pytest.raises(ConfigError, match="otel"):
        trace(None, {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"})  # type: ignore[arg-type]
    trace(None, {})  # type: ignore[arg-type]
