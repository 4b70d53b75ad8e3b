"""The page in a real browser, before the real service: what a person sees, hears and can do."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from opensearchpy import OpenSearch

from reranker.serving.keys import VARIABLE, Keys, new
from tests.reranker.serving.browsing import CHINESE, ENGLISH, REFUSED, SIZE, WINDOW, Visit, ids, searched
from tests.reranker.serving.service import Running
from tests.waiting import until

playwright = pytest.importorskip("playwright.sync_api", reason="the page's tests need playwright")
expect = playwright.expect

pytestmark = pytest.mark.node


def answer(site: Running, shop: str, text: str, **more: Any) -> dict[str, Any]:
    found: dict[str, Any] = site.http.post("/v1/search", json={"index": shop, "query": text, **more}).json()
    return found


@pytest.mark.parametrize("text", [ENGLISH, CHINESE])
def test_a_search_shows_both_orders_and_where_each_product_went(
    visit: Visit, site: Running, shop: str, text: str
) -> None:
    page = visit()
    page.get_by_role("searchbox").fill(text)
    page.keyboard.press("Enter")
    page.wait_for_selector("#reranked li")
    hits = answer(site, shop, text, size=WINDOW)["hits"]
    assert ids(page) == [hit["id"] for hit in hits[:SIZE]]
    first = sorted(hits, key=lambda hit: hit["first_stage_rank"])[:SIZE]
    assert ids(page, "first") == [hit["id"] for hit in first]
    assert any(hit["rank"] != hit["first_stage_rank"] for hit in hits[:SIZE])
    for hit, shown in zip(hits, page.locator("#reranked li .move").all_inner_texts(), strict=False):
        moved = hit["first_stage_rank"] - hit["rank"]
        assert shown.split() == (
            ["stays"]
            if not moved
            else ["↑" if moved > 0 else "↓", ("down", "up")[moved > 0], "from", str(hit["first_stage_rank"])]
        )
    expect(page.get_by_role("status")).to_contain_text(f"The first {WINDOW} were read by the model")
    assert re.search(r"reranking\s+[\d,]+ ms", page.locator("#took").inner_text())
    assert page.title() == f"{text} – shelfrank"


def test_pointing_at_a_product_lights_it_up_in_both_lists(visit: Visit) -> None:
    page = visit(searched(ENGLISH))
    both = next(each for each in ids(page) if each in ids(page, "first"))
    page.hover(f'#first [data-id="{both}"]')
    assert page.eval_on_selector_all(".linked", "all => all.map(each => each.tagName)") == ["LI", "path", "LI"]
    page.hover("h1")
    assert page.locator(".linked").count() == 0


def test_filters_narrow_the_search_and_can_be_cleared(visit: Visit, site: Running, shop: str) -> None:
    page = visit(searched(ENGLISH))
    before = ids(page)
    brand = answer(site, shop, ENGLISH)["hits"][0]["brand"]
    page.get_by_label("from", exact=True).fill("20")
    page.get_by_label("to", exact=True).fill("40")
    page.locator("summary", has_text="Brand").click()
    page.get_by_role("checkbox", name=brand).check()
    limits = {"brands": [brand], "min_price": 20, "max_price": 40}
    wanted = [hit["id"] for hit in answer(site, shop, ENGLISH, filters=limits)["hits"]]
    assert wanted
    until(lambda: ids(page) == wanted)
    asked = parse_qs(urlsplit(page.url).query)
    assert (asked["min"], asked["max"], asked["brand"]) == (["20"], ["40"], [brand])
    page.get_by_role("button", name="Clear filters").click()
    until(lambda: ids(page) == before)
    page.get_by_label("from", exact=True).fill("900000")
    page.keyboard.press("Enter")
    expect(page.get_by_role("status")).to_have_text("No product passes these filters.")


def test_the_language_follows_the_browser_and_the_switch_is_remembered(visit: Visit) -> None:
    page = visit(searched(CHINESE), locale="zh-CN")
    assert page.locator("html").get_attribute("lang") == "zh-Hans"
    expect(page.get_by_role("button", name="搜索")).to_be_visible()
    assert "已重排" in page.locator("#status").inner_text()
    before = ids(page)
    page.get_by_role("button", name="English").click()
    expect(page.get_by_role("status")).to_contain_text("Reranked")
    assert page.locator("html").get_attribute("lang") == "en"
    assert ids(page) == before
    page.reload()
    page.wait_for_selector("#reranked li")
    expect(page.get_by_role("button", name="Search", exact=True)).to_be_visible()


def test_the_address_holds_the_search_and_back_leads_back(visit: Visit, site: Running) -> None:
    page = visit(searched(ENGLISH, mode="bm25", window=10, weight=0.5))
    first = ids(page)
    page.get_by_role("searchbox").fill("tent")
    page.keyboard.press("Enter")
    until(lambda: ids(page) not in ([], first))
    assert parse_qs(urlsplit(page.url).query) == {"q": ["tent"], "mode": ["bm25"], "window": ["10"], "weight": ["0.5"]}
    page.locator("summary", has_text="Settings").click()
    page.locator("[name=mode]").select_option("vector")
    page.wait_for_url("**mode=vector**")
    page.go_back()
    page.go_back()
    until(lambda: ids(page) == first)
    assert page.get_by_role("searchbox").input_value() == ENGLISH
    assert page.get_by_label("Model's weight").input_value() == "0.5"
    assert ids(visit(page.url)) == first


def test_pages_follow_each_other_without_repeats(visit: Visit) -> None:
    page = visit(searched(ENGLISH))
    seen = ids(page)
    expect(page.get_by_role("button", name="Previous")).to_be_disabled()
    for start in (6, 11, 16):
        page.get_by_role("button", name="Next").click()
        expect(page.locator("#place")).to_contain_text(f"{start} to ")
        seen += ids(page)
    assert len(seen) == len(set(seen)) == 4 * SIZE
    expect(page.get_by_role("status")).to_contain_text(f"only the first {WINDOW} products are reranked")
    page.get_by_role("button", name="Previous").click()
    until(lambda: ids(page) == seen[2 * SIZE : 3 * SIZE])


def test_what_was_not_reranked_says_so_and_why(visit: Visit) -> None:
    page = visit(searched(ENGLISH, deadline=1))
    expect(page.get_by_role("status")).to_contain_text("The time limit of 1 ms came after 0 of 12 products")
    assert ids(page) == ids(page, "first")
    expect(page.locator("#reranked-note")).to_have_text("in first-stage order")
    page.locator("#reranked .title").first.click()
    expect(page.locator("#told")).to_have_text("It was not reranked, so its place is the first stage's.")
    page = visit(searched(ENGLISH, rerank="off"), locale="zh-CN")
    expect(page.get_by_role("status")).to_contain_text("重排已关闭")


@pytest.mark.parametrize(("locale", "sentence"), [("en-US", "reranked"), ("zh-CN", "重排")])
def test_a_click_explains_a_product_and_escape_leads_back(visit: Visit, locale: str, sentence: str) -> None:
    page = visit(searched(CHINESE), locale=locale)
    title = page.locator("#reranked .title").first
    title.click()
    sheet = page.get_by_role("dialog", name=title.inner_text())
    expect(sheet).to_be_visible()
    expect(sheet.locator("#scores tbody tr")).to_have_count(3)
    assert parse_qs(urlsplit(page.url).query)["show"] == ids(page)[:1]
    expect(sheet.locator("#measured h3")).to_have_count(2)
    assert sentence in sheet.locator("#told").inner_text()
    assert sheet.locator("mark").count() > 0
    assert sheet.locator("#measured tbody tr").count() > 3
    page.keyboard.press("Escape")
    expect(sheet).to_be_hidden()
    expect(title).to_be_focused()
    until(lambda: "show=" not in page.evaluate("location.search"))
    page.go_forward()
    expect(sheet).to_be_visible()


def test_a_service_that_explains_nothing_still_shows_the_scores(visit: Visit) -> None:
    page = visit(searched(ENGLISH), but=REFUSED)
    page.route("**/v1/explain", lambda route: route.fulfill(status=404, json={"message": "Not Found"}))
    page.locator("#reranked .title").first.click()
    expect(page.locator("#told")).to_have_text("This service gives no explanations beyond these scores.")
    expect(page.locator("#scores tbody tr")).to_have_count(3)


def test_feedback_is_written_down_with_search_product_and_place(
    visit: Visit, site: Running, client: OpenSearch
) -> None:
    page = visit(searched(ENGLISH))
    second, third = ids(page)[1:3]
    page.locator("#reranked li").nth(1).get_by_role("button", name="Good result").click()
    expect(page.get_by_role("status")).to_contain_text("Noted")
    button = page.locator("#reranked li").nth(1).get_by_role("button", name="Good result")
    assert button.get_attribute("aria-pressed") == "true"
    page.locator("#reranked .title").nth(2).click()
    me = page.evaluate("localStorage.getItem('shelfrank.client')")
    mine = {"query": {"term": {"client_id": me}}}

    def rows(index: str) -> list[dict[str, Any]]:
        client.indices.refresh(index="ubi_*")
        found = client.search(index=index, body=mine, params={"ignore_unavailable": "true"})
        return [hit["_source"] for hit in found["hits"]["hits"]]

    events = until(lambda: len(found := rows("ubi_events")) == 2 and found)
    [query] = until(lambda: rows("ubi_queries"))
    try:
        assert query["user_query"] == ENGLISH
        assert query["query_response_hit_ids"][1:3] == [second, third]
        told = {
            (
                row["action_name"],
                row["query_id"],
                row["event_attributes"]["object"]["object_id"],
                row["event_attributes"]["position"]["ordinal"],
            )
            for row in events
        }
        assert told == {("thumbs_up", query["query_id"], second, 2), ("click", query["query_id"], third, 3)}
    finally:
        client.delete_by_query(index="ubi_*", body=mine, params={"refresh": "true"})


def test_a_page_that_was_open_for_too_long_notes_feedback_of_its_next_search(
    visit: Visit, site: Running, client: OpenSearch, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = visit(searched(ENGLISH), but=REFUSED)
    query_ids = site.app.state.query_ids
    now = query_ids._clock
    monkeypatch.setattr(query_ids, "_clock", lambda: now() + 25 * 3600)
    page.locator("#reranked li").nth(1).get_by_role("button", name="Good result").click()
    expect(page.get_by_role("status")).to_contain_text("It could not be noted.")
    with page.expect_response("**/v1/search"):
        page.get_by_role("searchbox").press("Enter")
    page.locator("#reranked li").nth(1).get_by_role("button", name="Good result").click()
    expect(page.get_by_role("status")).to_contain_text("Noted")
    me = page.evaluate("localStorage.getItem('shelfrank.client')")
    mine = {"query": {"term": {"client_id": me}}}

    def deleted() -> bool:
        client.indices.refresh(index="ubi_*")
        return (
            client.delete_by_query(
                index="ubi_events", body=mine, params={"conflicts": "proceed", "ignore_unavailable": "true"}
            )["deleted"]
            == 1
        )

    until(deleted)


def test_without_a_log_nothing_asks_for_feedback(visit: Visit, site: Running) -> None:
    page = visit()
    page.route("**/v1/about", lambda route: route.fulfill(json={**site.http.get("/v1/about").json(), "ubi": False}))
    page.goto(f"{site.url}/_shelfrank/{searched(ENGLISH, window=5)}")
    page.wait_for_selector("#reranked li")
    assert page.locator(".judge").count() == 0


def test_failures_are_told_in_words_with_a_way_on(visit: Visit, site: Running) -> None:
    page = visit(searched(ENGLISH, index="no-such-shop"), but=REFUSED, ready=False)
    expect(page.get_by_role("alert")).to_contain_text("There is no such catalogue.")
    expect(page.get_by_role("alert")).to_contain_text("no such index [no-such-shop]")
    page = visit(searched(ENGLISH, mode="psychic"), but=REFUSED, ready=False)
    expect(page.get_by_role("alert")).to_contain_text("The service does not take this search.")
    page = visit(but=REFUSED)
    page.context.set_offline(True)
    page.get_by_role("searchbox").fill("tent")
    page.keyboard.press("Enter")
    expect(page.get_by_role("alert")).to_contain_text("The service cannot be reached.")
    page.context.set_offline(False)
    again = page.get_by_role("button", name="Try again")

    def results() -> bool:
        """The browser may notice only after a while that it is online."""
        with suppress(playwright.TimeoutError):  # it goes when the last click has led somewhere
            again.click(timeout=1000)
        return bool(page.locator("#reranked li").count())

    until(results)
    expect(page.get_by_role("alert")).to_be_empty()


def test_a_cluster_that_is_gone_is_told(visit: Visit, site: Running) -> None:
    page = visit(but=REFUSED)
    retriever = site.app.state.shop.retriever()
    there, retriever.client = retriever.client, OpenSearch("http://127.0.0.1:9", max_retries=0)
    try:
        page.get_by_role("searchbox").fill("tent")
        page.keyboard.press("Enter")
        expect(page.get_by_role("alert")).to_contain_text("OpenSearch did not answer as it should.")
    finally:
        retriever.client = there


def test_who_types_before_the_page_is_ready_loses_nothing(visit: Visit) -> None:
    page = visit()
    page.wait_for_selector("#welcome h2")
    held: list[Any] = []
    page.route("**/v1/about", lambda route: held.append(route))
    page.reload()
    until(lambda: page.wait_for_timeout(20) or held)
    page.get_by_role("searchbox").fill("tent")
    page.locator("[name=min]").fill("20")
    held[0].continue_()
    page.wait_for_selector("#welcome h2")
    assert page.get_by_role("searchbox").input_value() == "tent"
    page.get_by_role("button", name="中文").click()
    page.get_by_role("searchbox").press("Enter")
    page.wait_for_selector("#reranked li")
    assert parse_qs(urlsplit(page.url).query) == {"q": ["tent"], "min": ["20"]}


def test_a_form_that_is_sent_before_the_script_runs_is_a_search(visit: Visit, site: Running) -> None:
    page = visit()
    held: list[Any] = []
    page.route("**/page.js", lambda route: held.append(route))
    page.reload(wait_until="commit")
    page.get_by_role("searchbox").fill("tent")
    page.get_by_role("searchbox").press("Enter", no_wait_after=True)
    page.wait_for_url("**?q=tent*", wait_until="commit")
    page.unroute("**/page.js")
    page.reload()
    page.wait_for_selector("#reranked li")
    assert page.get_by_role("button", name="Clear filters").is_hidden()


@pytest.fixture
def key(site: Running) -> Iterator[str]:
    """The key without which the service now answers nobody."""
    made, line = new("page", "search")
    before, site.app.state.keys = site.app.state.keys, Keys({VARIABLE: line})
    yield made
    site.app.state.keys = before


def test_a_key_is_asked_for_kept_for_the_tab_and_sent_in_the_header_alone(visit: Visit, key: str) -> None:
    page = visit(searched(ENGLISH), but=REFUSED, ready=False)
    sent: list[Any] = []
    page.on("request", lambda request: sent.append(request))
    field = page.get_by_label("API key")
    expect(field).to_be_focused()
    field.fill("wrong")
    page.keyboard.press("Enter")
    expect(page.locator("#key-why")).to_have_text("The service does not know that API key.")
    field.fill(key)
    page.keyboard.press("Enter")
    page.wait_for_selector("#reranked li")
    expect(field).to_be_hidden()
    assert sent[-1].headers["authorization"] == f"Bearer {key}"
    assert not any(key in (request.url + (request.post_data or "")) for request in sent)
    kept = page.evaluate("[JSON.stringify(localStorage), document.cookie, JSON.stringify(sessionStorage)]")
    assert [key in each for each in kept] == [False, False, True]
