"""What the tests of the page share: searches as addresses, what a list shows."""

from __future__ import annotations

from typing import Any, Protocol
from urllib.parse import quote

ENGLISH, CHINESE = "water bottle without straw", "适合送爸爸的保温杯"
REFUSED = "Failed to load resource"
WINDOW, SIZE = 12, 5


class Visit(Protocol):
    def __call__(self, address: str = "", *, but: str = "no complaint", ready: bool = True, **context: Any) -> Any: ...


def searched(text: str, **more: Any) -> str:
    return "?" + "&".join(f"{name}={quote(str(value))}" for name, value in {"q": text, **more}.items())


def ids(page: Any, of: str = "reranked") -> list[str]:
    found: list[str] = page.eval_on_selector_all(f"#{of} li", "items => items.map(item => item.dataset.id)")
    return found
