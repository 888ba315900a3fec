"""Loops over one tile of a row, in the dtype of the computation.  What is free in them, row.py fills in."""

import math
from typing import Any

import numpy as np

from .access import extended, fma, get, over, product, read, shortened, write
from .access import shift as after
from .compiling import converts
from .exponential import LOG2E

# Elements summed at once with AVX2: n additions to a lane, of equal numbers, are off by up to 1.5e-8 n, 2e-6 for 128.
PART = 1024
NOTES = 2  # of each tile of a row whose exponentials are kept: the peak of its time, and what divides
PAIR = 2  # vectors at once: slopes of float32 in AVX2 5.5 ms, of float64 15.9, by one 6.4 and 22.1


def tile_max(x, n):
    """The largest element, by integers ordered like the floats: a float maximum would be scalar or lose NaN."""
    top = integer(least)
    for i in range(n):
        v = real(wide(get(x, i))).view(integer)
        v = integer(v ^ integer((v >> integer(sign_shift)) & integer(magnitude)))
        top = v if v > top else top
    return integer(top ^ integer((top >> integer(sign_shift)) & integer(magnitude))).view(real)


def sum_step(x, nothing, i, level, total):
    p, power = factors(wide(get(x, i)), level)
    return total + product(p, power)


def sums_step(x, nothing, i, level, tally):
    """0 must not meet -inf, and does not: below the least element t is as there."""
    p, power = factors(wide(get(x, i)), level)
    e = product(p, power)
    return tally[0] + e, tally[1] + e * octaves_of(wide(get(x, i)), level)


def moments_step(x, nothing, i, level, tally):
    p, power = factors(wide(get(x, i)), level)
    e = product(p, power)
    return tally[0] + e, tally[1] + e * octaves_of(wide(get(x, i)), level), tally[2] + e * e, tally[3] + wide(get(x, i))


def tile_sum(x, n, level):
    """Sum of exponentials relative to a level.

    By as many vectors at once as what sums more, for the same bits: several, and of AVX2 one, which has few registers
    (with entropy, 512 x 32,000 float32: by two 5.0 ms, and 21 where what is spilled lies across two pages; by one 4.3).
    """
    return over(n, sum_step, x, 0, level, real(0.0), beside)


def tile_sums(x, n, level):
    """Also the sum of 2^t t, in octaves."""
    return over(n, sums_step, x, 0, level, (real(0.0), real(0.0)), beside)


def tile_moments(x, n, level):
    """Also the sums of 2^2t and of the logits themselves."""
    return over(n, moments_step, x, 0, level, (real(0.0), real(0.0), real(0.0), real(0.0)), beside)


def keep_step(x, y, i, level, total):
    p, power = factors(wide(read(x, i, none)[0]), level)
    e = product(p, power)
    write(y, i, (e,))
    return total + e


def keep_sums_step(x, y, i, level, tally):
    v = wide(read(x, i, none)[0])
    p, power = factors(v, level)
    e = product(p, power)
    write(y, i, (e,))
    return tally[0] + e, tally[1] + e * octaves_of(v, level)


def tile_keep(x, n, level, room):
    """tile_sum, of exponentials that stay in the room."""
    return over(n, keep_step, (x,), (room,), level, real(0.0), beside)


def tile_keep_sums(x, n, level, room):
    """tile_sums, of exponentials that stay in the room."""
    return over(n, keep_sums_step, (x,), (room,), level, (real(0.0), real(0.0)), beside)


def far_sums(x, n, level, spread, moments, keep, room):
    """Those that are asked for; the others are 0."""
    s, u, q, z = real(0.0), real(0.0), real(0.0), real(0.0)
    if moments:
        s, u, q, z = tile_moments(x, n, level)
    elif spread and keep:
        s, u = tile_keep_sums(x, n, level, room)
    elif spread:
        s, u = tile_sums(x, n, level)
    elif keep:
        s = tile_keep(x, n, level, room)
    else:
        s = tile_sum(x, n, level)
    return s, u, q, z


def far_unit(peak, level):
    p, power = factors(peak, level)
    return np.float64(p * power), 0.0


def near_sums(x, n, level, spread, moments, keep, room):
    """The same by vectors.py.  With AVX2 the sum is infinite where an element is beyond 2^t."""
    s, u, q, z = real(0.0), real(0.0), real(0.0), real(0.0)
    if moments:
        s, u, q, z = swept(x, n, level, 4)
    elif spread and keep:
        s, u = swept_and_kept(x, n, level, room, 2)
    elif spread:
        s, u = swept(x, n, level, 2)
    elif keep:
        s = swept_and_kept(x, n, level, room, 1)[0]
    else:
        s = swept(x, n, level, 1)[0]
    return s, u, q, z


def near_sums_by_parts(x, n, level, spread, moments, keep, room):
    """The same, of fewer additions to a lane (PART)."""
    s, u, q, z = real(0.0), real(0.0), real(0.0), real(0.0)
    for at in range(0, n, PART):
        y, m = after(x, at), min(PART, n - at)
        if moments:
            a, b, c, d = swept(y, m, level, 4)
            s, u, q, z = s + a, u + b, q + c, z + d
        elif spread and keep:
            a, b = swept_and_kept(y, m, level, after(room, at), 2)
            s, u = s + a, u + b
        elif spread:
            a, b = swept(y, m, level, 2)
            s, u = s + a, u + b
        elif keep:
            s += swept_and_kept(y, m, level, after(room, at), 1)[0]
        else:
            s += swept(y, m, level, 1)[0]
    return s, u, q, z


def near_unit(peak, level):
    """2^t of the peak, and t 2^t: octaves of a rounded peak are not quite 0."""
    e = swept_one(peak, level)
    return np.float64(e), np.float64(product(e, fma(peak, level[1], -level[4])))


def plain_sums(x, n, base, scale):
    """The same in double, where octaves cannot be counted: of logits of millions, or of temperatures like that."""
    total, weighted, squares, linear = 0.0, 0.0, 0.0, 0.0
    for i in range(n):
        t = (np.float64(wide(get(x, i))) - base) * scale
        e = math.exp(t)
        total += e
        weighted += e * t if e > 0.0 else 0.0
        squares += e * e
        linear += np.float64(wide(get(x, i)))
    return total, weighted * LOG2E, squares, linear


def slope_step(x, y, i, params, nothing):
    base, octaves, a, b = params
    t = (wide(read(x, i, none)[0]) - base) * octaves
    write(y, i, (narrow(real(0.0) if t < lowest else exp2(t) * (a + b * t)),))
    return nothing


def bend_step(x, y, i, params, nothing):
    base, octaves, a, b, c, d = params
    t = (wide(read(x, i, none)[0]) - base) * octaves
    p = exp2(t)
    write(y, i, (narrow((real(0.0) if t < lowest else p * (a + b * t + c * p)) + d),))
    return nothing


def kept_step(x, y, i, params, nothing):
    """A slope of the power that was kept, where it is not nothing."""
    base, octaves, a, b = params
    e, t = read(x[1], i, zero)[0], (wide(read(x[0], i, none)[0]) - base) * octaves
    write(y, i, (narrow(zero if e < tiny else e * (a + b * t)),))
    return nothing


def tile_slopes(x, n, params, out):
    """out = p (a + b log2 p), 0 where p is nothing; out may be x, at the same place.

    By read and write, which say that the two lie apart: each element is read before it is written.  Where LLVM must
    find that out, what is in place is scalar (512 x 32,000 float32: 37 ms for 4.9).
    """
    over(n, slope_step, (x,), (out,), params, 0, PAIR)


def tile_bends(x, n, params, out):
    """out = p (a + b log2 p + c p) + d."""
    over(n, bend_step, (x,), (out,), params, 0, PAIR)


def bent_by_loops(x, n, params, out):
    if params[4] == 0.0 and params[5] == 0.0:
        tile_slopes(x, n, params[:4], out)
    else:
        tile_bends(x, n, params, out)


def bent_by_vectors(x, n, params, out):
    if params[4] != 0.0 or params[5] != 0.0:
        bent(x, n, params, out, 2)
    elif params[3] != 0.0 or not folds(params[2]):
        bent(x, n, params, out, 1)
    else:
        bent(x, n, params, out, 0)


def folds(a):
    """Whether a may be a factor of all coefficients of a power's polynomial: none gets infinite or loses digits."""
    return a == 0.0 or 2.0**-100 <= abs(a) <= 2.0**100


# ---- float16 and bfloat16 --------------------------------------------------------------------------------------------


def wide_real(x):
    return x


def wide_bf16(bits):
    return np.uint32(np.uint32(bits) << np.uint32(16)).view(np.float32)


def wide_f16(bits):
    return extended(bits)


def wide_f16_by_parts(bits):
    """Exponent and mantissa in their places make the number times 2^-112, subnormals included; then the ends."""
    h = np.uint32(bits)
    magnitude = np.uint32((h & np.uint32(0x7FFF)) << np.uint32(13))
    finite = np.float32(np.uint32(magnitude).view(np.float32) * np.float32(2.0**112)).view(np.uint32)
    ends = np.uint32(magnitude | np.uint32(0x7F800000))
    sign = np.uint32((h & np.uint32(0x8000)) << np.uint32(16))
    return np.uint32(sign | (ends if magnitude >= np.uint32(0x0F800000) else finite)).view(np.float32)


def narrow_real(x):
    return x


def narrow_bf16(x):
    """To the nearest, ties to even; a NaN stays one."""
    u = np.float32(x).view(np.uint32)
    odd = np.uint32((u >> np.uint32(16)) & np.uint32(1))
    rounded = np.uint32(np.uint32(u + np.uint32(0x7FFF)) + odd)  # of 32 bits after each: Numba widens
    return np.uint16(np.uint32(np.uint32(u | np.uint32(0x400000)) if x != x else rounded) >> np.uint32(16))


def narrow_f16(x):
    return shortened(x)


def narrow_f16_by_parts(x):
    """To the nearest, ties to even.  Below 2^-14 a half is a multiple of 2^-24: adding 1/2 rounds to that."""
    u = np.float32(x).view(np.uint32)
    magnitude = np.uint32(u & np.uint32(0x7FFFFFFF))
    shifted = np.float32(np.uint32(magnitude).view(np.float32) + np.float32(0.5)).view(np.uint32)
    small = np.uint32(shifted - np.uint32(0x3F000000))
    odd = np.uint32((magnitude >> np.uint32(13)) & np.uint32(1))
    normal = np.uint32(np.uint32(np.uint32(magnitude - np.uint32(0x37FFF001)) + odd) >> np.uint32(13))
    half = small if magnitude < np.uint32(0x38800000) else normal
    half = np.uint32(0x7C00) if magnitude >= np.uint32(0x477FF000) else half
    half = np.uint32(0x7E00) if magnitude > np.uint32(0x7F800000) else half
    return np.uint16(np.uint32((u >> np.uint32(31)) << np.uint32(15)) | half)


def conversions(kind: str) -> tuple[Any, Any]:
    """wide and narrow."""
    if kind == "f16":
        return (wide_f16, narrow_f16) if converts() else (wide_f16_by_parts, narrow_f16_by_parts)
    return (wide_bf16, narrow_bf16) if kind == "bf16" else (wide_real, narrow_real)
