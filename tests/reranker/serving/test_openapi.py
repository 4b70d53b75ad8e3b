"""Whatever the OpenAPI document allows, and what it does not, gets an answer: no 500 and no hang."""

from __future__ import annotations

from typing import Any

import hypothesis
import pytest
import schemathesis
from hypothesis import HealthCheck

from tests.reranker.serving.service import Running

pytestmark = pytest.mark.node


@schemathesis.serializer("application/x-ndjson")
def as_lines(_: Any, value: Any) -> bytes:
    return str(value).encode("utf-8", "replace")


def test_no_request_of_the_schema_breaks_the_service(service: Running) -> None:
    schema = schemathesis.openapi.from_url(f"{service.url}/openapi.json")
    tried: dict[str, int] = {}

    for result in schema.get_all_operations():
        operation = result.ok()

        @hypothesis.settings(
            max_examples=12,
            deadline=None,
            derandomize=True,
            suppress_health_check=list(HealthCheck),
        )
        @hypothesis.given(case=operation.as_strategy())
        def check(case: Any) -> None:
            answer = case.call(base_url=service.url, timeout=60)
            tried[case.operation.label] = tried.get(case.operation.label, 0) + 1
            assert answer.status_code < 500 or answer.status_code in (502, 503), answer.text
            assert answer.status_code < 500 or "cannot be reached" not in answer.text

        check()
    assert {label.split()[1] for label in tried} >= {
        "/v1/rerank",
        "/v2/rerank",
        "/rerank",
        "/v1/embeddings",
        "/v1/search",
        "/v1/explain",
        "/v1/events",
        "/{index}/_search",
        "/healthz",
    }


def test_the_examples_work(service: Running, shop: str) -> None:
    schema = service.http.get("/openapi.json").json()
    tried = 0
    for path, methods in schema["paths"].items():
        if "post" not in methods or path.endswith("_msearch"):
            continue
        content = methods["post"]["requestBody"]["content"]["application/json"]
        name = content["schema"].get("$ref", "").rpartition("/")[2]
        example = content.get("example") or schema["components"]["schemas"][name].get("example")
        assert example, path
        body = {**example, "index": shop} if "index" in example else example
        answer = service.http.post(path.replace("{index}", shop), json=body)
        assert answer.status_code in (200, 202), (path, answer.text)
        tried += 1
    assert tried >= 7
