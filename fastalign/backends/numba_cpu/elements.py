"""Elements with a mask, a block of BLOCK after the other, in tiles of TILE.

a) The rule's loop runs over a tile of whole vectors.  A tile of which all counts is read and written where it lies; any
   other is first put together in a room of its own, with zeros for what does not count.
b) Rules of SINGLE are walked in float32 where the arrays are float32, all others in double.
c) Tallies are summed by tile, in one order for every number of threads; of a tile in the dtype of the rule.

What does not count is selected away; the extension squeezes it out, in a loop that LLVM cannot vectorise.  Measured,
2^20 elements, and left: prefetching the next tile (DPO in float64: 5.0 ns per element, with it 13.8); tallies in double
beside a rule in float32 (PPO: 1.3, with them 1.9); a loop of its own, without selections, for tiles of which all counts
(PPO in float32: 1.03 ms, so 0.96, compiled twice); tiles of 256 and 512 (within 5 %, with a mask 10 and 40 % slower).
"""

from functools import cache
from typing import Any

import numpy as np
from numba import types

from ...binding import FAMILIES
from ...rules import SINGLE
from .. import BLOCK
from .access import TILE, alike, get, larger, move, places, put, read, scratch, shift, start, tallied, write
from .compiling import CONTRACT, filled, given, inlined, jit, rules

VECTOR = 16  # elements: no loop over a tile has a remainder


def step(x, y, left, params, vectors):
    tally = nothing
    for i in range(vectors * VECTOR):
        results = element(*read(x, i, zero), *params)
        write(y, i, results)
        tally = tallied(tally, results, sums, read((left,), i, no_bits)[0])
    return tally


def leave(mask, at, width, left):
    """Marks, by all bits, the elements of the tile that are left out; returns how many."""
    if mask.size == 0:
        for i in range(TILE):
            put(left, i, no_bits if i < width else all_bits)
        return TILE - width
    part, count = shift(start(mask), at), TILE - width
    for i in range(width):
        out = get(part, i) == 0
        put(left, i, all_bits if out else no_bits)
        count += out
    for i in range(width, TILE):
        put(left, i, all_bits)
    return count


def gather(source, tile, left, width, vectors):
    for i in range(width):
        move(source, tile, i, left)
    for i in range(width, vectors * VECTOR):
        for k in range(len(tile)):
            put(tile[k], i, empty)


def scatter(tile, target, left, width):
    for i in range(width):
        move(tile, target, i, left)


def pointwise_loop(inputs, mask, params, outputs, partials):
    room, left = scratch(empty, parts), scratch(no_bits, 1)
    options = alike(params, zero)
    for block in range(partials.shape[0]):
        end = min(inputs[0].size, (block + 1) * BLOCK)
        for k in range(tallies):
            partials[block, k] = 0.0 if k < sums else -np.inf
        for at in range(block * BLOCK, end, TILE):
            width = min(TILE, end - at)
            vectors = (width + VECTOR - 1) // VECTOR
            whole = leave(mask, at, width, left) == 0
            x, y = places(inputs, at, room, 0, whole), places(outputs, at, room, len(inputs), whole)
            if not whole:
                gather(places(inputs, at, room, 0, True), x, left, width, vectors)
            tally = step(x, y, left, options, vectors)
            if not whole:
                scatter(y, places(outputs, at, room, len(inputs), True), left, width)
            for k in range(tallies):
                seen, new = partials[block, k], np.float64(tally[k])
                partials[block, k] = seen + new if k < sums else larger(seen, new)


@cache
def _moves(dtype: str) -> dict[str, Any]:
    """What does not depend on the rule: for each number of arrays it is compiled once."""
    free = {"no_bits": np.uint8(0), "all_bits": np.uint8(255), "empty": np.dtype(dtype).type(0.0)}
    return free | {f.__name__: rules().drive(f, dtype, inlined, **free) for f in (leave, gather, scatter)}


@cache
def pointwise_kernel(family: str, kind: str, dtype: str) -> Any:
    """The compiled loop for one rule and one dtype of arrays."""
    shape = FAMILIES[family]
    number = np.dtype(dtype if f"{family}_{kind}" in SINGLE else "float64").type
    bind, name = rules(np.dtype(number).name), f"{family}_{kind}_{dtype}"
    sums, nothing = len(shape.sums), (number(0.0),) * len(shape.sums) + (number(-np.inf),) * len(shape.peaks)
    free = _moves(dtype) | {
        "zero": number(0.0),
        "sums": sums,
        "tallies": shape.tallies,
        "parts": len(shape.inputs) + len(shape.outputs),
        "nothing": nothing,
        "element": bind.element(family, kind),
    }
    free["step"] = bind.drive(step, name, inlined, **free)
    signature = types.void(
        types.UniTuple(given(dtype), len(shape.inputs)),
        given("uint8"),
        types.UniTuple(types.float64, len(shape.params)),
        types.UniTuple(filled(dtype), len(shape.outputs)),
        filled("float64", 2),
    )
    return bind.drive(pointwise_loop, name, jit(signature, fastmath=CONTRACT), **free)
