"""Recurrences backwards over time: ways to walk, each without a test inside that is the same for all elements.

sweep   many streams that are neighbours in memory, without options: a vector of streams steps together (streams.py)
along   streams whose steps are neighbours, without options: a vector of steps of one
…_kept  the same of values with a mask, and no other option (kept.py)
walk    any layout, every option: what is absent is read from a constant, what is not wanted written to a spare place
"""

from functools import cache
from typing import Any

import numpy as np
from numba import types

from .access import fma, get, likely, put, read, scratch, shift, start, write
from .compiling import CONTRACT, filled, given, inlined, jit, rules, vector_registers
from .kept import along_kept, along_runs, has_runs, kept_lanes, kept_some, leave_out, picked, sweep_kept
from .lanes import LANES, alone, clear, either, give, lanes, later, leading, none_of, only, spreads, take
from .streams import ahead, downwards, give_both, lead, sweep, sweep_lanes, sweep_rows, two_steps

WIDTH = 128  # streams that a walk takes at once: their state stays in L1
EPS = 2.0**-52
KEPT = 1e-36  # the fourth power of a factor below 1e-81 is 0, which would stop an infinite carry; with margin


# ---- few streams -----------------------------------------------------------------------------------------------------


def link(x, ends, y, at, follow, going, carry, gamma, lam):
    """The step at ``at`` of one stream; its new carry.  A branch, well foretold, keeps selections out of the chain."""
    value = number(get(x[1], at)) if valued else 0.0
    reward = number(get(x[0], at))
    if likely(get(ends, at) == 0):
        new = step(reward, value, follow, carry, 1.0, going, gamma, lam)
    else:
        new = step(reward, value, follow, carry, 0.0, 0.0, gamma, lam)
    put(y[0], at, new)
    if valued:
        put(y[1], at, new + value)
    return new


def down(x, ends, y, top, base, carry, powers, gamma, lam):
    """The steps from ``top`` to ``base``, one by one; in place of ``line`` where a rule takes no lanes."""
    for at in range(top, base - 1, -1):
        carry = link(x, ends, y, at, number(get(x[1], at + 1)) if valued else 0.0, 1.0, carry, gamma, lam)
    return carry


def fourth(factor, both):
    """Two neighbouring numbers, its fourth power between them; of 2^32 times, how often the second one is meant."""
    squared = factor * factor
    lost = 2.0 * squared * fma(factor, factor, -squared)
    nearest = fma(squared, squared, lost)
    missing = fma(squared, squared, -nearest) + lost
    other = nearest + nearest * (EPS if missing > 0.0 else -EPS)
    put(both, 0, nearest)
    put(both, 1, other)
    return np.int64(missing / (other - nearest) * 2.0**32) if missing != 0.0 else 0


def line(x, ends, y, top, base, carry, powers, gamma, lam):
    """The same, four at a time: a rule is affine in the carry, and by one factor wherever the trace goes on.

    Each step is taken with a carry of 0.  By powers of the factor, what was found one step later is added, which makes
    sums of two, and such a sum two steps later; both may lie beyond the lanes.  Then what is carried four steps later:
    of the whole chain one multiplication with a sum.  Where an episode ends among the lanes, before and after them all
    that is later is one number, the carry.  Sums near 1e308 may overflow where one after the other they would not.

    The fourth power is rounded up and down by turns, or its error adds up, of 10^6 rewards in [0, 1] by a factor of
    0.9999 and 0.999999 to 2e-13 and 2e-12 of the largest sum; so it is 7e-15 and 2e-14, as one by one, and as fast.
    """
    (factor, fourths, share), at, turn = powers, top + 1, 1 << 31
    squared, c = factor * factor, alone(carry)
    one, two = c, c
    while at - base >= LANES:
        at -= LANES
        reward, value, follow = take(x[0], at), 0.0, 0.0
        if valued:
            value, follow = take(x[1], at), take(x[1], at + 1)
        new = step(reward, value, follow, 0.0, 1.0, 1.0, gamma, lam)
        onward = none_of(ends, at)
        if likely(onward):
            pair = new + factor * later(new, one, 1)
            before, turn = turn, turn + share
            c = (pair + squared * later(pair, two, 2)) + get(fourths, (before ^ turn) >> 32 & 1) * c
            one, two = new, pair
        else:
            goes, beyond = clear(ends, at), alone(leading(c))
            new = either(goes, new, step(reward, value, 0.0, 0.0, 0.0, 0.0, gamma, lam))
            pair = new + factor * only(goes, later(new, beyond, 1))
            c = pair + squared * only(only(goes, later(goes, goes, 1)), later(pair, beyond, 2))
        give(y[0], at, c)
        if valued:
            give(y[1], at, c + value)
        if not onward:
            c = alone(leading(c))
            one, two = c, c
    return down(x, ends, y, at - 1, base, leading(c), powers, gamma, lam)


def along(rewards, values, last_values, terminated, gamma, lam, out, returns, streams):
    """Streams one after the other.

    10^6 float64 / float32 steps, 0.1 % ends: 0.75 / 0.60 ms in AVX-512, 0.77 / 0.62 in AVX2; by three scalar chains,
    each from an episode's end on, 1.05 / 1.07 and 1.19 / 1.10.  2^18 steps of which 0, 3, 10 and 50 % are ends: 133,
    167, 271 and 341 us; one by one where an episode ends among them, 133, 179, 457 and 1180; by chains 334, 266, 415
    and 1197.  As many in rows of 16, 64 and 512: 225, 213 and 164 us; three rows side by side in chains 244, 279, 252.

    Not done: the rule for 256 steps first, by a loop that LLVM makes vectors of (1.6 / 0.9 ms: such a block is read
    upwards, while the next lies below), or for 16 steps (0.83 / 0.80).
    """
    steps, factor = rewards.size // streams, step(0.0, 0.0, 0.0, 1.0, 1.0, 1.0, gamma, lam)
    x = (start(rewards), start(values)) if valued else (start(rewards),)
    y = (start(out), start(returns)) if valued else (start(out),)
    ends, last, fourths = start(terminated), start(last_values), scratch(0.0, 1)
    powers = factor, fourths, fourth(factor, fourths)
    for row in range(streams):
        base = row * steps
        top = base + steps - 1
        carry = link(x, ends, y, top, number(get(last, row)) if last_values.size else 0.0, 0.0, 0.0, gamma, lam)
        if factor == 0.0 or factor > KEPT:
            line(x, ends, y, top - 1, base, carry, powers, gamma, lam)
        else:
            down(x, ends, y, top - 1, base, carry, powers, gamma, lam)


# ---- everything else -------------------------------------------------------------------------------------------------


def advance(numbers, flags, state, chosen, gamma, lam):
    """One step: what is carried on, and what is written.

    ``state`` is the carry, the value that follows, and whether any step did; ``chosen`` says what else may follow: 1
    for next_values, 2 for final_values where cut.
    """
    reward, value, next_value, final_value = numbers
    end, cut, kept = flags
    carry, follow, before = state
    alive = end == 0
    going = 1.0 if before != 0.0 and cut == 0 and alive else 0.0
    bootstrap = final_value if chosen == 2 and cut != 0 and alive else follow
    after = next_value if chosen == 1 else bootstrap
    new = step(reward, value, after, carry, 1.0 if alive else 0.0, going, gamma, lam)
    if kept != 0:
        return (new, value, 1.0), (new, new + value)
    return (carry, follow, before), (0.0, 0.0)


def walk_row(inputs, flags, state, outputs, width, chosen, gamma, lam):
    for j in range(width):
        before = (get(state[0], j), get(state[1], j), get(state[2], j))
        after, results = advance(read(inputs, j, 0.0), read(flags, j, no_flag), before, chosen, gamma, lam)
        put(state[0], j, after[0])
        put(state[1], j, after[1])
        put(state[2], j, after[2])
        write(outputs, j, results)


def walk_line(inputs, flags, state, outputs, steps, moves, chosen, gamma, lam):
    """``moves`` is 0 for what is constant."""
    for t in range(steps - 1, -1, -1):
        at = (t * moves[0], t * moves[1], t * moves[2], t * moves[3])
        where = (t * moves[4], t * moves[5], t * moves[6])
        numbers, marks = read(inputs, at, 0.0), read(flags, where, no_flag)
        state, results = advance(numbers, marks, state, chosen, gamma, lam)
        write(outputs, (t * moves[7], t * moves[8]), results)


def part(array, at, absent):
    """Where ``array`` goes on at ``at``, or what stands for it."""
    return shift(start(array), at) if array.size else absent


def moving(array):
    return 1 if array.size else 0


def walk(
    rewards, values, next_values, final_values, last_values, terminated, truncated, mask, gamma, lam, time_major, out,
    returns,
):  # fmt: skip
    state, nothing, spare = (scratch(0.0, 1), scratch(0.0, 1), scratch(0.0, 1)), scratch(zero, 1), scratch(zero, 1)
    no, yes = scratch(no_flag, 1), scratch(no_flag, 1)
    for j in range(WIDTH):
        put(nothing, j, zero)
        put(no, j, no_flag)
        put(yes, j, one_flag)
    moves = (
        1, moving(values), moving(next_values), moving(final_values), 1, moving(truncated), moving(mask), 1,
        moving(returns),
    )  # fmt: skip
    chosen = 1 if next_values.size else (2 if final_values.size else 0)
    rows, columns = rewards.shape
    width = min(WIDTH, columns) if time_major else 1
    for first in range(0, columns if time_major else rows, width):
        width = min(width, columns - first) if time_major else 1
        for j in range(width):
            put(state[0], j, 0.0)
            put(state[1], j, number(last_values[first + j]) if last_values.size else 0.0)
            put(state[2], j, 0.0)
        for t in range(rows - 1 if time_major else 0, -1, -1):
            at = t * columns + first if time_major else first * columns
            inputs = (
                part(rewards, at, nothing), part(values, at, nothing), part(next_values, at, nothing),
                part(final_values, at, nothing),
            )  # fmt: skip
            flags = (part(terminated, at, no), part(truncated, at, no), part(mask, at, yes))
            outputs = (part(out, at, spare), part(returns, at, spare))
            if time_major:
                walk_row(inputs, flags, state, outputs, width, chosen, gamma, lam)
            else:
                once = (get(state[0], 0), get(state[1], 0), get(state[2], 0))
                walk_line(inputs, flags, once, outputs, columns, moves, chosen, gamma, lam)


def way(masked: bool, layout: str, streams: int) -> tuple[Any, tuple[int, ...]]:
    """How streams without options but a mask are walked, and what that is told beside arrays and numbers."""
    side_by_side = layout == "TN" and streams > 1
    if side_by_side:
        return sweep_kept if masked else sweep, ()
    return along_kept if masked else along, (streams,)


# What a rule is given by line, and by two_steps.
IN_LINE, SIDE_BY_SIDE = ((lanes,) * count + (types.float64,) * (8 - count) for count in (3, 4))


@cache
def scan_kernel(loop: Any, kind: str, dtype: str, valued: bool) -> Any:
    """A way to walk, compiled for one recurrence and one dtype of arrays."""
    bind, name = rules(), f"{kind}_{dtype}_{'values' if valued else 'alone'}"
    free: dict[str, Any] = {
        "step": getattr(bind.rules, f"scan_{kind}"),
        "number": np.float64,
        "zero": np.dtype(dtype).type(0.0),
        "no_flag": np.uint8(0),
        "one_flag": np.uint8(1),
        "valued": valued,
        "KEPT": KEPT,
        "size": np.dtype(dtype).itemsize,
    }
    # With AVX2, or a mask: elsewhere a vector has two doubles, or eight, of which LLVM's own loop makes use.
    spreading = vector_registers() == "y" or loop is sweep_kept
    free["spreading"] = spreading and spreads(free["step"], SIDE_BY_SIDE)
    for part_of in PARTS[loop]:
        if part_of is line and not spreads(free["step"], IN_LINE):
            free["line"] = free["down"]
            continue
        free[part_of.__name__] = bind.drive(part_of, name, inlined, **free)
    real, flags, one = given(dtype, 2), given("uint8", 2), given(dtype)
    written, number = filled(dtype, 2), types.float64
    if loop is walk:
        arguments = [real, real, real, real, one, flags, flags, flags, number, number, types.boolean, written, written]
    else:
        masks = [flags] if loop in (sweep_kept, along_kept) else []
        arguments = [real, real, one, flags, *masks, number, number, written, written]
        arguments += [types.intp] if loop in (along, along_kept) else []
    return bind.drive(loop, name, jit(types.void(*arguments), fastmath=CONTRACT), **free)


PARTS = {
    sweep: (lead, ahead, downwards, sweep_rows, two_steps, give_both, sweep_lanes),
    along: (link, down, fourth, line),
    walk: (part, moving, advance, walk_row, walk_line),
    sweep_kept: (kept_some, kept_lanes),
    along_kept: (link, down, fourth, line, has_runs, leave_out, along_runs, picked),
}
