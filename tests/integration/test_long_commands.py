"""Commands that only read and take long wait for a cluster that is busy or away, and end with the same result."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
from opensearchpy import OpenSearch

from indexer.errors import ClusterError
from indexer.patience import Patience, patience_of, patient
from indexer.settings import Cluster, Ingest, Settings
from reranker.evaluation.judgments import Query
from reranker.evaluation.runs import System, run_system
from reranker.search import Searcher
from reranker.training.shops import read_products
from tests.integration.faults import Proxy
from tests.workers import SEED

QUERIES = [Query(str(number), text) for number, text in enumerate(["bottle", "保温杯", "desk lamp", "shoes"] * 5)]
# Without those that only slow it down.
KINDS = ("refuse", "cut before", "cut after", "cut answer", "429", "503")


@pytest.fixture
def proxy(node: str) -> Iterator[Proxy]:
    with Proxy(node, SEED, 0.3, KINDS).running() as running:
        yield running


def connected(url: str, waits: bool) -> Searcher:
    settings = Settings(cluster=Cluster(url=url, timeout_s=20), ingest=Ingest(patience_s=60))
    # The first request is not waited for: a wrong address is told at once.
    return Patience(60.0).call(lambda: Searcher.connect(settings, encoder=False, reranker=False, waits=waits))


@pytest.mark.node
def test_a_spoilt_network_changes_no_search_of_an_evaluation(node: str, proxy: Proxy, shop: str) -> None:
    def runs(url: str) -> list[list[str]]:
        searcher = connected(url, waits=True)
        run = run_system(searcher, shop, QUERIES, System("bm25", "bm25", rerank=False), 10)
        return [run.rankings[query.id] for query in QUERIES]

    assert runs(proxy.url) == runs(node)
    assert sum(proxy.made.values()) > 3


@pytest.mark.node
def test_training_reads_every_product_through_it(client: OpenSearch, proxy: Proxy, shop: str) -> None:
    spoilt = connected(proxy.url, waits=True).retriever.client
    assert read_products(spoilt, shop, ["title"]) == read_products(client, shop, ["title"])


@pytest.mark.node
def test_a_shopper_is_not_kept_waiting(node: str) -> None:
    searcher = connected(node, waits=False)
    assert patience_of(searcher.retriever.client) is None


@pytest.mark.node
def test_what_will_not_pass_is_told_at_once(node: str) -> None:
    client = patient(OpenSearch(node), 600.0)
    with pytest.raises(Exception, match="no such index"):
        client.search(index="no-such-shop", body={})


def test_patience_ends() -> None:
    client = patient(OpenSearch("http://127.0.0.1:1", max_retries=0), 0.5)
    with pytest.raises(ClusterError, match="has taken nothing for"):
        client.info()


@pytest.mark.node
def test_an_index_whose_part_gives_no_answer_is_asked_again(
    node: str, shop: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    searcher = connected(node, waits=True)
    client = searcher.retriever.client
    search, asked = client.search, threading.Event()

    def partly(**given: object) -> dict[str, object]:
        answer: dict[str, object] = search(**given)
        if not asked.is_set():
            asked.set()
            shards = {"total": 2, "successful": 1, "failed": 1, "failures": []}
            answer |= {"_shards": shards, "hits": {"total": {"value": 0}, "hits": []}}
        return answer

    monkeypatch.setattr(client, "search", partly)
    page = searcher.search(shop, "bottle", mode="bm25", rerank=False)
    assert asked.is_set()
    assert page.hits
