"""Text of a product: markup and entities removed, Unicode repaired and normalised, language told by script."""

from __future__ import annotations

import html
import re
import unicodedata
from dataclasses import dataclass, field

import ftfy
from selectolax.lexbor import LexborHTMLParser

from indexer.han import HAN

# Mojibake is repaired here; quotes, widths and ligatures are left to NFKC, entities to the HTML step.
_REPAIR = ftfy.TextFixerConfig(
    unescape_html=False,
    fix_latin_ligatures=False,
    fix_character_width=False,
    uncurl_quotes=False,
    remove_control_chars=False,
    normalization=None,
)
_BLOCKS = (
    "address|article|aside|blockquote|br|caption|center|dd|div|dl|dt|figcaption|figure|footer|form|h[1-6]|header|"
    "hr|li|main|nav|ol|option|p|pre|section|table|tbody|td|tfoot|th|thead|tr|ul"
)
_INLINE = (
    "a|abbr|b|big|body|button|cite|code|del|em|embed|font|head|html|i|iframe|img|input|ins|kbd|label|link|map|mark|"
    "meta|object|param|q|s|script|select|small|source|span|strike|strong|style|sub|sup|svg|title|tt|u|video"
)
# Only known elements count as markup: "<XL>" and "a < b" are text.
_MARKUP = re.compile(rf"<!--|</?(?:{_BLOCKS}|{_INLINE})(?:\s[^<>]*)?/?(?:>|$)", re.IGNORECASE)
_BLOCK_TAG = re.compile(rf"(?=</?(?:{_BLOCKS})(?:\s|/|>))", re.IGNORECASE)
# With its semicolon only: browsers also read "&reg" in "food&regular", which is not what a shop means.
_ENTITY = re.compile(r"&(?:#\d{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z][A-Za-z0-9]{1,31});")
_BARE_AMPERSAND = re.compile(rf"&(?!{_ENTITY.pattern[1:]})")
_ROUNDS = 3  # "&amp;lt;p&amp;gt;" is text that was escaped twice

_TRADEMARK = re.compile("[™℠]")  # NFKC would glue "TM" to the name
_FRACTION = re.compile("(?<=[0-9])(?=[¼-¾⅐-⅞])")  # NFKC would turn 5½ into 51/2
_SPACES = re.compile(r"[^\S\n]+")
_LINE_ENDS = re.compile(r" *\n[ \n]*")
_HAN = re.compile(f"[{HAN}]")
_KANA = re.compile(r"[\u3040-\u30ff]")
_HANGUL = re.compile(r"[\uac00-\ud7af]")
_LATIN_WORD = re.compile(r"[A-Za-zÀ-ɏ]+")


@dataclass
class Cleaner:
    """Cleans text and remembers in `steps` what it had to do, for the report."""

    steps: set[str] = field(default_factory=set)

    def line(self, raw: str) -> str:
        """Clean text on one line: titles, names."""
        return " ".join(self.lines(raw).split())

    def lines(self, raw: str) -> str:
        """Clean text that keeps its line ends, without empty lines: descriptions, bullet points."""
        text = self._step("unicode_repaired", raw, repair(raw))
        text = self._step("markup_removed", text, strip_markup(text))
        text = self._step("unicode_normalised", text, normalise(text))
        text = self._step("control_characters_removed", text, strip_controls(text))
        # Spaces that taking out a tag leaves behind are not the shop's.
        self._step("whitespace_collapsed", raw, _collapse(raw))
        return _collapse(text)

    def _step(self, name: str, before: str, after: str) -> str:
        if after != before:
            self.steps.add(name)
        return after


def repair(text: str) -> str:
    """Undo mojibake: UTF-8 that was read as a Western encoding ("cafÃ©") or as GBK ("淇濇俯")."""
    if text.isascii():
        return text
    return _repair_gbk(ftfy.fix_text(text, _REPAIR))


def strip_markup(text: str) -> str:
    """Text without HTML tags and entities; block elements end a line."""
    for _ in range(_ROUNDS):
        before = text
        if _MARKUP.search(text):
            prepared = _BLOCK_TAG.sub("\n", _BARE_AMPERSAND.sub("&amp;", text))
            # A closing comment or tag may be missing where an export cut the text off: the parser copes.
            tree = LexborHTMLParser(f"<body>{prepared}")
            tree.strip_tags(["script", "style", "head", "title", "iframe", "object", "svg"], recursive=True)
            text = tree.body.text() if tree.body else ""
        text = _ENTITY.sub(lambda match: html.unescape(match.group()), text)
        if text == before:
            break
    return text


def normalise(text: str) -> str:
    """NFKC (full-width letters and digits become plain ones), but "5½" stays five and a half."""
    if text.isascii():
        return text
    text = _FRACTION.sub(" ", _TRADEMARK.sub(" ", text))
    return unicodedata.normalize("NFKC", text).replace("\u2044", "/")


def strip_controls(text: str) -> str:
    """Text without control, format, private-use and surrogate characters; emoji joiners stay."""
    if text.isascii() and text.isprintable():
        return text
    kept = []
    for character in text.replace("\r\n", "\n").replace("\r", "\n"):
        category = unicodedata.category(character)
        if character in "\n\u200c\u200d" or category[0] != "C":
            kept.append(character)
        elif category == "Cc":
            kept.append(" ")
    return "".join(kept)


def detect_language(text: str) -> str:
    """The language by script: zh, ja or ko, en for Latin letters, und for none of them.

    A Han character counts as much as a Latin word, so that a Chinese title full of brand and model names is
    Chinese. Languages in Latin script are not told apart: give `language` in the mapping.
    """
    kana, hangul, han = (len(pattern.findall(text)) for pattern in (_KANA, _HANGUL, _HAN))
    latin = len(_LATIN_WORD.findall(text))
    asian = kana + hangul + han
    if not asian and not latin:
        return "und"
    if asian < latin:
        return "en"
    if hangul >= max(kana, han):
        return "ko"
    # Japanese is full of Han too, but never long without kana.
    return "ja" if kana * 5 >= asian else "zh"


def _collapse(text: str) -> str:
    return _LINE_ENDS.sub("\n", _SPACES.sub(" ", text)).strip()


def _repair_gbk(text: str) -> str:
    """UTF-8 bytes read as GBK give rare characters that GB2312 lacks, and turn back into valid UTF-8."""
    if len(_HAN.findall(text)) < 3 or _encodes(text, "gb2312"):
        return text
    try:
        repaired = text.encode("gb18030").decode("utf-8")
    except UnicodeError:
        return text
    return repaired if _HAN.search(repaired) else text


def _encodes(text: str, encoding: str) -> bool:
    try:
        text.encode(encoding)
    except UnicodeError:
        return False
    return True
