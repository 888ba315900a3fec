"""Loops over one tile of a row, in the dtype of the computation.  What is free in them, row.py fills in."""

import math

import numpy as np

from .access import get, over, start
from .exponential import LOG2E

# Summed in lanes of the row's own precision, across tiles in double.  512: 20 % slower (set-up); 8192: out of L1.
TILE = 2048


def tile_max(x):
    """The largest element, by integers ordered like the floats: a float maximum would be scalar or lose NaN."""
    top = integer(least)
    for i in range(x.size):
        v = real(x[i]).view(integer)
        v = integer(v ^ integer((v >> integer(sign_shift)) & integer(magnitude)))
        top = v if v > top else top
    return integer(top ^ integer((top >> integer(sign_shift)) & integer(magnitude))).view(real)


def sum_step(x, nothing, i, level, total):
    p, power = factors(get(x, i), level)
    return total + p * power


def sums_step(x, nothing, i, level, tally):
    """0 must not meet -inf, and does not: below the least element t is as there."""
    p, power = factors(get(x, i), level)
    e = p * power
    return tally[0] + e, tally[1] + e * octaves_of(get(x, i), level)


def moments_step(x, nothing, i, level, tally):
    p, power = factors(get(x, i), level)
    e = p * power
    return tally[0] + e, tally[1] + e * octaves_of(get(x, i), level), tally[2] + e * e, tally[3] + get(x, i)


def tile_sum(x, level):
    """Sum of exponentials relative to a level."""
    return over(x.size, sum_step, start(x), 0, level, real(0.0), beside)


def tile_sums(x, level):
    """Also the sum of 2^t t, in octaves."""
    return over(x.size, sums_step, start(x), 0, level, (real(0.0), real(0.0)), beside)


def tile_moments(x, level):
    """Also the sums of 2^2t and of the logits themselves."""
    return over(x.size, moments_step, start(x), 0, level, (real(0.0), real(0.0), real(0.0), real(0.0)), beside)


def plain_sums(x, base, scale):
    """The same in double, where octaves cannot be counted: of logits of millions, or of temperatures like that."""
    total, weighted, squares, linear = 0.0, 0.0, 0.0, 0.0
    for i in range(x.size):
        t = (np.float64(x[i]) - base) * scale
        e = math.exp(t)
        total += e
        weighted += e * t if e > 0.0 else 0.0
        squares += e * e
        linear += np.float64(x[i])
    return total, weighted * LOG2E, squares, linear


def tile_slopes(x, base, octaves, a, b, out):
    """out = p (a + b log2 p), 0 where p is nothing; out may be x."""
    for i in range(x.size):
        t = (x[i] - base) * octaves
        p = exp2(t)
        out[i] = real(0.0) if t < lowest else p * (a + b * t)


def tile_bends(x, base, octaves, a, b, c, d, out):
    """out = p (a + b log2 p + c p) + d."""
    for i in range(x.size):
        t = (x[i] - base) * octaves
        p = exp2(t)
        out[i] = (real(0.0) if t < lowest else p * (a + b * t + c * p)) + d


# ---- float16 and bfloat16 --------------------------------------------------------------------------------------------


def same(bits, scratch):
    return bits


def widen_bf16(bits, scratch):
    for i in range(bits.size):
        scratch[i] = np.uint32(np.uint32(bits[i]) << np.uint32(16)).view(np.float32)
    return scratch[: bits.size]


def widen_f16(bits, scratch):
    """Exponent and mantissa in their places make the number times 2^-112, subnormals included; then the ends."""
    for i in range(bits.size):
        h = np.uint32(bits[i])
        magnitude = np.uint32((h & np.uint32(0x7FFF)) << np.uint32(13))
        finite = np.float32(np.uint32(magnitude).view(np.float32) * np.float32(2.0**112)).view(np.uint32)
        ends = np.uint32(magnitude | np.uint32(0x7F800000))
        sign = np.uint32((h & np.uint32(0x8000)) << np.uint32(16))
        scratch[i] = np.uint32(sign | (ends if magnitude >= np.uint32(0x0F800000) else finite)).view(np.float32)
    return scratch[: bits.size]


def stay(x, out):
    """The slopes are where they belong already."""


def narrow_bf16(x, out):
    """To the nearest, ties to even; a NaN stays one."""
    for i in range(x.size):
        u = np.float32(x[i]).view(np.uint32)
        odd = np.uint32((u >> np.uint32(16)) & np.uint32(1))
        rounded = np.uint32(u + np.uint32(0x7FFF) + odd) >> np.uint32(16)
        out[i] = np.uint16((u >> np.uint32(16)) | np.uint32(0x40)) if x[i] != x[i] else np.uint16(rounded)


def narrow_f16(x, out):
    """To the nearest, ties to even.  Below 2^-14 a half is a multiple of 2^-24: adding 1/2 rounds to that."""
    for i in range(x.size):
        u = np.float32(x[i]).view(np.uint32)
        magnitude = np.uint32(u & np.uint32(0x7FFFFFFF))
        shifted = np.float32(np.uint32(magnitude).view(np.float32) + np.float32(0.5)).view(np.uint32)
        small = np.uint32(shifted - np.uint32(0x3F000000))
        odd = np.uint32((magnitude >> np.uint32(13)) & np.uint32(1))
        normal = np.uint32(magnitude - np.uint32(0x38000000) + np.uint32(0xFFF) + odd) >> np.uint32(13)
        half = small if magnitude < np.uint32(0x38800000) else normal
        half = np.uint32(0x7C00) if magnitude >= np.uint32(0x477FF000) else half
        half = np.uint32(0x7E00) if magnitude > np.uint32(0x7F800000) else half
        out[i] = np.uint16(np.uint32((u >> np.uint32(31)) << np.uint32(15)) | half)
