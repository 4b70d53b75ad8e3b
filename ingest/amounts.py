"""Prices, ratings and counts as shops write them. What is not understood is said so, never guessed."""

from __future__ import annotations

import math
import re
import unicodedata
from dataclasses import dataclass
from typing import Any, Literal

Decimal = Literal["auto", ".", ","]

_NOTHING = {"", "-", "--", "n/a", "na", "null", "none", "无", "暂无", "未知"}
_NOT_FINITE = {"nan": math.nan, "inf": math.inf, "infinity": math.inf}
_CODE = re.compile(
    r"(?<![A-Za-z])(?:USD|CNY|RMB|EUR|GBP|JPY|HKD|TWD|KRW|INR|AUD|CAD|NZD|SGD|CHF|SEK|NOK|DKK|PLN|CZK|HUF|RON|TRY|BRL|MXN|ZAR|"
    r"THB|VND|IDR|MYR|PHP|AED|SAR|ILS|CLP|COP|ARS|PEN|EGP|UAH|KZT|RUB)(?![A-Za-z])",
    re.IGNORECASE,
)
# Written after an amount in Chinese: 129元, 129.00 元/件.
_YUAN = re.compile(r"(?:人民币|块钱|块|圆|元)(?:整|/\w+)?")
# "$" and "¥" stand for several currencies: they decide only where nothing else does.
_SIGNS = {
    "US$": "USD",
    "HK$": "HKD",
    "NT$": "TWD",
    "A$": "AUD",
    "C$": "CAD",
    "€": "EUR",
    "£": "GBP",
    "₩": "KRW",
    "₹": "INR",
}
_UNSURE_SIGNS = {"$": "USD", "¥": "CNY"}
_SAME_CURRENCY = {"RMB": "CNY"}
_COUNT_UNITS = {"k": 1_000, "千": 1_000, "w": 10_000, "万": 10_000, "m": 1_000_000, "亿": 100_000_000}


class NotUnderstoodError(ValueError):
    """The text is no number in any form that is read here."""


@dataclass(frozen=True)
class Amount:
    """A price as written; `currency` is empty when the value does not say it."""

    value: float
    currency: str
    sure: bool  # False when the currency is a guess from "$" or "¥"


def parse_amount(raw: Any, decimal: Decimal = "auto") -> Amount | None:
    """A price such as 24.9, "¥1,299.00", "USD 24,99" or "129元"; None when there is none.

    Raises NotUnderstoodError. Infinite and negative values come through: judging them is the caller's.
    """
    if not isinstance(raw, str):
        number = parse_number(raw, decimal)
        return None if number is None else Amount(number, "", sure=False)
    text = unicodedata.normalize("NFKC", raw).strip()
    currency, sure = "", True
    if _YUAN.search(text):
        text, currency = _YUAN.sub("", text), "CNY"
    for sign, code in _SIGNS.items():
        if sign in text:
            text, currency = text.replace(sign, ""), code
    code_found = _CODE.search(text)
    if code_found:
        code = code_found.group().upper()
        text, currency = text.replace(code_found.group(), "", 1), _SAME_CURRENCY.get(code, code)
    for sign, code in _UNSURE_SIGNS.items():
        if sign in text:
            text = text.replace(sign, "")
            if not currency:
                currency, sure = code, False
    number = parse_number(text, decimal)
    return None if number is None else Amount(number, currency, sure)


def parse_number(raw: Any, decimal: Decimal = "auto") -> float | None:
    """A plain number, or text with separators between thousands; None when there is nothing.

    With `decimal` auto, "1,299" is 1299 and "24,99" is 24.99: three digits behind a comma are thousands, one
    or two are a fraction. "1.299" is always 1.299 unless `decimal` is ",". Raises NotUnderstoodError.
    """
    if raw is None:
        return None
    if isinstance(raw, bool):
        raise NotUnderstoodError(f"expected a number, got {raw}")
    if not isinstance(raw, str):
        try:
            return float(raw)
        except (TypeError, ValueError, OverflowError) as error:
            raise NotUnderstoodError(f"expected a number, got {type(raw).__name__}") from error
    text = unicodedata.normalize("NFKC", raw).strip()
    if text.lower() in _NOTHING:
        return None
    # A minus may be a typographic one; thousands may be set apart by spaces or apostrophes.
    text = re.sub(r"(?<=\d)[ '’](?=\d{3}(?!\d))", "", text.replace("−", "-").replace("- ", "-"))
    if text.lower().lstrip("+-") in _NOT_FINITE:
        return _NOT_FINITE[text.lower().lstrip("+-")]
    plain = _plain(text, decimal)
    if plain is None:
        raise NotUnderstoodError("expected a number")
    return float(plain)


def parse_rating(raw: Any, scale: float, decimal: Decimal = "auto") -> float | None:
    """A rating on the scale 0 to 5; "4.5/5" and "4.5 out of 5 stars" bring their own scale.

    Values outside the scale come through as such. Raises NotUnderstoodError.
    """
    if isinstance(raw, str):
        text = unicodedata.normalize("NFKC", raw).strip().lower()
        text = re.sub(r"\s*(?:stars?|星|分)$", "", text)
        value, slash, own = re.sub(r"\s*out of\s*", "/", text).partition("/")
        if slash and text not in _NOTHING:
            own_scale = parse_number(own, decimal)
            if not own_scale or own_scale < 0:
                raise NotUnderstoodError("expected a rating such as 4.5/5")
            raw, scale = value, own_scale
        else:
            raw = text
    number = parse_number(raw, decimal)
    return None if number is None else round(number * 5 / scale, 4)


def parse_count(raw: Any) -> int | None:
    """A count such as 1234, "1,234", "3k+" or "1.2万"; None when there is none. Raises NotUnderstoodError."""
    factor = 1
    if isinstance(raw, str):
        text = unicodedata.normalize("NFKC", raw).strip().lower().removesuffix("+").strip()
        if text and text[-1] in _COUNT_UNITS:
            factor, text = _COUNT_UNITS[text[-1]], text[:-1].strip()
        raw = text
    number = parse_number(raw)
    if number is None:
        return None
    if not math.isfinite(number):
        raise NotUnderstoodError("expected a whole number")
    count = number * factor
    if abs(count - round(count)) > 1e-6:
        raise NotUnderstoodError("expected a whole number")
    return round(count)


def _plain(text: str, decimal: Decimal) -> str | None:
    """The number with "." as decimal point and no thousands, or None."""
    if decimal == ",":
        # The continental form is the other one mirrored.
        mirrored = text.translate(str.maketrans(",.", ".,"))
        return _plain(mirrored, ".")
    if decimal == "auto":
        if re.fullmatch(r"[+-]?\d+,\d{1,2}", text) or re.fullmatch(r"[+-]?\d{1,3}(?:\.\d{3})+,\d+", text):
            return _plain(text, ",")
        if re.fullmatch(r"[+-]?\d{1,3}(?:\.\d{3}){2,}", text):
            return _plain(text, ",")
    if re.fullmatch(r"[+-]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d*)?|[+-]?\.\d+", text):
        return text.replace(",", "")
    # Exponents are what programs write, so only in their plain form.
    return text if re.fullmatch(r"[+-]?\d+(?:\.\d+)?[eE][+-]?\d{1,3}", text) else None
