"""Which prices are far from what their category costs: median and MAD of log prices, from a first pass.

The pass keeps, for every category and its parents, a uniform sample of at most 256 prices, and at most 20,000
categories: 50 MB in the worst case, however long the catalogue is.
"""

from __future__ import annotations

import math
import random
from array import array
from collections.abc import Sequence
from statistics import median

_SAMPLE = 256
_MAX_GROUPS = 20_000
_ENOUGH = 12  # fewer prices say little; the parent category is asked instead
_DEVIATIONS = 5.0
_MAD_TO_SIGMA = 1.4826  # makes the MAD of a normal distribution its standard deviation
_LEAST_FACTOR = math.log(5)  # where all prices are alike, twice as much is no outlier


class PriceStatistics:
    """Collects prices by category, then judges single ones. Currencies are never compared with each other."""

    def __init__(self, seed: int = 0) -> None:
        self._random = random.Random(seed)  # noqa: S311 (a sample, not a secret)
        self._samples: dict[tuple[str, ...], array[float]] = {}
        self._seen: dict[tuple[str, ...], int] = {}
        self._bounds: dict[tuple[str, ...], tuple[float, float] | None] = {}

    def add(self, category: Sequence[str], currency: str, price: float) -> None:
        """Count a possible price for its category and all parents."""
        for group in _groups(category, currency):
            sample = self._samples.get(group)
            if sample is None:
                if len(self._samples) >= _MAX_GROUPS:
                    continue
                sample = self._samples[group] = array("d")
            seen = self._seen[group] = self._seen.get(group, 0) + 1
            # Reservoir sampling: every price seen so far is in the sample with the same probability.
            if len(sample) < _SAMPLE:
                sample.append(math.log(price))
            elif (place := self._random.randrange(seen)) < _SAMPLE:
                sample[place] = math.log(price)
        self._bounds.clear()

    def usual(self, category: Sequence[str], currency: str) -> tuple[float, float] | None:
        """Lowest and highest usual price of the nearest category with enough prices, or None."""
        for group in _groups(category, currency):
            if len(self._samples.get(group, ())) >= _ENOUGH:
                if group not in self._bounds:
                    self._bounds[group] = _usual(self._samples[group])
                return self._bounds[group]
        return None

    def is_outlier(self, category: Sequence[str], currency: str, price: float) -> bool:
        """Whether the price is far outside what its category costs."""
        bounds = self.usual(category, currency)
        return bounds is not None and not bounds[0] <= price <= bounds[1]


def _groups(category: Sequence[str], currency: str) -> list[tuple[str, ...]]:
    """The category, then its parents. The whole catalogue is no group: a pen and a sofa share no price."""
    return [(currency, *category[:depth]) for depth in range(len(category), 0, -1)]


def _usual(logs: Sequence[float]) -> tuple[float, float]:
    middle = median(logs)
    mad = median(abs(value - middle) for value in logs)
    width = max(_DEVIATIONS * _MAD_TO_SIGMA * mad, _LEAST_FACTOR)
    return math.exp(middle - width), math.exp(middle + width)
