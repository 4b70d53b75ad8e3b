"""Bundles of a few bytes, for tests of what is done with folders."""

from __future__ import annotations

from pathlib import Path

import msgspec

from reranker import bundle as bundles
from reranker.bundle import Bundle, write_description


def small(folder: Path, number: int, blend: float = 0.5) -> Bundle:
    """A reranker that nothing could load; `number` makes it another one."""
    folder.mkdir()
    (folder / "model.onnx").write_bytes(f"weights {number}".encode())
    (folder / "tokenizer.json").write_text("{}", "utf-8")
    shipped = bundles.read_description(bundles.SHIPPED / "reranker")
    return write_description(folder, msgspec.structs.replace(shipped, name="small", blend=blend))
