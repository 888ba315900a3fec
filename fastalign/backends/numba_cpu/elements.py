"""Elements with a mask, a block of BLOCK after the other, in tiles of TILE.

a) A tile of which all counts is read and written where it lies; of any other, what counts is first squeezed into a
   room of its own, so that no formula sees the rest, and spread out again after it.
b) Rules of SINGLE are walked in float32 where the arrays are float32, all others in double.
c) Tallies are summed by tile, in one order for every number of threads; of a tile in the dtype of the rule.
d) The loop waits for the chain of one vector's operations, and a processor does not look far enough ahead to begin the
   next one's: so LLVM is told to put BESIDE of them side by side.  2^20 elements, ns per element, PPO in float32 and
   float64, DPO in float32 and float64, by 1, 2, 3, 4 and 8:
   AVX-512   0.76 1.87 1.49 3.3   0.71 1.73 1.28 2.7   0.72 1.86 1.31 2.6   0.66 1.69 1.13 2.8   1.00 2.94 1.34 3.3
   AVX2      1.18 2.98 3.02 6.3   1.25 2.81 1.56 4.1   1.19 2.89 2.64 6.2   0.92 2.46 1.52 3.7   0.97 3.16 1.40 3.9
   Since e), AVX2, by 4 and 8: 0.89 2.04 1.58 7.0 and 0.81 1.85 1.30 6.6; AVX-512, PPO in float32, 0.61 and 0.73.
   Before, with a selection by the mask before every sum: 0.91 2.15 1.7 4.2 and 1.47 3.80 2.4 7.0.

e) Where the bound of a family is near enough, exponentials have none of their own: PPO in float32 and float64, AVX-512,
   0.69 and 1.68 ns per element to 0.64 and 1.45.  Chosen in the rule, by a condition that does not change within the
   loop: 0.76 and 1.75.

f) With AVX2 a rule with exponentials is cut in two (cut.py): the chain of its operations is the longest there is, and
   of eight vectors side by side half is put aside in memory and read again (PPO in float32: 85 instructions per vector,
   35 of them on the stack).  So the exponentials of PIECE elements come first, FIRST vectors at once, by way of L1, and
   then what is left, one vector after the other: short chains, all tallies in registers, 59 instructions.  AVX2 in
   128-bit halves (Zen 1), ns per element, PPO in float32 and float64, DPO in float32 and float64, as in d) by 8 and by
   4, and cut:
   4,096 elements   2.77 5.43 3.89 9.9   2.57 4.97 3.60 9.4   2.24 4.40 3.45 9.4
   2^20 elements    2.39 5.15 4.0 10.1   2.19 4.73 3.36 9.5   1.95 4.13 3.3  9.2
   PPO and DPO in float32 by 2 and 1 vectors 2.4 and 3.6, by 4 and 2 2.34 and 3.45, by 8 and 1 2.30 and 3.38; all of a
   tile's exponentials first, as fast.  In pieces of 64, 128, 256 and 512 PPO takes 2.35, 2.25, 2.20 and 2.17; a lane
   adds as many numbers as make a loss of equal summands wrong by up to 2.8e-7, 2.8e-7, 4.1e-7 and 8.6e-7 (by eight
   vectors 1.9e-7).

Measured, 2^20 elements, and left: prefetching the next tile (DPO in float64: 5.0 ns per element, with it 13.8);
tallies in double beside a rule in float32 (PPO: 1.3, with them 1.9); both halves of a tile in one loop, for half as
many sums to keep in registers (PPO in float64: 1.8, so 2.4 to 3.5, for LLVM puts one after the other).

With a mask of which 99.9, 90, 50 and 10 % count, PPO in float32, AVX-512: 1.58, 2.38, 1.70 and 0.93 ms; without 0.69.
"""

from functools import cache
from typing import Any

import numpy as np
from numba import types

from ...binding import FAMILIES
from ...rules import SINGLE
from .. import BLOCK
from .access import (
    TILE,
    alike,
    get,
    larger,
    over,
    places,
    put,
    read,
    read_ahead,
    scratch,
    shift,
    start,
    tallied,
    tiles,
    write,
    write_ahead,
)
from .compiling import CONTRACT, filled, given, inlined, jit, rules, vector_registers
from .vecmath import within

BESIDE, BESIDE_OF_AVX2 = 4, 8  # vectors
FIRST, REST, PIECE = 4, 1, 128  # vectors, vectors, and elements
ALONE = 0  # no vectors: instructions that gather and scatter take longer (PPO in float32, half of it masked: 2.7 ms)


def one(x, y, i, params, tally):
    """The element at i."""
    results = element(*read(x, i, zero), *params)
    write(y, i, results)
    return tallied(tally, results, sums)


def step(x, y, params, n):
    return over(n, one, x, y, params, nothing, beside)


def exponentials(given, found, i, params, none):
    """Of the element at i of a piece."""
    x, at = given
    write_ahead(found, i, first(*read_ahead(x, at + i, zero), *params))
    return none


def left(given, y, i, params, tally):
    """What is left of it."""
    x, at, found = given
    results = rest(*read(x, at + i, zero), *params, *read(found, i, zero))
    write(y, at + i, results)
    return tallied(tally, results, sums)


def step_in_two(x, y, params, n):
    found, tally = tiles(zero, count), nothing
    for at in range(0, n, PIECE):
        m = min(PIECE, n - at)
        over(m, exponentials, (x, at), found, params, 0, FIRST)
        tally = tallied(tally, over(m, left, (x, at, found), y, params, nothing, REST), sums)
    return tally


def either(x, y, params, n):
    """What is bounded to where exponentials need no bounds, or not."""
    if params[bound] <= most:
        return near_step(x, y, params, n)
    return any_step(x, y, params, n)


def choose(mask, at, width, place):
    """How many of the elements count, and where they are, unless all of them do."""
    if mask.size == 0:
        return width
    part, kept = shift(start(mask), at), 0
    for i in range(width):
        kept += get(part, i) != 0
    if kept < width:
        kept = 0
        for i in range(width):
            put(place, kept, np.uint16(i))
            kept += get(part, i) != 0
    return kept


def picked(x, y, i, place, count):
    write(y, i, read(x, np.intp(get(place, i)), empty))
    return count


def laid(x, y, i, place, count):
    write(y, np.intp(get(place, i)), read(x, i, empty))
    return count


def gather(source, tile, place, kept):
    over(kept, picked, source, tile, place, kept, ALONE)


def scatter(tile, target, place, kept, width):
    for i in range(width):
        for k in range(len(target)):
            put(target[k], i, empty)
    over(kept, laid, tile, target, place, kept, ALONE)


def pointwise_loop(inputs, mask, params, outputs, partials):
    room, place = scratch(empty, parts), scratch(no_place, 1)
    options = alike(params, zero)
    for block in range(partials.shape[0]):
        end = min(inputs[0].size, (block + 1) * BLOCK)
        for k in range(tallies):
            partials[block, k] = 0.0 if k < sums else -np.inf
        for at in range(block * BLOCK, end, TILE):
            width = min(TILE, end - at)
            kept = choose(mask, at, width, place)
            whole = kept == width
            x, y = places(inputs, at, room, 0, whole), places(outputs, at, room, len(inputs), whole)
            if not whole:
                gather(places(inputs, at, room, 0, True), x, place, kept)
            tally = step(x, y, options, kept)
            if not whole:
                scatter(y, places(outputs, at, room, len(inputs), True), place, kept, width)
            for k in range(tallies):
                seen, new = partials[block, k], np.float64(tally[k])
                partials[block, k] = seen + new if k < sums else larger(seen, new)


@cache
def _moves(dtype: str) -> dict[str, Any]:
    """What does not depend on the rule: for each number of arrays it is compiled once."""
    free = {"no_place": np.uint16(0), "empty": np.dtype(dtype).type(0.0)}
    for function in (choose, picked, laid, gather, scatter):
        free[function.__name__] = rules().drive(function, dtype, inlined, **free)
    return free


def _step(family: str, kind: str, number: Any, name: str, free: dict[str, Any], near: bool) -> Any:
    bind = rules(np.dtype(number).name, near)
    own = free | {"element": bind.element(family, kind)}
    own["beside"] = BESIDE_OF_AVX2 if vector_registers() == "y" else BESIDE
    halves = bind.halves(family, kind) if vector_registers() == "y" else None
    if halves is not None:
        own |= dict(zip(("first", "rest", "count"), halves, strict=True))
        own |= {part.__name__: bind.drive(part, name, inlined, **own) for part in (exponentials, left)}
        return bind.drive(step_in_two, name, inlined, **own)
    own["one"] = bind.drive(one, name, inlined, **own)
    return bind.drive(step, name, inlined, **own)


@cache
def pointwise_kernel(family: str, kind: str, dtype: str, wide: bool) -> Any:
    """The compiled loop for one rule and one dtype of arrays; ``wide``: in double, whatever the rule and the dtype."""
    shape = FAMILIES[family]
    number = np.dtype(dtype if f"{family}_{kind}" in SINGLE and not wide else "float64").type
    name = f"{family}_{kind}_{dtype}{'_wide' * wide}"
    sums, nothing = len(shape.sums), (number(0.0),) * len(shape.sums) + (number(-np.inf),) * len(shape.peaks)
    free = _moves(dtype) | {
        "zero": number(0.0),
        "sums": sums,
        "tallies": shape.tallies,
        "parts": len(shape.inputs) + len(shape.outputs),
        "nothing": nothing,
    }
    free["step"] = _step(family, kind, number, name, free, False)
    bind = rules(np.dtype(number).name)
    if shape.bound:
        free |= {"bound": shape.params.index(shape.bound), "most": number(within(np.dtype(number).name))}
        free |= {"any_step": free["step"], "near_step": _step(family, kind, number, name, free, True)}
        free["step"] = bind.drive(either, name, inlined, **free)
    signature = types.void(
        types.UniTuple(given(dtype), len(shape.inputs)),
        given("uint8"),
        types.UniTuple(types.float64, len(shape.params)),
        types.UniTuple(filled(dtype), len(shape.outputs)),
        filled("float64", 2),
    )
    return bind.drive(pointwise_loop, name, jit(signature, fastmath=CONTRACT), **free)


def beyond_single(
    family: str, kind: str, inputs: tuple[np.ndarray, ...], mask: np.ndarray, params: tuple[float, ...],
    outputs: tuple[np.ndarray, ...], partials: np.ndarray,
) -> None:  # fmt: skip
    """Blocks whose sums are beyond float32, as their means need not be, again in double: the tallies, and what of the
    outputs is not finite.  All else keeps its bits, whatever is beside it."""
    if inputs[0].dtype != np.float32 or f"{family}_{kind}" not in SINGLE:
        return
    beyond = ~np.isfinite(partials[:, : len(FAMILIES[family].sums)])
    for block in np.flatnonzero(beyond.any(axis=1)).tolist() if beyond.any() else ():
        at = slice(block * BLOCK, (block + 1) * BLOCK)
        some, written = (tuple([x[at] for x in arrays]) for arrays in (inputs, outputs))
        exact = tuple([np.empty_like(x) for x in written])
        pointwise_kernel(family, kind, "float32", True)(some, mask[at], params, exact, partials[block : block + 1])
        for x, y in zip(written, exact, strict=True):
            np.copyto(x, y, where=~np.isfinite(x))


def fold(partials, sums):
    """The tallies of all blocks, in the order of the blocks, in the first; as fold of dispatch.py."""
    for block in range(1, partials.shape[0]):
        for k in range(partials.shape[1]):
            seen, new = partials[0, k], partials[block, k]
            partials[0, k] = seen + new if k < sums else larger(seen, new)


@cache
def folding_kernel() -> Any:
    return rules().drive(fold, "float64", jit(types.void(filled("float64", 2), types.intp)))
