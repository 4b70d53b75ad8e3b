"""What the tests of the registry share."""

from __future__ import annotations

import pytest

from reranker.registry import gate


@pytest.fixture
def few_probes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The gate asks little of a model, for tests of what it makes of the answers."""
    monkeypatch.setattr(gate, "TEXTS", gate.TEXTS[:4])
    monkeypatch.setattr(gate, "EDGES", {"empty": ""})
