"""One ONNX Runtime session: choose the provider, build, check what is really active, run padded batches."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from indexer.errors import BundleError, ProviderError
from indexer.settings import Models

_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


class Session:
    """A model that takes token ids and gives one output; safe to share between threads."""

    def __init__(self, model: Path, settings: Models) -> None:
        """Raises ProviderError when the asked provider is not active and fallback is not allowed."""
        wanted = _PROVIDERS[settings.provider]
        available = ort.get_available_providers()
        self.fallback_reason = ""
        if wanted not in available:
            self.fallback_reason = f"{wanted} is not in this onnxruntime (it has {', '.join(available)})"
            self._check_fallback(settings)
            wanted = _PROVIDERS["cpu"]
        options = ort.SessionOptions()
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.intra_op_num_threads = settings.threads
        options.log_severity_level = 3
        providers = list(dict.fromkeys([wanted, _PROVIDERS["cpu"]]))
        try:
            self._session = ort.InferenceSession(str(model), options, providers=providers)
        except Exception as error:
            raise BundleError(f"ONNX Runtime cannot load {model}: {error}") from error
        self.provider = self._session.get_providers()[0]
        if self.provider != wanted:
            self.fallback_reason = f"{wanted} was asked for and ONNX Runtime activated {self.provider}"
            self._check_fallback(settings)
        self._inputs = {item.name for item in self._session.get_inputs()}

    def _check_fallback(self, settings: Models) -> None:
        if not settings.allow_fallback:
            raise ProviderError(
                f"{self.fallback_reason}. Install 'shelfrank[gpu]' and a matching CUDA, "
                "or set models.allow_fallback = true to run on the CPU."
            )

    def run(self, rows: Sequence[Sequence[int]], types: Sequence[Sequence[int]], pad: int) -> NDArray[np.float32]:
        """Run one batch of token id rows, padded to the longest.

        Returns the first output: float32 [rows, tokens, hidden] for encoders, [rows, 1] for rerankers.
        """
        longest = max(len(row) for row in rows)
        ids = np.full((len(rows), longest), pad, np.int64)
        mask = np.zeros((len(rows), longest), np.int64)
        kinds = np.zeros((len(rows), longest), np.int64)
        for at, (row, kind) in enumerate(zip(rows, types, strict=True)):
            ids[at, : len(row)] = row
            mask[at, : len(row)] = 1
            kinds[at, : len(kind)] = kind
        feed = {"input_ids": ids, "attention_mask": mask, "token_type_ids": kinds}
        output = self._session.run(None, {name: value for name, value in feed.items() if name in self._inputs})[0]
        return np.asarray(output, np.float32)
