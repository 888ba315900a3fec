"""Whole calls of recurrences and rows, for arrays that are right already: src_ext/call.pxi and row_calls.pxi in Python.

Anything else, and every error, is given back as None before anything was written, for Python to prepare or to explain.
GAE of 128 x 8: 6.8 us instead of 14.9; log-probs of 8 x 1000: 7.9 instead of 15.8, their gradient 12.7 instead of 22.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from numba import types

from .. import PART, row_units
from .calls import NO_MASK, REALS, kept_flags, new_or_given, plain
from .compiling import given, jit
from .recurrence import scan_kernel, way
from .row import row_kernels
from .row_loops import NO_ROOMS, row_rooms

Array = np.ndarray
# By number: characters are also those of ml_dtypes, whose int1 is an "e" too.
KINDS = {
    np.dtype(char).num: kind
    for char, kind in (("f", ("f32", "f")), ("d", ("f64", "d")), ("e", ("f16", "f")), ("H", ("bf16", "f")))
}
NOTHING: dict[str, Array] = {"f": np.empty(0, np.float32), "d": np.empty(0)}
ABSENT: dict[str, Array] = {"f": np.empty((0, 0), np.float32), "d": np.empty((0, 0))}
DTYPES: dict[str, np.dtype] = {"f": np.dtype(np.float32), "d": np.dtype(np.float64)}
FLAG = np.dtype(np.uint8)
NO_PARTS = np.empty((0, PART))


def scan_ready(
    kind: str, rewards: Any, values: Any, next_values: Any, final_values: Any, last_values: Any, terminated: Any,
    truncated: Any, mask: Any, gamma: Any, lam: Any, layout: Any, cu_seqlens: Any, out: Any, limit: int,
) -> tuple[Array, ...] | None:  # fmt: skip
    """Without options but a mask; of several rows, which threads may divide, fewer elements than ``limit``.

    Large ones as well: what leaves nothing of Python in the caches, 128 x 4096 float32, takes 0.15 ms of 0.75 less so.
    """
    if not (next_values is final_values is truncated is cu_seqlens is None) or layout not in ("TN", "NT"):
        return None
    if type(rewards) is not np.ndarray:
        return None
    if not (type(gamma) is type(lam) is float and 0.0 <= gamma <= 1.0 and 0.0 <= lam <= 1.0):
        return None
    dtype, shape = rewards.dtype, rewards.shape
    real, axes = REALS.get(dtype.char), len(shape)
    if real is None or not 0 < axes <= 2 or rewards.size == 0 or not plain(rewards, dtype, shape):
        return None
    if axes == 2 and layout == "NT" and rewards.size >= limit:
        return None
    valued = values is not None
    ends, kept = kept_flags(terminated, shape), NO_MASK if mask is None else kept_flags(mask, shape)
    if ends is None or kept is None or (not plain(values, dtype, shape) if valued else mask is not None):
        return None
    streams = 1 if axes == 1 else shape[1 if layout == "TN" else 0]
    last = NOTHING[dtype.char]
    if last_values is not None:
        if not plain(last_values, dtype, (streams,)):
            return None
        last = last_values
    read = (rewards, values, terminated, last_values, mask)
    outputs = new_or_given(out, 2 if valued else 1, dtype, shape, read)
    if outputs is None:
        return None
    x, y, advantages, returns = rewards, values, outputs[0], outputs[-1]
    two = shape if axes == 2 else (1, shape[0])
    if axes == 1:
        x, advantages, returns = x.reshape(two), advantages.reshape(two), returns.reshape(two)
        y = y.reshape(two) if valued else y
    if not valued:
        y = returns = ABSENT[dtype.char]
    flags = (ends.reshape(two),) if mask is None else (ends.reshape(two), kept.reshape(two))
    loop, count = way(mask is not None, layout, streams)
    scan_kernel(loop, kind, real, valued)(x, y, last, *flags, gamma, lam, advantages, returns, *count)
    return outputs


def _tokens_known(tokens, count):
    """Whether all are in [0, count)."""
    for i in range(tokens.size):
        if not 0 <= tokens[i] < count:
            return False
    return True


@cache
def _known() -> Callable[[Array, int], bool]:
    return jit(types.boolean(given("int64"), types.intp))(_tokens_known)


def _rows(logits: Any, tokens: Any, temperature: Any, mask: Any, limit: int) -> Any:
    """Kind, character of the results' dtype, logits as rows, tokens, mask and scale; or None."""
    if type(logits) is not np.ndarray:
        return None
    dtype, shape = logits.dtype, logits.shape
    kind, real = KINDS.get(dtype.num, ("", ""))
    if not kind or not shape or not 0 < logits.size < limit or not plain(logits, dtype, shape):
        return None
    if type(temperature) is not float or not 1e-30 < temperature < 1e30:
        return None
    if type(tokens) is not np.ndarray or tokens.dtype.char not in "lq" or tokens.itemsize != 8:
        return None
    if not plain(tokens, tokens.dtype, shape[:-1]):
        return None
    kept = NO_MASK if mask is None else kept_flags(mask, shape[:-1])
    ids = tokens.reshape(-1)
    if kept is None or not _known()(ids, shape[-1]):
        return None
    bits = logits.view(np.uint16) if real == "f" and dtype.itemsize == 2 else logits
    return kind, real, bits if len(shape) == 2 else bits.reshape((-1, shape[-1])), ids, kept, 1.0 / temperature


def row_forward_ready(
    result: Any, logits: Any, tokens: Any, temperature: Any, mask: Any, entropy: bool, sum_p2: bool,
    mean_logit: bool, top1: bool, out: Any, limit: int,
) -> Any:  # fmt: skip
    found = _rows(logits, tokens, temperature, mask, limit) if out is None else None
    if found is None:
        return None
    kind, real, rows, ids, kept, scale = found
    dtype, nothing, n = DTYPES[real], NOTHING[real], len(rows)
    wanted = (True, True, entropy, sum_p2, mean_logit)
    outputs = [np.empty(n, dtype) if want else None for want in wanted] + [np.empty(n, FLAG) if top1 else None]
    filled = [nothing if x is None else x for x in outputs[:5]] + [NO_MASK if outputs[5] is None else outputs[5]]
    row_kernels(kind)[0](rows, ids, kept, scale, *filled, NO_PARTS)
    if outputs[5] is not None:
        outputs[5] = outputs[5].view(np.bool_)
    shape = tokens.shape
    return result(*(outputs if len(shape) == 1 else [None if x is None else x.reshape(shape) for x in outputs]))


def row_backward_ready(
    logits: Any, tokens: Any, reals: tuple[Any, ...], temperature: Any, mask: Any, out: Any, limit: int
) -> Array | None:
    """``reals``: the gradients of logp, lse and entropy, lse and entropy, the gradients of Σp² and the mean logit."""
    found = _rows(logits, tokens, temperature, mask, limit)
    if found is None or reals[0] is None:
        return None
    kind, real, rows, ids, kept, scale = found
    dtype, nothing, shape = DTYPES[real], NOTHING[real], tokens.shape
    if not all([x is None or plain(x, dtype, shape) for x in reals]):
        return None
    if out is logits:
        read = (tokens, mask, *reals)
        if not out.flags.writeable or any(x is not None and np.may_share_memory(out, x) for x in read):
            return None
        outputs: tuple[Array, ...] | None = (out,)
    else:
        given_out = None if out is None else (out,)
        outputs = new_or_given(given_out, 1, logits.dtype, logits.shape, (logits, tokens, mask, *reals))
    if outputs is None:
        return None
    g = [nothing if x is None else x.reshape(-1) for x in reals]
    target = outputs[0].view(rows.dtype).reshape(rows.shape)
    keeps = not any(x.size for x in (g[3], *g[5:]))
    rooms = row_rooms(rows, target, real, g[2].size == 0) if keeps else NO_ROOMS[real]
    row_kernels(kind)[1](rows, ids, kept, scale, *g[:5], target, *g[5:], NO_PARTS, 0, row_units(rows.shape), *rooms)
    return outputs[0]
