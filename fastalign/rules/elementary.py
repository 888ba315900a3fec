"""Stable building blocks.  Comparisons are ternaries, not min and max: so every compiler treats NaN alike.

exp_of_minus, exp_within, growth_within, log1p_unit and differ are named for what a backend may know of them: vecmath.h
computes them shorter.
"""

import math


def exp_of_minus(x: float) -> float:
    """exp(−|x|)."""
    return math.exp(-abs(x))


def log1p_unit(x: float) -> float:
    """log(1 + x), for 0 ≤ x ≤ 1 or NaN: what follows exp_of_minus."""
    return math.log1p(x)


def exp_within(x: float, most: float) -> float:
    """exp(x), for |x| ≤ most or NaN: what follows a clamp."""
    return math.exp(x)


def growth_within(x: float, most: float) -> float:
    """exp(x) − 1 − x likewise: k3 of a log-ratio.  By expm1, as exp(x) − 1 cancels near 0; 0 has no sign, ∞ gives ∞."""
    return math.expm1(x) - (x if x < 1e30 else 1e30)


def differ(x: float, y: float) -> float:
    """1 where x ≠ y, else 0; 0 for NaN."""
    return 1.0 if abs(x - y) > 0.0 else 0.0


def softplus(x: float) -> float:
    """log(1 + exp(x)) without overflow."""
    return (0.0 if x < 0.0 else x) + log1p_unit(exp_of_minus(x))


def sigmoid(x: float) -> float:
    """1 / (1 + exp(-x)) without overflow.  For 1 - sigmoid(x) write sigmoid(-x): the difference is gone at 37.

    Divided before it is selected: sigmoid(x) and sigmoid(-x) then share one division.
    """
    z = exp_of_minus(x)
    q = 1.0 / (1.0 + z)
    return z * q if x < 0.0 else q


def clamp(x: float, low: float, high: float) -> float:
    """x bounded to [low, high]; NaN stays NaN."""
    bounded = low if x < low else x
    return high if bounded > high else bounded
