"""Stable building blocks.  Comparisons are ternaries, not min and max: so every compiler treats NaN alike."""

import math


def softplus(x: float) -> float:
    """log(1 + exp(x)) without overflow."""
    return (0.0 if x < 0.0 else x) + math.log1p(math.exp(-abs(x)))


def sigmoid(x: float) -> float:
    """1 / (1 + exp(-x)) without overflow.  For 1 - sigmoid(x) write sigmoid(-x): the difference is gone at 37.

    Divided before it is selected: sigmoid(x) and sigmoid(-x) then share one division.
    """
    z = math.exp(-abs(x))
    q = 1.0 / (1.0 + z)
    return z * q if x < 0.0 else q


def clamp(x: float, low: float, high: float) -> float:
    """x bounded to [low, high]; NaN stays NaN."""
    bounded = low if x < low else x
    return high if bounded > high else bounded
