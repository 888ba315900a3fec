"""What kernels need of the device, in two versions: for the compiler and in plain Python.

Numba's simulator, and a runner of the source without Numba, take the plain one: NUMBA_ENABLE_CUDASIM=1 chooses it.
This is the only file that imports Numba's ``cuda``.

Unsigned indices matter: a signed one makes Numba wrap negative values, at twice the instructions.  Every sum of
unsigned 32-bit numbers is cast again, since Numba widens it to 64 bits.
"""

import math
import os
from collections.abc import Callable
from functools import cache
from types import SimpleNamespace
from typing import Any

import numpy as np

from ...binding import Binding

SIMULATED = os.environ.get("NUMBA_ENABLE_CUDASIM") == "1"
FAILURE: str | None = None
cuda: Any
try:
    from numba import cuda
except Exception as error:  # numba-cuda without the CUDA runtime raises a RuntimeError of its own
    cuda, FAILURE = None, f"numba-cuda not importable: {' '.join(str(error).split())}"

COMPILED = cuda is not None and not SIMULATED
WARP, FULL = 32, 0xFFFF_FFFF

if COMPILED:
    from numba import float32 as f32
    from numba import float64 as f64
    from numba import int32
    from numba import int64 as i64
    from numba import uint32 as u32
    from numba import uint64 as u64
    from numba.cuda import libdevice

    exp, log = math.exp, math.log

    def device(function: Callable[..., Any]) -> Any:
        """``function``, to be called by kernels."""
        return cuda.jit(device=True)(function)

    @device
    def bits_of(value):
        """The float32 ``value`` as uint32."""
        return u32(libdevice.float_as_int(value))

    @device
    def float_of(bits):
        """The float32 with these ``bits``."""
        return libdevice.int_as_float(int32(bits))

else:
    f32, f64 = np.float32, np.float64
    exp, log = np.exp, np.log

    def u32(value: Any) -> int:
        return int(value) & 0xFFFF_FFFF

    def u64(value: Any) -> int:
        return int(value)

    i64 = np.int64

    def device(function: Callable[..., Any]) -> Any:
        return function

    def bits_of(value):
        return int(f32(value).view(np.uint32))

    def float_of(bits):
        return np.uint32(bits).view(f32)


@cache
def binding() -> Binding:
    """The rules as functions of the device.  CPython's math raises where a device gives infinity: NumPy's does not."""
    if COMPILED:
        return Binding(device)
    functions = {name: getattr(np, name) for name in ("exp", "expm1", "log", "log1p", "sqrt", "tanh")}
    return Binding(device, math=SimpleNamespace(pi=math.pi, inf=math.inf, **functions))


# ---- half precision, by its bits -------------------------------------------------------------------------------------


@device
def widen_f16(bits):
    """Shifted into place the exponent is 112 too small; subnormals become subnormals, so that the product is exact."""
    magnitude = u32(u32(u32(bits) & u32(0x7FFF)) << u32(13))
    sign = u32(u32(u32(bits) & u32(0x8000)) << u32(16))
    if magnitude >= u32(0x0F80_0000):  # infinity or NaN
        return float_of(u32(sign | magnitude | u32(0x7F80_0000)))
    return float_of(u32(sign | bits_of(f32(float_of(magnitude) * f32(5.192296858534828e33)))))


@device
def widen_bf16(bits):
    return float_of(u32(u32(bits) << u32(16)))


@device
def narrow_f16(value):
    """To the nearest, ties to even."""
    bits = bits_of(value)
    sign = u32(u32(bits >> u32(16)) & u32(0x8000))
    magnitude = u32(bits & u32(0x7FFF_FFFF))
    if magnitude > u32(0x7F80_0000):  # NaN
        return u32(sign | u32(0x7E00))
    if magnitude >= u32(0x477F_F000):  # 65520 and above round to infinity
        return u32(sign | u32(0x7C00))
    if magnitude < u32(0x3880_0000):  # subnormal: the addition of 0.5, whose last place is 2^-24, rounds
        return u32(sign | u32(bits_of(f32(float_of(magnitude) + f32(0.5))) - u32(0x3F00_0000)))
    odd = u32(u32(magnitude >> u32(13)) & u32(1))
    return u32(sign | u32(u32(u32(magnitude - u32(0x3800_0000)) + u32(u32(0x0FFF) + odd)) >> u32(13)))


@device
def narrow_bf16(value):
    """To the nearest, ties to even."""
    bits = bits_of(value)
    high = u32(bits >> u32(16))
    if u32(bits & u32(0x7FFF_FFFF)) > u32(0x7F80_0000):  # NaN: rounding could make it infinite
        return u32(high | u32(0x40))
    return u32(u32(bits + u32(u32(0x7FFF) + u32(high & u32(1)))) >> u32(16))


@device
def as_is(value):
    return value


# ---- warps -----------------------------------------------------------------------------------------------------------


@device
def warp_max(value):
    for bits in (16, 8, 4, 2, 1):
        other = cuda.shfl_xor_sync(FULL, value, bits)
        value = other if other > value else value
    return value


@device
def warp_sum(value):
    """Every lane adds the same pairs, so that all have the same bits."""
    for bits in (16, 8, 4, 2, 1):
        value += cuda.shfl_xor_sync(FULL, value, bits)
    return value
