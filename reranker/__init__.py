"""Query and hits in, a better order out; and how its models are made and measured."""

from reranker.documents import Scored, rerank, rerank_response
from reranker.encoder import Encoder
from reranker.retrieval import Filters
from reranker.scoring import CrossEncoder
from reranker.search import Page, Searcher

__all__ = ["CrossEncoder", "Encoder", "Filters", "Page", "Scored", "Searcher", "rerank", "rerank_response"]
