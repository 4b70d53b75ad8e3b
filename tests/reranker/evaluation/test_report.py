"""The evaluation page is whole, needs nothing from elsewhere, and shows strangers' text as text."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import msgspec
import pytest

from reranker.evaluation import report
from reranker.evaluation.judgments import Query
from reranker.evaluation.plots import Bar, bars, scale_of
from reranker.evaluation.results import Options, Results, evaluate_runs
from reranker.evaluation.runs import Run, System

VOID = {"meta"}
BM25 = System("bm25", "bm25", rerank=False)
RERANK = System("rerank", "hybrid", rerank=True)
QUERIES = [Query("1", "<script>alert(1)</script> & cup"), Query("2", "保温杯"), Query("3", "mug", {"language": "en"})]
QRELS = {"1": {"E": 3, "S": 2, "X": 0}, "2": {"杯": 3}, "3": {"E": 3}}
TITLES = {"E": "<img src=x onerror=alert(2)>steel cup", "X": 'a "lid"', "杯": "不锈钢保温杯"}


class Page(HTMLParser):
    """Tags in order with their attributes, and the text of the page; complains of tags that do not match."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join("".join(self.words).split())


def results(**changes: object) -> Results:
    bm25 = Run(
        BM25, {"1": ["X", "P", "E"], "2": ["杯"], "3": []}, titles=TITLES, took_ms={"1": 3.0, "2": 5.0, "3": 4.0}
    )
    rerank = Run(RERANK, {"1": ["E", "X", "N"], "2": ["杯"], "3": ["X"]})
    options = msgspec.structs.replace(Options(also_gains=("exponential",), by=("language",)), **changes)
    return evaluate_runs(QUERIES, QRELS, [bm25, rerank], options)


@pytest.fixture
def page() -> Page:
    return Page(report.page(results()))


def test_every_tag_is_closed_and_ids_are_unique(page: Page) -> None:
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert sorted(ids) == ["q-1", "q-2", "q-3"]


def test_nothing_comes_from_elsewhere_and_nothing_runs(page: Page) -> None:
    assert not {tag for tag, _ in page.tags} & {"script", "link", "img", "iframe", "object", "form"}
    assert all(
        value.startswith("#")
        for _, each in page.tags
        for name, value in each.items()
        if name in ("href", "src") and value
    )
    assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on")]
    assert "url(" not in report.page(results())
    policy = [attributes.get("content") for tag, attributes in page.tags if "http-equiv" in attributes]
    assert policy == ["default-src 'none'; style-src 'unsafe-inline'"]


def test_texts_of_queries_and_products_are_shown_as_they_stand(page: Page) -> None:
    assert "<script>alert(1)</script> & cup" in page.text
    assert "<img src=x onerror=alert(2)>steel cup" in page.text
    assert 'a "lid"' in page.text


def test_the_page_names_systems_figures_protocol_and_baseline(page: Page) -> None:
    assert "3 queries · protocol full · gains 3:1.0" in page.text
    assert "bm25 baseline" in page.text
    assert "ndcg@10 against bm25" in page.text
    assert "ndcg@10 with gains exponential" in page.text
    assert "rerank against bm25: 1 queries better, 0 worse, 2 equal" in page.text
    assert "no benchmark" in page.text


def test_a_query_opens_to_the_lists_of_all_systems_with_grades_and_moves() -> None:
    found = results()
    opened = re.findall(r"<details>.*?</details>", report.page(found), re.DOTALL)
    assert len(opened) == 3
    first = next(each for each in opened if "alert(1)" in each)
    lists = re.findall(r"<h3>(\w+) .*?<ol>(.*?)</ol>", first, re.DOTALL)
    assert [name for name, _ in lists] == ["bm25", "rerank"]
    said = [re.findall(r'aria-label="([^"]*)"|(new)<', each) for _, each in lists]
    assert ["".join(pair) for pair in said[0]] == ["grade 0", "not judged", "grade 3"]
    assert ["".join(pair) for pair in said[1]] == [
        "grade 3",
        "2 places up",
        "grade 0",
        "1 place down",
        "not judged",
        "new",
    ]
    assert any("No hit." in each for each in opened)


def test_bars_lead_to_queries_that_are_there_and_losses_come_first(page: Page) -> None:
    ids = {attributes["id"] for _, attributes in page.tags if "id" in attributes}
    links = [attributes["href"] for tag, attributes in page.tags if tag == "a"]
    assert {link[1:] for link in links if link} == ids
    # The one query that changed is a win, so it stands last.
    assert page.text.rindex("alert(1)") > page.text.rindex("保温杯")


def test_chinese_is_marked_as_such(page: Page) -> None:
    assert ("span", {"lang": "zh"}) in page.tags
    assert ("span", {"lang": "en"}) in page.tags


def test_a_page_of_one_system_has_no_differences() -> None:
    alone = evaluate_runs(QUERIES, QRELS, results().runs[:1], Options())
    text = Page(report.page(alone)).text
    assert "against" not in text
    assert "保温杯" in text


def test_only_the_largest_differences_are_listed_when_there_are_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "MAX_QUERIES", 1)
    page = Page(report.page(results()))
    assert sum(tag == "details" for tag, _ in page.tags) == 1
    assert "The 1 with the largest differences of 3" in page.text
    assert sum(tag == "a" for tag, _ in page.tags) == 1


def test_warnings_and_queries_seen_in_training_stand_on_the_page() -> None:
    told = msgspec.structs.replace(results(), warnings=["odd <b>thing</b>"], seen=["2"])
    text = Page(report.page(told)).text
    assert "odd <b>thing</b>" in text
    assert "1 of 3 queries (2) were used to train" in text


def test_the_same_results_give_the_same_page() -> None:
    assert report.page(results()) == report.page(results())


def test_a_scale_has_room_also_for_values_that_are_all_alike() -> None:
    assert scale_of([0.5, 0.5]).at(0.5) == 50
    wide = scale_of([0.0, 1.0])
    assert 0 < wide.at(0.0) < wide.at(1.0) < 100


def test_bars_stand_in_order_above_and_below_the_line() -> None:
    drawn = bars([Bar("lost", -0.5, ""), Bar("won", 1.0, "q-1"), Bar("same", 0.0, "")], "said")
    kinds = re.findall(r'class="(win|loss|equal)"[^>]*y="([\d.]+)" height="([\d.]+)"', drawn)
    assert kinds == [("win", "2.00", "78.00"), ("equal", "80.00", "1.00"), ("loss", "80.00", "39.00")]
