"""What a bundle must pass to become current, and what else has to happen once it is."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from indexer.errors import BundleError
from indexer.settings import Models, Settings, variable
from reranker import bundle as bundles
from reranker.bundle import Bundle, Kind
from reranker.registry import gate
from reranker.registry.gate import FATAL, Report

if TYPE_CHECKING:
    from reranker.registry.comparison import Task


class Decision(msgspec.Struct, frozen=True):
    """What was found of a bundle, beside the one that it would replace (None: there is no whole one)."""

    report: Report
    figures: dict[str, Any]
    before: Bundle | None

    def refused(self, forced: bool) -> bool:
        """Whether it must not be promoted; a reason overrides every check but those without which nothing serves."""
        names = {check.name for check in self.report.failed}
        return bool(names & set(FATAL)) or (bool(names) and not forced)

    def reasons(self) -> str:
        """Why it was refused, and what to do."""
        found = "; ".join(f"{check.name}: {check.detail}" for check in self.report.failed)
        cure = "Make it again." if self.refused(forced=True) else "`--force REASON` promotes it all the same."
        return f"{self.report.bundle} is not promoted. {found}. {cure}"


def decide(
    folder: Path, kind: Kind, settings: Settings, task: Task | None = None, on_query: Callable[[], None] = lambda: None
) -> Decision:
    """Examine a bundle, and with a task compare it with the current one on judged queries."""
    report, notes = gate.examine(folder, kind, settings.models), []
    try:
        before = _current(kind, settings.models.home)
    except BundleError as error:
        before = None  # a damaged bundle must not keep a whole one out
        notes.append(str(error))
    figures: dict[str, Any] = {}
    checks = report.checks
    if task is None:
        notes.append("Its quality was not compared with the current bundle's: give --index, --queries and --qrels.")
    elif before is None:
        notes.append("Its quality was not compared: there is no whole current bundle to compare with.")
    elif not {check.name for check in report.failed} & set(FATAL):
        # Late: the registry is read by every command, and searching is not its part.
        from reranker.registry.comparison import compare

        outcome = compare(bundles.verify(folder, kind), before, settings, task, on_query)
        checks, figures = (*checks, *outcome.checks), outcome.figures
        notes += outcome.warnings
    made = msgspec.structs.replace(report, checks=checks, warnings=(*report.warnings, *notes))
    return Decision(made, figures, before)


def _current(kind: Kind, home: str) -> Bundle:
    """What is used of a kind; where no reranker is there for English, the one for all. Raises BundleError."""
    if kind != bundles.ENGLISH:
        return bundles.load("", kind, home)
    general = bundles.load("", "reranker", home)
    return bundles.load_english(Models(home=home), general.origin) or general


def consequences(bundle: Bundle, before: Bundle | None, settings: Settings) -> list[str]:
    """What else has to happen for a promotion to take effect."""
    kind = bundle.description.kind
    told = overridden(settings, kind)
    if kind == "encoder" and (before is None or before.id != bundle.id):
        told.append(
            "Indexes made with another encoder answer vector and hybrid search only with new vectors: "
            "`shelfrank reindex start NAME`."
        )
    if kind == "reranker" and (before is None or before.tokens_id != bundle.tokens_id):
        told.append(
            "Its tokenizer or recipe is new: token ids that indexes hold are passed over and made again in every "
            "search, which is slower. Run `shelfrank ingest` again with the same file to store the new ones."
        )
    return told


def overridden(settings: Settings, kind: Kind) -> list[str]:
    """That a setting names a bundle, so that the registry's choice has no effect; empty when none does."""
    setting = kind.replace("-", "_")
    named, name = getattr(settings.models, setting), variable("models", setting)
    source = name if os.environ.get(name) else f"models.{setting}"
    return [f"{source} is {named}, so that bundle is used and not the registry's."] if named else []
