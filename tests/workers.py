"""How the suite is spread over processes, and what it says of tests that this machine could not run.

Each process has an OpenSearch node, models and folders of its own, so tests meet nobody else's. A file is run by one
process; files that take long come first, so that no process is left alone with one at the end.
"""

from __future__ import annotations

import datetime
import os
from collections import Counter
from pathlib import Path

import pytest

# What a process and its node may take, and what the machine keeps for itself.
WORKER_MB, SYSTEM_MB = 6000, 3000
# Of the first ones, one asks for the vectors of the sample shop, which the others would wait for.
LONGEST = (
    "integration/test_documents.py",
    "integration/test_chaos.py",
    "integration/test_three_nodes.py",
    "integration/test_disk.py",
    "integration/test_rerank_processor.py",
    "reranker/training/test_whole.py",
    "reranker/training/test_models.py",
    "reranker/training/test_reopen.py",
    "integration/test_ingest.py",
    "integration/test_distributed.py",
    "integration/test_reindex.py",
    "deploy/test_deploy.py",
    "integration/test_promote.py",
    "reranker/serving/test_page.py",
    "integration/test_crash_points.py",
    "integration/test_feed_sequences.py",
    "integration/test_search.py",
    "reranker/serving/test_faults.py",
    "reranker/registry/test_gate.py",
    "reranker/registry/test_command.py",
    "indexer/test_node.py",
)
# Which random choices a run makes: others every day, the same again where this variable names them.
SEED = int(os.environ.get("SHELFRANK_TESTS_SEED") or datetime.date.today().toordinal())
# Before a release: every seed, whole catalogues, more of every fault.
LONG = bool(os.environ.get("SHELFRANK_TESTS_LONG"))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """One more than cores, since tests also wait; fewer where memory is short."""
    memory_mb = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20
    return max(1, min(len(os.sched_getaffinity(0)) + 1, (memory_mb - SYSTEM_MB) // WORKER_MB))


def pytest_report_header() -> str:
    return f"seed of faults: {SEED} (SHELFRANK_TESTS_SEED={SEED} draws the same again)"


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    folder = Path(__file__).parent
    place = {folder / name: at for at, name in enumerate(LONGEST)}
    waits = folder / "integration", folder / "reranker" / "serving", folder / "reranker" / "training"

    def rank(item: pytest.Item) -> int:
        return place.get(item.path, len(place) + (not any(each in item.path.parents for each in waits)))

    items.sort(key=rank)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """What was left out for want of something, and how to get it."""
    reasons = Counter(
        str(report.longrepr[2]).removeprefix("Skipped: ")
        for report in terminalreporter.stats.get("skipped", [])
        if isinstance(report.longrepr, tuple)
    )
    if reasons:
        terminalreporter.section("not tested on this machine")
        for reason, count in reasons.most_common():
            terminalreporter.line(f"{count} tests: {reason}")
