"""How likely a shopper looks at a position, estimated from clicks alone.

The position-based model says that a click takes two things, apart from each other: the position k is looked at, with
probability theta_k, and the product is attractive for the query, with probability gamma. Both are found by
expectation maximisation from logged clicks, without showing anybody a shuffled page (Wang, Golbandi, Bendersky, Metzler
and Najork, "Position Bias Estimation for Unbiased Learning to Rank in Personal Search", WSDM 2018; here with one gamma
a pair instead of a regression, as in Chuklin, Markov and de Rijke, "Click Models for Web Search", 2015).
"""

from __future__ import annotations

import msgspec
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

MIN_LINKED = 0.05  # share of impressions of pairs seen at several positions, below which theta is not to be told
MIN_CLICKS = 100  # below which there is nothing to estimate from
_LEAST = 0.01  # of theta: a position that happened to get no click is looked at all the same
_ROUNDS = 500
_TOLERANCE = 1e-6
# Pseudo-impressions of the prior on gamma while theta is estimated. A pair seen once must not decide its own gamma;
# but what ranks low is liked less than the mean, and a prior of 2 already books that to the position (on simulated
# clicks theta comes out 0.06 too low on average, and 0.02 with 0.2).
_STRENGTH = 0.2


class Curve(msgspec.Struct, frozen=True):
    """Examination by position, the first position first, its highest value 1.

    `estimated` is False where there are few clicks, or pairs did not move between positions: 1 / position is assumed.
    `linked` is the share of impressions whose pair was seen at more than one position.
    """

    theta: list[float]
    estimated: bool
    linked: float
    rounds: int = 0


def estimate(pair: Ints, position: Ints, shown: Floats, clicked: Floats) -> Curve:
    """The examination curve from counts: parallel arrays, a row for each pair and position (from 0).

    `shown` and `clicked` are impressions and clicks; `clicked` is at most `shown`.
    """
    positions = int(position.max()) + 1 if len(position) else 1
    several = np.bincount(pair, minlength=1) > 1  # rows are distinct, so a pair with two rows has two positions
    total = float(shown.sum())
    linked = float(shown[several[pair]].sum()) / total if total else 0.0
    if linked < MIN_LINKED or clicked.sum() < MIN_CLICKS:
        return Curve([1 / (at + 1) for at in range(positions)], False, linked)
    per_pair, per_position = np.bincount(pair, shown), np.bincount(position, shown, positions)
    seen = per_position > 0
    theta = 1 / np.arange(1, positions + 1) ** 0.5
    gamma = np.full(len(per_pair), 0.5)
    missed = shown - clicked
    rounds, step = 0, 1.0
    while step > _TOLERANCE and rounds < _ROUNDS:
        rounds += 1
        looked, liked = theta[position], gamma[pair]
        unclicked = missed / (1 - np.minimum(looked * liked, 1 - 1e-9))
        # Of the impressions without a click: those looked at and not liked, those liked and not looked at.
        examined = np.bincount(position, clicked + unclicked * looked * (1 - liked), positions)
        attracted = np.bincount(pair, clicked + unclicked * liked * (1 - looked))
        mean = attracted.sum() / total
        gamma = (attracted + _STRENGTH * mean) / (per_pair + _STRENGTH)
        new = np.where(seen, examined / np.maximum(per_position, 1), 0.0)
        step = float(np.abs(new / new.max() - theta / theta.max()).max())
        theta = new
    known = np.flatnonzero(seen)
    whole = np.interp(np.arange(positions), known, theta[known])  # a position nobody saw lies between its neighbours
    whole = np.maximum(whole / whole.max(), _LEAST)
    return Curve([float(value) for value in whole], True, linked, rounds)


def attractiveness(actions: Floats, looks: Floats, strength: float) -> Floats:
    """Actions over expected looks with a Beta prior, capped at 1: the posterior mean of gamma.

    `looks` is the sum of theta over a pair's impressions; the prior has the mean of all pairs and weighs `strength`
    looks. (Clicks over expected clicks, up to a constant: Zhang and Jones, "Comparing Click Logs and Editorial Labels
    for Training Query Rewriting", 2007.)
    """
    mean = min(float(actions.sum()) / max(float(looks.sum()), 1e-9), 1.0)
    value: Floats = np.minimum((actions + strength * mean) / (looks + strength), 1.0)
    return value
