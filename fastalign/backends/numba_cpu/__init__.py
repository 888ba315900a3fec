"""Backend "numba": the shapes in Python, compiled when first called.

a) exp and its kin are our own (vecmath.py): libm's are scalar calls, and pip's Numba has no vector library.  Rounding
   by a magic number allows contraction but no reassociation; sums are reassociated by name.  Never nnan or ninf.
b) One-dimensional loops over contiguous memory: two-dimensional indexing inside costs 2.6 times as much.  Where a loop
   reads and writes many arrays it does so through access.py, which tells the compiler that they lie apart.
c) None becomes an array of size 0 before a kernel is called: optional types would compile every combination.
d) error_model="numpy": a division is one instruction instead of a check that can raise.
e) A loop is a plain function with free names, which Binding.drive fills in: the rule, or what a dtype needs.
f) Signatures are given, with read-only inputs: an array that cannot be written needs no version of its own.
g) The disk cache is off unless FASTALIGN_NUMBA_CACHE=1: where no folder can be written it fails at import.
"""

import concurrent.futures.thread  # noqa: F401  the pool these kernels are called from, which the first call would load
from typing import Any

import numpy as np
from numba import config

from ...binding import FAMILIES, family
from .. import PART, row_units, single_holds
from . import whole as whole
from .calls import pointwise_ready as pointwise_ready
from .elements import beyond_single, pointwise_kernel
from .group import group_kernels
from .kept import along_kept, sweep_kept
from .packed import packed_kernel
from .recurrence import along, scan_kernel, sweep, walk, way
from .row import row_kernels
from .row_loops import BRIEF, NO_ROOMS, row_rooms
from .row_policy import policy_kernel, policy_rule

Array = np.ndarray
NOTHING = {name: np.empty(0, name) for name in ("float32", "float64", "uint8")}
DTYPES = {"f": "float32", "d": "float64"}  # by character: a dtype makes up its name at every call
NO_NUMBERS = {name: np.empty((0, 0), name) for name in ("float32", "float64")}
NO_FLAGS = np.empty((0, 0), np.uint8)
NO_PARTS = np.empty((0, PART))


def why_not() -> str | None:
    """Usable wherever this module could be imported, if Numba compiles: intrinsics are no Python."""
    return "NUMBA_DISABLE_JIT is set" if getattr(config, "DISABLE_JIT", False) else None  # which no stub declares


def _given(x: Array | None, like: Array) -> Array:
    return NOTHING[DTYPES[like.dtype.char]] if x is None else x


def row_forward(
    logits: Array, kind: str, tokens: Array, mask: Any, scale: float, logp: Array, lse: Array, entropy: Any,
    sum_p2: Any = None, mean_logit: Any = None, top1: Any = None, parts: Any = None,
) -> None:  # fmt: skip
    flags, nothing = NOTHING["uint8"], NOTHING[DTYPES[logp.dtype.char]]
    row_kernels(kind)[0](
        logits, tokens, flags if mask is None else mask, scale, logp, lse, nothing if entropy is None else entropy,
        nothing if sum_p2 is None else sum_p2, nothing if mean_logit is None else mean_logit,
        flags if top1 is None else top1, NO_PARTS if parts is None else parts,
    )  # fmt: skip


def row_backward(
    logits: Array, kind: str, tokens: Array, mask: Any, scale: float, grad_logp: Array, grad_lse: Any,
    grad_entropy: Any, lse: Any, entropy: Any, out: Array, grad_sum_p2: Any = None, grad_mean_logit: Any = None,
    parts: Any = None, units: range | None = None,
) -> None:  # fmt: skip
    mask = NOTHING["uint8"] if mask is None else mask
    optional = [_given(x, grad_logp) for x in (grad_lse, grad_entropy, lse, entropy)]
    moments = [_given(x, grad_logp) for x in (grad_sum_p2, grad_mean_logit)]
    units = range(row_units(logits.shape)) if units is None else units
    keeps, real = all(x is None for x in (parts, lse, grad_sum_p2, grad_mean_logit)), grad_logp.dtype.char
    rooms = row_rooms(logits, out, real, grad_entropy is None) if keeps else NO_ROOMS[real]
    row_kernels(kind)[1](
        logits, tokens, mask, scale, grad_logp, *optional, out, *moments, NO_PARTS if parts is None else parts,
        units.start, units.stop, *rooms,
    )  # fmt: skip


def row_parts(
    logits: Array, kind: str, mask: Any, scale: float, spread: bool, moments: bool, parts: Array, units: range
) -> None:
    mask = NOTHING["uint8"] if mask is None else mask
    row_kernels(kind)[2](logits, mask, scale, spread, moments, parts, units.start, units.stop)


def takes_policy_rows(columns: int) -> bool:
    """Those that are not summed otherwise, with other bits."""
    return columns > BRIEF


def policy_rows(
    loss_type: str, logits: Array, kind: str, tokens: Array, mask: Any, scale: float, old: Array, advantages: Array,
    logp: Array, entropy: Any, out: Array, params: tuple[float, ...], grad_entropy: float, partials: Array, few: int,
) -> None:  # fmt: skip
    real = logp.dtype.char
    policy_kernel(kind)(
        logits, tokens, NOTHING["uint8"] if mask is None else mask, scale, old, advantages, logp, _given(entropy, logp),
        out, policy_rule(loss_type), np.array(params, np.float64), grad_entropy, partials, few,
        *row_rooms(logits, out, real, False),
    )  # fmt: skip


def pointwise(
    name: str, kind: str, inputs: tuple[Array, ...], mask: Any, params: Any, outputs: Any, partials: Array
) -> None:
    mask = NOTHING["uint8"] if mask is None else mask
    dtype = DTYPES[inputs[0].dtype.char]
    kernel = pointwise_kernel(name, kind, dtype, dtype == "float32" and not single_holds(params))
    params = tuple(map(float, params))
    kernel(inputs, mask, params, outputs, partials)
    beyond_single(name, kind, inputs, mask, params, outputs, partials)


def scan(
    kind: str,
    rewards: Array,
    values: Any,
    next_values: Any,
    final_values: Any,
    last_values: Any,
    terminated: Array,
    truncated: Any,
    mask: Any,
    gamma: float,
    lam: float,
    layout: str,
    out: Array,
    returns: Any,
    offsets: Any = None,
) -> None:
    dtype, streams = DTYPES[rewards.dtype.char], len(rewards) if layout == "NT" else rewards.shape[1]
    last_values = NOTHING[dtype] if last_values is None else last_values
    few = next_values is None and truncated is None and (values is None) == (returns is None)
    plain = few and mask is None
    by_itself = offsets is None and (plain or (few and values is not None))
    valued, absent = not (plain or by_itself) or values is not None, NO_NUMBERS[dtype]
    values, returns = absent if values is None else values, absent if returns is None else returns
    if by_itself:
        flags = (terminated,) if mask is None else (terminated, mask)
        loop, count = way(mask is not None, layout, streams)
        scan_kernel(loop, kind, dtype, valued)(rewards, values, last_values, *flags, gamma, lam, out, returns, *count)
        return
    next_values, final_values = (absent if x is None else x for x in (next_values, final_values))
    truncated, mask = (NO_FLAGS if x is None else x for x in (truncated, mask))
    if offsets is not None:
        some = (rewards, values, next_values, final_values, terminated, truncated, mask, out, returns)
        r, v, n, f, ends, cuts, kept, o, back = (x.reshape(-1) for x in some)
        flat = (r, v, last_values, ends) if plain else (r, v, n, f, last_values, ends, cuts, kept)
        packed_kernel(plain, kind, dtype, valued)(*flat, gamma, lam, offsets, o, back)
    else:
        scan_kernel(walk, kind, dtype, valued)(
            rewards, values, next_values, final_values, last_values, terminated, truncated, mask, gamma, lam,
            layout == "TN", out, returns,
        )  # fmt: skip


def group_reduce(values: Array, offsets: Array, mask: Any, mean: bool, out: Array, counts: Array) -> None:
    mask = NOTHING["uint8"] if mask is None else mask
    group_kernels(DTYPES[values.dtype.char])[0](values, offsets, mask, mean, out, counts)


def group_spread(grad: Array, offsets: Array, mask: Any, mean: bool, counts: Array, out: Array) -> None:
    mask = NOTHING["uint8"] if mask is None else mask
    group_kernels(DTYPES[grad.dtype.char])[1](grad, offsets, mask, mean, counts, out)


def warmup() -> None:
    """Compile every kernel for float32 and float64: half a minute, or a second or two from the disk cache."""
    for kind, bits, real in (
        ("f32", "float32", "float32"), ("f64", "float64", "float64"), ("f16", "uint16", "float32"),
        ("bf16", "uint16", "float32"),
    ):  # fmt: skip
        x, ids = np.zeros((1, 1), bits), np.zeros(1, np.int64)
        a, b, c = (np.zeros(1, real) for _ in range(3))
        row_forward(x, kind, ids, None, 1.0, a, b, c)
        row_backward(x, kind, ids, None, 1.0, a, b, c, b, c, x.copy())
        policy_kernel(kind)
    for kind in family("policy"):
        policy_rule(kind)
    for real in ("float32", "float64"):
        for name in FAMILIES:
            for kind in family(name):
                pointwise_kernel(name, kind, real, False)
        for kind in family("scan"):
            for loop in (sweep, along, walk):
                scan_kernel(loop, kind, real, loop is walk or kind == "gae")
        for masked in (sweep_kept, along_kept):
            scan_kernel(masked, "gae", real, True)
        group_kernels(real)
