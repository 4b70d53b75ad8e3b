"""The query path on the real node, over the sample shop, in both languages."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner, Result
from hypothesis import example, given, settings
from hypothesis import strategies as st
from opensearchpy import OpenSearch

from indexer.errors import ClusterError, UsageError
from indexer.settings import Settings
from reranker import explain
from reranker.commands import search_command
from reranker.documents import rerank_response
from reranker.encoder import Encoder
from reranker.retrieval import MODES, Filters, Retriever
from reranker.scoring import CrossEncoder
from reranker.search import Page, Searcher

pytestmark = pytest.mark.node

ENGLISH = "water bottle without straw"
CHINESE = "适合送爸爸的保温杯"


def ids(page: Page) -> list[str]:
    return [hit.id for hit in page.hits]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("query", [ENGLISH, CHINESE])
def test_twenty_pages_hold_each_of_the_first_200_hits_once(
    mode: str, query: str, searcher: Searcher, shop: str
) -> None:
    plain = searcher.search(shop, query, mode=mode, window=0, size=200, rerank=False)
    pages = [
        searcher.search(shop, query, mode=mode, window=30, size=10, start=start, deadline_ms=math.inf)
        for start in range(0, 200, 10)
    ]
    found = [hit for page in pages for hit in ids(page)]
    assert len(found) == len(plain.hits) == min(200, plain.total)
    assert len(set(found)) == len(found)
    assert set(found[:30]) == set(ids(plain)[:30])
    assert found[30:] == ids(plain)[30:]


@settings(max_examples=12)
@given(window=st.integers(0, 20), size=st.integers(5, 17), mode=st.sampled_from(MODES))
@example(window=3, size=1, mode="hybrid")
def test_pages_of_any_size_follow_each_other(window: int, size: int, mode: str, searcher: Searcher, shop: str) -> None:
    asked = {"mode": mode, "window": window, "deadline_ms": math.inf}
    whole = searcher.search(shop, "bottle", size=40, **asked)
    pages = [searcher.search(shop, "bottle", size=size, start=at, **asked) for at in range(0, 40, size)]
    paged = [hit for page in pages for hit in page.hits][: len(whole.hits)]
    assert [(hit.id, hit.rank, hit.scores) for hit in paged] == [(hit.id, hit.rank, hit.scores) for hit in whole.hits]


@pytest.mark.parametrize("mode", MODES)
def test_every_hit_has_all_its_scores_and_final_orders_the_list(mode: str, searcher: Searcher, shop: str) -> None:
    page = searcher.search(shop, CHINESE, mode=mode, window=20, size=40, deadline_ms=math.inf)
    assert page.rerank["status"] == "applied"
    assert page.rerank["window"] == page.rerank["scored"] == 20
    assert sorted(hit.first_stage_rank for hit in page.hits) == list(range(1, min(40, page.total) + 1))
    finals = [hit.scores["final"] for hit in page.hits]
    assert finals == sorted(finals, reverse=True)  # type: ignore[type-var]
    assert all((hit.scores["rerank"] is not None) == (hit.rank <= 20) for hit in page.hits)
    assert set(page.took_ms) == {"encode", "retrieve", "rerank", "total"}


@pytest.mark.parametrize("fields", [None, ["title"], ["vector"]])
def test_cosines_order_the_window_where_the_bundle_weighs_them(
    fields: list[str] | None, searcher: Searcher, shop: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert searcher.reranker is not None
    bundle = searcher.reranker.bundle
    card = msgspec.structs.replace(bundle.description, vector_weights={"vector": 1.0})
    monkeypatch.setattr(searcher.reranker, "bundle", msgspec.structs.replace(bundle, description=card))
    nearest = searcher.search(shop, CHINESE, mode="vector", size=100, rerank=False)
    known = {hit.id: 2 * (hit.scores["first_stage"] or 0.0) - 1 for hit in nearest.hits}
    page = searcher.search(shop, CHINESE, window=20, size=30, fields=fields, deadline_ms=math.inf)
    found = [hit.cosine for hit in page.hits[:20] if hit.cosine is not None]
    assert len(found) == 20
    assert found == sorted(found, reverse=True)
    assert found == pytest.approx([known[hit.id] for hit in page.hits[:20]], abs=1e-4)
    assert all(hit.cosine is None for hit in page.hits[20:])
    assert all("vector" not in hit.source for hit in page.hits)
    told = explain(searcher, shop, CHINESE, window=20, size=3, time_limit_ms=0)
    assert [hit.id for hit in told.hits] == ids(page)[:3]
    assert all(hit.terms[0].name == "vector" for hit in told.hits)
    # So they do where words alone find the hits, and a blend that is given has no use for them.
    words = searcher.search(shop, CHINESE, mode="bm25", window=20, size=20, fields=fields, deadline_ms=math.inf)
    found = [hit.cosine for hit in words.hits if hit.cosine is not None]
    assert len(found) == len(words.hits)
    assert found == sorted(found, reverse=True)
    blended = searcher.search(shop, CHINESE, window=20, size=20, weight=0.5, deadline_ms=math.inf)
    assert all(hit.cosine is None for hit in blended.hits)


def test_without_reranking_the_first_stage_is_untouched(searcher: Searcher, shop: str) -> None:
    page = searcher.search(shop, ENGLISH, rerank=False, size=20)
    assert page.rerank["status"] == "skipped"
    assert [hit.rank for hit in page.hits] == [hit.first_stage_rank for hit in page.hits]
    assert all(hit.scores["final"] == hit.scores["first_stage"] for hit in page.hits)


def test_a_passed_deadline_shows_the_first_stage(searcher: Searcher, shop: str) -> None:
    late = searcher.search(shop, ENGLISH, deadline_ms=0)
    assert late.rerank["status"] == "timeout"
    assert late.hits == searcher.search(shop, ENGLISH, rerank=False).hits


def test_the_same_search_gives_the_same_page(searcher: Searcher, shop: str) -> None:
    first, second = (searcher.search(shop, CHINESE, deadline_ms=math.inf) for _ in range(2))
    assert first.hits == second.hits


@pytest.mark.parametrize(
    ("filters", "holds"),
    [
        (Filters(min_price=20, max_price=40), lambda s: 20 <= s["price"] <= 40),
        (Filters(max_price=0.01), lambda s: False),
        (Filters(min_rating=4.5), lambda s: s["rating"] >= 4.5),
        (Filters(brands=("kwikson",)), lambda s: s["brand"].casefold() == "kwikson"),
    ],
)
@pytest.mark.parametrize("mode", MODES)
def test_filters_hold_for_every_hit_of_every_mode(
    mode: str, filters: Filters, holds: Any, searcher: Searcher, shop: str
) -> None:
    page = searcher.search(shop, "keyboard", mode=mode, filters=filters, size=50, rerank=False)
    assert all(holds(hit.source) for hit in page.hits)
    assert page.hits or filters.max_price == 0.01


def test_a_category_filter_takes_the_whole_branch(searcher: Searcher, shop: str) -> None:
    some = searcher.search(shop, CHINESE, size=1).hits[0].source
    root = some["category"][0]
    page = searcher.search(shop, CHINESE, filters=Filters(categories=(root,)), size=50)
    assert page.hits
    assert all(hit.source["category"][0] == root for hit in page.hits)


def test_no_filter_value_is_read_as_a_query(searcher: Searcher, shop: str) -> None:
    nasty = '"}}, {"match_all": {}}'
    assert not searcher.search(shop, "cup", filters=Filters(brands=(nasty,)), mode="bm25").hits
    assert searcher.search(shop, 'cup" OR brand:* AND (', mode="bm25").total < 830


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("query", ["保温杯" * 3_400, "water bottle " * 800, "x" * 10_000, "\x00\x01 bottle", "🙂"])
def test_long_and_odd_queries_are_answered(mode: str, query: str, searcher: Searcher, shop: str) -> None:
    page = searcher.search(shop, query, mode=mode, deadline_ms=math.inf)
    assert page.rerank["status"] in ("applied", "skipped")


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("query", ["", "   ", "\u3000"])
def test_an_empty_query_lists_the_shop_in_a_fixed_order(mode: str, query: str, searcher: Searcher, shop: str) -> None:
    page = searcher.search(shop, query, mode=mode, size=20)
    assert page.rerank["status"] == "skipped"
    assert ids(page) == sorted(ids(page))
    assert page.total > 800


def test_full_width_and_half_width_queries_are_one(searcher: Searcher, shop: str) -> None:
    wide, narrow = (searcher.search(shop, text, mode="hybrid", rerank=False) for text in ("ＵＳＢ－Ｃ", "USB-C"))
    assert ids(wide) == ids(narrow)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"window": -1}, "window is -1"),
        ({"window": 5_000}, "window is 5000"),
        ({"size": -1}, "neither may be negative"),
        ({"start": 10_000}, "pages end at 10000"),
        ({"mode": "magic"}, "Unknown mode 'magic'"),
    ],
)
def test_values_out_of_bounds_are_refused(changes: dict[str, Any], message: str, searcher: Searcher, shop: str) -> None:
    with pytest.raises(UsageError, match=message):
        searcher.search(shop, "cup", **changes)


def test_an_unknown_index_is_told(searcher: Searcher) -> None:
    with pytest.raises(ClusterError, match="404"):
        searcher.search("no-such-shop", "cup", mode="bm25")


@pytest.mark.parametrize("fusion", ["min_max", "rrf"])
@pytest.mark.parametrize("query", [ENGLISH, CHINESE, "keyboard", "充电宝"])
@pytest.mark.parametrize("filters", [Filters(), Filters(max_price=60)])
def test_our_fusion_is_the_servers_within_rounding(
    fusion: str,
    query: str,
    filters: Filters,
    client: OpenSearch,
    encoder: Encoder,
    node_settings: Settings,
    searcher: Searcher,
    shop: str,
) -> None:
    theirs = searcher.retriever.capabilities
    chosen = msgspec.structs.replace(node_settings.search, fusion=fusion, vector_weight=0.6)
    scores = []
    for capabilities in (theirs, replace(theirs, neural_search=False)):
        retriever = Retriever(client, capabilities, chosen, encoder)
        page = Searcher(retriever, None, node_settings).search(shop, query, mode="hybrid", size=100, filters=filters)
        scores.append({hit.id: hit.scores["first_stage"] for hit in page.hits})
    server, ours = scores
    # Hits of equal score may swap places at the end of the list.
    assert len(set(server) ^ set(ours)) <= 2
    assert {key: ours[key] for key in ours if key in server} == pytest.approx(
        {key: server[key] for key in ours if key in server}, abs=1e-5
    )


@pytest.mark.parametrize("neural_search", [True, False])
@pytest.mark.parametrize("times", [1, 2])
def test_a_search_that_a_shard_did_not_answer_is_asked_once_more(
    client: OpenSearch, searcher: Searcher, shop: str, monkeypatch: pytest.MonkeyPatch, times: int, neural_search: bool
) -> None:
    asked: list[str] = []

    def losing(method: str) -> None:
        whole = getattr(client, method)

        def search(**request: Any) -> Any:
            answer = whole(**request)
            asked.append(method)
            if len(asked) <= times:
                for each in answer.get("responses", [answer]):
                    each["_shards"].update(successful=each["_shards"]["total"] - 1, failed=1)
                    each["hits"]["hits"] = []
            return answer

        monkeypatch.setattr(client, method, search)

    expected = searcher.search(shop, ENGLISH, mode="hybrid", deadline_ms=math.inf).hits[0].id
    losing("search")
    losing("msearch")
    capabilities = replace(searcher.retriever.capabilities, neural_search=neural_search)
    retriever = Retriever(client, capabilities, searcher.settings.search, searcher.retriever.encoder)
    page = Searcher(retriever, searcher.reranker, searcher.settings).search(
        shop, ENGLISH, mode="hybrid", deadline_ms=math.inf
    )
    assert asked.count("search" if neural_search else "msearch") == 2
    assert page.failed_shards == times - 1
    assert [hit.id for hit in page.hits[:1]] == ([expected] if times == 1 else [])


def test_a_hit_carries_only_the_fields_asked_for(searcher: Searcher, shop: str) -> None:
    page = searcher.search(shop, ENGLISH, fields=["title", "price"])
    assert page.rerank["status"] in ("applied", "timeout")
    assert all(set(hit.source) <= {"title", "price"} for hit in page.hits)
    whole = searcher.search(shop, ENGLISH)
    assert not {"vector", "rerank_tokens"} & set(whole.hits[0].source)


def test_an_ordinary_response_is_reordered_and_nothing_else_changes(
    client: OpenSearch, reranker: CrossEncoder, shop: str
) -> None:
    body = {"query": {"match": {"title": "bottle"}}, "size": 20, "_source": ["title", "brand", "color", "bullets"]}
    response = client.search(index=shop, body=body)
    before = json.dumps(response)
    changed = rerank_response(response, ENGLISH, reranker, window=10)
    assert json.dumps(response) == before
    assert changed["rerank"]["status"] == "applied"
    old, new = response["hits"]["hits"], changed["hits"]["hits"]
    assert {hit["_id"] for hit in new[:10]} == {hit["_id"] for hit in old[:10]}
    assert new[10:] == old[10:]
    stripped = [{key: value for key, value in hit.items() if key != "_rerank"} for hit in new[:10]]
    assert sorted(stripped, key=lambda hit: hit["_id"]) == sorted(old[:10], key=lambda hit: hit["_id"])
    assert {key: value for key, value in changed.items() if key not in ("hits", "rerank")} == {
        key: value for key, value in response.items() if key != "hits"
    }


def test_an_index_of_another_encoder_is_refused(client: OpenSearch, searcher: Searcher, shop: str) -> None:
    name = f"{shop}-other"
    mapping = {"properties": {"id": {"type": "keyword"}}, "_meta": {"shelfrank": {"encoder": "another-1"}}}
    client.indices.create(index=name, body={"mappings": mapping})
    try:
        with pytest.raises(ClusterError, match="another-1"):
            searcher.search(name, "cup", mode="vector")
        assert searcher.search(name, "cup", mode="bm25").hits == []
    finally:
        client.indices.delete(index=name)


@pytest.fixture
def command(node: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Any]:
    """Runs `shelfrank search` against the tests' OpenSearch."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OPENSEARCH_URL", node)

    def run(*arguments: str) -> Result:
        return CliRunner().invoke(search_command, list(arguments))

    return run


def test_the_command_prints_json_as_promised(command: Any, shop: str) -> None:
    result = command(CHINESE, "--index", shop, "--mode", "hybrid", "--window", "20", "--size", "5", "--json")
    assert result.exit_code == 0, result.output
    answer = json.loads(result.stdout)
    assert [hit["rank"] for hit in answer["hits"]] == [1, 2, 3, 4, 5]
    assert set(answer["hits"][0]["scores"]) == {"first_stage", "rerank", "final"}
    assert {"status", "reason", "window", "scored"} <= set(answer["rerank"])
    assert answer["took_ms"]["total"] > 0


def test_the_command_prints_a_table(command: Any, shop: str) -> None:
    result = command(ENGLISH, "--index", shop, "--no-rerank")
    assert result.exit_code == 0
    assert "rerank skipped" in result.stdout
    assert "bottle" in result.stdout.casefold()


@pytest.mark.parametrize("query", ["[/red] bottle [bold]", "[link=x]瓶[/]"])
def test_brackets_in_a_query_are_shown_as_they_are(query: str, command: Any, shop: str) -> None:
    result = command(query, "--index", shop, "--no-rerank", "--mode", "bm25")
    assert result.exit_code == 0, result.output
    assert query in result.stdout


def test_wrong_use_exits_with_2(command: Any, shop: str) -> None:
    assert command("cup", "--index", shop, "--mode", "magic").exit_code == 2
