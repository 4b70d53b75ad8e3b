"""`explain` on the real node: the page that `search` gives, taken apart."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from indexer.errors import UsageError
from reranker import Filters, Searcher, explain
from reranker.explaining.command import explain_command
from reranker.retrieval import MODES
from reranker.scoring import CrossEncoder

pytestmark = pytest.mark.node

ENGLISH = "water bottle without straw"
CHINESE = "适合送爸爸的保温杯"
NO_LIMIT: dict[str, Any] = {"time_limit_ms": math.inf}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("query", [ENGLISH, CHINESE])
def test_ranks_and_scores_are_those_of_the_page(mode: str, query: str, searcher: Searcher, shop: str) -> None:
    asked: dict[str, Any] = {"mode": mode, "window": 20, "filters": Filters(max_price=200)}
    page = searcher.search(shop, query, size=5, start=18, deadline_ms=math.inf, **asked)
    told = explain(searcher, shop, query, size=5, start=18, time_limit_ms=0, **asked)
    assert [(hit.id, hit.rank, hit.first_stage_rank, hit.scores) for hit in told.hits] == [
        (hit.id, hit.rank, hit.first_stage_rank, hit.scores) for hit in page.hits
    ]
    assert (told.rerank, told.total) == (page.rerank, page.total)
    assert [hit.filters[0].value for hit in told.hits] == [hit.source["price"] for hit in page.hits]


@pytest.mark.parametrize("query", [ENGLISH, CHINESE])
def test_terms_and_base_sum_to_the_final_score_of_every_hit(query: str, searcher: Searcher, shop: str) -> None:
    told = explain(searcher, shop, query, size=20, time_limit_ms=0)
    for hit in told.hits:
        assert round((hit.base or 0.0) + math.fsum(term.adds for term in hit.terms), 6) == hit.scores["final"]
    # One number for the whole window, so it hides nothing; each term may be rounded by half a millionth.
    assert [hit.base for hit in told.hits] == pytest.approx([told.hits[0].base] * 20, abs=2e-5)
    assert {hit.rerank_rank for hit in told.hits} <= set(range(1, 51))


def test_effects_are_taken_from_the_score_that_the_page_shows(searcher: Searcher, shop: str) -> None:
    told = explain(searcher, shop, CHINESE, size=2, **NO_LIMIT)
    assert (told.reading["status"], told.reading["scored"]) == ("complete", told.reading["pairs"])
    for hit in told.hits:
        assert hit.read_score == pytest.approx(hit.scores["rerank"], abs=2e-5)
        assert hit.words[0].effect is not None
        assert 3 <= len(hit.text) <= 5
    alone = explain(searcher, shop, CHINESE, ids=[told.hits[1].id], **NO_LIMIT)
    assert alone.hits[0].text == told.hits[1].text
    assert alone.hits[0].terms == told.hits[1].terms


def test_a_limit_of_a_millisecond_gives_what_there_is(searcher: Searcher, shop: str) -> None:
    told = explain(searcher, shop, ENGLISH, size=20, time_limit_ms=1)
    assert told.reading["status"] == "partial"
    assert told.reading["scored"] < told.reading["pairs"]
    assert all(hit.terms and hit.text for hit in told.hits)
    assert str(told.reading["pairs"]) in told.hits[0].text[-1]


def test_products_are_found_wherever_they_stand(searcher: Searcher, shop: str) -> None:
    page = searcher.search(shop, ENGLISH, size=100, window=10, deadline_ms=math.inf)
    wanted = [page.hits[80].id, "no-such-product", page.hits[3].id]
    told = explain(searcher, shop, ENGLISH, ids=wanted, window=10, time_limit_ms=0)
    assert [(hit.id, hit.rank) for hit in told.hits] == [(wanted[2], 4), (wanted[0], 81)]
    assert told.not_found == ["no-such-product"]
    behind = told.hits[1]
    assert (behind.terms, behind.base, behind.words, behind.rerank_rank) == ([], None, [], None)
    assert "behind the first 10 hits" in behind.text[0]


@pytest.mark.parametrize("query", ["", "  "])
def test_an_empty_query_is_told_as_skipped(query: str, searcher: Searcher, shop: str) -> None:
    told = explain(searcher, shop, query)
    assert (told.rerank["status"], told.reading["status"]) == ("skipped", "skipped")
    assert len(told.hits) == 3
    assert "(skipped: the query is empty)" in told.hits[0].text[0]


@pytest.mark.parametrize("query", ["保温杯" * 3_400, "water bottle " * 800, "x" * 10_000, "\x00\x01 bottle", "🙂"])
def test_long_and_odd_queries_are_explained(query: str, searcher: Searcher, shop: str) -> None:
    told = explain(searcher, shop, query, size=1, time_limit_ms=200)
    assert told.rerank["status"] == "applied"
    assert len(told.query) <= 1000


def test_without_reranking_the_first_stage_is_told(searcher: Searcher, shop: str) -> None:
    told = explain(searcher, shop, ENGLISH, rerank=False)
    assert all(hit.rank == hit.first_stage_rank and not hit.terms for hit in told.hits)
    late = explain(searcher, shop, ENGLISH, deadline_ms=0)
    assert late.rerank["status"] == "timeout"
    assert "timeout" in late.hits[0].text[0]


def test_a_model_that_gives_no_number_costs_the_reading_alone(
    searcher: Searcher, shop: str, reranker: CrossEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reranker.session, "run", lambda rows, *others: np.full((len(rows), 1), math.nan))
    told = explain(searcher, shop, ENGLISH)
    assert told.rerank["status"] == "error"
    assert [hit.rank for hit in told.hits] == [hit.first_stage_rank for hit in told.hits] == [1, 2, 3]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"size": 21}, "21 hits are to be explained; at most 20"),
        ({"ids": [str(at) for at in range(21)]}, "at most 20"),
        ({"size": -1}, "neither may be negative"),
        ({"start": -1}, "neither may be negative"),
        ({"start": 9_999}, "pages end at 10000"),
        ({"time_limit_ms": -1}, "time_limit_ms is -1"),
        ({"time_limit_ms": math.nan}, "time_limit_ms is nan"),
        ({"language": "fr"}, "Unknown language 'fr'"),
        ({"window": 5_000}, "window is 5000"),
    ],
)
def test_values_out_of_bounds_are_refused(changes: dict[str, Any], message: str, searcher: Searcher, shop: str) -> None:
    with pytest.raises(UsageError, match=message):
        explain(searcher, shop, "cup", **changes)


@pytest.fixture
def command(node: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Result]:
    """Runs `shelfrank explain` against the tests' OpenSearch."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OPENSEARCH_URL", node)
    return lambda *arguments: CliRunner().invoke(explain_command, list(arguments))


def test_the_command_prints_json_as_promised(command: Callable[..., Result], shop: str) -> None:
    result = command(CHINESE, "--index", shop, "--top", "2", "--language", "zh", "--max-price", "300", "--json")
    assert result.exit_code == 0, result.output
    answer = json.loads(result.stdout)
    assert [hit["rank"] for hit in answer["hits"]] == [1, 2]
    assert set(answer) == {
        *("query", "index", "language", "total", "rerank", "reading", "hits", "not_found", "took_ms")
    }
    hit = answer["hits"][0]
    assert set(hit["terms"][0]) == {"name", "weight", "value", "adds", "average"}
    assert set(hit["words"][0]) == {"text", "places", "effect"}
    assert hit["filters"] == [{"name": "max_price", "asked": 300, "value": hit["filters"][0]["value"]}]
    assert "符合筛选条件" in "".join(hit["text"])


def test_the_command_prints_sentences_and_figures(command: Callable[..., Result], shop: str) -> None:
    result = command(ENGLISH, "--index", shop, "--top", "2", "--time-limit-ms", "60000")
    assert result.exit_code == 0, result.output
    assert "#1, was" in result.stdout
    assert "by the reranker's score alone" in " ".join(result.stdout.split())
    assert "first_stage" in result.stdout


@pytest.mark.parametrize("query", ["[/red] bottle [bold]", "[link=x]瓶[/]"])
def test_brackets_are_shown_as_they_are(query: str, command: Callable[..., Result], shop: str) -> None:
    result = command(query, "--index", shop, "--mode", "bm25", "--time-limit-ms", "0")
    assert result.exit_code == 0, result.output
    assert query in result.stdout


def test_wrong_use_exits_with_2(command: Callable[..., Result], shop: str) -> None:
    assert command("cup", "--index", shop, "--top", "21").exit_code == 2
    assert command("cup", "--index", shop, "--language", "fr").exit_code == 2
