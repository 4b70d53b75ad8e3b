"""A shopper who never stops searching, and remembers every answer that was none."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from opensearchpy import OpenSearch

from indexer import client as clusters
from indexer.errors import ClusterError
from indexer.settings import Search
from reranker.retrieval import Filters, Retriever

# Long enough to leave the machine to the job that is tested, and shorter than any gap that a switch could leave.
PAUSE_S = 0.01


class Shopper(threading.Thread):
    """Searches all the time and remembers every answer that was none."""

    def __init__(self, url: str, index: str) -> None:
        super().__init__(daemon=True)
        self.index = index
        client = OpenSearch(hosts=[url], timeout=20, max_retries=0)
        self.retriever = Retriever(client, clusters.capabilities(client), Search(), None)
        self.answers, self.bad = 0, list[str]()
        self.end = threading.Event()

    def run(self) -> None:
        queries = ["lamp", ""]  # the empty one lists everything
        while not self.end.is_set():
            query = queries[self.answers % len(queries)]
            try:
                found = self.retriever.retrieve(self.index, query, None, "bm25", 0, 3, Filters(), ["title"])
                if not found.hits or found.failed_shards:
                    self.bad.append(f"{query}: {found}"[:300])
            except ClusterError as error:
                self.bad.append(f"{query}: {error}"[:300])
            self.answers += 1
            self.end.wait(PAUSE_S)


@contextmanager
def shopping(url: str, index: str) -> Iterator[Shopper]:
    """A shopper who searches for the time of a `with` block."""
    shopper = Shopper(url, index)
    shopper.start()
    try:
        yield shopper
    finally:
        shopper.end.set()
        shopper.join()
