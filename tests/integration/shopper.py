"""A shopper who never stops searching, and remembers every answer that was none."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from opensearchpy import OpenSearch
from opensearchpy.exceptions import OpenSearchException


class Shopper(threading.Thread):
    """Searches without a pause and remembers every answer that was none."""

    def __init__(self, url: str, index: str) -> None:
        super().__init__(daemon=True)
        self.index = index
        self.client = OpenSearch(hosts=[url], timeout=20, max_retries=0)
        self.answers, self.bad = 0, list[str]()
        self.end = threading.Event()

    def run(self) -> None:
        queries = ["lamp", "water bottle", "shoes", "杯", "black", "phone case"]
        while not self.end.is_set():
            query = queries[self.answers % len(queries)]
            body = {"query": {"bool": {"should": [{"match": {"title": query}}, {"match_all": {}}]}}, "size": 3}
            try:
                answer = self.client.search(index=self.index, body=body)
                if not answer["hits"]["hits"] or answer["_shards"]["failed"]:
                    self.bad.append(f"{query}: {answer}"[:300])
            except OpenSearchException as error:
                self.bad.append(f"{query}: {error}"[:300])
            self.answers += 1


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
