"""exp, expm1, log and log1p that vectorise, in float64 and float32: no branches that stay, no tables, no calls.

a) The rules' ``math`` is made here.  What it lacks of Python's, a rule gets from Python's: right, but a scalar call.
b) Every function holds for all numbers: NaN, infinities, zeros, subnormal results; errors are at most 1.2 ulp, of
   expm1 1.8.  As in the extension, exp of a float32 is 0 where it would be below 2^-125.5 = 1.7e-38, and expm1 of -0 is
   0: far below the rounding of what rules add them to, and sixteen of PPO's 90 instructions.
c) Rounding to an integer is the addition of 1.5 * 2^52 (2^23): contraction is harmless, reassociation is not.
d) Polynomials are Chebyshev fits, of log1p_unit the extension's, even and odd terms apart: a chain of half the length.
   DPO value and slopes, 4096 float64 in cache: 4.2 ns per element with the plain series in one chain, 3.5 so.
e) Names free in a function are filled in per dtype.  Shifts are cast: Numba widens 32 bits to 64.
"""

import math
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np

from ...binding import clone

F64 = SimpleNamespace(
    real=np.float64,
    integer=np.uint64,
    log2e=math.log2(math.e),
    ln2_hi=0.6931471803691238,  # 32 bits of ln 2: exact times any exponent
    ln2_lo=1.9082149292705877e-10,
    magic=1.5 * 2.0**52 + 2.0 * 1023.0,  # twice the bias: each half of an exponent becomes a factor of its own
    bias=1023.0,
    shift=np.uint64(52),
    one_bit=np.uint64(1),
    twice_bias=np.uint64(2046 << 52),
    sign=np.uint64(1 << 63),
    near=708.0,  # where 2^n is a normal number
    magic_near=1.5 * 2.0**52 + 1023.0,
    lowest=-746.0,
    highest=1.5 * 2.0**52 + 2.0 * 1023.0 + 1025.0,  # of n with the magic number, as in float32
    least=2.0**-1022,
    raised=2.0**54,
    raised_by=54.0,
    fraction=np.uint64(2**52 - 1),
    root_half=np.uint64(0x3FE6A09E00000000),
    to_root=np.uint64(0x3FF0000000000000 - 0x3FE6A09E00000000),
    ulp_one=np.uint64(0x4330000000000000),
    ulp_one_value=2.0**52,
    half=0.5,
    one=1.0,
    two=2.0,
    zero=0.0,
    infinity=math.inf,
    nothing=math.nan,
    e=(
        0.5000000000000001, 0.16666666666666669, 0.04166666666662374, 0.008333333333330032, 0.0013888888917406447,
        0.00019841269863201828, 2.4801520996825697e-05, 2.7557268229963227e-06, 2.76202305675069e-07,
        2.5100494788905042e-08,
    ),
    a=(
        0.666666666666667, 0.3999999999989819, 0.28571428626570206, 0.2222221103781659, 0.18182896183483085,
        0.15331487235865734, 0.14619343453512615,
    ),
    u=(
        0.66666666666666658095, 0.40000000000015265878, 0.28571428566944040103, 0.22222222732706255312,
        0.18181788726515261955, 0.1538558857412287118, 0.13313860671507892029, 0.12003603858804031528,
        0.087885559636441938477, 0.1618847550904196768,
    ),
)  # fmt: skip
F32 = SimpleNamespace(
    real=np.float32,
    integer=np.uint32,
    log2e=math.log2(math.e),
    ln2_hi=0.693115234375,
    ln2_lo=3.194618494e-5,  # positive like the other: n * -c would be rewritten in exp, but not in expm1
    magic=1.5 * 2.0**23 + 126.0,  # the exponent of 2^(n-1) in the low bits
    bias=127.0,
    shift=np.uint32(23),
    one_bit=np.uint32(1),
    near=87.0,
    magic_near=1.5 * 2.0**23 + 127.0,
    lowest=-87.4,  # where 2^(n-1) is 0
    lowest_power=-87.7,  # where 2^n is
    highest=1.5 * 2.0**23 + 126.0 + 128.0,  # of n with the magic number: LLVM makes three instructions of two in a row
    least=2.0**-126,
    raised=2.0**25,
    raised_by=25.0,
    fraction=np.uint32(2**23 - 1),
    root_half=np.uint32(0x3F3504F3),
    to_root=np.uint32(0x3F800000 - 0x3F3504F3),
    ulp_one=np.uint32(0x4B000000),
    ulp_one_value=2.0**23,
    half=0.5,
    one=1.0,
    two=2.0,
    zero=0.0,
    infinity=math.inf,
    nothing=math.nan,
    e=(0.5, 0.16666576, 0.041666552, 0.008363247, 0.0013926268),
    a=(0.66666687, 0.39988732, 0.29582158),
    u=(0.66666638966420468, 0.40007784847342559, 0.28231204745626108, 0.26884147034784167),
)


# ---- (exp(r) - 1 - r) / r^2 for |r| <= ln(2)/2, by r and r^2; 2 (artanh(s) - s) / s^3 by s^2, |s| <= 0.18, 1/3 ------


def exp_series_float64(r, q):
    even = (((e8 * q + e6) * q + e4) * q + e2) * q + e0
    return ((((e9 * q + e7) * q + e5) * q + e3) * q + e1) * r + even


def exp_series_float32(r, q):
    return (e3 * q + e1) * r + ((e4 * q + e2) * q + e0)


def log_series_float64(z):
    w = z * z
    return ((a5 * w + a3) * w + a1) * z + (((a6 * w + a4) * w + a2) * w + a0)


def log_series_float32(z):
    return (a2 * z + a1) * z + a0


def unit_series_float64(z):
    w = z * z
    return ((((u9 * w + u7) * w + u5) * w + u3) * w + u1) * z + ((((u8 * w + u6) * w + u4) * w + u2) * w + u0)


def unit_series_float32(z):
    w = z * z
    return (u3 * w + u1) * z + (u2 * w + u0)


# ---- for both dtypes -------------------------------------------------------------------------------------------------


def reduced_float64(low):
    """Of x = n ln 2 + r: r in two parts, r^2 P(r) in the smaller, and 2^n in two factors: it need not be normal.

    Without the part that r loses where it is rounded, expm1 is off by 2.02 ulp at 0.36.
    """
    above = low * log2e + magic
    z = highest if above > highest else above
    n = z - magic
    exact = low - n * ln2_hi
    r = exact - n * ln2_lo
    q = r * r
    whole = real(z).view(integer)
    first = integer(whole >> one_bit)
    second = integer(whole - first)
    small = exp_series(r, q) * q - n * ln2_lo
    return exact, small, integer(first << shift).view(real), integer(second << shift).view(real)


def reduced_float32(x):
    """n with the magic number added, and r + r^2 P(r): beyond the largest n a large number, or infinity."""
    low = lowest if x < lowest else x
    above = low * log2e + magic
    z = highest if above > highest else above
    n = z - magic
    r = (low - n * ln2_hi) - n * ln2_lo
    q = r * r
    return z, exp_series(r, q) * q + r


def exp_float64(x):
    r, small, near, far = reduced(lowest if x < lowest else x)
    return ((small + r) * near + near) * far


def expm1_float64(x):
    """Begins as exp does: a rule that wants both, shares that.  2^n - 1 = far (near - 1 / far)."""
    r, small, near, far = reduced(lowest if x < lowest else x)
    y = (small * near + (r * near + (near - integer(twice_bias - real(far).view(integer)).view(real)))) * far
    return integer(real(y).view(integer) | integer(real(x).view(integer) & sign)).view(real)  # -0


def exp_of_minus_float64(x):
    """exp(-|x|)."""
    a = -abs(x)
    r, small, near, far = reduced(lowest if a < lowest else a)
    return ((small + r) * near + near) * far


def exp_of_minus_float32(x):
    """exp(-|x|), by 2^n itself."""
    a = -abs(x)
    core, power = reduced_near(lowest_power if a < lowest_power else a)
    return core * power + power


def exp_float32(x):
    """By half of 2^n: 2^128 is infinite, and from 2^-126 down the half is 0."""
    z, core = reduced(x)
    power = integer(real(z).view(integer) << shift).view(real)
    y = core * power + power
    return y + y


def expm1_float32(x):
    z, core = reduced(x)
    power = integer(real(z).view(integer) << shift).view(real)
    y = core * power + (power - half)
    return y + y


def log_plus(u, tail, from_bias):
    """log(u 2^k) + tail for a normal u and a small tail, from_bias = bias - k.

    log(u) = n ln 2 + log(1 + f), 1 + f in [sqrt(1/2), sqrt(2)), and with s = f / (2 + f)
    log(1 + f) = 2 artanh(s) = f - (f^2/2 - s (f^2/2 + z A(z))), z = s^2: the leading term is exact.
    """
    shifted = integer(real(u).view(integer) + to_root)
    # The biased exponent, as a float: or-ed into the low bits of 2^52 (2^23).
    n = (integer((shifted >> shift) | ulp_one).view(real) - ulp_one_value) - from_bias
    f = integer(integer(shifted & fraction) + root_half).view(real) - one
    s = f / (two + f)
    z = s * s
    h = half * f * f
    return n * ln2_hi + (f - (h - (s * (h + log_series(z) * z) + (n * ln2_lo + tail))))


def log_ends(u, y):
    """What a polynomial cannot know: the ends of log's domain."""
    top = y if u < infinity else u
    end = -infinity if u == zero else nothing
    return top if u > zero else end


def log(x):
    tiny = x < least
    u = x * raised if tiny else x
    return log_ends(x, log_plus(u, zero, bias + raised_by if tiny else bias))


def log1p(x):
    u = one + x
    # What 1 + x lost, to first order.  By the reciprocal: beside log1p(e) a rule mostly wants 1 / (1 + e) too.
    y = log_plus(u, (x - (u - one)) * (one / u), bias)
    return x if x == zero else log_ends(u, y)


def log1p_unit(x):
    """log(1 + x) for x in [0, 1], NaN: 2 artanh(s) = x - s (x - z U(z)), s = x / (2 + x), z = s^2."""
    s = x / (two + x)
    z = s * s
    return x - s * (x - unit_series(z) * z)


# ---- for arguments up to near: without bounds, and with 2^n in one factor --------------------------------------------


def reduced_near(x):
    z = x * log2e + magic_near
    n = z - magic_near
    r = (x - n * ln2_hi) - n * ln2_lo
    q = r * r
    return exp_series(r, q) * q + r, integer(integer(real(z).view(integer)) << shift).view(real)


def exp_within(x, most):
    core, power = reduced_near(x)
    return core * power + power


def growth_within(x, most):
    core, power = reduced_near(x)
    return (core * power + (power - one)) - x


def within(dtype: str) -> float:
    """Up to where exp_within and growth_within hold; beyond it rules have those of elementary.py."""
    return (F64 if dtype == "float64" else F32).near


def vecmath(dtype: str, compile: Callable[[Any], Any], near: bool = False) -> dict[str, Any]:
    """What rules computing in ``dtype`` mean by ``math``, and the rules of elementary.py that are shorter here.

    A module, because that is what Numba looks attributes up in.  ``near``: of arguments that are (``within``).
    """
    of = F64 if dtype == "float64" else F32
    free: dict[str, Any] = {
        name: of.real(x) if isinstance(x, float) else x for name, x in vars(of).items() if not isinstance(x, tuple)
    }
    free |= {f"{letter}{k}": of.real(c) for letter in "eau" for k, c in enumerate(getattr(of, letter))}
    for function in OWN:
        name, _, bits = function.__name__.partition("_float")
        if not bits or dtype.endswith(bits):
            free[name] = compile(clone(function, free, f"{name}_{dtype}"))
    module = ModuleType(f"math_{dtype}", "Python's math, with functions that vectorise.")
    vars(module).update({name: value for name, value in vars(math).items() if not name.startswith("__")})
    vars(module).update({name: free[name] for name in ("exp", "expm1", "log", "log1p")})
    shorter = ("exp_of_minus", "log1p_unit", *(("exp_within", "growth_within") if near else ()))
    return {"math": module, **{name: free[name] for name in shorter}}


OWN = (
    exp_series_float64, exp_series_float32, log_series_float64, log_series_float32, unit_series_float64,
    unit_series_float32, reduced_float64, reduced_float32, exp_float64, exp_float32, expm1_float64,
    expm1_float32, exp_of_minus_float64, exp_of_minus_float32, log_plus, log_ends, log, log1p, log1p_unit,
    reduced_near, exp_within, growth_within,
)  # fmt: skip
