"""A bundle back to a Hugging Face folder, so that training can go on from what is in use.

The stored graph keeps PyTorch's names: of biases and norms as they are, and of matrices as the name of the node that
multiplies by them. So nothing but the bundle and the configuration of the model that it was once made from is needed.

Weights that lie on the steps of int8 must not be trained as they are: what a short training moves is less than half a
step, the same way for many weights, and storing the result rounds all of it back. So each gets a random place within
its step (dither), as the weights of before the first rounding had.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper
from safetensors.numpy import save_file

from indexer.errors import InputError
from reranker.bundle import TOKENIZER, Bundle

_WORDS = "embeddings.word_embeddings.weight"
_CLASSIFIER = "BertForSequenceClassification"
_HEAD = {"reranker": _CLASSIFIER, "reranker-en": _CLASSIFIER, "encoder": "BertModel"}


def reopen(bundle: Bundle, base: Path, folder: Path, seed: int | None = 13) -> Path:
    """Write `bundle` to `folder` as a BERT-like model of float32 weights, shaped as `base` but for layers and words.

    The dither is that of `seed`; there is none for None.

    Raises InputError when the graph does not have the weights of such a model.
    """
    tensors = weights_of(onnx.load(str(bundle.model_path)), None if seed is None else np.random.default_rng(seed))
    config = json.loads((base / "config.json").read_text("utf-8"))
    words = next((name for name in tensors if name.endswith(_WORDS)), None)
    layers = {name.split(".layer.")[1].split(".")[0] for name in tensors if ".layer." in name}
    if words is None or not layers or config.get("model_type") != "bert":
        raise InputError(
            f"{bundle.folder} holds no BERT-like model, so training cannot go on from it. Name another base."
        )
    config |= {
        "architectures": [_HEAD[bundle.description.kind]],
        "num_hidden_layers": len(layers),
        "vocab_size": len(tensors[words]),
        "pad_token_id": bundle.description.layout.pad,
    }
    if bundle.description.kind != "encoder":
        config["id2label"] = {"0": "LABEL_0"}  # one output
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config, indent=1), "utf-8")
    shutil.copyfile(bundle.folder / TOKENIZER, folder / TOKENIZER)
    shutil.copyfile(base / "tokenizer_config.json", folder / "tokenizer_config.json")
    return folder


def weights_of(model: onnx.ModelProto, dither: np.random.Generator | None = None) -> dict[str, NDArray[np.float32]]:
    """PyTorch's names to float32 weights; what `export.store_in_int8` narrowed is widened again.

    `dither` moves all but embeddings, which training leaves alone.
    """
    stored: dict[str, Any] = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    wide = {name: values for name, values in stored.items() if values.dtype == np.float32}
    for name in [name.removesuffix(".int8") for name in stored if name.endswith(".int8")]:
        steps = stored[f"{name}.int8"].astype(np.float32)
        if dither is not None and "embeddings" not in name:
            steps += dither.random(steps.shape, np.float32) - 0.5
        wide[name] = (steps * wide.pop(f"{name}.scale")).reshape(stored[f"{name}.shape"])
    found = {name: values for name, values in wide.items() if name.endswith((".weight", ".bias"))}
    for node in model.graph.node:
        if node.op_type == "MatMul" and node.input[1] in wide:
            module = node.name.strip("/").removesuffix("/MatMul").replace("/", ".")
            found[f"{module}.weight"] = np.ascontiguousarray(wide[node.input[1]].T)
    return found
