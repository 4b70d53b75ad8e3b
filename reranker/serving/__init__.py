"""The HTTP service: a gateway that speaks OpenSearch, rerank APIs in their usual shapes, and a page to look at."""
