"""Why a hit stands where it stands: what moved its scores, measured, and told in English or Chinese."""

from reranker.explaining.explained import Explained, ExplainedHit
from reranker.explaining.explainer import explain

__all__ = ["Explained", "ExplainedHit", "explain"]
