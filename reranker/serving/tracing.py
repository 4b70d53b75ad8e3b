"""Traces for OpenTelemetry, where its own variables (OTEL_EXPORTER_OTLP_ENDPOINT and others) ask for them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI

from indexer.errors import ConfigError

VARIABLES = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
_WITH_QUERY = ("http.url", "http.target", "url.full", "url.query")


def trace(app: FastAPI, environ: Mapping[str, str]) -> None:
    """Send a span for each request, for what it asks of the cluster, and for each reranking.

    Texts of queries are no part of them: an address is told without what follows its question mark. Raises ConfigError
    where the extra is not installed.
    """
    asked = next((name for name in VARIABLES if environ.get(name)), None)
    if asked is None:
        return
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor
        from opentelemetry.instrumentation.httpx import HTTPXClientInstrumentor
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        raise ConfigError(
            f"{asked} asks for traces, which need the extra `otel`: pip install 'shelfrank[serve,otel]'."
        ) from error
    name = {"service.name": environ.get("OTEL_SERVICE_NAME", "shelfrank")}
    provider = TracerProvider(resource=Resource.create(name))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    FastAPIInstrumentor.instrument_app(
        app, tracer_provider=provider, server_request_hook=_without_query, exclude_spans=["receive", "send"]
    )
    HTTPXClientInstrumentor.instrument_client(
        app.state.passage.client, tracer_provider=provider, request_hook=_without_query_there
    )
    app.state.engine.span = provider.get_tracer("shelfrank").start_as_current_span
    app.state.traces = provider


def _without_query(span: Any, scope: Any) -> None:
    for name in _WITH_QUERY:
        if name in (span.attributes or {}):
            span.set_attribute(name, str(span.attributes[name]).partition("?")[0] if name != "url.query" else "")


async def _without_query_there(span: Any, request: Any) -> None:
    _without_query(span, request)
