"""A model that reads English alone is asked where query and hits are written in Latin letters, and nowhere else."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reranker.languages import is_latin

ENGLISH, CHINESE = "Steel water bottle", "不锈钢保温杯 500ml"


@pytest.mark.parametrize(
    ("query", "titles", "expected"),
    [
        ("quiet keyboard", [ENGLISH], True),
        ("quiet keyboard", [], True),
        ("quiet keyboard", ["", "42"], True),
        ("café crème 500ml", [ENGLISH], True),
        ("Ｋｅｙｂｏａｒｄ", [ENGLISH], True),
        ("tiếng Việt", [ENGLISH], True),
        ("保温杯", [ENGLISH], False),
        ("nike 跑鞋", [ENGLISH], False),
        ("клавиатура", [ENGLISH], False),
        ("キーボード", [ENGLISH], False),
        ("", [ENGLISH], False),
        ("42 / 5", [ENGLISH], False),
        ("👟", [ENGLISH], False),
        ("iphone 15", [CHINESE, CHINESE, ENGLISH], False),
        ("iphone 15", [CHINESE, ENGLISH, ENGLISH], True),
        ("iphone 15", ["Apple 苹果手机壳 透明防摔", "苹果 手机壳"], False),
        ("iphone 15", ["Apple iPhone 15 case 壳"], True),
    ],
)
def test_letters_decide(query: str, titles: list[str], expected: bool) -> None:
    assert is_latin(query, titles) is expected


@given(st.text(max_size=60), st.lists(st.text(max_size=30), max_size=5))
def test_the_order_of_hits_decides_nothing(query: str, titles: list[str]) -> None:
    assert is_latin(query, titles) == is_latin(query, titles[::-1])
    assert not is_latin(query + "保", titles)
