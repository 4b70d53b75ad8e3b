"""How much of each limit one search has used, and the sentence that refuses more."""

from __future__ import annotations

import re
from typing import Any, NoReturn

from indexer.errors import InputError
from indexer.settings import Limits
from reranker.serving.access import DeniedError

_WHOLE = re.compile(r"-?[0-9]{1,18}(?:\.0*)?", re.ASCII)
_REAL = re.compile(r"-?[0-9]{1,18}(?:\.[0-9]{0,18})?", re.ASCII)
_DURATION = re.compile(r"([0-9]{1,15})(nanos|micros|ms|s|m|h|d)", re.ASCII)
_SECONDS = {"nanos": 1e-9, "micros": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}


class Budget:
    """The limits of one search. Each `what` is a plain name for what is counted, for the error's sentence."""

    __slots__ = ("_used", "limits")

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._used: dict[str, float] = {}

    def most(self, setting: str, value: float, what: str) -> None:
        """Refuse a single value above the limit. Raises InputError."""
        limit = getattr(self.limits, setting)
        if value > limit:
            raise InputError(
                f"{what} is {value:,.15g}; more than {limit:,} is not passed on (limits.{setting}). Ask for less, or "
                "let the operator raise the limit."
            )

    def spend(self, setting: str, more: float, what: str) -> None:
        """Refuse a sum over the whole search above the limit. Raises InputError."""
        used = self._used.get(setting, 0) + more
        self._used[setting] = used
        if used > getattr(self.limits, setting):
            self.most(setting, used, what)

    def number(self, setting: str, value: Any, what: str, otherwise: int = 0) -> int:
        """A number as a node would read it, within the limit; `otherwise` where none is given. Raises InputError."""
        if value is None:
            return otherwise
        number = whole(value, what)
        self.most(setting, number, what)
        return number

    def duration(self, setting: str, value: Any, what: str) -> None:
        """Refuse a time such as "1m" above the limit of seconds. Raises InputError."""
        if value is None:
            return
        found = _DURATION.fullmatch(value.strip().lower()) if isinstance(value, str) else None
        if found is None:
            raise InputError(f"{what} is {shown(value)}; write a whole number and a unit, such as 30s or 1m.")
        self.most(setting, int(found[1]) * _SECONDS[found[2]], f"{what} in seconds")

    def refuse_script(self, what: str) -> None:
        """Refuse what would run as a script, unless scripts are allowed. Raises DeniedError."""
        if not self.limits.scripts:
            off("scripts", what)

    def refuse_template(self, what: str) -> None:
        """Refuse what is filled in after it was looked at, unless that is allowed. Raises DeniedError."""
        if not self.limits.templates:
            off("templates", what)


def off(setting: str, what: str) -> NoReturn:
    """Raises the DeniedError of what is off."""
    raise DeniedError(
        403, f"{what} is not passed on: limits.{setting} is off. Leave it out, or let the operator turn it on."
    )


def whole(value: Any, what: str) -> int:
    """A whole number; a node also takes one as a text. Raises InputError for what could be read in another way."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, str) and _WHOLE.fullmatch(value):
        return int(value.partition(".")[0])
    raise InputError(f"{what} is {shown(value)}; write a whole number.")


def real(value: Any, what: str) -> float:
    """A number with or without decimals. Raises InputError for what could be read in another way."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return value
    if isinstance(value, str) and _REAL.fullmatch(value):
        return float(value)
    raise InputError(f"{what} is {shown(value)}; write a number.")


def shown(value: Any) -> str:
    """A client's value as an error quotes it: not all of a long one."""
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:100]}…"
