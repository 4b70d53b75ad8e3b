"""What an explanation says without a cluster: words, readings, terms and sentences, on the reranker that ships."""

from __future__ import annotations

import itertools
import math
import re
import time
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reranker.blend import COLUMNS
from reranker.explaining.explained import ExplainedHit, FilterHeld
from reranker.explaining.reading import MAX_WORDS, Reading, prepare, read, without
from reranker.explaining.sentences import tell
from reranker.explaining.terms import Term, terms
from reranker.explaining.words import words
from reranker.rescore import Candidate, rescore
from reranker.scoring import CrossEncoder
from reranker.text import MAX_FIELD_CHARACTERS, Part

BOTTLE = {
    "title": "Tarnmoor Kid's Water Bottle, 14-oz, w/o straw",
    "brand": "Tarnmoor",
    "color": "Slate",
    "bullets": "BPA-free steel bottle",
}
CUP = {"title": "屿禾 316不锈钢保温杯男士商务大容量 500ml 6只", "brand": "屿禾", "color": "曜石黑"}
CHAIR = {"title": "Foldable garden chair", "brand": None, "price": 20.0}
ENGLISH, CHINESE = "steel water bottle without straw", "适合送爸爸的保温杯"


def told(part: Part, query: str) -> list[str]:
    return [part.text[word.start : word.end] for word in words(part, query)]


def part(field: str, query: str, product: Mapping[str, Any], reranker: CrossEncoder) -> Part:
    return next(each for each in reranker.read(query, product)[1] if each.field == field)


def test_english_words_are_whole_and_labels_are_none_of_them(reranker: CrossEncoder) -> None:
    title = part("title", ENGLISH, BOTTLE, reranker)
    assert told(title, ENGLISH) == ["Tarnmoor", "Kid's", "Water", "Bottle", "14-oz", "w/o", "straw"]
    assert told(part("brand", ENGLISH, BOTTLE, reranker), ENGLISH) == ["Tarnmoor"]
    assert told(part("bullets", ENGLISH, BOTTLE, reranker), ENGLISH) == ["BPA-free", "steel", "bottle"]


def test_chinese_words_are_whole(reranker: CrossEncoder) -> None:
    found = told(part("title", CHINESE, CUP, reranker), CHINESE)
    assert {"屿禾", "316", "不锈钢", "保温杯", "500ml", "6只"} <= set(found)
    assert "".join(found) == CUP["title"].replace(" ", "")
    asked, _ = reranker.read(CHINESE, CUP)
    assert told(asked, "") == ["适合送", "爸爸", "的", "保温杯"]


@given(
    text=st.text("保温杯的不锈钢运动鞋 abc'-/.,12３ｘ🙂éü　%", max_size=60),
    query=st.sampled_from(["", "保温杯", "abc"]),
)
def test_words_never_split_a_token_and_come_in_order(text: str, query: str, reranker: CrossEncoder) -> None:
    for each in reranker.read("cup", {"title": text, "brand": text})[1]:
        found = words(each, query)
        positions = [at for word in found for at in word.tokens]
        assert positions == sorted(set(positions))
        assert all(each.begins <= word.start < word.end <= len(each.text) for word in found)
        assert all(one.end <= other.start for one, other in itertools.pairwise(found))


def test_the_model_reads_what_scoring_reads(reranker: CrossEncoder) -> None:
    long = {**BOTTLE, "bullets": "steel " * 200, "title": "water bottle " * 50}
    query = "很长的查询 " * 10
    asked, parts = reranker.read(query, long)
    ids = [token for each in parts for token in each.ids]
    whole = reranker.score(query, [reranker.product_tokens(long)]).values
    assert reranker.score_pairs([(asked.ids, ids)]).values == whole
    assert len(asked.ids) + len(ids) < reranker.bundle.description.recipe.max_tokens
    assert len(ids) < len(reranker.product_tokens(long))


def test_an_effect_is_the_score_minus_that_without_the_part(reranker: CrossEncoder) -> None:
    reading = read(ENGLISH, [BOTTLE], reranker).readings[0]
    assert reading.score == reranker.score(ENGLISH, [reranker.product_tokens(BOTTLE)]).values[0]
    no_title = {name: value for name, value in BOTTLE.items() if name != "title"}
    score = reranker.score(ENGLISH, [reranker.product_tokens(no_title)]).values[0]
    title = next(field for field in reading.fields if field.name == "title")
    assert title.effect == pytest.approx(reading.score - score, abs=2e-5)
    prepared = prepare(ENGLISH, BOTTLE, reranker)
    for effect, gone in prepared.words:
        score = reranker.score_pairs([(prepared.query, without(prepared.product, gone))]).values[0]
        named = next(word for word in reading.words if word.text == effect.text)
        assert named.effect == pytest.approx(reading.score - score, abs=2e-5)


def test_a_repeated_word_is_one_with_all_its_places(reranker: CrossEncoder) -> None:
    reading = read(ENGLISH, [BOTTLE], reranker).readings[0]
    found = [word for word in reading.words if word.text.casefold() == "bottle"]
    assert [[place.field for place in word.places] for word in found] == [["title", "bullets"]]
    place = found[0].places[0]
    assert BOTTLE["title"][place.start : place.end] == "Bottle"


def test_the_strongest_come_first(reranker: CrossEncoder) -> None:
    reading = read(CHINESE, [CUP], reranker).readings[0]
    for effects in (reading.fields, reading.words, reading.query_words):
        sizes = [abs(each.effect or 0.0) for each in effects]
        assert sizes == sorted(sizes, reverse=True)
    assert reading.words[0].text == "保温杯"


def test_a_reading_does_not_depend_on_other_products_or_their_order(reranker: CrossEncoder) -> None:
    products = [BOTTLE, CUP, CHAIR, {}]
    alone = [read(ENGLISH, [product], reranker).readings[0] for product in products]
    together = read(ENGLISH, products, reranker).readings
    backwards = read(ENGLISH, products[::-1], reranker).readings[::-1]
    for one, two, three in zip(alone, together, backwards, strict=True):
        # In the last decimal batches of different shape may differ.
        assert effects_of(one) == pytest.approx(effects_of(two), abs=2e-5)
        assert effects_of(one) == pytest.approx(effects_of(three), abs=2e-5)


def effects_of(reading: Reading) -> dict[str, float | None]:
    effects = {f"word {each.text}": each.effect for each in reading.words}
    effects |= {f"query {each.text}": each.effect for each in reading.query_words}
    return effects | {f"field {each.name}": each.effect for each in reading.fields} | {"score": reading.score}


@pytest.mark.parametrize("product", [{}, {"title": ""}, {"title": "  "}, {"price": 3}, {"brand": None, "title": "，"}])
def test_a_product_without_words_is_read_as_it_is(product: dict[str, Any], reranker: CrossEncoder) -> None:
    found = read(ENGLISH, [product], reranker)
    assert (found.status, found.readings[0].words) == ("complete", [])
    assert found.readings[0].score is not None
    assert [word.text for word in found.readings[0].query_words]


@pytest.mark.parametrize("query", ["", "   "])
def test_an_empty_query_has_no_words(query: str, reranker: CrossEncoder) -> None:
    found = read(query, [BOTTLE], reranker)
    assert (found.status, found.readings[0].query_words) == ("complete", [])


def test_nothing_to_read_is_complete(reranker: CrossEncoder) -> None:
    assert read(ENGLISH, [], reranker).pairs == 0


def test_a_passed_limit_leaves_everything_unmeasured_and_says_so(reranker: CrossEncoder) -> None:
    found = read(ENGLISH, [BOTTLE, CUP], reranker, deadline=time.monotonic() - 1)
    assert (found.status, found.scored) == ("partial", 0)
    assert f"0 of {found.pairs}" in found.reason
    assert all(word.effect is None for reading in found.readings for word in reading.words)


def test_when_time_runs_out_fields_were_measured_first_then_words_of_the_query(
    reranker: CrossEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, calls = reranker.session.run, 0
    deadline = time.monotonic() + 3600

    def counting(*arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 1:
            monkeypatch.setattr(time, "monotonic", lambda: deadline + 1)
        return run(*arguments)

    monkeypatch.setattr(reranker.session, "run", counting)
    reading = (found := read(ENGLISH, [BOTTLE], reranker, deadline)).readings[0]
    assert (found.status, found.scored) == ("partial", 8)
    assert all(field.effect is not None for field in reading.fields)
    assert {word.text for word in reading.words if word.effect is not None} == {"Water", "Bottle", "straw"}
    assert reading.words[-1].effect is None


def test_a_score_that_is_no_number_is_an_error_and_no_crash(
    reranker: CrossEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reranker.session, "run", lambda rows, *others: np.full((len(rows), 1), math.nan))
    found = read(ENGLISH, [BOTTLE], reranker)
    assert (found.status, found.scored, found.readings[0].score) == ("error", 0, None)
    assert "not a finite number" in found.reason


def test_a_model_that_fails_is_an_error_and_no_crash(reranker: CrossEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*arguments: Any) -> None:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(reranker.session, "run", fails)
    found = read(ENGLISH, [BOTTLE], reranker)
    assert found.status == "error"
    assert "out of memory" in found.reason


def test_words_are_bounded_whatever_the_text(reranker: CrossEncoder) -> None:
    for text in (" ".join(f"w{at}" for at in range(500)), "保温杯套" * 1_000, "x" * 4_000, "🙂" * 4_000):
        prepared = prepare("保温杯" * 300, {"title": text, "bullets": text}, reranker)
        assert len(prepared.words) <= MAX_WORDS
        assert all(len(effect.text) <= MAX_FIELD_CHARACTERS for effect, _ in prepared.fields)


@pytest.mark.parametrize("query", [ENGLISH, CHINESE, "slate chair under $10"])
@pytest.mark.parametrize("blend", [None, 0.3])
def test_terms_and_base_sum_to_the_final_score(query: str, blend: float | None, reranker: CrossEncoder) -> None:
    products = [BOTTLE, CUP, CHAIR, {}]
    first = [4.0, 3.0, 2.5, 0.0]
    outcome = rescore(query, [Candidate("", *hit) for hit in zip(first, products, strict=True)], reranker, blend)
    assert outcome.status == "applied"
    found = taken_apart(query, products, first, outcome.rerank, reranker, outcome.blend)
    bases = [final - math.fsum(term.adds for term in hit) for final, hit in zip(outcome.final, found, strict=True)]
    assert bases == pytest.approx([bases[0]] * len(bases), abs=2e-5)
    every = [term for hit in found for term in hit]
    points = scale(every)
    assert all(term.adds == pytest.approx(term.weight * term.value * points, abs=1e-5) for term in every)
    assert {term.name for term in found[0]} >= {"first_stage", "rerank"}
    if blend is not None:
        assert bases == pytest.approx([0.0] * len(bases), abs=2e-6)


def scale(every: Sequence[Term]) -> float:
    """Points of the final score for one of the weighted sum, the same for all hits; read from the strongest term."""
    term = max(every, key=lambda each: abs(each.adds))
    return term.adds / (term.weight * term.value)


def taken_apart(
    query: str,
    products: Sequence[Mapping[str, Any]],
    first: Sequence[float],
    rerank: Sequence[float | None],
    reranker: CrossEncoder,
    blend: float | None,
) -> list[list[Term]]:
    weights = reranker.bundle.description.weights
    return terms(query, products, first, [score or 0.0 for score in rerank], weights, blend)


def test_alike_hits_have_terms_that_add_nothing(reranker: CrossEncoder) -> None:
    found = taken_apart(ENGLISH, [CHAIR, CHAIR], [1.0, 1.0], [0.5, 0.5], reranker, None)
    assert all(term.adds == 0.0 for hit in found for term in hit)


def hit(**changes: Any) -> ExplainedHit:
    given = ExplainedHit(
        id="p",
        title="Steel bottle",
        rank=2,
        first_stage_rank=14,
        rerank_rank=5,
        scores={"first_stage": 1.0, "rerank": 2.0, "final": 0.9},
        base=0.1,
        terms=[Term("excluded", -0.79, -1.0, 0.3, 0.1), Term("first_stage", 2.7, 0.1, 0.1, 0.25)],
        read_score=2.0,
        fields=[],
        words=[],
        query_words=[],
        filters=[FilterHeld("max_price", 80.0, 59.9), FilterHeld("brands", ("Kwik", "Tarn"), "Kwik")],
        text=[],
    )
    return msgspec.structs.replace(given, **changes)


APPLIED = {"status": "applied", "reason": "", "window": 50}
COMPLETE = {"status": "complete", "reason": "", "scored": 9, "pairs": 9}


def test_sentences_say_what_the_numbers_say() -> None:
    moved, points, filters = tell(hit(), APPLIED, COMPLETE, "en")
    assert "from rank 14 to 2 among the 50 hits" in moved
    assert "would stand at 5" in moved
    assert "lifted by a title that says it lacks what the query rules out (+0.20)" in points
    assert "held back by the first-stage score (−0.15)" in points
    assert "price 59.9, at most 80 asked; brand Kwik, Kwik or Tarn asked" in filters


@pytest.mark.parametrize("name", COLUMNS)
def test_every_signal_has_a_name_in_both_languages(name: str) -> None:
    fewest = {"accessory": (0.0, 1.0), "price": (0.0, 1.0), "excluded": (-1.0, 0.0, 1.0)}  # values that these take
    for value in fewest.get(name, (-1.0, 0.0, 0.5, 1.0)):
        term = Term(name, 1.0, value, 0.5, 0.1)
        english, chinese = (tell(hit(terms=[term]), APPLIED, COMPLETE, each)[1] for each in ("en", "zh"))
        assert "(+0.40)" in english
        assert f"by {name} (" not in english
        assert "（+0.40）" in chinese
        assert not re.search("[a-z]", chinese)


def test_sentences_say_the_same_in_chinese() -> None:
    moved, points, filters = tell(hit(), APPLIED, COMPLETE, "zh")
    assert "从第 14 位升到第 2 位（共 50 个结果参与重排）" in moved
    assert "标题写明不含查询所排除的内容（+0.20）" in points
    assert "初检得分（−0.15）" in points
    assert "价格 59.9（要求不高于 80）；品牌 Kwik（要求 Kwik 或 Tarn）" in filters


@pytest.mark.parametrize(
    ("changes", "rerank", "english", "chinese"),
    [
        ({"rank": 20}, APPLIED, "moved down from rank 14 to 20", "从第 14 位降到第 20 位"),
        ({"rank": 14}, APPLIED, "stayed at rank 14", "保持在第 14 位"),
        ({"rerank_rank": None, "rank": 60}, APPLIED, "rank 60, behind the first 50", "排在第 60 位；只有前 50 个"),
        ({}, {**APPLIED, "status": "timeout", "reason": "late"}, "(timeout: late)", "（timeout：late）"),
    ],
)
def test_sentences_tell_every_way_a_hit_may_have_come(
    changes: dict[str, Any], rerank: dict[str, Any], english: str, chinese: str
) -> None:
    assert english in tell(hit(**changes), rerank, COMPLETE, "en")[0]
    assert chinese in tell(hit(**changes), rerank, COMPLETE, "zh")[0]


def test_what_was_not_measured_is_said() -> None:
    partial = {"status": "partial", "reason": "", "scored": 8, "pairs": 20}
    assert "8 of 20" in tell(hit(), APPLIED, partial, "en")[-1]
    assert "20 项测量中的 8 项" in tell(hit(), APPLIED, partial, "zh")[-1]


@pytest.mark.parametrize("language", ["en", "zh"])
def test_a_hit_has_two_to_five_sentences(language: str, reranker: CrossEncoder) -> None:
    reading = read(ENGLISH, [BOTTLE], reranker).readings[0]
    full = hit(fields=reading.fields, words=reading.words, query_words=reading.query_words)
    partial = {"status": "partial", "reason": "", "scored": 8, "pairs": 20}
    assert len(tell(full, APPLIED, partial, language)) == 5
    assert len(tell(hit(filters=[]), APPLIED, COMPLETE, language)) == 2
