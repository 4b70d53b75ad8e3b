"""The gate lets the shipped bundles through and stops each kind of broken one, by the check that exists for it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from onnxruntime.quantization import QuantType, quantize_dynamic

from indexer.settings import Models
from reranker import bundle as bundles
from reranker.bundle import Bundle, Kind, write_description
from reranker.registry import gate
from reranker.registry.gate import Report, examine
from reranker.registry.probes import EDGES, TEXTS

CHECKS = ("files", "loads", "finite", "permutation", "batch", "reload", "languages", "edges", "parity")


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    return Path(shutil.copytree(bundles.SHIPPED / "reranker", tmp_path / "bundle"))


def failed(report: Report) -> dict[str, str]:
    return {check.name: check.detail for check in report.failed}


def described(folder: Path, **changes: Any) -> Bundle:
    """Write the card again, with fresh checksums."""
    return write_description(folder, msgspec.structs.replace(bundles.read_description(folder), **changes))


def ending_with(folder: Path, operator: str, value: float) -> None:
    """Put one more node behind the model's output: output OPERATOR value."""
    model = onnx.load(str(folder / "model.onnx"))
    graph = model.graph
    name = graph.output[0].name
    for node in graph.node:
        node.output[:] = ["before" if each == name else each for each in node.output]
    graph.initializer.append(numpy_helper.from_array(np.array(value, np.float32), "value"))
    graph.node.append(helper.make_node(operator, ["before", "value"], [name]))
    onnx.save(model, str(folder / "model.onnx"))
    described(folder)


@pytest.mark.parametrize("kind", ["encoder", "reranker"])
def test_the_shipped_bundles_pass_every_check(kind: Kind) -> None:
    report = examine(bundles.SHIPPED / kind, kind, Models())
    assert tuple(check.name for check in report.checks) == CHECKS
    assert report.passed, failed(report)
    assert report.warnings == ()


@pytest.mark.usefixtures("few_probes")
def test_a_flipped_byte_fails_at_the_files(copied: Path) -> None:
    content = bytearray((copied / "model.onnx").read_bytes())
    content[len(content) // 2] ^= 1
    (copied / "model.onnx").write_bytes(content)
    report = examine(copied, "reranker", Models())
    assert list(failed(report)) == ["files"]
    assert "model.onnx is corrupt" in failed(report)["files"]


def test_a_missing_file_and_a_missing_folder_fail_at_the_files(copied: Path, tmp_path: Path) -> None:
    (copied / "tokenizer.json").unlink()
    assert "tokenizer.json cannot be read" in failed(examine(copied, "reranker", Models()))["files"]
    assert "no bundle at" in failed(examine(tmp_path / "nowhere", "reranker", Models()))["files"]


def test_the_wrong_kind_fails_at_the_files() -> None:
    assert "of kind encoder" in failed(examine(bundles.SHIPPED / "encoder", "reranker", Models()))["files"]


@pytest.mark.usefixtures("few_probes")
def test_a_card_that_claims_another_kind_fails_at_what_the_model_gives(copied: Path) -> None:
    described(copied, kind="encoder", dimension=384)
    assert "languages" in failed(examine(copied, "encoder", Models()))
    described(copied, kind="encoder", dimension=0)
    assert "dimension 0" in failed(examine(copied, "encoder", Models()))["finite"]


@pytest.mark.usefixtures("few_probes")
def test_a_vector_model_is_no_reranker(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(bundles.SHIPPED / "encoder", tmp_path / "bundle"))
    described(folder, kind="reranker")
    assert {"finite", "permutation", "batch", "edges"} <= failed(examine(folder, "reranker", Models())).keys()


def test_a_file_that_is_no_model_fails_to_load(copied: Path) -> None:
    (copied / "model.onnx").write_bytes(b"not a model")
    described(copied)
    assert "ONNX Runtime cannot load" in failed(examine(copied, "reranker", Models()))["loads"]
    (copied / "tokenizer.json").write_text("{}", "utf-8")
    described(copied)
    assert "loads" in failed(examine(copied, "reranker", Models()))


def test_a_provider_that_is_not_there_fails_to_load() -> None:
    report = examine(bundles.SHIPPED / "reranker", "reranker", Models(provider="cuda"))
    assert "CUDAExecutionProvider" in failed(report)["loads"]


@pytest.mark.usefixtures("few_probes")
def test_scores_that_are_no_numbers_fail(copied: Path) -> None:
    ending_with(copied, "Mul", float("nan"))
    found = failed(examine(copied, "reranker", Models()))
    assert found["finite"].startswith(f"{2 * len(gate.TEXTS)} of {2 * len(gate.TEXTS)}")
    # What is no number is within no limit.
    assert {"permutation", "batch", "reload", "edges"} <= found.keys()


@pytest.mark.usefixtures("few_probes")
def test_a_model_that_gives_everything_the_same_score_fails(copied: Path) -> None:
    ending_with(copied, "Mul", 0.0)
    found = failed(examine(copied, "reranker", Models()))
    assert found == {"languages": "takes texts in en, zh for one another (looked at en, zh)"}


@pytest.mark.usefixtures("few_probes")
def test_a_model_that_prefers_what_does_not_fit_is_warned_of(copied: Path) -> None:
    ending_with(copied, "Mul", -1.0)
    report = examine(copied, "reranker", Models())
    assert report.passed
    assert [line.split(" in ")[1] for line in report.warnings] == ["0% of the probes"] * 2


def test_a_model_that_looks_at_its_batch_fails(tmp_path: Path, copied: Path) -> None:
    """int8 with activations quantised at run time: their scale is that of the whole batch."""
    wide, narrow = tmp_path / "wide.onnx", copied / "model.onnx"
    onnx.save(widened(onnx.load(str(copied / "model.onnx"))), str(wide))
    quantize_dynamic(str(wide), str(narrow), weight_type=QuantType.QInt8, op_types_to_quantize=["MatMul"])
    described(copied)
    report = examine(copied, "reranker", Models())
    check = next(check for check in report.checks if check.name == "batch")
    assert not check.passed
    assert check.measured is not None
    assert check.measured > 0.01
    assert "permutation" not in failed(report)


def widened(model: onnx.ModelProto) -> onnx.ModelProto:
    """The stored weights as float32, as ONNX Runtime makes them when it loads the model."""
    held = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    names = [name.removesuffix(".int8") for name in held if name.endswith(".int8")]
    wide = []
    for name in names:
        values = held[f"{name}.int8"].astype(np.float32) * held[f"{name}.scale"]
        wide.append(numpy_helper.from_array(values.reshape(held[f"{name}.shape"]), name))
    parts = {f"{name}.{part}" for name in names for part in ("int8", "scale", "shape")}
    kept = [tensor for tensor in model.graph.initializer if tensor.name not in parts]
    made = {f"{name}{part}" for name in names for part in (".cast", ".wide", "")}
    nodes = [node for node in model.graph.node if not set(node.output) & made]
    del model.graph.initializer[:], model.graph.node[:]
    model.graph.initializer.extend([*kept, *wide])
    model.graph.node.extend(nodes)
    return model


@pytest.mark.usefixtures("few_probes")
def test_a_stored_model_far_from_the_trained_one_fails(copied: Path) -> None:
    described(copied, quality={"torch_parity_logits": 0.6, "logit_range": 5.0})
    assert failed(examine(copied, "reranker", Models())) == {
        "parity": "logits from the trained model, of a range of 5: 0.6 (limit 0.25)"
    }


@pytest.mark.usefixtures("few_probes")
def test_a_card_without_parity_is_warned_of(copied: Path) -> None:
    described(copied, quality={})
    report = examine(copied, "reranker", Models())
    assert report.passed
    assert "torch_parity_logits" in report.warnings[0]


def test_the_inputs_are_in_both_languages_and_of_ten_thousand_characters() -> None:
    assert any("杯" in text for text in TEXTS)
    assert any("bottle" in text for text in TEXTS)
    assert sum(len(text) >= 10_000 for text in EDGES.values()) == 3
    assert max(map(len, TEXTS)) > 20 * min(map(len, TEXTS))
