"""Requests as no honest client sends them: types, encodings, chunks, slow writers, wherever a body is taken.

Whatever comes, the answer is one of those that a client can act on, and the service and the node behind it live.
"""

from __future__ import annotations

import gzip
import json
import random
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from opensearchpy import OpenSearch

from tests.reranker.serving.service import Running
from tests.workers import SEED

pytestmark = pytest.mark.node

TYPES = [
    "application/json",
    "application/json; charset=utf-16",
    "application/x-ndjson",
    "application/vnd.opensearch+json",
    "application/vnd.elasticsearch+json;compatible-with=8",
    "application/cbor",
    "application/smile",
    "application/yaml",
    "text/plain",
    "multipart/form-data; boundary=x",
    "",
    "application/json, application/cbor",
    "\x7f",
]
ENCODINGS = ["", "identity", "gzip", "GZIP", "gzip, gzip", "deflate", "br", "zstd", "x"]
PATHS = [
    "/{index}/_search",
    "/{index}/_msearch",
    "/{index}/_count",
    "/{index}/_analyze",
    "/_mget",
    "/{index}/_explain/1",
    "/{index}/_validate/query",
    "/_search/scroll",
    "/v1/rerank",
    "/v2/rerank",
    "/rerank",
    "/v1/search",
    "/v1/explain",
    "/v1/events",
    "/v1/embeddings",
]
QUERIES: list[Any] = [
    {"query": {"match": {"title": "cup"}}, "ext": {"shelfrank": {}}},
    {"query": {"query_string": {"query": "(" * 200 + "保温杯" + ")" * 200}}},
    {"query": {"wrapper": {"query": "eyJtYXRjaF9hbGwiOnt9fQ=="}}},
    {"query": {"script_score": {"query": {"match_all": {}}, "script": {"source": "1"}}}},
    {"query": "cup", "documents": ["cup"], "texts": ["杯"]},
    {"query": {"match_all": {}}},
    {"query": {"match": {"title": "保温杯"}}},
    {"input": "cup"},
    {"index": "shop", "query": "\u0000"},
    {"docs": [{"_index": "ubi_queries", "_id": "1"}]},
    {"text": "a" * 5_000, "tokenizer": {"type": "pattern", "pattern": "(a+)+$"}},
    [],
    None,
    1e308,
    "杯" * 1000,
]
FINE = {200, 202, 400, 401, 403, 404, 405, 406, 413, 415, 422, 429, 431, 503}


def body(rng: random.Random) -> bytes:
    """JSON, lines of it, other encodings of it, cut off, or no such thing."""
    text = json.dumps(rng.choice(QUERIES), ensure_ascii=rng.random() < 0.5)
    kind = rng.randrange(7)
    if kind == 0:
        return text.encode("utf-16")
    if kind == 1:
        return ("\ufeff" + text).encode()
    if kind == 2:
        return "\n".join(["{}", text, ""]).encode()
    if kind == 3:
        return text.encode()[: rng.randint(0, 20)]
    if kind == 4:
        return rng.randbytes(rng.randint(0, 300))
    return text.encode()


def packed(rng: random.Random, content: bytes, encoding: str) -> bytes:
    """The body in its encoding, in several members, cut off, or not packed at all."""
    if "gzip" not in encoding.lower() or rng.random() < 0.2:
        return content
    half = len(content) // 2
    found = gzip.compress(content[:half]) + gzip.compress(content[half:])
    return found[: rng.randint(0, len(found))] if rng.random() < 0.3 else found


def pieces(rng: random.Random, content: bytes) -> Iterator[bytes]:
    """The body in chunks, some of them late."""
    at = 0
    while at < len(content):
        step = rng.choice([1, 7, 100, 10_000])
        yield content[at : at + step]
        at += step
        if rng.random() < 0.05:
            time.sleep(0.01)


def test_no_odd_request_breaks_it(service: Running, shop: str, client: OpenSearch) -> None:
    rng = random.Random(SEED)
    seen: Counter[int] = Counter()
    for number in range(400):
        encoding = "" if rng.random() < 0.5 else rng.choice(ENCODINGS)
        kind = TYPES[0] if rng.random() < 0.5 else rng.choice(TYPES)
        content = packed(rng, body(rng), encoding)
        headers = {"content-type": kind} | ({"content-encoding": encoding} if encoding else {})
        path = rng.choice(PATHS).format(index=shop)
        if rng.random() < 0.1:
            path += "?source_content_type=application/cbor&source=" + "%80" * 50
        sent: Any = pieces(rng, content) if rng.random() < 0.3 else content
        try:
            answer = service.http.post(path, content=sent, headers={k: v for k, v in headers.items() if v})
        except httpx.LocalProtocolError:
            continue  # the client itself refuses to send it
        seen[answer.status_code] += 1
        assert answer.status_code in FINE, (SEED, number, path, headers, content[:200], answer.text[:500])
        json.loads(answer.text or "{}")
    assert seen[200] > 5
    assert seen[400] > 50
    assert service.http.get("/healthz").status_code == 200
    assert client.cluster.health()["status"] in ("green", "yellow")
