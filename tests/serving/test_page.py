"""The page in a real browser, before the real service: what a person sees, hears and can do."""

from __future__ import annotations

import json
import re
import shutil
import time
from collections.abc import Callable, Iterator
from typing import Any, Protocol
from urllib.parse import parse_qs, quote, urlsplit

import msgspec
import pytest
from opensearchpy import OpenSearch

from indexer.settings import Settings
from reranker.serving.keys import VARIABLE, Keys, new
from reranker.serving.page_files import FOLDER
from tests.serving.conftest import Running, running, with_serve

playwright = pytest.importorskip("playwright.sync_api", reason="the page's tests need playwright")
expect = playwright.expect
expect.set_options(timeout=30_000)

pytestmark = pytest.mark.node

ENGLISH, CHINESE = "water bottle without straw", "适合送爸爸的保温杯"
REFUSED = "Failed to load resource"
WINDOW, SIZE = 12, 5
CONTROLS = {"button", "textbox", "searchbox", "spinbutton", "combobox", "checkbox", "link", "DisclosureTriangle"}


class Visit(Protocol):
    def __call__(self, address: str = "", *, but: str = "no complaint", ready: bool = True, **context: Any) -> Any: ...


@pytest.fixture(scope="module")
def site(patient: Settings, shop: str) -> Iterator[Running]:
    """The service with a small window, and user behaviour written down."""
    search = msgspec.structs.replace(patient.search, window=WINDOW, size=SIZE)
    with running(with_serve(msgspec.structs.replace(patient, search=search), index=shop, ubi=True)) as found:
        yield found


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if found is None:
        pytest.skip("there is no chromium; on Debian, apt-get install chromium")
    with playwright.sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture
def visit(browser: Any, site: Running) -> Iterator[Visit]:
    """Opens the page; in the end nothing was complained of in its console and nothing was asked of others.

    `but` is what the console is to say in this test, as far as it says it.
    """
    heard: list[str] = []
    asked: set[str] = set()
    contexts: list[Any] = []

    def visiting(address: str = "", *, but: str = "no complaint", ready: bool = True, **context: Any) -> Any:
        contexts.append(browser.new_context(**{"locale": "en-US", **context}))
        contexts[-1].set_default_timeout(30_000)
        page = contexts[-1].new_page()

        def hear(message: Any) -> None:
            if message.type in ("error", "warning") and but not in message.text:
                heard.append(message.text)

        page.on("console", hear)
        page.on("pageerror", lambda error: heard.append(str(error)))
        page.on("request", lambda request: asked.add("{0.scheme}://{0.netloc}".format(urlsplit(request.url))))
        page.goto(address if address.startswith("http") else f"{site.url}/_shelfrank/{address}")
        if ready and "q=" in address:
            page.wait_for_selector("#reranked li")
        return page

    yield visiting
    for context in contexts:
        context.close()
    assert heard == []
    assert asked <= {site.url, "data:", "data://"}


def searched(text: str, **more: Any) -> str:
    return "?" + "&".join(f"{name}={quote(str(value))}" for name, value in {"q": text, **more}.items())


def ids(page: Any, of: str = "reranked") -> list[str]:
    found: list[str] = page.eval_on_selector_all(f"#{of} li", "items => items.map(item => item.dataset.id)")
    return found


def answer(site: Running, shop: str, text: str, **more: Any) -> dict[str, Any]:
    found: dict[str, Any] = site.http.post("/v1/search", json={"index": shop, "query": text, **more}).json()
    return found


def until(holds: Callable[[], Any]) -> Any:
    over = time.monotonic() + 20
    while not (found := holds()):
        assert time.monotonic() < over, "it did not come about within 20 s"
        time.sleep(0.1)
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


def test_without_a_log_nothing_asks_for_feedback(visit: Visit, site: Running) -> None:
    page = visit()
    page.route("**/v1/about", lambda route: route.fulfill(json={**site.http.get("/v1/about").json(), "ubi": False}))
    page.goto(f"{site.url}/_shelfrank/{searched(ENGLISH, window=5)}")
    page.wait_for_selector("#reranked li")
    assert page.locator(".judge").count() == 0


def test_failures_are_told_in_words_with_a_way_on(visit: Visit, site: Running) -> None:
    page = visit(searched(ENGLISH, index="no-such-shop"), but=REFUSED, ready=False)
    expect(page.get_by_role("alert")).to_contain_text("OpenSearch did not answer as it should.")
    expect(page.get_by_role("alert")).to_contain_text("no such index [no-such-shop]")
    page = visit(searched(ENGLISH, mode="psychic"), but=REFUSED, ready=False)
    expect(page.get_by_role("alert")).to_contain_text("The service does not take this search.")
    page = visit(but=REFUSED)
    page.context.set_offline(True)
    page.get_by_role("searchbox").fill("tent")
    page.keyboard.press("Enter")
    expect(page.get_by_role("alert")).to_contain_text("The service cannot be reached.")
    page.context.set_offline(False)
    page.get_by_role("button", name="Try again").click()
    page.wait_for_selector("#reranked li")
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


def test_what_the_service_sends_never_becomes_markup(visit: Visit, site: Running) -> None:
    page = visit(but="requires 'TrustedHTML'")
    evil = "<img src=x onerror=alert(1)><b>cup</b>"

    def poisoned(route: Any) -> None:
        found = route.fetch().json()
        for hit in found["hits"]:
            hit.update(title=evil, brand=evil, category_path=[evil], currency=evil)
        route.fulfill(json=found)

    page.route("**/v1/search", poisoned)
    page.get_by_role("searchbox").fill("cup")
    page.keyboard.press("Enter")
    assert page.locator("#reranked .title").first.inner_text() == evil
    assert page.locator("img, #results b:not(#took b)").count() == 0
    headers = site.http.get("/_shelfrank/page.js").headers
    assert "default-src 'none'; script-src 'self'" in headers["content-security-policy"]
    assert (headers["x-content-type-options"], headers["referrer-policy"]) == ("nosniff", "no-referrer")
    with pytest.raises(playwright.Error, match="TrustedHTML"):
        page.evaluate("document.body.innerHTML = '<b>x</b>'")


def test_everything_can_be_done_with_the_keyboard(visit: Visit) -> None:
    page = visit()
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the results")).to_be_focused()
    page.keyboard.press("/")
    expect(page.get_by_role("searchbox")).to_be_focused()
    page.keyboard.type("tent/")
    assert page.get_by_role("searchbox").input_value() == "tent/"
    page.keyboard.press("Enter")
    page.wait_for_selector("#reranked li")
    wanted = ["Search", "from", "to", "Rating from", "Brand", "Category", "Settings"]
    for name in wanted:
        page.keyboard.press("Tab")
        focused = page.locator(":focus")
        assert name in (focused.inner_text() or focused.evaluate("e => e.labels[0].innerText"))
        assert focused.evaluate("e => getComputedStyle(e).outlineStyle") == "solid"
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    expect(page.get_by_label("Catalogue")).to_be_focused()
    page.keyboard.press("Escape")
    expect(page.locator("summary", has_text="Settings")).to_be_focused()
    expect(page.get_by_label("Catalogue")).to_be_hidden()
    page.keyboard.press("Tab")
    expect(page.locator("#first .title").first).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.get_by_role("dialog")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.locator("#first .title").first).to_be_focused()


def test_on_a_phone_one_list_is_shown_at_a_time_and_nothing_sticks_out(visit: Visit) -> None:
    page = visit(searched(CHINESE), viewport={"width": 360, "height": 740}, has_touch=True, locale="zh-CN")
    expect(page.locator("#first")).to_be_hidden()
    page.get_by_role("button", name="初检", exact=True).tap()
    expect(page.locator("#first")).to_be_visible()
    expect(page.locator("#reranked")).to_be_hidden()
    page.locator("summary", has_text="设置").tap()
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    page.locator("h1").tap()
    expect(page.locator("[name=window]")).to_be_hidden()
    page.locator("#first .title").first.tap()
    expect(page.get_by_role("dialog")).to_be_visible()
    assert page.locator("dialog").evaluate("e => e.scrollWidth <= e.clientWidth && e.clientWidth <= innerWidth")


# The lowest contrast of all texts that are seen, and the text that has it; a larger text needs less.
CONTRAST = """() => {
  const channels = (color) => color.match(/[\\d.]+/g).map(Number);
  const light = (color) => channels(color).slice(0, 3)
    .map((c) => c / 255).map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4))
    .reduce((sum, c, at) => sum + c * [0.2126, 0.7152, 0.0722][at], 0);
  const ground = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const color = getComputedStyle(at).backgroundColor;
      if ((channels(color)[3] ?? 1) > 0) return color;
    }
  };
  const found = [];
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walk.nextNode()) {
    const element = walk.currentNode.parentElement;
    if (!walk.currentNode.data.trim() || !element.checkVisibility() || element.matches(":disabled")) continue;
    const style = getComputedStyle(element);
    const [a, b] = [light(style.color), light(ground(element))].sort((x, y) => y - x);
    const least = parseFloat(style.fontSize) >= 24 ? 3 : 4.5;
    found.push([(a + 0.05) / (b + 0.05) / least, walk.currentNode.data]);
  }
  return found.sort((x, y) => x[0] - y[0])[0];
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_assistive_technology_finds_names_landmarks_and_contrast(visit: Visit, scheme: str) -> None:
    page = visit(searched(ENGLISH), color_scheme=scheme, reduced_motion="reduce")
    page.locator("summary", has_text="Settings").click()
    tree = page.context.new_cdp_session(page).send("Accessibility.getFullAXTree")["nodes"]
    roles: dict[str, list[str]] = {}
    for node in tree:
        if not node["ignored"]:
            roles.setdefault(node["role"]["value"], []).append(node.get("name", {}).get("value", ""))
    assert set(roles) >= {"banner", "search", "main", "navigation", "status", "list"}
    assert [name for role in CONTROLS for name in roles.get(role, []) if not name] == []
    assert page.locator("h1").count() == 1
    assert (
        page.evaluate("new Set([...document.querySelectorAll('[id]')].map((e) => e.id)).size")
        == page.locator("[id]").count()
    )
    ratio, text = page.evaluate(CONTRAST)
    assert ratio >= 1, text
    page.keyboard.press("Escape")
    page.locator("#reranked .title").first.click()
    expect(page.locator("#measured h3").first).to_be_visible()
    ratio, text = page.evaluate(CONTRAST)
    assert ratio >= 1, text
    assert page.locator("dialog").evaluate("e => getComputedStyle(e).animationName") == "none"


def test_both_languages_have_every_text(visit: Visit) -> None:
    page = visit()
    texts = page.evaluate(
        """async () => {
          const both = await Promise.all(["en", "zh"].map((name) => import(`./texts-${name}.js`)));
          return both.map((each) => each.default);
        }"""
    )
    english, chinese = texts
    assert set(english) == set(chinese)
    for key, text in english.items():
        blanks = [sorted(re.findall(r"\{\w+\}", each)) for each in (text, chinese[key])]
        assert blanks[0] == blanks[1], key
        assert text.strip()
        assert chinese[key].strip()
    sources = "".join(file.read_text("utf-8") for file in FOLDER.iterdir())
    used = set(re.findall(r"""(?:\btext\(|data-(?:text|label|hint)=)"(\w+)\"""", sources))
    assert len(used) > 50
    assert used <= set(english)
    assert json.dumps(english, ensure_ascii=True).count("\\u4e2d") == 1  # 中文, the switch
