"""The page for everyone: by keyboard, on a phone, with assistive technology, and nothing foreign in it."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from reranker.blend import COLUMNS
from reranker.serving.page_files import FOLDER
from tests.reranker.serving.browsing import CHINESE, ENGLISH, Visit, searched
from tests.reranker.serving.service import Running

playwright = pytest.importorskip("playwright.sync_api", reason="the page's tests need playwright")
expect = playwright.expect

pytestmark = pytest.mark.node

CONTROLS = {"button", "textbox", "searchbox", "spinbutton", "combobox", "checkbox", "link", "DisclosureTriangle"}


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
    assert {f"term_{name}" for name in COLUMNS} <= set(english)
    sources = "".join(file.read_text("utf-8") for file in FOLDER.iterdir())
    used = set(re.findall(r"""(?:\btext\(|data-(?:text|label|hint)=)"(\w+)\"""", sources))
    assert len(used) > 50
    assert used <= set(english)
    assert json.dumps(english, ensure_ascii=True).count("\\u4e2d") == 1  # 中文, the switch
