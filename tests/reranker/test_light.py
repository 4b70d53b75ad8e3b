"""Serving stays light: what a search service imports."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.paths import ROOT

HEAVY = ("torch", "transformers", "optimum", "onnx", "pandas", "pyarrow", "scipy", "jieba", "ray")


def test_the_serving_path_imports_nothing_of_training_or_ingest() -> None:
    probe = f"import sys, reranker, reranker.commands; print([name for name in {HEAVY} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_onnx_runtime_reports_nothing_to_its_maker(tmp_path: Path) -> None:
    environment = {
        **{name: value for name, value in os.environ.items() if name not in ("CI", "ORT_DISABLE_TELEMETRY")},
        "HOME": str(tmp_path),
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
        "PYTHONPATH": str(ROOT),
    }
    probe = "from reranker import CrossEncoder; CrossEncoder.load(); print(1)"
    done = subprocess.run(
        [sys.executable, "-c", probe], env=environment, cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "1"
    assert not list(tmp_path.rglob("deviceid"))
