"""The README's pictures of the page: docs/page-en.png and docs/page-zh.png.

Needs a service that runs (`shelfrank serve --index sample-shop`), playwright and Chromium. Every search is made twice
and the second is shown: the first one of a process also warms caches.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path
from urllib.parse import quote

from playwright.sync_api import Browser, Page, sync_playwright

DOCS = Path(__file__).parents[1] / "docs"
SIZE = {"width": 1280, "height": 940}


def opened(browser: Browser, url: str, query: str, locale: str) -> Page:
    page = browser.new_page(viewport=SIZE, locale=locale)  # type: ignore[arg-type]
    page.goto(f"{url}/_shelfrank/?q={quote(query)}")
    page.wait_for_selector("#reranked li")
    with page.expect_response("**/v1/search"):
        page.click("#form button[type=submit]")
    page.wait_for_selector("main[aria-busy=false] .pill.applied")
    return page


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", default="http://127.0.0.1:8100", help="where the service runs")
    parser.add_argument("--out", type=Path, default=DOCS)
    arguments = parser.parse_args()
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = opened(browser, arguments.url, "water bottle without straw", "en-US")
        page.hover("#reranked li:nth-child(2) .about")
        page.screenshot(path=arguments.out / "page-en.png", animations="disabled")
        page = opened(browser, arguments.url, "适合送爸爸的保温杯", "zh-CN")
        page.click("#reranked li:nth-child(1) .title")
        page.wait_for_selector("#measured h3")
        page.screenshot(path=arguments.out / "page-zh.png", animations="disabled")
        browser.close()


if __name__ == "__main__":
    main()
