"""Query and hits in, a better order out; and how its models are made and measured."""

import os

# ONNX Runtime 1.32 reports its use to its maker, with an id of the machine, unless it is told before it starts.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

from reranker.documents import Scored, rerank, rerank_response
from reranker.encoder import Encoder
from reranker.explaining import Explained, explain
from reranker.retrieval import Filters
from reranker.scoring import CrossEncoder
from reranker.search import Page, Searcher

__all__ = [
    "CrossEncoder",
    "Encoder",
    "Explained",
    "Filters",
    "Page",
    "Scored",
    "Searcher",
    "explain",
    "rerank",
    "rerank_response",
]
