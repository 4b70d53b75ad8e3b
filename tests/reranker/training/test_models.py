"""From a base model to a bundle: vocabulary, export, a whole training run, and going on after a stop."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from indexer.errors import InputError
from indexer.settings import Models, Settings
from ingest import sample_shop
from reranker import bundle as bundles
from reranker.bundle import fingerprint
from reranker.evaluation.compare import ESCI_GAINS, parse_gains
from reranker.evaluation.judgments import read_qrels, read_queries
from reranker.scoring import CrossEncoder
from reranker.search import Searcher
from reranker.training import base, data, export, finetune, run, shops
from reranker.training.workbench import prepare_base

SAMPLE = Path(sample_shop.__file__).parent


@settings(max_examples=40)
@given(
    st.lists(st.lists(st.floats(-1e3, 1e3, width=32), min_size=3, max_size=3), min_size=1, max_size=6),
    st.sampled_from([0, 1]),
    st.sampled_from([0, 2, 3]),
)
def test_int8_weights_are_within_half_a_step_of_the_original(rows: list[list[float]], axis: int, block: int) -> None:
    weight = np.array(rows, np.float32)
    values, scale = export.quantize(weight, axis, block)
    assert values.dtype == np.int8
    wide = (values * scale).reshape(weight.shape)
    steps = np.broadcast_to(scale, values.shape).reshape(weight.shape)
    np.testing.assert_array_less(np.abs(wide - weight), steps * 0.5001 + 1e-6)


def test_the_stored_model_scores_as_the_widened_one(tiny: Path, tmp_path: Path) -> None:
    description = bundles.load("", "reranker").description
    outputs = []
    for compress in (True, False):
        made = export.export(tiny, tmp_path / str(compress), description, compress)
        session = onnxruntime.InferenceSession(str(made.model_path), providers=["CPUExecutionProvider"])
        ids = np.array([[0, 5, 6, 2, 2, 7, 8, 2]], np.int64)
        feed = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
        outputs.append(session.run(None, {item.name: feed[item.name] for item in session.get_inputs()})[0])
    small, large = ((tmp_path / name / "model.onnx").stat().st_size for name in ("True", "False"))
    assert small < large / 3
    np.testing.assert_allclose(outputs[0], outputs[1], atol=0.02)


def test_pruning_keeps_the_words_it_is_given_and_their_meaning(packaged: Path, tmp_path: Path) -> None:
    full, cut = packaged, tmp_path / "cut"
    before, kept = base.prune_vocabulary(full, cut, ["thermosflasche"])
    assert kept < before / 4
    old, new = (Tokenizer.from_file(str(folder / "tokenizer.json")) for folder in (full, cut))
    for text in ("thermosflasche", "quiet mechanical keyboard", "适合送爸爸的保温杯"):
        assert new.encode(text).tokens == old.encode(text).tokens
    from safetensors.numpy import load_file

    words = "embeddings.word_embeddings.weight"
    rows = [load_file(folder / "model.safetensors")[words] for folder in (full, cut)]
    at = [tokenizer.token_to_id("▁keyboard") for tokenizer in (old, new)]
    np.testing.assert_array_equal(rows[0][at[0]], rows[1][at[1]])


def test_a_tokenizer_of_another_kind_is_not_pruned(tiny: Path, tmp_path: Path) -> None:
    spec = json.loads((tiny / "tokenizer.json").read_text())
    spec["model"]["type"] = "WordPiece"
    (tmp_path / "tokenizer.json").write_text(json.dumps(spec))
    with pytest.raises(InputError, match="WordPiece"):
        base.prune_vocabulary(tmp_path, tmp_path / "cut", [])


@pytest.mark.node
def test_a_run_makes_a_measured_bundle_and_goes_on_after_a_stop(
    tiny: Path, tmp_path: Path, shop: str, node_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    queries = read_queries(SAMPLE / "queries.tsv")
    few = [query for split in ("train", "dev", "test") for query in queries if query.columns["split"] == split][::12]
    splits = {query.id: query.columns["split"] for query in few}
    source = shops.Source(shop, few, read_qrels(SAMPLE / "qrels.tsv"), splits, sealed=True)
    plan = run.Plan(
        name="tiny",
        base="tiny",
        base_licence="none",
        gain=parse_gains(ESCI_GAINS),
        data=data.Options(title_queries=12, first_stage_negatives=5, random_negatives=2),
        finetune=finetune.Options(judged_rounds=2, list_size=4, lists=2),
        refit=True,
        window=10,
    )
    monkeypatch.setattr(finetune, "CHECKPOINT_STEPS", 4)
    steps: list[tuple[str, int]] = []

    def stopped(phase: str, step: int, steps_in_all: int, loss: float) -> None:
        steps.append((phase, step))
        if len(steps) == 6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run.train([shops.open_shop(source, node_settings)], tiny, plan, tmp_path, stopped)
    again: list[tuple[str, int]] = []
    made = run.train(
        [shops.open_shop(source, node_settings)],
        tiny,
        plan,
        tmp_path,
        lambda phase, step, total, loss: again.append((phase, step)),
    )
    assert steps[0] == ("measured", 1)
    assert again[0] == ("measured", 5)
    loaded = CrossEncoder.load(Models(reranker=str(made.folder)))
    card = loaded.bundle.description
    assert 0 <= card.blend <= 1
    assert card.quality[shop]["test_queries"] == sum(split == "test" for split in splits.values())
    assert card.quality["torch_parity_logits"] < 0.05
    # The shop's own test split is never trained on, refit or not.
    assert set(card.trained_on) == {fingerprint(query.text) for query in few if splits[query.id] != "test"}
    searched = Searcher(shops.open_shop(source, node_settings).searcher.retriever, loaded, node_settings)
    assert searched.search(shop, "保温杯", deadline_ms=float("inf")).rerank["status"] == "applied"


def test_a_base_that_is_nowhere_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(InputError, match="nobody/nothing"):
        prepare_base("nobody/nothing", tmp_path, (), whole=True)
