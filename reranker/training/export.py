"""A trained model to a bundle: exported by optimum, stored in int8, widened to float32 when it is loaded.

The stored graph keeps each large weight as int8 with one scale per output (or per vocabulary row) behind Cast and
Mul nodes. ONNX Runtime folds those into float32 at load, so the file is a quarter of the size while every score is
computed in float32: it does not depend on the batch, as dynamic quantisation of activations would make it.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from tokenizers import Tokenizer

from reranker.bundle import MODEL, TOKENIZER, Bundle, Description, layout_of, write_description

_TASKS = {"encoder": "feature-extraction", "reranker": "text-classification", "reranker-en": "text-classification"}
# A vector is a mean over many tokens and hardly feels rounding; a logit is the end of one long sum and does.
_BLOCK = {"encoder": 0, "reranker": 64, "reranker-en": 64}
_SMALLEST = 16_384  # weights below this many values stay float32: nothing is gained


def export(folder: Path, out: Path, description: Description, compress: bool = True) -> Bundle:
    """Export the Hugging Face model in `folder` to a bundle at `out`; layout and files are filled in here."""
    from optimum.exporters.onnx import main_export

    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        main_export(str(folder), scratch, task=_TASKS[description.kind], opset=18, do_validation=False, dtype="fp32")
        model = onnx.load(str(Path(scratch) / MODEL))
    block = _BLOCK[description.kind]
    onnx.save(store_in_int8(model, block) if compress else model, str(out / MODEL))
    shutil.copyfile(folder / TOKENIZER, out / TOKENIZER)
    tokenizer = Tokenizer.from_file(str(out / TOKENIZER))
    layout = layout_of(tokenizer, pad_id(folder))
    return write_description(out, msgspec.structs.replace(description, layout=layout))


def store_in_int8(model: onnx.ModelProto, block: int = 0) -> onnx.ModelProto:
    """The same graph with its large two-dimensional float32 weights stored as int8 and widened by Cast and Mul.

    A scale serves one vocabulary row or one MatMul column, or `block` values of it where that divides it.
    """
    widen, kept = [], []
    gathered = {node.input[0] for node in model.graph.node if node.op_type == "Gather"}
    for tensor in model.graph.initializer:
        if tensor.data_type != TensorProto.FLOAT or len(tensor.dims) != 2 or np.prod(tensor.dims) < _SMALLEST:
            kept.append(tensor)
            continue
        name, axis = tensor.name, 1 if tensor.name in gathered else 0
        values, scale = quantize(numpy_helper.to_array(tensor), axis, block)
        shape = numpy_helper.from_array(np.array(tensor.dims, np.int64), f"{name}.shape")
        kept += [
            numpy_helper.from_array(values, f"{name}.int8"),
            numpy_helper.from_array(scale, f"{name}.scale"),
            shape,
        ]
        widen += [
            helper.make_node("Cast", [f"{name}.int8"], [f"{name}.cast"], f"{name}/Cast", to=TensorProto.FLOAT),
            helper.make_node("Mul", [f"{name}.cast", f"{name}.scale"], [f"{name}.wide"], f"{name}/Widen"),
            helper.make_node("Reshape", [f"{name}.wide", f"{name}.shape"], [name], f"{name}/Reshape"),
        ]
    nodes = [*widen, *model.graph.node]
    del model.graph.initializer[:], model.graph.node[:]
    model.graph.initializer.extend(kept)
    model.graph.node.extend(nodes)
    onnx.checker.check_model(model)
    return model


def quantize(weight: NDArray[np.float32], axis: int, block: int = 0) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Symmetric int8 of float32 [rows, columns]; their product, reshaped, is the weight again.

    Along `axis` every `block` values share a scale (all of them for 0, or where `block` does not divide the axis), so
    the values come as [rows, blocks, block] for axis 1 and [blocks, block, columns] for axis 0.
    """
    length = weight.shape[axis]
    size = block if block and length % block == 0 else length
    rows, columns = weight.shape
    blocked = weight.reshape(rows, -1, size) if axis else weight.reshape(-1, size, columns)
    within = 2 if axis else 1
    scale = np.maximum(np.abs(blocked).max(axis=within, keepdims=True) / 127.0, 1e-12).astype(np.float32)
    return np.clip(np.rint(blocked / scale), -127, 127).astype(np.int8), scale


def pad_id(folder: Path) -> int:
    """The padding token's id."""
    return int(_config(folder)["pad_token_id"])


def hidden_size(folder: Path) -> int:
    """The length of the model's vectors."""
    return int(_config(folder)["hidden_size"])


def vocabulary_size(folder: Path) -> int:
    """How many pieces the model knows."""
    return int(_config(folder)["vocab_size"])


def _config(folder: Path) -> dict[str, Any]:
    config: dict[str, Any] = json.loads((folder / "config.json").read_text("utf-8"))
    return config
