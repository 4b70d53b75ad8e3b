"""Other people's clients of rerank and embedding APIs, unmodified: only the address is shelfrank's."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from reranker import CrossEncoder, Encoder, rerank
from tests.reranker.serving.service import Running

pytestmark = pytest.mark.node

QUERY = "steel bottle without straw"
DOCUMENTS = ["bottle with straw", "不锈钢保温杯", "steel bottle, screw cap", "desk lamp"]


@pytest.mark.parametrize("version", ["Client", "ClientV2"])
def test_cohere(service: Running, reranker: CrossEncoder, version: str) -> None:
    cohere = pytest.importorskip("cohere")
    made: Any = getattr(cohere, version)(api_key="none", base_url=service.url)
    answer = made.rerank(model="rerank-v3.5", query=QUERY, documents=DOCUMENTS, top_n=3)
    wanted = rerank(QUERY, DOCUMENTS, reranker)[:3]
    assert [each.index for each in answer.results] == [each.index for each in wanted]
    assert all(0 < each.relevance_score < 1 for each in answer.results)


def test_openai(service: Running, encoder: Encoder) -> None:
    openai = pytest.importorskip("openai")
    client = openai.OpenAI(api_key="none", base_url=f"{service.url}/v1")
    answer = client.embeddings.create(model="text-embedding-3-small", input=DOCUMENTS)
    vectors = np.array([each.embedding for each in answer.data])
    np.testing.assert_allclose(vectors, encoder.embed_texts(DOCUMENTS), atol=1e-6)
    assert answer.usage.total_tokens > 0
