from __future__ import annotations

import pytest

from indexer.han import has_han


@pytest.mark.parametrize("text", ["杯", "a cup 保温杯", "㐂", "𠮷野家", "樂"])
def test_chinese_is_seen_in_all_blocks(text: str) -> None:
    assert has_han(text)


@pytest.mark.parametrize("text", ["", "cup 12", "カップ", "컵", "，。", "☰"])
def test_nothing_else_is(text: str) -> None:
    assert not has_han(text)
