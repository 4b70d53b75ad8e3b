from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reranker.encoder import Encoder
from reranker.scoring import CrossEncoder
from reranker.text import Field, Recipe, pack_ids, product_ids, query_ids, text_ids, unpack_ids

RECIPE = Recipe(fields=(Field("title", "", 6), Field("brand", "brand", 4)), max_tokens=8)


def ids(product: dict[str, object], reranker: CrossEncoder, recipe: Recipe = RECIPE) -> list[int]:
    return product_ids(product, recipe, reranker.bundle.tokenizer())


def text_of(tokens: list[int], reranker: CrossEncoder) -> str:
    return str(reranker.bundle.tokenizer().decode(tokens))


def test_fields_follow_the_recipe_and_carry_their_labels(reranker: CrossEncoder) -> None:
    assert text_of(ids({"brand": "Lumora", "title": "red cup"}, reranker), reranker) == "red cup brand Lumora"


def test_a_long_title_cannot_push_the_brand_out(reranker: CrossEncoder) -> None:
    shown = text_of(ids({"title": "cup " * 500, "brand": "Acme"}, reranker), reranker)
    assert "brand" in shown


@pytest.mark.parametrize("empty", [None, "", "   ", [], ()])
def test_a_missing_field_is_left_out_with_its_label(empty: object, reranker: CrossEncoder) -> None:
    assert ids({"title": "red cup", "brand": empty}, reranker) == ids({"title": "red cup"}, reranker)


def test_a_product_without_any_field_has_no_ids(reranker: CrossEncoder) -> None:
    assert ids({}, reranker) == []


def test_chinese_text_is_known_to_the_vocabulary(reranker: CrossEncoder) -> None:
    tokenizer = reranker.bundle.tokenizer()
    unknown = tokenizer.token_to_id("<unk>")
    for text in ("适合送爸爸的保温杯", "无线蓝牙耳机 降噪", "quiet mechanical keyboard under 80", "５００ｍｌ"):
        assert unknown not in tokenizer.encode(text, add_special_tokens=False).ids


def test_full_width_forms_are_the_same_text(encoder: Encoder) -> None:
    recipe, tokenizer = encoder.bundle.description.recipe, encoder.bundle.tokenizer()
    assert query_ids("ＵＳＢ－Ｃ　５００ｍｌ", recipe, tokenizer) == query_ids("USB-C 500ml", recipe, tokenizer)


def test_a_query_is_cut_at_its_budget(reranker: CrossEncoder) -> None:
    tokenizer = reranker.bundle.tokenizer()
    assert len(query_ids("保温杯" * 4000, RECIPE, tokenizer)) == RECIPE.max_query_tokens
    assert query_ids("", RECIPE, tokenizer) == []


@settings(max_examples=30)
@given(text=st.text(max_size=300))
def test_no_text_gives_more_ids_than_the_budget(text: str, reranker: CrossEncoder) -> None:
    tokenizer = reranker.bundle.tokenizer()
    assert len(text_ids(text, RECIPE, tokenizer)) <= RECIPE.max_tokens
    assert len(product_ids({"title": text, "brand": text}, RECIPE, tokenizer)) <= RECIPE.max_tokens


@given(st.lists(st.integers(0, 2**32 - 1), max_size=200))
def test_packed_ids_come_back_as_they_were(values: list[int]) -> None:
    assert unpack_ids(pack_ids(values)) == values


@pytest.mark.parametrize("broken", ["not base64!", "AAA=", "AAAA"])
def test_broken_packed_ids_are_refused(broken: str) -> None:
    with pytest.raises(ValueError, match="token ids"):
        unpack_ids(broken)


@settings(max_examples=300, deadline=None)
@given(
    words=st.lists(
        st.one_of(
            st.text(max_size=30),
            st.sampled_from(["steel", "w" * 200, "保温杯", "750ml", "(a)b-c", "\u0301", "\u2028", "ﬁne", "Ｆull"]),
        ),
        max_size=60,
    ),
    budget=st.integers(1, 12),
)
def test_what_lies_behind_the_budget_changes_nothing_of_it(
    words: list[str], budget: int, reranker: CrossEncoder
) -> None:
    """Only the beginning of a long text is tokenised."""
    text = " ".join(words)
    recipe = Recipe(fields=(Field("title", "title", budget),), max_tokens=64)
    whole = reranker.bundle.tokenizer().encode(f"title {text.strip()}", add_special_tokens=False).ids
    assert ids({"title": text}, reranker, recipe) == (whole[:budget] if text.strip() else [])
