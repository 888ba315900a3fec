"""Recurrences with values, a mask and no other option.  What is free recurrence.py fills in.

What a mask leaves out is selected away, never multiplied, and of branches on it none is left to chance: of streams that
are neighbours a vector steps together, and takes what is kept; of one whose steps are neighbours each run that is kept
goes along lines, or where runs are short, steps follow a list of those that are kept.

An EPYC of 2017, whole calls of float32 / float64 in us, by walk_row and walk_line, so, the extension; where as many
are kept at random: 128 x 4096, a half 2768 / 2901, 1309 / 1810, 1083 / 1603; 64 streams of 1024, side by side, 90 %
365 / 445, 166 / 165, 128 / 122, one after the other 326 / 317, 157 / 155, 118 / 110; one of 10^5, a half 970 / 966,
321 / 323, 236 / 261, in runs of 600 between gaps of 300 now 313 / 305, 241 / 229.
"""

from .access import TILE, get, put, scratch, start
from .lanes import LANES, alone, clear, either, give, none_of, only, take
from .streams import BLOCK

RUN, LONG = 64, 128  # as FA_SCAN_RUN and FA_SCAN_MASKED in src_ext/scan.h
PICK = 4  # tiles of steps that are looked for at a time


# ---- streams that are neighbours in memory ---------------------------------------------------------------------------


def kept_some(x, ends, kept, state, y, at, first, width, gamma, lam):
    """The step at ``at`` of streams ``first`` to ``width``, one by one; ``state``: carry, next value, and 1 until
    a step was kept."""
    for j in range(first, width):
        value = number(get(x[1], at + j))
        alive = 1.0 if get(ends, at + j) == 0 else 0.0
        going = alive if get(state[2], j) == 0 else 0.0
        new = step(number(get(x[0], at + j)), value, get(state[1], j), get(state[0], j), alive, going, gamma, lam)
        keeps = get(kept, at + j) != 0
        put(y[0], at + j, new if keeps else 0.0)
        put(y[1], at + j, new + value if keeps else 0.0)
        if keeps:
            put(state[0], j, new)
            put(state[1], j, value)
            put(state[2], j, no_flag)


def kept_lanes(x, ends, kept, state, y, at, j, gamma, lam):
    """The same of a vector of streams that all have taken a step."""
    open, gone = clear(ends, at + j), clear(kept, at + j)
    carry, follow, value = take(state[0], j), take(state[1], j), take(x[1], at + j)
    new = step(take(x[0], at + j), value, only(open, follow), only(open, carry), 1.0, 1.0, gamma, lam)
    give(y[0], at + j, either(gone, alone(0.0), new))
    give(y[1], at + j, either(gone, alone(0.0), new + value))
    give(state[1], j, either(gone, follow, value))
    give(state[0], j, either(gone, carry, new))


def sweep_kept(rewards, values, last_values, terminated, mask, gamma, lam, out, returns):
    streams, ends, kept = rewards.shape[1], start(terminated), start(mask)
    x, y = (start(rewards), start(values)), (start(out), start(returns))
    state = scratch(0.0, BLOCK), scratch(0.0, BLOCK), scratch(no_flag, BLOCK)
    for first in range(0, streams, BLOCK * TILE):
        width = min(BLOCK * TILE, streams - first)
        for j in range(width):
            put(state[0], j, 0.0)
            put(state[1], j, number(last_values[first + j]) if last_values.size else 0.0)
            put(state[2], j, one_flag)
        for at in range(rewards.size - streams + first, -1, -streams):
            done = 0
            if spreading:
                done = width - width % LANES
                for j in range(0, done, LANES):
                    if none_of(state[2], j):
                        kept_lanes(x, ends, kept, state, y, at, j, gamma, lam)
                    else:
                        kept_some(x, ends, kept, state, y, at, j, j + LANES, gamma, lam)
            kept_some(x, ends, kept, state, y, at, done, width, gamma, lam)


# ---- streams whose steps are neighbours ------------------------------------------------------------------------------


def has_runs(kept, base, steps):
    borders = 0
    for i in range(base + 1, base + steps):
        borders += (get(kept, i) != 0) != (get(kept, i - 1) != 0)
    return steps >= LONG and borders * RUN <= steps


def leave_out(y, base, top):
    """Zeros from ``base`` to before ``top``."""
    for at in range(base, top):
        put(y[0], at, 0.0)
        put(y[1], at, 0.0)


def along_runs(x, ends, kept, y, base, steps, follow, powers, gamma, lam):
    """One stream, each run of what is kept along lines."""
    at, carry, going = base + steps, 0.0, 0.0
    while at > base:
        top = at
        while top > base and get(kept, top - 1) == 0:
            top -= 1
        leave_out(y, top, at)
        at = top
        while at > base and get(kept, at - 1) != 0:
            at -= 1
        if at < top:
            carry = link(x, ends, y, top - 1, follow, going, carry, gamma, lam)
            carry = line(x, ends, y, top - 2, at, carry, powers, gamma, lam)
            follow, going = number(get(x[1], at)), 1.0


def picked(x, ends, kept, y, base, steps, follow, places, gamma, lam):
    """One stream, step by step of those that are kept."""
    top, carry, going = base + steps, 0.0, 0.0
    while top > base:
        bottom, count = max(base, top - PICK * TILE), 0
        leave_out(y, bottom, top)
        for at in range(top - 1, bottom - 1, -1):
            put(places, count, at)
            count += get(kept, at) != 0
        for k in range(count):
            at = get(places, k)
            carry = link(x, ends, y, at, follow, going, carry, gamma, lam)
            follow, going = number(get(x[1], at)), 1.0
        top = bottom


def along_kept(rewards, values, last_values, terminated, mask, gamma, lam, out, returns, streams):
    steps, factor = rewards.size // streams, step(0.0, 0.0, 0.0, 1.0, 1.0, 1.0, gamma, lam)
    x, y = (start(rewards), start(values)), (start(out), start(returns))
    ends, kept, fourths, places = start(terminated), start(mask), scratch(0.0, 1), scratch(0, PICK)
    powers, straight = (factor, fourths, fourth(factor, fourths)), factor == 0.0 or factor > KEPT
    for row in range(streams):
        base, follow = row * steps, number(last_values[row]) if last_values.size else 0.0
        if straight and has_runs(kept, base, steps):
            along_runs(x, ends, kept, y, base, steps, follow, powers, gamma, lam)
        else:
            picked(x, ends, kept, y, base, steps, follow, places, gamma, lam)
