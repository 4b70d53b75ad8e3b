"""What the tests of the registry share."""

from __future__ import annotations

import pytest

from tests.shared import ask_little


@pytest.fixture
def few_probes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The gate asks little of a model, for tests of what it makes of the answers."""
    ask_little(monkeypatch)
