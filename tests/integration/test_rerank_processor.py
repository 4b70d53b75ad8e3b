"""OpenSearch's own rerank processor, with the real ml-commons, calling the real service: order, scores and every fault.

The node with ml-commons is fetched at the first run (400 MB):

    python -m pytest tests/integration/test_rerank_processor.py
"""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click.testing
import msgspec
import pytest
from opensearchpy import OpenSearch
from opensearchpy.exceptions import TransportError

from indexer import client as clusters
from indexer import node as nodes
from indexer.commands import connect
from indexer.connect import Connection
from indexer.errors import ClusterError, NodeError, UsageError
from indexer.rerank_processor import PRIVATE, TRUSTED, Plan
from indexer.settings import Cluster, Settings
from reranker.documents import rerank
from reranker.scoring import CrossEncoder
from reranker.serving import rerank_api
from reranker.serving.keys import new as new_key
from tests.conftest import HEAP_MB
from tests.paths import temporary_folder
from tests.reranker.serving.service import Running, running, with_serve

pytestmark = pytest.mark.node

INDEX = "test-processor"
# The first stage's order is that of `stock`, so that it is never the reranker's by chance.
PRODUCTS: dict[str, dict[str, Any]] = {
    "lamp": {"title": 'Desk lamp 12", "warm" \\ dimmed\ttwice', "brand": "Lumo", "color": "white", "stock": 9},
    "shoe": {"title": "Red running shoe", "brand": "Rill", "color": "red", "stock": 8},
    "sleeve": {"title": "保温杯杯套", "brand": "山川", "bullets": ["布", "可洗"], "stock": 7},
    "flask": {"title": "不锈钢保温杯 500ml", "brand": "山川", "color": "黑色", "stock": 6},
    "kettle": {"title": "Electric kettle, glass [2 l]", "brand": "Lumo", "stock": 5},
    "lid": {"title": "Lid for a steel cup", "brand": "Rill", "color": "steel", "stock": 4},
    "cup": {"title": "Steel cup", "brand": "Rill", "color": "steel", "bullets": ["keeps warm", "1 l"], "stock": 3},
    "sofa": {"title": "Sofa with two seats", "color": "grey", "stock": 2},
}
FIRST_STAGE = list(PRODUCTS)
for product in PRODUCTS.values():
    product["maker"] = product.get("brand", "")


@pytest.fixture(scope="module")
def cluster(loaded: Settings) -> Iterator[Settings]:
    """A node of this module's own, with ml-commons."""
    with temporary_folder() as folder:
        chosen = msgspec.structs.replace(loaded.node, data_dir=str(folder), port=0, heap_mb=HEAP_MB, ml_commons=True)
        try:
            url = nodes.start(chosen).url
        except NodeError as error:
            if "could not be fetched" in str(error):
                pytest.skip(str(error))
            raise
        try:
            yield Settings(cluster=Cluster(url=url))
        finally:
            nodes.stop(chosen)


@pytest.fixture(scope="module")
def ml(cluster: Settings) -> Iterator[OpenSearch]:
    client = clusters.connect(cluster)
    client.indices.create(index=INDEX, body={"mappings": {"properties": {"brand": {"type": "keyword"}}}})
    for ident, product in PRODUCTS.items():
        client.index(index=INDEX, id=ident, body=product)
    client.indices.refresh(index=INDEX)
    yield client
    client.close()


@pytest.fixture(scope="module")
def keyed(cluster: Settings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Running, str, Path]]:
    """The real service with one API key; the key, and the file that lets it in."""
    key, line = new_key("opensearch", "rerank")
    file = tmp_path_factory.mktemp("keys") / "keys"
    file.write_text(line)
    settings = with_serve(cluster, keys_file=str(file), rerank_deadline_ms=60_000)
    with running(settings) as service:
        yield service, key, file


@pytest.fixture
def command(cluster: Settings, keyed: tuple[Running, str, Path], monkeypatch: pytest.MonkeyPatch) -> Any:
    """`shelfrank connect` to the service, with its key in the environment."""
    monkeypatch.setenv("OPENSEARCH_URL", cluster.cluster.url)
    monkeypatch.setenv("SHELFRANK_API_KEY", keyed[1])

    def run(*arguments: str) -> click.testing.Result:
        return click.testing.CliRunner().invoke(connect, ["--service", keyed[0].url, "--timeout-s", "20", *arguments])

    return run


def search(client: OpenSearch, pipeline: str, query: str = "steel cup", **changes: Any) -> list[dict[str, Any]]:
    body = {
        "query": {"function_score": {"field_value_factor": {"field": "stock"}}},
        "size": len(PRODUCTS),
        "ext": {"rerank": {"query_context": {"query_text": query}}},
        **changes,
    }
    found = client.search(index=INDEX, body=body, params={"search_pipeline": pipeline})
    hits: list[dict[str, Any]] = found["hits"]["hits"]
    return hits


def ids(hits: list[dict[str, Any]]) -> list[str]:
    return [hit["_id"] for hit in hits]


def expected(reranker: CrossEncoder, query: str, products: dict[str, dict[str, Any]]) -> dict[str, float]:
    """What the API answers for each product, a list of texts being one text with commas."""
    sent = [
        {name: ", ".join(value) if isinstance(value, list) else value for name, value in product.items()}
        for product in products.values()
    ]
    found = rerank(query, sent, reranker)
    return {list(products)[each.index]: rerank_api.probability(each.score) for each in found}


@pytest.mark.parametrize("query", ["steel cup", "保温杯"])
def test_hits_come_in_the_order_of_the_services_scores(
    ml: OpenSearch, command: Any, reranker: CrossEncoder, query: str
) -> None:
    made = command("--json")
    assert made.exit_code == 0, made.output
    scores = expected(reranker, query, PRODUCTS)
    hits = search(ml, "shelfrank", query)
    assert {hit["_id"]: hit["_score"] for hit in hits} == pytest.approx(scores, rel=1e-6)
    assert ids(hits) == sorted(FIRST_STAGE, key=lambda ident: -scores[ident])
    assert ids(hits) != FIRST_STAGE
    assert set(ids(hits)[:2]) == {"steel cup": {"cup", "lid"}, "保温杯": {"flask", "sleeve"}}[query]


def test_another_run_takes_the_place_of_the_first_while_shoppers_search(ml: OpenSearch, command: Any) -> None:
    first = json.loads(command("--json").stdout)
    order, done, bad = ids(search(ml, "shelfrank")), threading.Event(), []

    def shop() -> None:
        while not done.is_set():
            try:
                assert ids(search(ml, "shelfrank")) == order
            except Exception as error:  # noqa: BLE001 - whatever it is, the shopper saw it
                bad.append(error)

    shopper = threading.Thread(target=shop)
    shopper.start()
    second = json.loads(command("--json", "--strict").stdout)
    done.set()
    shopper.join()
    assert not bad
    assert sorted(second["replaced"]) == sorted([first["model"], first["connector"]])
    named = {"size": 100, "query": {"term": {"name.keyword": "shelfrank"}}}
    for kind, ident in (("models", second["model"]), ("connectors", second["connector"])):
        found = ml.transport.perform_request("POST", f"/_plugins/_ml/{kind}/_search", body=named)
        assert [hit["_id"] for hit in found["hits"]["hits"]] == [ident]


def test_the_page_alone_is_reranked_unless_more_is_fetched(ml: OpenSearch, command: Any) -> None:
    command()
    assert set(ids(search(ml, "shelfrank", size=3))) == set(FIRST_STAGE[:3])
    assert command("--oversample", "3").exit_code == 0
    first = search(ml, "shelfrank", size=3)
    assert set(ids(first)[:2]) == {"cup", "lid"}
    assert len(first) == 3
    # The window moves with the page: hits that page 1 showed come again.
    second = search(ml, "shelfrank", size=3, **{"from": 3})
    assert {"cup", "lid"} <= set(ids(second))


@pytest.mark.parametrize("query", ['12" \\ lamp', '{"a": 1}', "${parameters.key} ${credential.key}", "两行\n保温杯\t"])
def test_a_query_is_only_ever_a_query(ml: OpenSearch, command: Any, reranker: CrossEncoder, query: str) -> None:
    assert command("--name", "strict", "--strict").exit_code == 0
    scores = expected(reranker, query.replace("${", "$ {"), PRODUCTS)
    assert {hit["_id"]: hit["_score"] for hit in search(ml, "strict", query)} == pytest.approx(scores, rel=1e-6)


def test_fields_of_another_name_and_a_field_alone(ml: OpenSearch, command: Any, reranker: CrossEncoder) -> None:
    assert command("--name", "other", "--fields", "title,brand=maker", "--strict").exit_code == 0
    renamed = {ident: {"title": each["title"], "brand": each["maker"]} for ident, each in PRODUCTS.items()}
    found = {hit["_id"]: hit["_score"] for hit in search(ml, "other")}
    assert found == pytest.approx(expected(reranker, "steel cup", renamed), rel=1e-6)
    assert command("--name", "other", "--fields", "title", "--strict").exit_code == 0
    texts = {ident: {"text": each["title"]} for ident, each in PRODUCTS.items()}
    found = {hit["_id"]: hit["_score"] for hit in search(ml, "other")}
    assert found == pytest.approx(expected(reranker, "steel cup", texts), rel=1e-6)
    assert command("--name", "other", "--remove").exit_code == 0


def test_a_title_that_looks_like_a_boundary_is_sent_as_it_came(
    ml: OpenSearch, command: Any, reranker: CrossEncoder
) -> None:
    model = json.loads(command("--json").stdout)["model"]
    text = "Kettle [, ] glass[, ]Lumo[, ][, ]"
    found = ml.transport.perform_request(
        "POST", f"/_plugins/_ml/_predict/text_similarity/{model}", body={"query_text": "kettle", "text_docs": [text]}
    )
    (score,) = found["inference_results"][0]["output"][0]["data"]
    assert score == pytest.approx(expected(reranker, "kettle", {"it": {"text": text}})["it"], rel=1e-6)


class Fault:
    """Makes the service fail, in ways that the test names."""

    def __init__(self, keyed: tuple[Running, str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
        self.keyed, self.patch = keyed, monkeypatch

    def slow(self) -> None:
        real = rerank_api.rerank_by

        def late(*arguments: Any) -> Any:
            time.sleep(2.5)
            return real(*arguments)

        self.patch.setattr(rerank_api, "rerank_by", late)

    def score(self) -> None:
        self.patch.setattr(rerank_api, "probability", lambda logit: 0.1 + 0.2)

    def key(self) -> None:
        self.keyed[2].write_text(new_key("another", "rerank")[1])

    def right(self) -> None:
        self.keyed[2].write_text(self.keyed[2].read_text().replace(" rerank ", " search "))


@pytest.fixture
def fault(keyed: tuple[Running, str, Path], monkeypatch: pytest.MonkeyPatch) -> Iterator[Fault]:
    line = keyed[2].read_text()
    yield Fault(keyed, monkeypatch)
    keyed[2].write_text(line)


@pytest.mark.parametrize(
    ("kind", "status", "said"),
    [
        ("slow", 500, "timed out"),
        ("score", 500, "BigDecimal"),
        ("key", 401, "API key is not known"),
        ("right", 403, "lacks the right"),
    ],
)
def test_a_fault_of_the_service_fails_a_strict_search_and_leaves_another_as_it_was(
    ml: OpenSearch, command: Any, fault: Fault, kind: str, status: int, said: str
) -> None:
    assert command("--timeout-s", "1", "--name", "strict", "--strict").exit_code == 0
    assert command("--timeout-s", "1").exit_code == 0
    getattr(fault, kind)()
    with pytest.raises(TransportError) as failed:
        search(ml, "strict")
    assert failed.value.status_code == status
    assert said in str(failed.value.info)
    began = time.monotonic()
    hits = search(ml, "shelfrank")
    assert time.monotonic() - began < 2.3, "the timeout of one call is 1 s"
    assert ids(hits) == FIRST_STAGE
    assert [hit["_score"] for hit in hits] == [float(product["stock"]) for product in PRODUCTS.values()]


def test_a_service_that_is_away_fails_a_strict_search_and_leaves_another_as_it_was(
    cluster: Settings, ml: OpenSearch
) -> None:
    with running(with_serve(cluster)) as service:
        for name, strict in (("away-strict", True), ("away", False)):
            Connection(ml, Plan(name, service.url, strict=strict, timeout_s=20)).connect("")
        assert ids(search(ml, "away")) != FIRST_STAGE
    with pytest.raises(TransportError) as failed:
        search(ml, "away-strict")
    assert (failed.value.status_code, "Connection refused" in str(failed.value.info)) == (500, True)
    assert ids(search(ml, "away")) == FIRST_STAGE
    for name in ("away-strict", "away"):
        Connection(ml, Plan(name)).remove()


def test_searches_that_the_processor_was_not_made_for(ml: OpenSearch, command: Any) -> None:
    command("--name", "strict", "--strict")
    command()
    for changes in ({"ext": {}}, {"size": 0}):
        with pytest.raises(TransportError):
            search(ml, "strict", **changes)
        assert ids(search(ml, "shelfrank", **changes)) == ([] if "size" in changes else FIRST_STAGE)
    # Without the fields there is nothing to read: all scores are alike and the order stays.
    hits = search(ml, "strict", _source=False)
    assert ids(hits) == FIRST_STAGE
    assert len({hit["_score"] for hit in hits}) == 1


def test_a_key_that_is_wrong_changes_nothing_and_is_shown_nowhere(
    ml: OpenSearch, command: Any, keyed: tuple[Running, str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = json.loads(command("--json").stdout)
    monkeypatch.setenv("SHELFRANK_API_KEY", "sr_wrong")
    failed = command()
    assert isinstance(failed.exception, ClusterError)
    assert "shelfrank keys new" in str(failed.exception)
    assert "sr_wrong" not in str(failed.exception) + failed.output
    pipeline = json.dumps(ml.search_pipeline.get(id="shelfrank"))
    assert before["model"] in pipeline
    kept = json.dumps(ml.transport.perform_request("GET", f"/_plugins/_ml/connectors/{before['connector']}"))
    assert keyed[1] not in kept + pipeline
    assert ids(search(ml, "shelfrank")) != FIRST_STAGE
    found = ml.transport.perform_request("POST", "/_plugins/_ml/connectors/_search", body={"size": 100})
    names = [hit["_source"]["name"] for hit in found["hits"]["hits"]]
    assert names.count("shelfrank") == 1, "what the failed run made is gone again"


def test_settings_that_are_missing_are_named_and_the_cure_works(ml: OpenSearch, command: Any) -> None:
    forbidden: dict[str, Any] = {PRIVATE: False, TRUSTED: ["^https://elsewhere/.*$"]}
    ml.cluster.put_settings(body={"persistent": forbidden})
    try:
        failed = command()
        assert isinstance(failed.exception, ClusterError)
        cure = re.search(r"PUT _cluster/settings\n(.*)", str(failed.exception))
        assert cure
        body = json.loads(cure[1])
        assert body["persistent"][PRIVATE] is True
        assert body["persistent"][TRUSTED][0] == "^https://elsewhere/.*$"
        ml.cluster.put_settings(body=body)
        assert command().exit_code == 0
    finally:
        ml.cluster.put_settings(body={"persistent": dict.fromkeys(forbidden)})


def test_only_what_was_made_is_removed_and_not_what_is_in_use(ml: OpenSearch, command: Any) -> None:
    command()
    ml.indices.put_settings(index=INDEX, body={"index.search.default_pipeline": "shelfrank"})
    refused = command("--remove")
    assert isinstance(refused.exception, UsageError)
    assert INDEX in str(refused.exception)
    ml.indices.put_settings(index=INDEX, body={"index.search.default_pipeline": None})
    assert command("--remove").exit_code == 0
    assert json.loads(command("--remove", "--json").stdout) == {"removed": []}
    for kind in ("models", "connectors", "model_groups"):
        query = {"query": {"term": {"name.keyword": "shelfrank"}}}
        found = ml.transport.perform_request("POST", f"/_plugins/_ml/{kind}/_search", body=query)
        assert found["hits"]["total"]["value"] == 0
    ml.search_pipeline.put(id="shelfrank", body={"response_processors": [{"truncate_hits": {"target_size": 1}}]})
    for arguments in ([], ["--remove"]):
        assert isinstance(command(*arguments).exception, UsageError)
    ml.search_pipeline.delete(id="shelfrank")
