"""The command itself: what it lists, and what it says where an extra is not installed."""

from __future__ import annotations

from importlib.metadata import EntryPoint
from typing import Any

import pytest
from click.testing import CliRunner

from indexer.cli import shelfrank
from indexer.errors import UsageError


def test_a_command_without_its_extra_is_listed_and_says_what_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = EntryPoint.load

    def load(point: EntryPoint) -> Any:
        if point.name == "serve":
            raise ModuleNotFoundError("No module named 'fastapi'", name="fastapi")
        return whole(point)

    monkeypatch.setattr(EntryPoint, "load", load)
    listed = CliRunner().invoke(shelfrank, ["--help"])
    assert listed.exit_code == 0
    assert "needs fastapi" in listed.output
    with pytest.raises(UsageError, match=r"shelfrank\[serve\]"):
        CliRunner().invoke(shelfrank, ["serve", "--port", "80"], catch_exceptions=False)
