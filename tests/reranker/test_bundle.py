from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from indexer.errors import BundleError, ProviderError
from indexer.settings import Models
from reranker import bundle as bundles
from reranker.documents import rerank
from reranker.encoder import Encoder
from reranker.registry.store import Registry
from reranker.rescore import Candidate, rescore
from reranker.scoring import CrossEncoder


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """A copy of the shipped reranker that a test may break."""
    return Path(shutil.copytree(bundles.SHIPPED / "reranker", tmp_path / "bundle"))


def edit(folder: Path, **changes: object) -> None:
    file = folder / "bundle.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def test_the_shipped_bundles_are_whole_and_small() -> None:
    for kind in ("encoder", "reranker"):
        bundle = bundles.load("", kind)  # type: ignore[arg-type]
        size = sum(path.stat().st_size for path in bundle.folder.iterdir())
        assert size < 48_000_000
        assert bundle.description.base_licence


def test_a_missing_bundle_names_the_folder(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"no bundle at .*nowhere"):
        bundles.load(tmp_path / "nowhere", "reranker")


def test_a_missing_file_is_named(copied: Path) -> None:
    (copied / "tokenizer.json").unlink()
    with pytest.raises(BundleError, match=r"tokenizer\.json cannot be read"):
        bundles.load(copied, "reranker")


def test_one_flipped_byte_is_found(copied: Path) -> None:
    content = bytearray((copied / "model.onnx").read_bytes())
    content[len(content) // 2] ^= 1
    (copied / "model.onnx").write_bytes(content)
    with pytest.raises(BundleError, match=r"model\.onnx is corrupt"):
        bundles.load(copied, "reranker")


def test_a_bundle_of_another_kind_is_refused() -> None:
    with pytest.raises(BundleError, match="kind encoder; a reranker is needed"):
        bundles.load(bundles.SHIPPED / "encoder", "reranker")


def test_a_weight_that_is_not_known_is_refused(copied: Path) -> None:
    edit(copied, weights={"rerank": 1.0, "moon": 2.0})
    with pytest.raises(BundleError, match="weighs moon"):
        bundles.load(copied, "reranker")


def test_other_weights_of_the_last_mile_make_another_bundle(copied: Path) -> None:
    before = bundles.load(copied, "reranker")
    edit(copied, weights={"rerank": 1.0, "first_stage": 2.0})
    after = bundles.load(copied, "reranker")
    edit(copied, weights={"first_stage": 2.0, "rerank": 1.0})
    assert before.id != after.id == bundles.load(copied, "reranker").id
    assert before.tokens_id == after.tokens_id
    edit(copied, vector_weights={"vector": 1.0})
    assert bundles.load(copied, "reranker").id != after.id
    edit(copied, vector_weights={"moon": 1.0})
    with pytest.raises(BundleError, match="weighs moon"):
        bundles.load(copied, "reranker")


def test_the_last_mile_weighs_cosines_only_where_there_are_some(copied: Path) -> None:
    edit(copied, weights={"rerank": 1.0}, vector_weights={"vector": 1.0})
    card = bundles.load(copied, "reranker").description
    assert (card.last_mile(cosines=True), card.last_mile(cosines=False)) == ({"vector": 1.0}, {"rerank": 1.0})
    edit(copied, vector_weights={})
    assert bundles.load(copied, "reranker").description.last_mile(cosines=True) == {"rerank": 1.0}
    edit(copied, weights={}, blend=0.25)
    expected = {"first_stage": 0.75, "rerank": 0.25}
    assert bundles.load(copied, "reranker").description.last_mile(cosines=True) == expected


def test_a_bundle_of_a_later_format_is_refused(copied: Path) -> None:
    edit(copied, format=99)
    with pytest.raises(BundleError, match="format 99"):
        bundles.load(copied, "reranker")


def test_a_description_that_is_not_json_is_refused(copied: Path) -> None:
    (copied / "bundle.json").write_text("{")
    with pytest.raises(BundleError, match="cannot be read"):
        bundles.load(copied, "reranker")


def test_a_bundle_cannot_name_files_outside_of_its_folder(copied: Path) -> None:
    files = json.loads((copied / "bundle.json").read_text())["files"]
    edit(copied, files={**files, "../../etc/passwd": "0" * 64})
    with pytest.raises(BundleError, match="outside of its folder"):
        bundles.load(copied, "reranker")


def test_a_model_file_that_is_no_model_is_refused(copied: Path) -> None:
    (copied / "model.onnx").write_bytes(b"not a model")
    description = bundles.load(bundles.SHIPPED / "reranker", "reranker").description
    bundles.write_description(copied, description)
    with pytest.raises(BundleError, match="ONNX Runtime cannot load"):
        CrossEncoder.load(Models(reranker=str(copied)))


def test_token_ids_outlive_new_weights_and_scores_do_not(copied: Path) -> None:
    shipped = bundles.load("", "reranker")
    with (copied / "model.onnx").open("ab") as file:
        file.write(b"\0")
    changed = bundles.write_description(copied, shipped.description)
    assert changed.tokens_id == shipped.tokens_id
    assert changed.id != shipped.id


def test_cuda_that_is_not_there_is_an_error_and_a_fallback_is_reported() -> None:
    with pytest.raises(ProviderError, match="CUDAExecutionProvider"):
        Encoder.load(Models(provider="cuda"))
    encoder = Encoder.load(Models(provider="cuda", allow_fallback=True))
    assert encoder.session.provider == "CPUExecutionProvider"
    assert "CUDAExecutionProvider" in encoder.session.fallback_reason


def test_a_query_is_recognised_however_it_is_typed() -> None:
    assert bundles.fingerprint("Red  CUP ") == bundles.fingerprint("red cup")
    assert bundles.fingerprint("red cup") != bundles.fingerprint("red cups")


@pytest.fixture
def english(tmp_path: Path) -> Path:
    """A reranker for English queries, in a registry of its own too."""
    folder = tmp_path / "english"
    shutil.copytree(bundles.SHIPPED / "reranker", folder)
    edit(folder, kind="reranker-en", name="ours-en", languages=["en"])
    return folder


def promoted(folder: Path, home: Path) -> None:
    registry = Registry(home)
    kind = bundles.read_description(folder).kind
    registry.promote(bundles.verify(folder, kind), {})


def test_an_english_reranker_goes_with_one_that_was_chosen_in_the_same_way(
    english: Path, copied: Path, tmp_path: Path
) -> None:
    home, general, own = str(tmp_path / "home"), str(copied), str(english)

    def found(**models: str) -> str:
        settings = Models(**{"home": home, **models})  # type: ignore[arg-type]
        bundle = bundles.load_english(settings, bundles.load(settings.reranker, "reranker", home).origin)
        return bundle.origin if bundle else ""

    assert found() == ("shipped" if (bundles.SHIPPED / "reranker-en").is_dir() else "")
    assert found(reranker=general) == ""
    assert found(reranker=general, reranker_en=own) == "setting"
    assert found(reranker_en=own) == "setting"
    assert found(reranker_en="none") == ""
    promoted(english, tmp_path / "home")
    assert found() == "registry"
    assert found(reranker=general) == ""
    assert found(reranker_en="none") == ""
    promoted(copied, tmp_path / "home")
    assert found() == "registry"
    Registry(home).rollback("reranker-en", "shipped")
    assert found() == ""


def test_an_english_reranker_may_read_everything_where_the_settings_say_so(english: Path) -> None:
    assert bundles.load(english, "reranker").description.kind == "reranker-en"
    with pytest.raises(BundleError, match="kind reranker; a reranker-en is needed"):
        bundles.load(bundles.SHIPPED / "reranker", "reranker-en")


def test_each_query_is_read_by_the_one_for_it(english: Path) -> None:
    reranker = CrossEncoder.load(Models(reranker=str(bundles.SHIPPED / "reranker"), reranker_en=str(english)))
    assert reranker.english is not None
    latin, han = {"title": "steel water bottle"}, {"title": "不锈钢保温杯"}
    for query, product, expected in [
        ("steel bottle", latin, reranker.english),
        ("steel bottle", han, reranker),
        ("保温杯", latin, reranker),
    ]:
        window = [Candidate("1", 1.0, product), Candidate("2", 0.5, product)]
        assert rescore(query, window, reranker).model == expected.bundle_id
        assert reranker.named(expected.bundle_id) is expected
        scored = rerank(query, [product["title"], product], reranker)
        direct = expected.score(query, [expected.text_tokens(product["title"]), expected.product_tokens(product)])
        assert {each.index: each.score for each in scored} == dict(enumerate(direct.values))
