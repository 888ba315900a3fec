"""Segments of a flat array."""

from functools import cache
from typing import Any

import numpy as np

from .compiling import CONTRACT, jit, rules


def reduce_loop(values, offsets, mask, mean, out, counts):
    for b in range(out.size):
        total, count = 0.0, 0
        for i in range(offsets[b], offsets[b + 1]):
            if mask.size == 0 or mask[i] != 0:
                total += np.float64(values[i])
                count += 1
        counts[b] = count
        out[b] = total / count if mean and count > 0 else total


def spread_loop(grad, offsets, mask, mean, counts, out):
    for b in range(grad.size):
        share = np.float64(grad[b])
        if mean and counts[b] > 0:
            share /= counts[b]
        for i in range(offsets[b], offsets[b + 1]):
            out[i] = share if mask.size == 0 or mask[i] != 0 else 0.0


@cache
def group_kernels() -> tuple[Any, Any]:
    bind = rules()  # contraction may not touch the sums: nothing is multiplied there
    return tuple(bind.drive(loop, "group", jit(fastmath=CONTRACT)) for loop in (reduce_loop, spread_loop))
