"""Services before the tests' OpenSearch, and the page of one of them in a real browser."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec
import pytest

from indexer.settings import Settings
from tests.reranker.serving.browsing import SIZE, WINDOW, Visit
from tests.reranker.serving.service import Running, running, with_serve


@pytest.fixture(scope="session")
def patient(node_settings: Settings) -> Settings:
    """Settings under which a busy machine does not decide what a test sees."""
    search = msgspec.structs.replace(node_settings.search, deadline_ms=60_000)
    return msgspec.structs.replace(node_settings, search=search)


@pytest.fixture(scope="session")
def service(patient: Settings, shop: str) -> Iterator[Running]:
    """A service without keys, for the sample shop."""
    with running(with_serve(patient, index=shop)) as found:
        yield found


@pytest.fixture(scope="session")
def site(patient: Settings, shop: str) -> Iterator[Running]:
    """The service with a small window, and user behaviour written down."""
    search = msgspec.structs.replace(patient.search, window=WINDOW, size=SIZE)
    with running(with_serve(msgspec.structs.replace(patient, search=search), index=shop, ubi=True)) as found:
        yield found


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    api = pytest.importorskip("playwright.sync_api", reason="the page's tests need playwright")
    api.expect.set_options(timeout=30_000)
    with api.sync_playwright() as driver:
        found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
        if found is None and not Path(driver.chromium.executable_path).exists():
            pytest.skip("there is no chromium; `make test-tools` brings it")
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
