"""Segments of a flat array.

Sums run in index order in double, so that a padded batch and its packed form give the same bits.  What is left out
adds 0.0, which changes no sum that began with 0.0: an addition is foretold, a branch on a mask is not.
"""

from functools import cache
from typing import Any

import numpy as np
from numba import types

from .access import get, put, shift, start
from .compiling import CONTRACT, filled, given, inlined, jit, rules


def segment(x, n):
    total = 0.0
    for i in range(n):
        total += np.float64(get(x, i))
    return total


def kept_segment(x, kept, n):
    total, count = 0.0, 0
    for i in range(n):
        value, flag = np.float64(get(x, i)), get(kept, i) != 0
        total += value if flag else 0.0
        count += flag
    return total, count


def reduce_loop(values, offsets, mask, mean, out, counts):
    for b in range(out.size):
        first, count = offsets[b], offsets[b + 1] - offsets[b]
        if mask.size:
            total, count = kept_segment(shift(start(values), first), shift(start(mask), first), count)
        else:
            total = segment(shift(start(values), first), count)
        counts[b] = count
        out[b] = total / count if mean and count > 0 else total


def spread_loop(grad, offsets, mask, mean, counts, out):
    for b in range(grad.size):
        first, n = offsets[b], offsets[b + 1] - offsets[b]
        share = np.float64(grad[b])
        if mean and counts[b] > 0:
            share /= counts[b]
        to, part = shift(start(out), first), real(share)
        if mask.size:
            kept = shift(start(mask), first)
            for i in range(n):
                put(to, i, part if get(kept, i) != 0 else nothing)
        else:
            for i in range(n):
                put(to, i, part)


@cache
def group_kernels(dtype: str) -> tuple[Any, Any]:
    """(reduce, spread) for one dtype."""
    bind = rules()
    real = np.dtype(dtype).type
    free = {f.__name__: bind.drive(f, dtype, inlined) for f in (segment, kept_segment)}
    free |= {"real": real, "nothing": real(0.0)}
    shared = given("int64"), given("uint8"), types.boolean
    reduce = types.void(given(dtype), *shared, filled(dtype), filled("int64"))
    spread = types.void(given(dtype), *shared, given("int64"), filled(dtype))
    return (
        bind.drive(reduce_loop, dtype, jit(reduce, fastmath=CONTRACT), **free),
        bind.drive(spread_loop, dtype, jit(spread, fastmath=CONTRACT), **free),
    )
