"""Recurrences of packed sequences: each is a stream of a loop in recurrence.py, so that its bits are the same."""

from functools import cache
from typing import Any

from numba import types

from .compiling import CONTRACT, filled, given, inlined, jit, rules
from .recurrence import along, scan_kernel, walk


def packed_along(rewards, values, last_values, terminated, gamma, lam, offsets, out, returns):
    """Arrays are flat, absent ones of size 0."""
    for b in range(offsets.size - 1):
        start, end = offsets[b], offsets[b + 1]
        if start < end:
            scan(
                row(rewards[start:end]), row(values[start:end]), last_values[b : b + 1], row(terminated[start:end]),
                gamma, lam, row(out[start:end]), row(returns[start:end]), 1,
            )  # fmt: skip


def packed_walk(
    rewards, values, next_values, final_values, last_values, terminated, truncated, mask, gamma, lam, offsets, out,
    returns,
):  # fmt: skip
    """The same with every option."""
    for b in range(offsets.size - 1):
        start, end = offsets[b], offsets[b + 1]
        if start < end:
            scan(
                row(rewards[start:end]), row(values[start:end]), row(next_values[start:end]),
                row(final_values[start:end]), last_values[b : b + 1], row(terminated[start:end]),
                row(truncated[start:end]), row(mask[start:end]), gamma, lam, False, row(out[start:end]),
                row(returns[start:end]),
            )  # fmt: skip


def as_row(x):
    return x.reshape((1, x.size))


@cache
def packed_kernel(plain: bool, kind: str, dtype: str, valued: bool) -> Any:
    """packed_along or packed_walk, compiled for one recurrence and one dtype of arrays."""
    bind, name = rules(), f"{kind}_{dtype}_{'values' if valued else 'alone'}"
    real, flags, written, number = given(dtype), given("uint8"), filled(dtype), types.float64
    free = {"scan": scan_kernel(along if plain else walk, kind, dtype, valued)}
    free["row"] = bind.drive(as_row, name, inlined)
    if plain:
        arguments = [real, real, real, flags, number, number]
    else:
        arguments = [real, real, real, real, real, flags, flags, flags, number, number]
    arguments += [given("int64"), written, written]
    loop = packed_along if plain else packed_walk
    return bind.drive(loop, name, jit(types.void(*arguments), fastmath=CONTRACT), **free)
