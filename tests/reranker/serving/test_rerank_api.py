"""The rerank and embedding endpoints: their clients' shapes, and the scores of the Python call."""

from __future__ import annotations

import base64
import math
from typing import Any

import numpy as np
import pytest

from reranker import CrossEncoder, Encoder, rerank
from reranker.serving.rerank_api import probability
from tests.reranker.serving.service import Running

pytestmark = pytest.mark.node

QUERY = "steel bottle without straw"
DOCUMENTS: list[Any] = [
    "bottle with straw",
    {"title": "Steel bottle, screw cap", "brand": "Rill"},
    {"text": "不锈钢保温杯"},
    "",
]


@pytest.mark.parametrize("version", ["1", "2"])
def test_the_shape_of_cohere(service: Running, reranker: CrossEncoder, version: str) -> None:
    body = {"model": "rerank-v3.5", "query": QUERY, "documents": DOCUMENTS, "max_tokens_per_doc": 99}
    answer = service.http.post(f"/v{version}/rerank", json={**body, "return_documents": True}).json()
    wanted = rerank(QUERY, DOCUMENTS, reranker)
    assert [each["index"] for each in answer["results"]] == [each.index for each in wanted]
    scores = [each["relevance_score"] for each in answer["results"]]
    assert scores == pytest.approx([1 / (1 + math.exp(-each.score)) for each in wanted], rel=1e-6)
    assert scores == sorted(scores, reverse=True)
    assert answer["meta"]["api_version"]["version"] == version
    shown = {each["index"]: each["document"] for each in answer["results"]}
    assert shown == {0: {"text": DOCUMENTS[0]}, 1: DOCUMENTS[1], 2: DOCUMENTS[2], 3: {"text": ""}}
    best = service.http.post(f"/v{version}/rerank", json={**body, "top_n": 1}).json()["results"]
    assert best == [{key: answer["results"][0][key] for key in ("index", "relevance_score")}]


def test_the_shape_of_text_embeddings_inference(service: Running, reranker: CrossEncoder) -> None:
    texts = [each for each in DOCUMENTS if isinstance(each, str)] + ["保温杯"]
    wanted = rerank(QUERY, texts, reranker)
    raw = service.http.post("/rerank", json={"query": QUERY, "texts": texts, "raw_scores": True}).json()
    assert raw == [{"index": each.index, "score": each.score} for each in wanted]
    shown = service.http.post("/rerank", json={"query": QUERY, "texts": texts, "return_text": True}).json()
    assert [each["text"] for each in shown] == [texts[each.index] for each in wanted]
    assert all(0 <= each["score"] <= 1 for each in shown)


@pytest.mark.parametrize("side", ["query", "document"])
def test_the_shape_of_openai(service: Running, encoder: Encoder, side: str) -> None:
    texts = ["steel bottle", "保温杯"]
    body = {"model": "text-embedding-3-small", "input": texts, "input_type": side}
    answer = service.http.post("/v1/embeddings", json=body).json()
    wanted = encoder.embed_queries(texts) if side == "query" else encoder.embed_texts(texts)
    vectors = np.array([each["embedding"] for each in answer["data"]])
    np.testing.assert_allclose(vectors, wanted, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert answer["usage"]["total_tokens"] > 2
    packed = service.http.post("/v1/embeddings", json={**body, "encoding_format": "base64"}).json()
    first = np.frombuffer(base64.b64decode(packed["data"][0]["embedding"]), "<f4")
    np.testing.assert_allclose(first, wanted[0], atol=1e-6)
    alone = service.http.post("/v1/embeddings", json={**body, "input": texts[1]}).json()["data"]
    np.testing.assert_allclose(alone[0]["embedding"], wanted[1], atol=1e-5)


@pytest.mark.parametrize(
    ("path", "body", "named"),
    [
        ("/v1/rerank", {"query": "x", "documents": []}, "documents"),
        ("/v1/rerank", {"query": "x", "documents": ["a"] * 1001}, "documents"),
        ("/v1/rerank", {"query": "x", "documents": [1]}, "documents"),
        ("/v2/rerank", {"documents": ["a"]}, "query"),
        ("/v2/rerank", {"query": "x", "documents": ["a"], "top_n": 0}, "top_n"),
        ("/rerank", {"query": "x", "texts": [{"a": 1}]}, "texts"),
        ("/v1/embeddings", {"input": []}, "input"),
        ("/v1/embeddings", {"input": "x", "dimensions": 7}, "dimensions"),
    ],
)
def test_bad_requests_are_named(service: Running, path: str, body: dict[str, Any], named: str) -> None:
    answer = service.http.post(path, json=body)
    assert answer.status_code in (400, 422)
    assert named in answer.text


def test_odd_texts_have_scores_like_any_other(service: Running) -> None:
    texts = ["", " ", "\x00", "杯" * 10_000, "a" * 10_000, "🙂 <b>"]
    answer = service.http.post("/rerank", json={"query": "杯" * 10_000, "texts": texts})
    assert answer.status_code == 200
    assert len(answer.json()) == len(texts)
    empty = service.http.post("/rerank", json={"query": "", "texts": texts})
    assert empty.status_code == 200


def test_a_probability_is_short_and_keeps_the_order() -> None:
    logits = [-800.0, -20.0, -3.00001, 0.0, 0.00001, 5.0, 20.0]
    values = [probability(logit) for logit in logits]
    assert values == sorted(values)
    assert all(0 <= value <= 1 and len(f"{value!r}".lstrip("0.")) <= 12 for value in values)


@pytest.mark.parametrize("version", ["1", "2"])
@pytest.mark.parametrize(
    ("document", "message"),
    [
        ('{"title": "b", "p": "\\ud800"}', "no JSON can hold"),
        ('{"title": "\\ud800"}', "no JSON can hold"),
        ('{"title": "b", "p": ' + "[" * 60 + "]" * 60 + "}", "more than 50 levels"),
        ('{"title": "b", "p": ' + '{"a":' * 180 + "1" + "}" * 180 + "}", "more than 50 levels"),
    ],
)
def test_a_document_that_cannot_be_given_back_is_refused_by_its_place(
    service: Running, version: str, document: str, message: str
) -> None:
    for shown in ("true", "false"):
        content = f'{{"query": "a", "documents": ["c", {document}], "return_documents": {shown}}}'.encode()
        headers = {"content-type": "application/json"}
        answer = service.http.post(f"/v{version}/rerank", content=content, headers=headers)
        assert answer.status_code in (400, 422), answer.text
        assert "document 1" in answer.text
        assert message in answer.text
