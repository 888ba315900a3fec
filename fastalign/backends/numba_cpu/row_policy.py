"""A policy loss from logits and back, row by row: what is summed is multiplied while it is in the cache.

As policy_rows of src_ext/fused.pxi.in.  512 x 32,000, ns per element, on an EPYC of 2017, to an array and in place; by
forward and backward of 1 MB of rows, which leave L2 before they are multiplied, and in place and of halves are taken
twice; so; the extension: float32 2.0 2.4, 1.4 1.3, 1.5 1.2; float64 4.7 7.8, 3.9 3.8, 4.4 3.6; float16 2.6 2.5, 1.45
1.3, 1.55 1.45; with an entropy float32 2.8, 1.4 (exponentials taken twice 1.8), 1.2.  A row of 1000 float32 2150 ns, so
1340, float64 6360, so 3650.  The first call, compiled, takes 10 s for 27.
"""

import math
from functools import cache
from typing import Any

import numpy as np
from numba import types

from ...binding import FAMILIES
from .access import NO, called, get, larger, product, put, scratch, start
from .access import shift as after
from .compiling import CONTRACT, c_function, filled, given, rules
from .row import row_driver

SUMS, TALLIES = len(FAMILIES["policy"].sums), FAMILIES["policy"].tallies


def policy(
    logits, tokens, mask, scale, old, advantages, logp, entropy, out, rule, params, grad_entropy, partials, few, room,
    notes,
):  # fmt: skip
    """``rule``: where the C function of one element is; of a loop for each rule a kind of logits would have as many."""
    columns, note, pull = logits.shape[1], start(notes), np.float64(real(grad_entropy))
    spread = entropy.size > 0
    keep = room.size > 0
    given, found = scratch(0.0, 1), scratch(0.0, 1)
    for r in range(logits.shape[0]):
        row, slopes = after(start(logits), r * columns), after(start(out), r * columns)
        e = after(start(room), (r if room.shape[0] > 1 else 0) * columns)
        if mask.size > 0 and mask[r] == 0:
            logp[r] = 0.0
            if spread:
                entropy[r] = 0.0
            fill(slopes, columns, 0.0)
            continue
        chosen = np.float64(wide(get(row, tokens[r])))  # before out, which may be logits, is written
        peak, total, weighted, _, _, _, sound = row_state(row, columns, scale, spread, NO, note, NO, keep, e, note)
        rest, h = math.log(total), 0.0
        t = (chosen - peak) * scale - rest
        logp[r] = t if sound else np.nan
        if spread:
            entropy[r] = row_entropy(total, weighted) if sound else np.nan
            h = np.float64(entropy[r])
        put(given, 0, np.float64(logp[r]))
        put(given, 1, np.float64(old[r]))
        put(given, 2, np.float64(advantages[r]))
        called(rule, given, start(params), found)
        for k in range(TALLIES):
            seen, new = partials[r // few, k], get(found, 1 + k)
            partials[r // few, k] = seen + new if k < SUMS else larger(seen, new)
        grad = np.float64(real(get(found, 0)))
        a, b = row_slope(grad, 0.0, pull, h, scale)
        if not sound or (a == 0.0 and b == 0.0):
            fill(slopes, columns, 0.0 if sound else np.nan)
        elif keep:
            write_kept(row, columns, scale, peak, rest, a, b, e, note, slopes)
        else:
            write_slopes(row, columns, scale, peak, rest, a, b, 0.0, 0.0, slopes)
        if sound:
            p = math.exp(t)
            put(slopes, tokens[r], narrow(real((p * (a + b * t) if p > 0.0 else 0.0) + product(grad, scale))))


def one_element(given, params, found):
    results = element(
        get(given, 0), get(given, 1), get(given, 2), get(params, 0), get(params, 1), get(params, 2), get(params, 3)
    )  # fmt: skip
    for k in range(1 + TALLIES):
        put(found, k, results[k])


@cache
def policy_kernel(kind: str) -> Any:
    real, stored = ("float64",) * 2 if kind == "f64" else ("float32", "float32" if kind == "f32" else "uint16")
    ids, flags, doubles = given("int64"), given("uint8"), given("float64")
    read = given(stored, 2), ids, flags, types.float64, given(real), given(real)
    written, rule = (filled(real), filled(real), filled(stored, 2)), (types.intp, doubles, types.float64)
    tallies, rooms = (filled("float64", 2), types.intp), (filled(real, 2), filled("float64", 2))
    return row_driver(kind)(policy, types.void(*read, *written, *rule, *tallies, *rooms))


@cache
def policy_rule(kind: str) -> int:
    """The address of a C function of one element in double: it is called once a row, which costs nothing beside it."""
    bind, doubles = rules(), types.CPointer(types.float64)
    compiled = c_function(types.void(doubles, doubles, doubles), fastmath=CONTRACT)
    made: Any = bind.drive(one_element, f"policy_{kind}", compiled, element=bind.element("policy", kind))
    return int(made.address)
