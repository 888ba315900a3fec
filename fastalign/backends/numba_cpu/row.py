"""Rows of logits: a peak and the sums near it, tile by tile, and the slopes.

One sweep: the peak is near the maximum.  Where the sum of a tile says that it is far below, it is raised and the tile,
still in L1, swept again.  A part, of CUT columns at most, is described by PART numbers: peak, S, U, Q, the sum of the
logits, the largest of them, and 1 if the part is sound; the peak of one that is not is its log-sum-exp, NaN or an
infinity, and S is 1.
"""

import math
from functools import cache
from typing import Any

import numpy as np

from .. import CUT, PART
from .access import YES, fetch, get, put
from .access import shift as after
from .brief import (
    below_peak,
    brief_bends,
    brief_states,
    brief_straight,
    ended_bends,
    ended_slopes,
    fill,
    give_tokens,
    is_brief,
    kept_by_loops,
    row_by_loops,
    row_by_vectors,
    row_keep_step,
    row_moments_step,
    row_sum_step,
    row_sums_step,
    straight_step,
)
from .compiling import CONTRACT, SUMS, converts, fuses, inlined, jit, lines_ahead, reduces, rules, vector_registers
from .exponential import (
    F32,
    F64,
    LOG2E,
    exp2_float32,
    exp2_float64,
    factors_float32,
    factors_float64,
    octaves_of,
    reduced_apart,
    reduced_fused,
)
from .row_loops import SHORTEST, backward, fill_parts, first_top, forward, write_kept
from .slim import (
    curves,
    is_slim,
    logs,
    own_slopes,
    slim_bends,
    slim_give,
    slim_states,
    slim_take,
    slope_none,
    slope_of,
    together,
)  # fmt: skip
from .sweeps import bending, sweeping, sweeping_rows
from .tiles import (
    NOTES,
    PAIR,
    bend_step,
    bent_by_loops,
    bent_by_vectors,
    conversions,
    far_sums,
    far_unit,
    folds,
    keep_step,
    keep_sums_step,
    kept_step,
    moments_step,
    near_sums,
    near_sums_by_parts,
    near_unit,
    plain_sums,
    slope_step,
    sum_step,
    sums_step,
    tile_bends,
    tile_keep,
    tile_keep_sums,
    tile_max,
    tile_moments,
    tile_slopes,
    tile_sum,
    tile_sums,
)

# Of what loops call; a way in from Python is a tenth of the time to compile.
INNER = {"fastmath": CONTRACT, "no_cpython_wrapper": True}
SIZES = {"f32": 4, "f64": 8, "f16": 2, "bf16": 2}
STRIP = 2048  # bytes of logits whose slopes are written at once where lines are asked for early
FIRST = 256  # elements searched for the first peak
# Summed in lanes of the row's own precision, across tiles in double.  512: 20 % slower (set-up), 2048: 4; 8192 float32,
# which are out of L1 where a tile is swept again, 2 % slower.  Of halves, with AVX-512, four vectors at once are 3 %
# faster than two, of the others 1 % slower.  Of AVX2, tiles of 1024 are 5 to 8 % slower, of 4096 4 % faster.
TILE, SHORT_TILE, TILE_OF_HALVES = 4096, 2048, 8192
BOUND = 65536.0  # of a tile's sum of exponentials: the peak is at most 16 octaves too low
SHARP, ABOVE = 256.0, 4.0  # as in src_ext/rows.h, k


def level_of(peak, scale):
    """What the sums of a tile near ``peak`` are relative to; what its loops make of the peak itself, which sums are
    divided by, so that a sure token has exactly 1; and whether octaves can be counted."""
    octaves = real(scale * LOG2E)
    base = real(0.0) if peak == -np.inf else peak
    n = np.float64(base) * np.float64(octaves)
    n = np.rint(n) if fused else n
    low = real((n + bottom) / np.float64(octaves))
    level = low, octaves, real(counter - n if fused else counter), base, real(base * octaves)
    units = near_unit(base, level), far_unit(base, level)
    return level, units, abs(n) < countable and octaves > 0.0 and low > -np.inf


def sums(x, n, peak, scale, state, spread, moments, near, keep, room):
    """Of a tile; where it has no peak they are 0, or NaN.  Also whether the next one may be swept by vectors, and what
    the exponentials that were kept are divided by, 0 if none were."""
    level, units, counted = state
    if not counted:
        s, u, q, z = plain_sums(x, n, 0.0 if peak == -np.inf else np.float64(peak), scale)
        return s, u, q, z, near, 0.0
    if near:
        s, u, q, z = near_sums(x, n, level, spread, moments, keep, room)
        (unit, t), near = units[0], not bounded or s < np.inf
    if not near:
        s, u, q, z = far_sums(x, n, level, spread, moments, keep, room)
        unit, t = units[1]
    s = np.float64(s)
    return s / unit, (np.float64(u) - t * (s / unit)) / unit, np.float64(q) / (unit * unit), np.float64(z), near, unit


def row_part(row, size, scale, spread, moments, keep, room, notes):
    """With ``keep``, which asks for no moments, the exponentials stay in the room, each tile's relative to the peak of
    its time; the notes say which that was."""
    total, weighted, squares, linear, most = 0.0, 0.0, 0.0, 0.0, -np.inf
    peak, sharp = tile_max(row, min(FIRST, size)), SHARP
    state, near = level_of(peak, scale), YES
    for at in range(0, size, tile):
        x, n = after(row, at), min(tile, size - at)
        if peak == -np.inf:  # nothing yet: relative to 0, what is far below would be nothing too
            peak = tile_max(x, n)
            state = level_of(peak, scale)
        s, u, q, z, near, unit = sums(x, n, peak, scale, state, spread, moments, near, keep, after(room, at))
        lost = not (s <= (BOUND if peak > -np.inf else 0.0))
        if lost or s > sharp:
            top = tile_max(x, n)
            far = (np.float64(top) - np.float64(peak)) * scale > ABOVE
            if far or (lost and not (top <= peak)):  # a NaN becomes the peak, and the row unsound
                change = (np.float64(peak) - np.float64(top)) * scale
                factor = math.exp(change) if total > 0.0 else 0.0
                weighted = factor * (weighted + total * change) if factor > 0.0 else 0.0
                squares *= factor * factor
                total *= factor
                peak, state, sharp = top, level_of(top, scale), SHARP
                s, u, q, z, near, unit = sums(x, n, peak, scale, state, spread, moments, near, keep, after(room, at))
            sharp = max(sharp, s + SHARP)
        if keep:
            put(notes, NOTES * (at // tile), np.float64(peak))
            put(notes, NOTES * (at // tile) + 1, unit)
        total += s
        weighted += u / LOG2E
        squares += q
        if moments:
            if math.isfinite(z):
                linear += z
            else:  # an infinity, or just too large for a real
                for i in range(at, at + n):
                    linear += np.float64(wide(get(row, i)))
            most = max(most, np.float64(tile_max(x, n)))
    if total > 0.5 and total < np.inf:
        return np.float64(peak), total, weighted, squares, linear, most, True
    limit = -np.inf
    for i in range(size):
        value = wide(get(row, i))
        if value != value:
            return np.nan, 1.0, 0.0, 0.0, np.nan, np.nan, False
        if value == np.inf:
            limit = np.inf
    return limit, 1.0, 0.0, 0.0, linear, limit, False


def merged(a, b, scale):
    """Two parts of a row as one."""
    linear = a[4] + b[4]
    most = a[5] if a[5] >= b[5] or a[5] != a[5] else b[5]
    high, low = (a, b) if a[0] >= b[0] else (b, a)
    peak, total, weighted, squares, _, _, sound = high
    if a[0] != a[0] or b[0] != b[0]:
        return np.nan, 1.0, 0.0, 0.0, linear, most, False
    if low[6] and sound:
        shift = (low[0] - peak) * scale
        factor = math.exp(shift)
        if factor > 0.0:
            weighted += factor * (low[2] + low[1] * shift)
        squares += factor * factor * low[3]
        total += factor * low[1]
    return peak, total, weighted, squares, linear, most, sound


def kept_part(part):
    return get(part, 0), get(part, 1), get(part, 2), get(part, 3), get(part, 4), get(part, 5), get(part, 6) != 0.0


def row_state(row, size, scale, spread, moments, parts, kept, keep, room, notes):
    """A whole row: from its parts where they are kept, else part by part.  What keeps exponentials is one part."""
    state = -np.inf, 1.0, 0.0, 0.0, 0.0, -np.inf, False
    for at in range(0, size, CUT):
        if kept:
            here = kept_part(after(parts, at // CUT * PART))
        else:
            here = row_part(after(row, at), min(CUT, size - at), scale, spread, moments, keep, room, notes)
        state = merged(state, here, scale) if at > 0 else here
    return state


def base_of(peak, rest, scale):
    """Where log p is nearly 0, as far as a real can say, and log p there."""
    near = real(peak + rest / scale)
    base = near if math.isfinite(near) else real(peak)
    return base, (np.float64(base) - peak) * scale - rest


def write_slopes(row, size, scale, peak, rest, a, b, c, d, out):
    """out = p (a + b log p + c p) + d"""
    base, left = base_of(peak, rest, scale)
    f = math.exp(left)  # what is left over joins the factors
    octaves, slope, bend, square = real(scale * LOG2E), real((a + b * left) * f), real(b * f / LOG2E), real(c * f * f)
    for at in range(0, size, strip):
        x, n, slopes = after(row, at), min(strip, size - at), after(out, at)
        if ahead:
            fetch(x, ahead, strip_bytes)
        bends(x, n, (base, octaves, slope, bend, square, real(d)), slopes)


def _summed(bind: Any, name: str, kind: str, fused: bool, free: dict[str, Any]) -> dict[str, Any]:
    """The loops over a tile that sum, and what they are made of; what sees no logits is the same for both halves."""

    def made(function: Any, flags: set[str], name: str = name) -> Any:
        return bind.drive(function, name, lambda f: inlined(f, flags), **free)

    free = free | {"octaves_of": made(octaves_of, CONTRACT)}
    free["reduced"] = made(reduced_fused if fused else reduced_apart, CONTRACT)
    free["factors"] = made(factors_float64 if name == "f64" else factors_float32, CONTRACT)
    free |= {
        step.__name__: made(step, SUMS, kind) for step in (sum_step, sums_step, moments_step, keep_step, keep_sums_step)
    }
    for loop in (tile_sum, tile_sums, tile_moments, tile_keep, tile_keep_sums):
        free[loop.__name__] = bind.drive(loop, kind, jit(**INNER), **free)
    far = {"sums": bind.drive(far_sums, kind, inlined, **free), "unit": bind.drive(far_unit, kind, inlined, **free)}
    registers = sweeps(kind)
    near = far
    if registers:
        free["swept"], free["swept_one"], free["swept_and_kept"] = sweeping(kind, registers, lines_ahead())
        near = {"sums": near_sums_by_parts if registers == "y" and kind != "f64" else near_sums, "unit": near_unit}
        near = {use: bind.drive(function, kind, inlined, **free) for use, function in near.items()}
    if registers == "z":
        far = near
    made_sums = {"near_sums": near["sums"], "near_unit": near["unit"], "far_sums": far["sums"], "far_unit": far["unit"]}
    return made_sums | {"bounded": registers == "y"}


def sweeps(kind: str) -> str:
    """The registers of vectors.py, "" where it has no instructions."""
    registers = vector_registers() if fuses() and (kind != "f16" or converts()) else ""
    return {"y": "y", "z": "z" if reduces() else ""}.get(registers, "")


@cache
def row_kernels(kind: str) -> tuple[Any, Any, Any]:
    """(forward, backward, fill_parts) for one kind of logits."""
    drive = row_driver(kind)
    return drive(forward), drive(backward), drive(fill_parts)


@cache
def row_driver(kind: str) -> Any:
    """What compiles loops over rows of one kind of logits, when they are called or, with a signature, at once."""
    world = vars(F64 if kind == "f64" else F32).copy()
    for letter, series in (("c", world.pop("series")), ("h", world.pop("fourths", ()))):
        world |= {f"{letter}{k}": value for k, value in enumerate(series, 1)}
    registers, fused = vector_registers(), fuses()
    beside, long = (4, TILE_OF_HALVES) if kind in ("f16", "bf16") and registers == "z" else (PAIR, TILE)
    tile, ahead = {"z": long, "y": SHORT_TILE}.get(registers, SHORTEST), lines_ahead()
    counting = {**vars(world.pop("level")), "beside": 1 if registers == "y" else beside, "tile": tile}
    counting |= {"ahead": ahead, "strip": STRIP // SIZES[kind] if ahead else tile, "strip_bytes": STRIP}
    bind, name = rules(), "f64" if kind == "f64" else "f32"
    called = kind + "_ahead" * (ahead > 0)  # Numba's cache on disk knows of a processor what LLVM is told
    for use, function in zip(("wide", "narrow"), conversions(kind), strict=True):
        world[use] = bind.drive(function, kind, inlined)
    world["none"] = np.uint16(0) if kind in ("f16", "bf16") else world["real"](0.0)

    def inner(loop: Any, **free: Any) -> Any:
        return bind.drive(loop, called, jit(**INNER), **world, **free)

    summed = _summed(bind, name, kind, fused, world | counting) | {"fused": fused, **counting}
    world["exp2"] = bind.drive(exp2_float64 if kind == "f64" else exp2_float32, name, inlined, **world)
    for step in (slope_step, bend_step):
        world[step.__name__] = bind.drive(step, kind, inlined, **world)
    free: dict[str, Any] = summed | vars(bind.rules) | _abreast(kind, world)
    free["folds"] = bind.drive(folds, name, inlined)
    for loop in (
        tile_max, tile_slopes, tile_bends, plain_sums, level_of, sums, row_part, merged, kept_part, row_state,
        first_top, base_of, write_slopes, write_kept,
    ):  # fmt: skip
        free[loop.__name__] = inner(loop, **free)
        if loop is tile_bends:
            free["bends"] = _bends(kind, called, world | free)
    free |= _row_sums(kind, called, world | free)
    for part in (
        slim_take, slim_give, together, logs, curves, own_slopes, slim_states, slim_bends, ended_slopes, ended_bends,
        fill, give_tokens, brief_states, brief_bends, brief_straight,
    ):  # fmt: skip
        free[part.__name__] = inner(part, **free)

    def drive(loop: Any, *signature: Any) -> Any:
        return bind.drive(loop, called, jit(*signature, fastmath=CONTRACT), **world, **free)

    return drive


def _abreast(kind: str, world: dict[str, Any]) -> dict[str, Any]:
    """What slim.py and brief.py call: exponentials of a real and of a double, and a logarithm."""
    bind, own, double = rules(), rules("float64" if kind == "f64" else "float32").world, rules().world["math"]
    free = {"fall": own["exp_of_minus"], "power": own["math"].exp, "exp": double.exp, "log": double.log}
    free["zero"], free["tiny"] = world["real"](0.0), np.finfo(world["real"]).tiny
    free["step"] = 32 if vector_registers() == "z" else 16
    for part in (is_slim, is_brief, slope_of, slope_none, straight_step, kept_step):
        free[part.__name__] = bind.drive(part, kind, inlined, **world, **free)
    return free


def _bends(kind: str, called: str, free: dict[str, Any]) -> Any:
    """What writes slopes: with AVX2, whose tables LLVM does not find, sweeps.py."""
    registers = sweeps(kind)
    if registers == "y":
        return rules().drive(bent_by_vectors, called, jit(**INNER), **free, bent=bending(kind, registers))
    return rules().drive(bent_by_loops, called, inlined, **free)


def _row_sums(kind: str, called: str, free: dict[str, Any]) -> dict[str, Any]:
    """What sums a brief row: by vectors.py, or else by loops, of which only sums may be reassociated."""
    bind, registers = rules(), sweeps(kind)
    if registers:
        swept_row, kept = sweeping_rows(kind, registers, lines_ahead())
        free = free | {"swept_row": swept_row}
        return {"swept": bind.drive(row_by_vectors, kind, inlined, **free), "swept_and_kept": kept}
    free = free | {"below_peak": bind.drive(below_peak, kind, inlined, **free)}
    for part in (row_sum_step, row_sums_step, row_moments_step, row_keep_step):
        free[part.__name__] = bind.drive(part, kind, lambda f: inlined(f, SUMS), **free)
    swept, kept = (bind.drive(loop, called, jit(**INNER), **free) for loop in (row_by_loops, kept_by_loops))
    return {"swept": swept, "swept_and_kept": kept}
