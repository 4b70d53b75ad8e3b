"""The plots of the evaluation page, as inline SVG whose lengths are percentages: they fit a phone and a wide screen."""

from __future__ import annotations

import html
import unicodedata
from collections.abc import Sequence

import msgspec

_BARS_HEIGHT = 160.0


class Scale(msgspec.Struct, frozen=True):
    """Values from `low` to `high` along the width of a plot."""

    low: float
    high: float

    def at(self, value: float) -> float:
        """Percent of the width."""
        return round(100 * (value - self.low) / (self.high - self.low), 3)


class Bar(msgspec.Struct, frozen=True):
    """One query's difference; `target` is the id of what it leads to, empty when nothing does."""

    label: str
    value: float
    target: str


def escaped(text: str) -> str:
    """Text of strangers as HTML: markup shown as it stands, control characters as spaces."""
    return html.escape("".join(" " if unicodedata.category(mark) == "Cc" else mark for mark in text))


def scale_of(values: Sequence[float]) -> Scale:
    """A scale with room around the values, also where they are all the same."""
    low, high = min(values), max(values)
    room = (high - low) * 0.08 or 0.01
    return Scale(low - room, high + room)


def strip(mean: float, low: float, high: float, scale: Scale, mark: float, said: str) -> str:
    """A dot with its interval; `mark` is where the baseline stands, as a dashed line."""
    at, left, right, line = (scale.at(value) for value in (mean, low, high, mark))
    return (
        f'<svg class="strip" role="img" aria-label="{escaped(said)}">'
        f'<line class="mark" x1="{line}%" x2="{line}%" y1="0" y2="100%"/>'
        f'<line class="interval" x1="{left}%" x2="{right}%" y1="50%" y2="50%"/>'
        f'<circle class="mean" cx="{at}%" cy="50%" r="5"/></svg>'
    )


def bars(bars: Sequence[Bar], said: str) -> str:
    """A bar for each query, the best first: up where the system wins, down where it loses.

    The links are for pointers alone: with hundreds of bars a keyboard reaches the same queries faster by the list.
    """
    most = max((abs(bar.value) for bar in bars), default=0.0) or 1.0
    middle, width = _BARS_HEIGHT / 2, 100 / max(len(bars), 1)
    drawn = []
    for at, bar in enumerate(sorted(bars, key=lambda bar: -bar.value)):
        height = max(abs(bar.value) / most * (middle - 2), 1.0)
        top = middle - height if bar.value > 0 else middle
        kind = "win" if bar.value > 0 else "loss" if bar.value < 0 else "equal"
        shape = (
            f'<rect class="{kind}" x="{at * width:.4f}%" width="{width * 0.85:.4f}%" y="{top:.2f}" '
            f'height="{height:.2f}"><title>{escaped(bar.label)}: {bar.value:+.4f}</title></rect>'
        )
        drawn.append(f'<a href="#{bar.target}" tabindex="-1">{shape}</a>' if bar.target else shape)
    return (
        f'<svg class="bars" height="{_BARS_HEIGHT:.0f}" role="img" aria-label="{escaped(said)}">'
        f'<line class="mark" x1="0" x2="100%" y1="{middle}" y2="{middle}"/>{"".join(drawn)}</svg>'
    )
