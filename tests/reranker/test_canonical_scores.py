"""Scores of fixed pairs stay what they are: across machines nearly, on one machine exactly."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from click.testing import CliRunner
from numpy.typing import NDArray

from indexer.settings import Settings
from reranker.encoder import Encoder
from reranker.scoring import CrossEncoder
from tests.reranker import canonical
from tests.reranker.canonical import (
    QUERIES,
    RENEW,
    Change,
    Measurer,
    Snapshot,
    compare,
    in_english,
    pair_ids,
    pair_name,
)

PAIRS = [(query, product) for query in QUERIES for product in query.products]
NAMES = [pair_name(query, product) for query, product in PAIRS]
# What scores, cosines and final scores are rounded to, so that batch shapes do not show.
SCORE_DECIMALS, COSINE_DECIMALS, FINAL_DECIMALS = 5, 6, 6
# Fills the budget of every field, so that it is as long as the models read.
LONG = dict.fromkeys(("title", "brand", "color", "category", "bullets", "description"), "leak-proof 不锈钢保温杯 " * 12)

SMALL: Snapshot = {
    "models": {"encoder": "e-1", "reranker": "r-1", "columns": ["rerank", "price"]},
    "cup": {"text": "cup", "tokens": ["3:aa", "2:bb"], "order": ["red", "blue", "lid"]},
    "cup / red": {"tokens": ["4:a1", "9:b1"], "logit": 2.0, "final": 1.0, "features": {"rerank": 1.0}},
    "cup / blue": {"tokens": ["5:a2", "9:b2"], "logit": 1.2, "final": 0.6, "features": {"price": 1.0}},
    "cup / lid": {"tokens": ["6:a3", "9:b3"], "logit": 1.2, "final": 0.5995, "features": {}},
}


@pytest.fixture(scope="module")
def english(loaded: Settings) -> CrossEncoder | None:
    """The reranker for English that ships."""
    return CrossEncoder.load(loaded.models).english


@pytest.fixture(scope="module")
def measurer(encoder: Encoder, reranker: CrossEncoder) -> Measurer:
    return Measurer(encoder, reranker)


@pytest.fixture(scope="module")
def measured(encoder: Encoder, reranker: CrossEncoder, english: CrossEncoder | None) -> Snapshot:
    return Measurer(encoder, reranker, english).snapshot()


@pytest.fixture(scope="module")
def changes(measured: Snapshot) -> list[Change]:
    return compare(canonical.read(), measured)


def expect_none(changes: list[Change], what: str) -> None:
    if changes:
        pytest.fail(f"{what}. On purpose? `{RENEW}` writes the snapshot anew.\n{canonical.report(changes)}", False)


def test_the_snapshot_is_of_the_models_that_ship(changes: list[Change]) -> None:
    expect_none([change for change in changes if change.row == "models"], "Models or columns are others")


def test_texts_become_the_tokens_of_the_snapshot(changes: list[Change]) -> None:
    expect_none([change for change in changes if change.what.startswith("tokens")], "Texts become other tokens")


def test_vectors_scores_features_and_orders_are_those_of_the_snapshot(changes: list[Change]) -> None:
    expect_none([change for change in changes if not change.what.startswith("tokens")], "Scores changed")


def test_the_snapshot_is_as_the_command_writes_it() -> None:
    assert canonical.encode(canonical.read()) == canonical.SNAPSHOT.read_text("utf-8")


def test_the_snapshot_has_forty_pairs_in_both_languages(english: CrossEncoder | None) -> None:
    assert len(set(NAMES)) == len(PAIRS) >= 40
    for language in ("en", "zh", "mixed"):
        assert sum(query.language == language for query, _ in PAIRS) >= 9
    queries = [*QUERIES, *(in_english() if english else [])]
    pairs = [pair_name(query, product) for query in queries for product in query.products]
    assert set(canonical.read()) == {"models", *(query.name for query in queries), *pairs}


@pytest.mark.parametrize(
    ("what", "decimals"), [("logit", SCORE_DECIMALS), ("cosine", COSINE_DECIMALS), ("final", FINAL_DECIMALS)]
)
def test_numbers_have_the_promised_decimals(what: str, decimals: int, measured: Snapshot) -> None:
    values = np.array([measured[name][what] for name in NAMES])
    assert values.tolist() == values.round(decimals).tolist()
    assert values.tolist() != values.round(decimals - 1).tolist()


@pytest.mark.parametrize("query", QUERIES, ids=lambda query: query.name)
def test_the_order_in_which_products_arrive_changes_nothing(
    query: canonical.Query, measurer: Measurer, measured: Snapshot
) -> None:
    shuffled = random.Random(7).sample(query.products, len(query.products))
    for products in (query.products[::-1], tuple(shuffled)):
        rows = measurer.rows(msgspec.structs.replace(query, products=products))
        assert without_features(rows) == without_features({name: measured[name] for name in rows})
        # Sums over the window differ in their last bits.
        assert compare({name: measured[name] for name in rows}, rows, tolerance=1e-12) == []


def without_features(rows: Snapshot) -> Snapshot:
    return {name: {what: value for what, value in row.items() if what != "features"} for name, row in rows.items()}


@pytest.fixture(scope="module")
def logits(measured: Snapshot) -> list[float]:
    return [measured[name]["logit"] for name in NAMES]


def test_all_pairs_at_once_have_the_scores_that_they_have_by_query(reranker: CrossEncoder, logits: list[float]) -> None:
    assert reranker.score_pairs([pair_ids(*each, reranker) for each in PAIRS]).values.tolist() == logits


def test_a_pair_alone_has_the_score_that_it_has_among_others(reranker: CrossEncoder, logits: list[float]) -> None:
    assert [reranker.score_pairs([pair_ids(*each, reranker)]).values[0] for each in PAIRS] == logits


def test_long_neighbours_in_the_batch_change_no_score(
    reranker: CrossEncoder, logits: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    batches: list[int] = []
    monkeypatch.setattr(reranker, "on_batch", batches.append)
    long = reranker.product_tokens(LONG)
    found = []
    for each in PAIRS:
        asked, product = pair_ids(*each, reranker)
        found.append(reranker.score_pairs([(asked, product), (asked, long)]).values[0])
    assert batches == [2 * reranker.bundle.description.recipe.max_tokens] * len(PAIRS)
    assert found == logits


def cosines(queries: NDArray[np.float32], products: NDArray[np.float32]) -> list[float]:
    """Of each query and the product beside it, as `QueryVectors` rounds them."""
    pairs = zip(queries.astype(np.float64), products.astype(np.float64), strict=True)
    return [round(float(query @ product), COSINE_DECIMALS) for query, product in pairs]


def test_neighbours_in_a_batch_change_no_cosine(encoder: Encoder, measured: Snapshot) -> None:
    expected = [measured[name]["cosine"] for name in NAMES]
    products = [product.fields for _, product in PAIRS]
    queries = encoder.embed_queries([query.text for query, _ in PAIRS])
    alone = np.concatenate([encoder.embed_products([product]) for product in products])
    assert cosines(queries, encoder.embed_products(products)) == expected
    assert cosines(queries, alone) == expected


def test_a_long_neighbour_in_the_batch_changes_no_cosine(encoder: Encoder, measured: Snapshot) -> None:
    for query in QUERIES:
        shortest = min(query.products, key=lambda product: len(str(product.fields)))
        beside = encoder.embed_products([shortest.fields, LONG])[:1]
        expected = [measured[pair_name(query, shortest)]["cosine"]]
        assert cosines(encoder.embed_queries([query.text]), beside) == expected


def changed(**rows: dict[str, Any] | None) -> Snapshot:
    """The small snapshot with other values in the rows of a model, the query or a product; None takes a row away."""
    after = copy.deepcopy(SMALL)
    for name, values in rows.items():
        row = name if name in after else f"cup / {name}"
        if values is None:
            del after[row]
        else:
            after[row].update(values)
    return after


def found(after: Snapshot, before: Snapshot = SMALL) -> list[tuple[str, str]]:
    return [(change.row, change.what) for change in compare(before, after)]


def test_nothing_changed_is_nothing_to_report() -> None:
    assert compare(SMALL, copy.deepcopy(SMALL)) == []


def test_what_differs_between_machines_is_no_change_but_is_known() -> None:
    after = changed(red={"logit": 2.0009})
    assert compare(SMALL, after) == []
    difference, row = canonical.largest(SMALL, after)["logit"]
    assert (round(difference, 6), row) == (0.0009, "cup / red")


def test_scores_that_are_scaled_are_found() -> None:
    scaled = {name: {"logit": SMALL[f"cup / {name}"]["logit"] * 1.01} for name in ("red", "blue", "lid")}
    assert found(changed(**scaled)) == [("cup / red", "logit"), ("cup / blue", "logit"), ("cup / lid", "logit")]
    assert compare(SMALL, changed(**scaled))[0].difference == pytest.approx(0.02)


def test_a_score_that_is_no_number_is_found() -> None:
    assert found(changed(red={"logit": float("nan")})) == [("cup / red", "logit")]
    assert found(changed(red={"logit": None})) == [("cup / red", "logit")]


def test_other_tokens_name_the_model_that_reads_them() -> None:
    after = changed(cup={"tokens": ["3:aa", "2:cc"]}, red={"tokens": ["4:ff", "9:b1"]})
    assert found(after) == [("cup", "tokens[reranker]"), ("cup / red", "tokens[encoder]")]


def test_two_products_that_change_places_are_found() -> None:
    assert found(changed(cup={"order": ["blue", "red", "lid"]})) == [("cup", "order")]
    assert found(changed(cup={"order": ["lid", "red", "blue"]})) == [("cup", "order")]


def test_a_near_tie_may_change_places() -> None:
    assert found(changed(cup={"order": ["red", "lid", "blue"]})) == []


def test_an_order_that_lost_a_product_is_found() -> None:
    assert found(changed(cup={"order": ["red", "lid"]})) == [("cup", "order")]


def test_missing_and_new_pairs_are_found() -> None:
    fewer = changed(blue=None)
    assert compare(SMALL, fewer) == [Change("cup / blue", "row", "there", None)]
    assert compare(fewer, SMALL) == [Change("cup / blue", "row", None, "there")]


def test_a_feature_that_comes_or_goes_is_found_with_its_value() -> None:
    after = changed(blue={"features": {"rerank": 0.5}})
    assert compare(SMALL, after) == [
        Change("cup / blue", "feature price", 1.0, 0.0),
        Change("cup / blue", "feature rerank", 0.0, 0.5),
    ]


def test_other_models_and_columns_are_found() -> None:
    after = changed(models={"reranker": "r-2", "columns": ["rerank"]})
    assert found(after) == [("models", "columns"), ("models", "reranker")]


@pytest.fixture
def command(
    encoder: Encoder, reranker: CrossEncoder, measured: Snapshot, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[int, str]]:
    """Runs the command with the models that ship, measured once; gives exit code and output."""
    monkeypatch.setattr(Measurer, "snapshot", lambda self: measured)
    monkeypatch.setattr(Encoder, "load", lambda models: encoder)
    monkeypatch.setattr(CrossEncoder, "load", lambda models: reranker)

    def run(*arguments: str) -> tuple[int, str]:
        result = CliRunner().invoke(canonical.main, arguments)
        return result.exit_code, result.output

    return run


def test_the_command_writes_a_snapshot_and_then_finds_nothing_changed(
    command: Callable[..., tuple[int, str]], tmp_path: Path
) -> None:
    file = str(tmp_path / "scores.json")
    assert command("--write", "--snapshot", file)[0] == 0
    rows = len(canonical.read())
    assert command("--snapshot", file) == (0, f"0 values in 0 of {rows} rows differ by more than 0.001.\n")


def test_the_command_shows_what_changed(command: Callable[..., tuple[int, str]], tmp_path: Path) -> None:
    other = canonical.read()
    other["brand / right"]["logit"] = 9.0
    (tmp_path / "other.json").write_text(canonical.encode(other), "utf-8")
    code, output = command("--snapshot", str(tmp_path / "other.json"))
    assert code == 1
    [line] = [line for line in output.splitlines() if line.startswith("brand / right")]
    assert line.split()[3:5] == ["logit", "9.000000"]
    assert f"1 values in 1 of {len(canonical.read())} rows differ" in output
