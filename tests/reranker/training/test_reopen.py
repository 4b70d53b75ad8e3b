"""Training that goes on from a bundle: the same model again, a short training that storing does not undo, the card."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from opensearchpy import OpenSearch
from safetensors.numpy import load_file
from transformers import AutoModel, AutoModelForSequenceClassification

from indexer.errors import InputError
from indexer.settings import Models, Settings
from ingest.job import Job, Options
from ingest.schema import load_mapping
from ingest.sources import open_catalogue
from reranker import bundle as bundles
from reranker.bundle import Bundle, Kind, fingerprint
from reranker.encoder import Encoder
from reranker.evaluation.judgments import read_qrels, read_queries
from reranker.scoring import CrossEncoder
from reranker.training import base, contrastive, export, finetune, run
from reranker.training.recipes import ENCODER, RERANKER
from reranker.training.reopen import reopen
from tests import commands
from tests.paths import SAMPLE_SHOP
from tests.shared import KnownVectors

PRODUCTS = {"1": {"title": "Steel water bottle 750 ml", "brand": "Acme"}, "2": {"title": "不锈钢保温杯"}}
QUERIES = ("water bottle", "适合送爸爸的保温杯")
# Queries of the sample shop by split.
FEW = {"train": 4, "test": 3}


def shipped(kind: Kind) -> Bundle:
    return bundles.verify(bundles.SHIPPED / kind, kind)


def logits(model: Any, pairing: run.Pairing) -> list[float]:
    model.eval()
    found = []
    for query in QUERIES:
        for key in PRODUCTS:
            batch = finetune.collate([pairing(query, key)], pairing.layout.pad, torch.device("cpu"))
            with torch.no_grad():
                found.append(float(model(**batch).logits[0, 0]))
    return found


def stored_logits(bundle: Bundle, pairing: run.Pairing) -> list[float]:
    session = CrossEncoder(bundle, Models()).session
    pairs = [pairing(query, key) for query in QUERIES for key in PRODUCTS]
    return [float(session.run([each.ids], [each.types], pairing.layout.pad)[0, 0]) for each in pairs]


def test_a_reranker_bundle_opens_as_the_model_that_it_is(packaged: Path, tmp_path: Path) -> None:
    bundle = shipped("reranker")
    exact = reopen(bundle, packaged, tmp_path / "exact", seed=None)
    pairing = run.Pairing(exact, PRODUCTS, RERANKER)
    assert pairing.layout == bundle.description.layout
    expected = stored_logits(bundle, pairing)
    model = AutoModelForSequenceClassification.from_pretrained(exact, num_labels=1)
    np.testing.assert_allclose(logits(model, pairing), expected, atol=1e-4)
    moved = AutoModelForSequenceClassification.from_pretrained(
        reopen(bundle, packaged, tmp_path / "moved"), num_labels=1
    )
    np.testing.assert_allclose(logits(moved, pairing), expected, atol=0.1)


def test_an_encoder_bundle_opens_as_the_model_that_it_is(packaged: Path, tmp_path: Path) -> None:
    bundle = shipped("encoder")
    exact = reopen(bundle, packaged, tmp_path / "exact", seed=None)
    model = AutoModel.from_pretrained(exact).eval()
    texts = contrastive.Texts(exact, PRODUCTS, ENCODER)
    with torch.no_grad():
        found = contrastive.embed(model, [texts.query(each) for each in QUERIES], texts.layout.pad, torch.device("cpu"))
    expected = Encoder.load(Models()).embed_queries(QUERIES)
    assert (found.numpy() * expected).sum(1) == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize(("seed", "kept"), [(13, 0.2), (None, 0.0)])
def test_what_a_short_training_moves_is_not_rounded_away(
    packaged: Path, tmp_path: Path, seed: int | None, kept: float
) -> None:
    # A fifth of a step, the same way for all weights of a matrix: what some dozen small updates amount to.
    name = "bert.encoder.layer.0.intermediate.dense.weight"
    tensors = load_file(reopen(shipped("reranker"), packaged, tmp_path, seed=seed) / "model.safetensors")
    stored = load_file(reopen(shipped("reranker"), packaged, tmp_path, seed=None) / "model.safetensors")[name].T
    weight = tensors[name].T
    _, scale = export.quantize(stored, 0, 64)
    steps = np.broadcast_to(scale, (weight.shape[0] // 64, 64, weight.shape[1])).reshape(weight.shape)
    values, scale = export.quantize(weight + 0.2 * steps, 0, 64)
    again = (values * scale).reshape(weight.shape)
    assert ((again - stored) / steps).mean() == pytest.approx(kept, abs=0.03)


def test_a_base_of_another_kind_is_told(packaged: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "roberta"}))
    with pytest.raises(InputError, match=r"no BERT-like model.*another base"):
        reopen(shipped("reranker"), tmp_path, tmp_path / "out")


@pytest.fixture
def corner(
    node_settings: Settings, client: OpenSearch, known_vectors: KnownVectors, reranker: CrossEncoder, tmp_path: Path
) -> Iterator[str]:
    """A shop of what is judged for a few queries, whose files lie beside it; yields its name."""
    queries = read_queries(SAMPLE_SHOP / "queries.tsv")
    few = [[query for query in queries if query.columns["split"] == split][:count] for split, count in FEW.items()]
    judged = {query.id: read_qrels(SAMPLE_SHOP / "qrels.tsv")[query.id] for found in few for query in found}
    rows = [f"{query.id}\t{query.text}\t{query.columns['split']}\n" for found in few for query in found]
    grades = [f"{query}\t{product}\t{grade}\n" for query, found in judged.items() for product, grade in found.items()]
    (tmp_path / "queries.tsv").write_text("query_id\tquery\tsplit\n" + "".join(rows), "utf-8")
    (tmp_path / "qrels.tsv").write_text("query_id\tproduct_id\tgrade\n" + "".join(grades), "utf-8")
    header, *products = (SAMPLE_SHOP / "catalog.csv").read_text("utf-8").splitlines()
    wanted = {product for found in judged.values() for product in found}
    kept = [line for line in products if line.split(",")[0] in wanted]
    (tmp_path / "catalog.csv").write_text("\n".join([header, *kept, ""]), "utf-8")
    catalogue = open_catalogue(tmp_path / "catalog.csv", load_mapping(str(SAMPLE_SHOP / "catalog.toml")))
    options = Options("test-corner", tmp_path / "rejected.jsonl")
    report = Job(client, catalogue, known_vectors, reranker, node_settings, options).run()
    yield "test-corner"
    client.indices.delete(index=report.index)


@pytest.mark.node
def test_training_goes_on_from_the_bundle_in_use(node: str, corner: str, packaged: Path, tmp_path: Path) -> None:
    queries = read_queries(tmp_path / "queries.tsv")
    few, held = ([query for query in queries if query.columns["split"] == split] for split in FEW)
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / base.PACKAGED).symlink_to(packaged)
    (tmp_path / "options.toml").write_text(
        "[data]\ntitle_queries = 0\nfirst_stage_negatives = 2\nrandom_negatives = 1\n"
        "[finetune]\njudged_rounds = 1\nlist_size = 4\n[encoder]\nrounds = 1\n"
    )
    judged = ["--index", corner, "--queries", tmp_path / "queries.tsv", "--qrels", tmp_path / "qrels.tsv"]
    shared = ["--base", "current", "--work", tmp_path / "base", "--options", tmp_path / "options.toml", "--json"]
    kinds: tuple[Kind, ...] = ("reranker", "encoder")
    for kind in kinds:
        command = ["train", kind, *judged, *shared, "--out", tmp_path / kind]
        done = commands.run(*command, folder=tmp_path, OPENSEARCH_URL=node)
        assert done.returncode == 0, done.stderr
        old, new = shipped(kind), bundles.verify(Path(json.loads(done.stdout)["bundle"]), kind)
        card = new.description
        assert new.tokens_id == old.tokens_id or kind == "encoder"
        assert card.base_model == old.description.base_model
        assert card.training["before"]["bundle"] == old.id
        assert set(card.trained_on) == {*old.description.seen, *(fingerprint(query.text) for query in few)}
    found = bundles.verify(tmp_path / "encoder", "encoder").description.quality[corner]
    assert found["queries"] == len(held)
    assert found["gain"]["mean"] == pytest.approx(found["ndcg@10"] - found["ndcg@10 before"], abs=2e-4)
    made = bundles.verify(tmp_path / "reranker/measured/bundle", "reranker").description
    for cosines in (True, False):
        assert made.last_mile(cosines) == shipped("reranker").description.last_mile(cosines)
