"""A bundle's card in words: what it is made of, what it was trained on, how it did, and where its limits are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec
from rich.table import Table
from rich.text import Text

from reranker.bundle import Bundle, Description, Origin
from reranker.registry.current import Event

_HEADLINE = "ndcg@10"


def as_plain(bundle: Bundle, origin: Origin, current: bool, log: Sequence[Event]) -> dict[str, Any]:
    """The card as JSON: `bundle.json` without the long list of query fingerprints, and the registry's part."""
    card = msgspec.to_builtins(bundle.description)
    card["trained_on"] = len(bundle.description.trained_on)
    card["weighed_on"] = len(bundle.description.weighed_on)
    about = {"id": bundle.id, "tokens_id": bundle.tokens_id, "folder": str(bundle.folder), "origin": origin}
    return {**about, "current": current, **card, "log": msgspec.to_builtins(log)}


def table(bundle: Bundle, origin: Origin, current: bool, log: Sequence[Event]) -> Table:
    """The card as rows of name and value."""
    shown = Table(box=None, show_header=False, pad_edge=False)
    shown.add_column(no_wrap=True, style="bold")
    shown.add_column()
    for name, value in _rows(bundle, origin, current, log):
        shown.add_row(name, Text(value))
    return shown


def _rows(bundle: Bundle, origin: Origin, current: bool, log: Sequence[Event]) -> Iterator[tuple[str, str]]:
    about = bundle.description
    yield "bundle", bundle.id + (" (current)" if current else "")
    yield "kind", about.kind
    yield "from", f"{origin}: {bundle.folder}"
    yield "base model", f"{about.base_model} ({about.base_licence})"
    yield "licence", about.licence
    yield "languages", ", ".join(about.languages)
    recipe = about.recipe
    yield "reads", ", ".join(f"{field.name} ({field.tokens})" for field in recipe.fields) + " tokens"
    yield (
        "limits",
        (
            f"{recipe.max_tokens} tokens a text, {recipe.max_query_tokens} of them the query; "
            f"made for {', '.join(about.languages)} only"
        ),
    )
    if about.seen:
        yield "has seen", f"{len(about.seen)} judged queries; figures on those flatter it"
    for name, values in (("training", about.training), ("quality", about.quality)):
        for key, value in _flat(values):
            yield name, f"{key}: {value}"
            name = ""
    for event in log:
        forced = f"; forced over {', '.join(event.failed)}: {event.forced}" if event.forced else ""
        yield event.action, f"{event.at} {_figures(event.figures)}{forced}".strip()


def quality(description: Description) -> str:
    """The headline figures of a card in one line, empty when it has none."""
    told = []
    for name, values in description.quality.items():
        if isinstance(values, Mapping):
            found = [(key, value) for key, value in values.items() if key.startswith(_HEADLINE)]
            if found:
                each = ", ".join(f"{key.removeprefix(_HEADLINE).strip() or _HEADLINE} {value}" for key, value in found)
                told.append(f"{name}: {each}")
        elif name.startswith(_HEADLINE):
            told.append(f"{name} {values}")
    return f"{_HEADLINE} {'; '.join(told)}" if told else ""


def _figures(figures: Mapping[str, Any]) -> str:
    if not figures:
        return ""
    return (
        f"{_HEADLINE} {figures.get(_HEADLINE)}, {figures.get('difference'):+.4f} against {figures.get('before')} "
        f"on {figures.get('queries')} queries of {figures.get('index')}"
    )


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}, ")
        elif isinstance(value, (list, tuple)):
            yield f"{prefix}{key}", ", ".join(map(str, value))
        else:
            yield f"{prefix}{key}", str(value)
