"""The flags by which somebody says that a catalogue is to change as much as it does (`ingest.guards`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import click

from ingest.guards import Allowed

_HELP: Mapping[Allowed, str] = {
    "fewer": "The catalogue may shrink by more than guards.fewer.",
    "missing": "More products than guards.missing may lose their price, image or category.",
    "prices": "More prices than guards.prices may change by guards.price_factor or more.",
    "deletions": "More of the last events than guards.deletions may delete products.",
}
_PREFIX = "allow_"


def allowing(*names: Allowed) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Give a command the flags --allow-NAME."""

    def decorated(command: Callable[..., Any]) -> Callable[..., Any]:
        for name in reversed(names):
            command = click.option(f"--allow-{name}", _PREFIX + name, is_flag=True, help=_HELP[name])(command)
        return command

    return decorated


def allowed(chosen: Mapping[str, Any]) -> frozenset[str]:
    """The names whose flag was given."""
    return frozenset(name for name in _HELP if chosen.get(_PREFIX + name))
