"""Serving stays light: what a search service imports."""

from __future__ import annotations

import subprocess
import sys

HEAVY = ("torch", "transformers", "optimum", "onnx", "pandas", "pyarrow", "scipy", "jieba")


def test_the_serving_path_imports_nothing_of_training_or_ingest() -> None:
    probe = f"import sys, reranker, reranker.commands; print([name for name in {HEAVY} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
