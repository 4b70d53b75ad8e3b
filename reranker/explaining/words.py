"""The words of a text as a person reads them, each with the tokens that a model reads it by.

English words keep their hyphens, apostrophes and slashes, a number its unit. Nothing in Chinese text says where a word
ends, so a run of Han characters is told apart by what it shares with the query, else by the tokenizer's longer pieces,
else by twos and threes. A token is never split: words that share one are one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

import msgspec

from indexer.han import HAN
from reranker.text import Part

_WORD = re.compile(
    rf"\d+(?:\.\d+)?[{HAN}](?![{HAN}])"  # 8片
    rf"|的|(?:(?!的)[{HAN}])+"
    rf"|[^\W_{HAN}]+(?:[-'’./&+][^\W_{HAN}]+)*"
)
_LONGEST = 4  # Han characters that are one word as they stand

Span = tuple[int, int]


class Word(msgspec.Struct, frozen=True):
    """A word: its characters (start, end) in the part's text, and the positions of its tokens in the part."""

    start: int
    end: int
    tokens: tuple[int, ...]


def words(part: Part, query: str) -> list[Word]:
    """The words of a part that the model reads at least a piece of, in order; the label is none of them."""
    pieces = [_bare(part.text, span) for span in part.offsets]
    found: list[Word] = []
    for start, end in _spans(part, pieces, query):
        tokens = tuple(at for at, (a, b) in enumerate(pieces) if a < end and b > start)
        if not tokens:
            continue
        if found and tokens[0] <= found[-1].tokens[-1]:
            last = found.pop()
            start, tokens = last.start, tuple(sorted({*last.tokens, *tokens}))
        found.append(Word(start, end, tokens))
    return found


def _spans(part: Part, pieces: Sequence[Span], query: str) -> Iterator[Span]:
    read = pieces[-1][1] if pieces else 0
    for match in _WORD.finditer(part.text, part.begins):
        if match.start() >= read:
            return
        if "㐀" <= match.group()[0] <= "鿿":
            end = min(match.end(), read + _LONGEST)  # what lies behind was not read, and may be long
            yield from _han_words(part.text, match.start(), end, pieces, query)
        else:
            yield match.span()


def _bare(text: str, span: Span) -> Span:
    """A token's characters without the spaces around them."""
    piece = text[span[0] : span[1]]
    start = span[0] + len(piece) - len(piece.lstrip())
    return start, start + len(piece.strip())


def _han_words(text: str, start: int, end: int, pieces: Sequence[Span], query: str) -> Iterator[Span]:
    """A run of Han characters, cut first around what the query has too (two characters or more)."""
    at = behind = start
    while at < end:
        length = next((n for n in range(min(end - at, len(query)), 1, -1) if text[at : at + n] in query), 0)
        if not length:
            at += 1
            continue
        yield from _cut(behind, at, pieces)
        yield from _cut(at, at + length, pieces)
        at = behind = at + length
    yield from _cut(behind, end, pieces)


def _cut(start: int, end: int, pieces: Sequence[Span]) -> list[Span]:
    """A stretch as it stands where it is short, else around the tokenizer's longer pieces."""
    if end - start <= _LONGEST:
        return [(start, end)] if end > start else []
    found: list[Span] = []
    at = start
    for a, b in [*(each for each in pieces if start <= each[0] < each[1] - 1 and each[1] <= end), (end, end)]:
        if a - at == 1 and found:
            found[-1] = (found[-1][0], a)  # 运动 + 鞋
        else:
            found += _pairs(at, a)
        if b > a:
            found.append((a, b))
        at = b
    return found


def _pairs(start: int, end: int) -> list[Span]:
    """By twos, the last by three where the count is odd."""
    starts = range(start, max(end - 1, start + 1), 2) if end > start else ()
    return [(at, end if end - at <= 3 else at + 2) for at in starts]
