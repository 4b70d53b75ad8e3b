"""The whole of training on the sample shop, through the command line: data in, killed, gone on, gated, promoted."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from reranker.registry import current
from tests import commands
from tests.shared import write_judged

OPTIONS = """
[data]
title_queries = 20
attribute_queries = 4
exclusion_queries = 4
price_queries = 4
accessory_queries = 4
first_stage_negatives = 5
random_negatives = 3

[finetune]
judged_rounds = 6
list_size = 4
lists = 2
"""
_PATIENCE_S = 240
# The command, with a checkpoint soon.
SHELFRANK = (
    "from reranker.training import finetune\nfinetune.CHECKPOINT_STEPS = 20\nfrom indexer.cli import main\nmain()"
)

pytestmark = pytest.mark.node
Shelfrank = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def shelfrank(node: str, tmp_path: Path) -> Shelfrank:
    home = tmp_path / "home"
    environ = {**os.environ, "OPENSEARCH_URL": node, "SHELFRANK_MODELS_HOME": str(home)}

    def start(*arguments: str | Path) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", SHELFRANK, *map(str, arguments)]
        return subprocess.Popen(
            command, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
        )

    return start


def test_from_judgments_to_a_promoted_bundle_over_a_kill(
    shelfrank: Shelfrank, node: str, shop: str, tiny: Path, tmp_path: Path
) -> None:
    def finished(*arguments: str | Path) -> tuple[int, Any, str]:
        home = str(tmp_path / "home")
        done = commands.run(*arguments, folder=tmp_path, OPENSEARCH_URL=node, SHELFRANK_MODELS_HOME=home)
        return done.returncode, json.loads(done.stdout) if done.stdout.strip() else None, done.stderr

    prepared = tmp_path / "prepared"
    write_judged(tmp_path)
    raw = ["--queries", tmp_path / "queries.tsv", "--qrels", tmp_path / "qrels.tsv"]
    code, report, err = finished("train", "prepare", *raw, "--out", prepared, "--json")
    assert code == 0, err
    assert report

    (tmp_path / "options.toml").write_text(OPTIONS)
    data = ["--index", shop, "--queries", prepared / "queries.tsv", "--qrels", prepared / "qrels.tsv"]
    training = ["train", "reranker", *data, "--base", tiny, "--options", tmp_path / "options.toml"]
    training += ["--out", tmp_path / "run", "--name", "tiny", "--json"]

    killed = shelfrank(*training)
    checkpoint = tmp_path / "run" / "measured" / "checkpoint.safetensors"
    until = time.monotonic() + _PATIENCE_S
    while not checkpoint.exists() and killed.poll() is None and time.monotonic() < until:
        time.sleep(0.02)
    assert killed.poll() is None, killed.communicate()[1]
    os.killpg(killed.pid, signal.SIGKILL)
    killed.communicate()
    assert not (tmp_path / "run" / "measured" / "bundle" / "bundle.json").exists()

    code, made, err = finished(*training)
    assert code == 0, err
    steps = [int(line.split()[2]) for line in err.splitlines() if line.startswith("measured: step")]
    assert steps[0] > 20  # it went on from the checkpoint and did not begin again
    assert made["quality"][shop]["test_queries"] > 0

    promote = ["models", "promote", made["bundle"], *data, "--split", "dev", "--window", "10", "--json"]
    # A toy of random weights may fail the gate's checks of quality and of languages; which ones is chance.
    code, answer, err = finished(*promote, "--margin", "1", "--force", "a toy that shows the way")
    assert code == 0, err
    assert answer["promoted"]
    assert answer["figures"]["queries"] > 0
    chosen = current.read(tmp_path / "home", "reranker")
    assert chosen is not None
    assert chosen.id == made["id"]
