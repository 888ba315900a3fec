"""Rows of few columns, ABREAST of them at a time, their lanes being rows: what a row costs by itself is shared.

As src_ext/rows_slim.h: an exponential is natural, of its distance from the largest, which must be a distance.  What is
found depends on the row alone: every loop takes all lanes, those beyond the last row being 0, and which loop it is
depends on what is asked for.

ns per row of 65,536 x 6 and x 18 float32, AVX2 in 128-bit halves (Zen 1), by itself and so: forward 297 314, 31 54;
gradient 480 509, 79 131; with a saved log-sum-exp 135 147, 59 91, and of 16,384 x 32 float64, where exp is all, 224 and
283.  With the arrays handed to a function per row, whose references are counted, a gradient took 300 more.  With an
entropy a row of 6 took 40, where the rule was called row by row, and takes 27.
"""

import math

import numpy as np

from .access import get, put, scratch

SLIM = 32
ABREAST = 64  # a room of a tile has place for eight numbers of each, four for all columns
LEAST_SCALE = 2.0**-64
SUMS = 4  # of every fourth column each: eight of a sum's roundings, not 32
FLOOR = -800.0  # log p: where p is 0, and p log p must be
# Where a room has what of a row: its sums, as of a part, log S and the entropy;
PEAK, TOTAL, REST, WEIGHTED, SQUARES, LINEAR, ENTROPY = range(0, 7 * ABREAST, ABREAST)
# or what its slopes are made of, as of write_slopes, what the token's has more, and 1, or else all slopes.
A, B, C, D, OWN, FATE = TOTAL, WEIGHTED, SQUARES, LINEAR, ENTROPY, 7 * ABREAST


def is_slim(columns, scale):
    return columns <= SLIM and scale >= LEAST_SCALE


def slim_take(x, n, rows, z):
    """The columns of rows that follow one another."""
    for r in range(rows):
        for j in range(n):
            put(z, j * ABREAST + r, wide(get(x, r * n + j)))
    for j in range(n if rows < ABREAST else 0):
        for r in range(rows, ABREAST):
            put(z, j * ABREAST + r, zero)


def slim_give(z, n, rows, out):
    for r in range(rows):
        for j in range(n):
            put(out, r * n + j, narrow(get(z, j * ABREAST + r)))


def together(sums, r):
    a, b = np.float64(get(sums, r)), np.float64(get(sums, ABREAST + r))
    return (a + b) + (np.float64(get(sums, 2 * ABREAST + r)) + np.float64(get(sums, 3 * ABREAST + r)))


def slim_states(x, n, rows, scale, spread, moments, s):
    """The sums, those asked for; S is NaN of a row that must be swept by itself."""
    z, peak, total = scratch(zero, 4), scratch(zero, 1), scratch(zero, 1)
    weighted, squares, linear = scratch(zero, 1), scratch(zero, 1), scratch(0.0, 1)
    by, floor, want = real(scale), real(FLOOR), spread or moments
    slim_take(x, n, rows, z)
    for r in range(ABREAST):
        put(peak, r, get(z, r))
        put(linear, r, 0.0)
    for r in range(SUMS * ABREAST):
        put(total, r, zero)
        put(weighted, r, zero)
        put(squares, r, zero)
    for j in range(1, n):
        for r in range(ABREAST):
            a, b = get(z, j * ABREAST + r), get(peak, r)
            put(peak, r, a if a > b else b)
    if want:
        for j in range(n):
            at = j % SUMS * ABREAST
            for r in range(ABREAST):
                far = (get(z, j * ABREAST + r) - get(peak, r)) * by
                t = floor if far < floor else far
                e = fall(t)
                put(total, at + r, get(total, at + r) + e)
                put(weighted, at + r, get(weighted, at + r) + e * t)
                put(squares, at + r, get(squares, at + r) + e * e)
            if moments:
                for r in range(ABREAST):
                    put(linear, r, get(linear, r) + np.float64(get(z, j * ABREAST + r)))
    else:
        for j in range(n):
            at = j % SUMS * ABREAST
            for r in range(ABREAST):
                put(total, at + r, get(total, at + r) + fall((get(z, j * ABREAST + r) - get(peak, r)) * by))
    for r in range(ABREAST):
        put(s, PEAK + r, np.float64(get(peak, r)))
    for r in range(ABREAST):
        put(s, TOTAL + r, together(total, r))
    for r in range(ABREAST if want else 0):
        put(s, WEIGHTED + r, together(weighted, r))
        put(s, SQUARES + r, together(squares, r))
        put(s, LINEAR + r, get(linear, r))
    logs(spread, s)


def logs(spread, s):
    if spread:
        for r in range(ABREAST):
            put(s, REST + r, log(get(s, TOTAL + r)))
            put(s, ENTROPY + r, row_entropy(get(s, TOTAL + r), get(s, WEIGHTED + r)))
    else:
        for r in range(ABREAST):
            put(s, REST + r, log(get(s, TOTAL + r)))


def slope_of(s, lane, peak, rest, a, b, c, d, own):
    put(s, PEAK + lane, peak)
    put(s, REST + lane, rest)
    put(s, A + lane, a)
    put(s, B + lane, b)
    put(s, C + lane, c)
    put(s, D + lane, d)
    put(s, OWN + lane, own)
    put(s, FATE + lane, 1.0 if math.isfinite(peak + rest) else np.nan)  # no probabilities: every derivative is NaN


def slope_none(s, lane, token):
    """Of a row whose gradient is 0."""
    for k in range(PEAK, FATE + ABREAST, ABREAST):
        put(s, k + lane, 0.0)
    put(token, lane, np.int64(0))


def curves(s, scale, unit, base, slope, bend, square):
    """What the rows' slopes follow in reals, of log p in ``unit``s."""
    for r in range(ABREAST):
        peak, rest, b = get(s, PEAK + r), get(s, REST + r), get(s, B + r)
        near = real(peak + rest / scale)
        near = near if abs(near) < real(np.inf) else real(peak)
        left = (np.float64(near) - peak) * scale - rest  # what is left over joins the factors
        f = exp(left)
        put(base, r, near)
        put(slope, r, real((get(s, A + r) + b * left) * f))
        put(bend, r, real(b * f * unit))
        put(square, r, real(get(s, C + r) * f * f))


def own_slopes(s, scale, chosen):
    """The tokens' slopes, in the place of their logits."""
    for r in range(ABREAST):
        t = (get(chosen, r) - get(s, PEAK + r)) * scale - get(s, REST + r)
        p = exp(t)
        bent = p * (get(s, A + r) + get(s, B + r) * t + get(s, C + r) * p)
        put(chosen, r, (bent if p > 0.0 else 0.0) + get(s, D + r) + get(s, OWN + r))


def slim_bends(x, n, rows, scale, straight, s, token, out):
    """As write_slopes, with what the tokens have more; ``straight``: b, c and d are 0.  out may be x."""
    z, base, slope, bend = scratch(zero, 4), scratch(zero, 1), scratch(zero, 1), scratch(zero, 1)
    square, shifted, chosen = scratch(zero, 1), scratch(zero, 1), scratch(0.0, 1)
    by = real(scale)
    slim_take(x, n, rows, z)
    for r in range(rows, ABREAST):
        slope_none(s, r, token)
    for r in range(ABREAST):
        put(chosen, r, np.float64(get(z, get(token, r) * ABREAST + r)))
    curves(s, scale, 1.0, base, slope, bend, square)
    for r in range(ABREAST):
        put(shifted, r, real(get(s, D + r)))
    for j in range(n):
        if straight:
            for r in range(ABREAST):
                e = power((get(z, j * ABREAST + r) - get(base, r)) * by)
                bent = e * get(slope, r)
                put(z, j * ABREAST + r, bent if e > zero else zero)
        else:
            for r in range(ABREAST):
                t = (get(z, j * ABREAST + r) - get(base, r)) * by
                e = power(t)
                bent = e * (get(slope, r) + get(bend, r) * t + get(square, r) * e)
                put(z, j * ABREAST + r, (bent if e > zero else zero) + get(shifted, r))
    own_slopes(s, scale, chosen)
    for r in range(rows):
        put(z, get(token, r) * ABREAST + r, real(get(chosen, r)))
        fate = get(s, FATE + r)
        if fate != 1.0:
            for j in range(n):
                put(z, j * ABREAST + r, real(fate))
    slim_give(z, n, rows, out)
