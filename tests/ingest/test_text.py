"""Markup, mojibake and odd characters go; what a shop meant stays."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest.text import Cleaner, detect_language


@pytest.mark.parametrize(
    ("raw", "clean"),
    [
        ("<p>Soft <b>cot</b>ton</p><ul><li>Red</li><li>Blue</li></ul>", "Soft cotton\nRed\nBlue"),
        ("<b>保温</b>杯<br/>大容量", "保温杯\n大容量"),
        ("AT&amp;T &ldquo;X&rdquo; &#26479;", "AT&T “X” 杯"),
        ("&lt;p&gt;escaped twice&lt;/p&gt;", "escaped twice"),
        ("pen&notebook food&regular", "pen&notebook food&regular"),
        ("<i>pen&notebook</i>", "pen&notebook"),
        ("size <XL>, a < b > c, I <3 it", "size <XL>, a < b > c, I <3 it"),
        ("<script>alert(1)</script>Lamp<style>p {}</style>", "Lamp"),
        ("Lamp <!-- sale -->on", "Lamp on"),
        ("Lamp <p style='color", "Lamp"),
        ("<td>A</td><td>B</td>", "A\nB"),
    ],
)
def test_html_and_entities_are_removed(raw: str, clean: str) -> None:
    assert Cleaner().lines(raw) == clean


@pytest.mark.parametrize(
    ("raw", "clean"),
    [
        ("cafÃ© crÃ¨me", "café crème"),
        ("保温杯".encode().decode("latin-1"), "保温杯"),
        ("保温".encode().decode("gbk"), "保温"),  # 淇濇俯
        ("联通 电信 移动", "联通 电信 移动"),
    ],
)
def test_mojibake_is_repaired_in_both_languages(raw: str, clean: str) -> None:
    assert Cleaner().line(raw) == clean


@pytest.mark.parametrize(
    ("raw", "clean"),
    [
        ("ＡＢＣ１２３　５００ｍｌ（黑色）", "ABC123 500ml(黑色)"),
        ("Kindle™ 5½ inch, m²", "Kindle 5 1/2 inch, m2"),
        ("a\x00b\x07c\u200bd\u00a0e\ufefff", "a b cd ef"),
        ("  many \t\n\n  spaces  ", "many spaces"),
        ("👨‍👩‍👧 ok 🎁", "👨‍👩‍👧 ok 🎁"),
        ("half a pair \ud83d", "half a pair �"),
    ],
)
def test_unicode_is_normalised_and_control_characters_go(raw: str, clean: str) -> None:
    assert Cleaner().line(raw) == clean


def test_the_steps_that_did_something_are_remembered() -> None:
    cleaner = Cleaner()
    cleaner.line("plain")
    assert cleaner.steps == set()
    cleaner.line("<b>Ｘ</b>")
    assert cleaner.steps == {"markup_removed", "unicode_normalised"}


@given(st.text(max_size=60))
def test_clean_text_stays_as_it_is_when_cleaned_again_and_can_be_encoded(raw: str) -> None:
    once = Cleaner().lines(raw)
    assert not any(character in once for character in "\x00\x1b\r\t")
    once.encode()


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("索尼 WH-1000XM5 头戴式无线降噪耳机 Sony", "zh"),
        ("保温杯", "zh"),
        ("Yixing tea pot 茶 for green tea", "en"),
        ("ワイヤレスイヤホン 高音質", "ja"),
        ("무선 이어폰", "ko"),
        ("12345 !", "und"),
    ],
)
def test_the_language_is_told_by_script(text: str, language: str) -> None:
    assert detect_language(text) == language
