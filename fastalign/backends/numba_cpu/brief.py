"""Rows of some dozens or hundreds of columns: each by itself, and what else a row costs for ABREAST of them.

The largest element is found first, so nothing is raised or swept again; from there the power of the peak is exactly 1,
so nothing is divided by.  A distance is bounded from below, which takes no longer than to see that none is beyond.

ns per row of 48, 128 and 512 float32, of 512 float64, in the cache, AVX2 in 128-bit halves (Zen 1), before and now:
forward 213 276 498 1172, 50 103 357 1059; with entropy 218 286 532 1330, 60 120 408 1278; gradient 344 477 1056 2810,
92 167 533 1365.  90 of them were references that were counted, to arrays that the functions of a row were given.
"""

import math

import numpy as np

from .access import get, over, put, read, scratch, unknown, write
from .access import shift as after
from .exponential import LOG2E
from .slim import ABREAST, FATE, LEAST_SCALE, LINEAR, OWN, PEAK, SLIM, SQUARES, TOTAL, WEIGHTED, A, C, D
from .tiles import PAIR

BRIEF = 512
# Where powers are kept: two rooms of a tile, and in AVX2 no more to a lane than elsewhere (tiles.py, PART).  Of 1000
# float32 a gradient 1163 ns for 1658, but forward 5 % slower than tiles.
KEPT = 1024


def is_brief(columns, scale, most):
    return SLIM < columns <= most and scale >= LEAST_SCALE


# ---- the peak and the sums of a row: S is at least 1, or NaN where there is a NaN or +inf, or nothing but -inf -------


def row_by_vectors(x, n, octaves, spread, moments):
    peak, s, u, q, z = zero, zero, zero, zero, zero
    if moments:
        peak, s, u, q, z = swept_row(x, n, octaves, 4)
    elif spread:
        peak, s, u = swept_row(x, n, octaves, 2)
    else:
        peak, s = swept_row(x, n, octaves, 1)
    return peak, s, u, q, z


def below_peak(x, level):
    peak, octaves = level
    t = (x - peak) * octaves
    return lowest if t < lowest else t


def row_sum_step(x, nothing, i, level, total):
    return total + exp2(below_peak(wide(get(x, i)), level))


def row_sums_step(x, nothing, i, level, tally):
    t = below_peak(wide(get(x, i)), level)
    e = exp2(t)
    return tally[0] + e, tally[1] + e * t


def row_moments_step(x, nothing, i, level, tally):
    t = below_peak(wide(get(x, i)), level)
    e = exp2(t)
    return tally[0] + e, tally[1] + e * t, tally[2] + e * e, tally[3] + wide(get(x, i))


def row_by_loops(x, n, octaves, spread, moments):
    s, u, q, z = zero, zero, zero, zero
    level = tile_max(x, n), octaves
    if moments:
        s, u, q, z = over(n, row_moments_step, x, 0, level, (zero, zero, zero, zero), PAIR)
    elif spread:
        s, u = over(n, row_sums_step, x, 0, level, (zero, zero), PAIR)
    else:
        s = over(n, row_sum_step, x, 0, level, zero, PAIR)
    return level[0], s, u, q, z


def row_keep_step(x, y, i, level, total):
    e = exp2(below_peak(wide(read(x, i, none)[0]), level))
    write(y, i, (e,))
    return total + e


def kept_by_loops(x, n, octaves, room):
    """The powers themselves go to the room."""
    level = tile_max(x, n), octaves
    return level[0], over(n, row_keep_step, (x,), (room,), level, zero, PAIR)


# ---- rows ------------------------------------------------------------------------------------------------------------


def brief_states(x, n, rows, scale, spread, moments, mask, masked, s):
    """As slim_states; what is masked is not read."""
    octaves = real(scale * LOG2E)
    for r in range(rows):
        row, peak, total, u, q, z = after(x, r * n), zero, real(1.0), zero, zero, zero
        if not masked or get(mask, r) != 0:
            peak, total, u, q, z = swept(row, n, octaves, spread, moments)
        put(s, LINEAR + r, np.float64(z))
        if not math.isfinite(get(s, LINEAR + r)):  # an infinity, or just too large for a real
            put(s, LINEAR + r, 0.0)
            for i in range(n):
                put(s, LINEAR + r, get(s, LINEAR + r) + np.float64(wide(get(row, i))))
        put(s, PEAK + r, np.float64(peak))
        put(s, TOTAL + r, np.float64(total))
        put(s, WEIGHTED + r, np.float64(u) / LOG2E)
        put(s, SQUARES + r, np.float64(q))
    for r in range(rows, ABREAST):
        put(s, TOTAL + r, 1.0)
        put(s, WEIGHTED + r, 0.0)
    logs(spread, s)


def ended_slopes(x, n, params, out):
    """As tile_slopes; what whole steps leave is one more from the end, of what they have not yet written."""
    last, at = scratch(none, 1), n - step
    tile_slopes(after(x, at), unknown(step), params, last)
    tile_slopes(x, (n - 1) // step * step, params, out)
    for k in range(step):
        put(out, at + k, get(last, k))


def ended_bends(x, n, params, out):
    last, at = scratch(none, 1), n - step
    tile_bends(after(x, at), unknown(step), params, last)
    tile_bends(x, (n - 1) // step * step, params, out)
    for k in range(step):
        put(out, at + k, get(last, k))


def fill(out, n, slope):
    for k in range(n):
        put(out, k, narrow(real(slope)))


def brief_bends(x, n, rows, scale, s, token, out):
    """As write_slopes, with what the tokens have more.  out may be x.

    A token's logit is read when its row is: before all of them, 40 ns more.
    """
    base, slope, bend = scratch(zero, 1), scratch(zero, 1), scratch(zero, 1)
    square, chosen, octaves = scratch(zero, 1), scratch(0.0, 1), real(scale * LOG2E)
    curves(s, scale, 1.0 / LOG2E, base, slope, bend, square)
    for r in range(ABREAST):
        put(chosen, r, 0.0)
    for r in range(rows):
        row, slopes, fate = after(x, r * n), after(out, r * n), get(s, FATE + r)
        if fate != 1.0:
            fill(slopes, n, fate)
        else:
            put(chosen, r, np.float64(wide(get(row, get(token, r)))))
            params = get(base, r), octaves, get(slope, r), get(bend, r)
            if get(s, C + r) == 0.0 and get(s, D + r) == 0.0:
                ended_slopes(row, n, params, slopes)
            else:
                ended_bends(row, n, (*params, get(square, r), real(get(s, D + r))), slopes)
    own_slopes(s, scale, chosen)
    give_tokens(rows, n, s, chosen, token, out)


def give_tokens(rows, n, s, slopes, token, out):
    for r in range(rows):
        if get(s, FATE + r) == 1.0:
            put(out, r * n + get(token, r), narrow(real(get(slopes, r))))


def straight_step(x, y, i, params, nothing):
    e = read(x, i, zero)[0]
    write(y, i, (narrow(zero if e < tiny else e * params[0]),))
    return nothing


def brief_straight(x, n, rows, scale, s, token, out):
    """The same where a slope is p a, without saved sums: the powers of the sum are kept, and multiplied."""
    kept, peak, total = scratch(zero, 2), scratch(0.0, 1), scratch(0.0, 1)
    chosen, octaves = scratch(0.0, 1), real(scale * LOG2E)
    for r in range(ABREAST):
        put(peak, r, 0.0)
        put(total, r, 1.0)
        put(chosen, r, 0.0)
    for r in range(rows):
        row, slopes, fate = after(x, r * n), after(out, r * n), get(s, FATE + r)
        if fate == 1.0:
            top, sum_ = swept_and_kept(row, n, octaves, kept)
            fate = fate if sum_ >= real(1.0) else np.nan
            put(s, FATE + r, fate)
            put(peak, r, np.float64(top))
            put(total, r, np.float64(sum_))
            put(chosen, r, np.float64(wide(get(row, get(token, r)))))
        if fate != 1.0:
            fill(slopes, n, fate)
        else:
            params, at = (real(get(s, A + r) / get(total, r)),), n - step
            over(n // step * step, straight_step, (kept,), (slopes,), params, 0, PAIR)
            over(unknown(step), straight_step, (after(kept, at),), (after(slopes, at),), params, 0, PAIR)
    for r in range(ABREAST):
        p = exp((get(chosen, r) - get(peak, r)) * scale) / get(total, r)
        bent = p * get(s, A + r)
        put(chosen, r, (bent if p > 0.0 else 0.0) + get(s, OWN + r))
    give_tokens(rows, n, s, chosen, token, out)
