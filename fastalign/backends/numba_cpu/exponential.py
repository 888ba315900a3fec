"""exp for the rows, in float32 and float64: Cody-Waite reduction, a polynomial, the exponent put together by bits."""

import math
from types import SimpleNamespace

import numpy as np

F32 = SimpleNamespace(
    real=np.float32,
    log2e=np.float32(1.44269504),
    magic=np.float32(12583039.0),  # 1.5 * 2^23 + 127: the biased exponent in the low bits
    ln2_hi=np.float32(0.693359375),
    ln2_lo=np.float32(-2.12194440e-4),
    lowest=np.float32(-87.0),
    shift=np.int32(23),
    sign_shift=np.int32(31),
    magnitude=np.int32(0x7FFFFFFF),
    least=np.int32(-(2**31)),
    integer=np.int32,
    series=tuple(np.float32(1.0 / math.factorial(k)) for k in range(2, 7)),
)
F64 = SimpleNamespace(
    real=np.float64,
    log2e=1.4426950408889634,
    magic=6755399441055744.0 + 1023.0,
    ln2_hi=0.6931471803691238,
    ln2_lo=1.9082149292705877e-10,
    lowest=-708.0,
    shift=np.int64(52),
    sign_shift=np.int64(63),
    magnitude=np.int64(2**63 - 1),
    least=np.int64(-(2**63)),
    integer=np.int64,
    series=tuple(1.0 / math.factorial(k) for k in range(2, 14)),
)


def exp_float32(x):
    """exp(x) for x <= about 88, relative error 1e-7; below -87 it is exp(-87); NaN stays."""
    bounded = lowest if x < lowest else x
    z = bounded * log2e + magic
    n = z - magic
    r = (bounded - n * ln2_hi) - n * ln2_lo
    p = (((c6 * r + c5) * r + c4) * r + c3) * r + c2
    power = integer(real(z).view(integer) << integer(shift)).view(real)
    return (p * (r * r) + r) * power + power


def exp_float64(x):
    """exp(x) for x <= about 709, relative error 2e-16; below -708 it is exp(-708); NaN stays."""
    bounded = lowest if x < lowest else x
    z = bounded * log2e + magic
    n = z - magic
    r = (bounded - n * ln2_hi) - n * ln2_lo
    p = (((((c13 * r + c12) * r + c11) * r + c10) * r + c9) * r + c8) * r + c7
    p = ((((p * r + c6) * r + c5) * r + c4) * r + c3) * r + c2
    power = integer(real(z).view(integer) << integer(shift)).view(real)
    return (p * (r * r) + r) * power + power
