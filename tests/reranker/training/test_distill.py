"""Learning from another encoder: what is read, what is taught of it, and a student that comes to it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from transformers import BertConfig, BertModel

from indexer.errors import InputError
from reranker.training import distill as module
from reranker.training.command import train
from reranker.training.distill import Options, distill, draw, made_queries, reads_first_token, targets
from reranker.training.recipes import ENCODER
from reranker.training.workbench import prepare_teacher

PRODUCTS = {
    "cup": {"title": "double wall steel cup with lid", "brand": "Brackwater"},
    "lamp": {"title": "clip on desk lamp, warm white", "brand": "Lumo"},
    "杯": {"title": "不锈钢 保温杯 男士 500ml", "brand": "光漪"},
}
OPTIONS = Options(rounds=40, queries=8, products=3, learning_rate=3e-3, unread="[\u4e00-\u9fff]")


@pytest.fixture(scope="module")
def teacher(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An encoder of another size than the student, whose vector is that of its first token."""
    folder = tmp_path_factory.mktemp("teacher")
    (folder / "tokenizer.json").write_bytes((tiny / "tokenizer.json").read_bytes())
    torch.manual_seed(5)
    config = BertConfig.from_pretrained(str(tiny))
    config.update({"hidden_size": 48, "num_attention_heads": 4})
    BertModel(config).save_pretrained(folder)
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode_cls_token": True}))
    return folder


def unit(rows: np.ndarray) -> np.ndarray:
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), np.float32)


def test_made_queries_are_words_of_their_title_in_its_order() -> None:
    titles = ["Steel (Double Wall) Cup, with a lid", "lamp on", ""]
    made = list(made_queries(titles, 5, np.random.default_rng(0)))
    words = ["steel", "double", "wall", "cup", "with", "a", "lid"]
    assert len(made) == 5  # a title of two words is a query already
    for text in made:
        places = [words.index(word) for word in text.split()]
        assert places == sorted(places)
        assert 1 <= len(places) <= 5
    assert made[0].startswith("steel")


def test_each_query_is_read_once_a_round_beside_products_in_turn() -> None:
    steps = draw(10, 4, Options(rounds=2, queries=3, products=3))
    assert sorted(np.concatenate([part for part, _ in steps])) == sorted([*range(10)] * 2)
    assert all(len(part) == 3 for _, part in steps)
    assert np.bincount(np.concatenate([part for _, part in steps])).min() >= 5
    again = draw(10, 4, Options(rounds=2, queries=3, products=3))
    assert all((a == b).all() for one, two in zip(steps, again, strict=True) for a, b in zip(one, two, strict=True))


def test_what_is_taught_has_the_mean_of_both_cosines_and_lies_near_the_students_own() -> None:
    rng = np.random.default_rng(3)
    # Eight texts in the plane of three directions: nothing is lost where the student has room for all of them.
    own, theirs = unit(rng.normal(size=(8, 3)) @ rng.normal(size=(3, 16))), unit(rng.normal(size=(8, 5)))
    read = np.ones(8, bool)
    taught = targets(own, theirs, read, 0.25, rng)
    np.testing.assert_allclose(taught @ taught.T, 0.75 * own @ own.T + 0.25 * theirs @ theirs.T, atol=1e-5)
    np.testing.assert_allclose(targets(own, theirs, read, 0.0, rng), own, atol=1e-4)


def test_a_text_that_the_teacher_cannot_read_keeps_the_neighbours_that_the_student_gave_it() -> None:
    rng = np.random.default_rng(3)
    own = unit(rng.normal(size=(400, 12)))
    theirs = unit(own @ rng.normal(size=(12, 20)))  # the teacher sees what the student sees, in another way
    wrong = theirs.copy()
    read = np.arange(400) >= 40
    wrong[~read] = theirs[0]  # what it makes of texts that it cannot read
    known = targets(own, theirs, np.ones(400, bool), 0.5, rng)

    def moved(read: np.ndarray) -> float:
        taught = targets(own, wrong, read, 0.5, rng)
        return float(np.abs(taught @ taught.T - known @ known.T)[:40].max())

    assert moved(read) < 0.1 < 0.3 < moved(np.ones(400, bool))


def test_a_student_comes_to_the_teacher_and_goes_on_after_a_stop(
    tiny: Path, teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cpu = torch.device("cpu")
    wise = module.Teacher(teacher, "", cpu)
    texts = list(made_queries([product["title"] for product in PRODUCTS.values()], 5, np.random.default_rng(13)))
    legible = [text for text in dict.fromkeys(texts) if text.isascii()]
    theirs = wise.vectors(list(map(wise.as_query, legible)), 64)

    def away(folder: Path) -> float:
        """How far the cosines of texts lie from the teacher's."""
        reader = module.Teacher(folder, "query: ", cpu)
        mine = reader.vectors(list(map(reader.as_query, legible)), 64)
        off = ~np.eye(len(legible), dtype=bool)
        return float(np.abs(mine @ mine.T - theirs @ theirs.T)[off].mean())

    options = Options(**{**{name: getattr(OPTIONS, name) for name in Options.__struct_fields__}, "share": 0.95})
    monkeypatch.setattr(module.finetune, "CHECKPOINT_STEPS", 10)

    def stopped(step: int, steps: int, loss: float) -> None:
        if step == 15:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        distill(tiny, teacher, PRODUCTS, [], ENCODER, tmp_path / "out", options, stopped)
    seen: list[int] = []
    distill(tiny, teacher, PRODUCTS, [], ENCODER, tmp_path / "out", options, lambda step, _, __: seen.append(step))
    assert seen[0] == 11
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "config.json",
        "model.safetensors",
        "tokenizer.json",
    ]
    assert away(tmp_path / "out") < 0.5 * away(tiny)


def test_what_cannot_be_learned_is_told(tiny: Path, teacher: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nothing for the encoder to read"):
        distill(tiny, teacher, {"a": {"title": "cup"}}, [], ENCODER, tmp_path / "a", Options())
    with pytest.raises(InputError, match="no text"):
        distill(tiny, teacher, PRODUCTS, [], ENCODER, tmp_path / "b", Options(unread="."))
    (tmp_path / "bare").mkdir()
    with pytest.raises(InputError, match=r"has no tokenizer\.json"):
        module.Teacher(tmp_path / "bare", "", torch.device("cpu"))
    assert not reads_first_token(tiny)
    assert reads_first_token(teacher)


def test_the_packaged_teacher_reads_english(tmp_path: Path) -> None:
    folder, licence = prepare_teacher("bge-small-en-v1.5", tmp_path)
    assert licence == "MIT"
    assert prepare_teacher("bge-small-en-v1.5", tmp_path) == (folder, licence)  # it is written once
    wise = module.Teacher(folder, "Represent this sentence for searching relevant passages: ", torch.device("cpu"))
    asked = wise.vectors(list(map(wise.as_query, ["vacuum flask for tea", "light for reading in bed"])), 64)
    sold = wise.vectors(["Brackwater vacuum flask 12 oz", "clip on book lamp, warm white", "garden hose 50 ft"], 64)
    assert (asked @ sold.T).argmax(1).tolist() == [0, 1]
    assert not list((folder / "fetched").iterdir())


def test_flags_that_a_teacher_needs_or_that_need_one(tmp_path: Path) -> None:
    lines = tmp_path / "lines.txt"
    lines.write_text("vacuum flask\n", "utf-8")

    def told(*flags: str) -> str:
        arguments = ["encoder", "--out", str(tmp_path / "out"), *flags]
        return str(CliRunner().invoke(train, arguments, standalone_mode=False).exception)

    assert "Name its index (--index)" in told("--teacher", "bge-small-en-v1.5", "--read", str(lines))
    assert "--read names texts that are read with a teacher" in told("--index", "shop", "--read", str(lines))
    assert not (tmp_path / "out").exists()
