"""Backend "numba": the shapes in Python, compiled when first called.

a) exp for rows is our own: libm's is a scalar call, and pip's Numba has no vector library.  Its magic-number rounding
   allows contraction but no reassociation; the sums around it are reassociated by name.  Never nnan or ninf.
b) One-dimensional loops over contiguous slices: two-dimensional indexing inside costs 2.6 times as much.
c) None becomes an array of size 0 before a kernel is called: optional types would compile every combination.
d) error_model="numpy": a division is one instruction instead of a check that can raise.
e) A loop is a plain function with free names, which Binding.drive fills in: the rule, or what a dtype needs.
f) The disk cache is off unless FASTALIGN_NUMBA_CACHE=1: where no folder can be written it fails at import.
"""

import math
import os
from functools import cache
from types import SimpleNamespace
from typing import Any

import numpy as np
from numba import njit

from ..binding import FAMILIES, Binding
from . import BLOCK

Array = np.ndarray
TILE = 512
NOTHING = {name: np.empty(0, name) for name in ("float32", "float64", "uint8")}
NO_FLAGS = np.empty((0, 0), np.uint8)


def _cache_wanted() -> bool:
    text = os.environ.get("FASTALIGN_NUMBA_CACHE", "")
    if text not in ("", "0", "1"):
        raise ValueError(f"FASTALIGN_NUMBA_CACHE is {text!r}; expected 0 or 1")
    return text == "1"


def _jit(**options: Any) -> Any:
    return njit(nogil=True, error_model="numpy", cache=_cache_wanted(), **options)


CONTRACT = {"contract"}
SUMS = {"reassoc", "contract", "nsz"}


@cache
def rules() -> Binding:
    return Binding(_jit(fastmath=CONTRACT))


def why_not() -> str | None:
    """Usable wherever this module could be imported."""
    return None


# ---- row: exponentials -----------------------------------------------------------------------------------------------

F32 = SimpleNamespace(
    real=np.float32,
    log2e=np.float32(1.44269504),
    magic=np.float32(12583039.0),  # 1.5 * 2^23 + 127: the biased exponent in the low bits
    ln2_hi=np.float32(0.693359375),
    ln2_lo=np.float32(-2.12194440e-4),
    lowest=np.float32(-87.0),
    shift=np.int32(23),
    sign_shift=np.int32(31),
    magnitude=np.int32(0x7FFFFFFF),
    least=np.int32(-(2**31)),
    integer=np.int32,
    series=tuple(np.float32(1.0 / math.factorial(k)) for k in range(2, 7)),
)
F64 = SimpleNamespace(
    real=np.float64,
    log2e=1.4426950408889634,
    magic=6755399441055744.0 + 1023.0,
    ln2_hi=0.6931471803691238,
    ln2_lo=1.9082149292705877e-10,
    lowest=-708.0,
    shift=np.int64(52),
    sign_shift=np.int64(63),
    magnitude=np.int64(2**63 - 1),
    least=np.int64(-(2**63)),
    integer=np.int64,
    series=tuple(1.0 / math.factorial(k) for k in range(2, 14)),
)


def exp_float32(x):
    """exp(x) for x <= about 88, relative error 1e-7; below -87 it is exp(-87); NaN stays."""
    bounded = lowest if x < lowest else x
    z = bounded * log2e + magic
    n = z - magic
    r = (bounded - n * ln2_hi) - n * ln2_lo
    p = (((c6 * r + c5) * r + c4) * r + c3) * r + c2
    power = integer(real(z).view(integer) << integer(shift)).view(real)
    return (p * (r * r) + r) * power + power


def exp_float64(x):
    """exp(x) for x <= about 709, relative error 2e-16; below -708 it is exp(-708); NaN stays."""
    bounded = lowest if x < lowest else x
    z = bounded * log2e + magic
    n = z - magic
    r = (bounded - n * ln2_hi) - n * ln2_lo
    p = (((((c13 * r + c12) * r + c11) * r + c10) * r + c9) * r + c8) * r + c7
    p = ((((p * r + c6) * r + c5) * r + c4) * r + c3) * r + c2
    power = integer(real(z).view(integer) << integer(shift)).view(real)
    return (p * (r * r) + r) * power + power


# ---- row: loops over one tile ----------------------------------------------------------------------------------------


def tile_max(x):
    """The largest element, by integers ordered like the floats: a float maximum would be scalar or lose NaN."""
    top = integer(least)
    for i in range(x.size):
        v = real(x[i]).view(integer)
        v = integer(v ^ integer((v >> integer(sign_shift)) & integer(magnitude)))
        top = v if v > top else top
    return integer(top ^ integer((top >> integer(sign_shift)) & integer(magnitude))).view(real)


def tile_sum(x, base, scale):
    total = real(0.0)
    for i in range(x.size):
        total += exp((x[i] - base) * scale)
    return total


def tile_sums(x, base, scale):
    """Also the sum of exp(t) t; exp(-inf) is not quite 0 and must not meet -inf."""
    total, weighted = real(0.0), real(0.0)
    for i in range(x.size):
        t = (x[i] - base) * scale
        bounded = lowest if t < lowest else t
        e = exp(bounded)
        total += e
        weighted += e * bounded
    return total, weighted


def tile_slopes(x, base, scale, rest, a, b, out):
    """out = p (a + b log p), 0 where p is nothing; out may be x."""
    for i in range(x.size):
        t = (x[i] - base) * scale - rest
        p = exp(t)
        out[i] = real(0.0) if t < lowest else p * (a + b * t)


# ---- row: float16 and bfloat16 ---------------------------------------------------------------------------------------


def same(bits, scratch):
    return bits


def widen_bf16(bits, scratch):
    for i in range(bits.size):
        scratch[i] = np.uint32(np.uint32(bits[i]) << np.uint32(16)).view(np.float32)
    return scratch[: bits.size]


def widen_f16(bits, scratch):
    """Exponent and mantissa in their places make the number times 2^-112, subnormals included; then the ends."""
    for i in range(bits.size):
        h = np.uint32(bits[i])
        magnitude = np.uint32((h & np.uint32(0x7FFF)) << np.uint32(13))
        finite = np.float32(np.uint32(magnitude).view(np.float32) * np.float32(2.0**112)).view(np.uint32)
        ends = np.uint32(magnitude | np.uint32(0x7F800000))
        sign = np.uint32((h & np.uint32(0x8000)) << np.uint32(16))
        scratch[i] = np.uint32(sign | (ends if magnitude >= np.uint32(0x0F800000) else finite)).view(np.float32)
    return scratch[: bits.size]


def stay(x, out):
    """The slopes are where they belong already."""


def narrow_bf16(x, out):
    """To the nearest, ties to even; a NaN stays one."""
    for i in range(x.size):
        u = np.float32(x[i]).view(np.uint32)
        odd = np.uint32((u >> np.uint32(16)) & np.uint32(1))
        rounded = np.uint32(u + np.uint32(0x7FFF) + odd) >> np.uint32(16)
        out[i] = np.uint16((u >> np.uint32(16)) | np.uint32(0x40)) if x[i] != x[i] else np.uint16(rounded)


def narrow_f16(x, out):
    """To the nearest, ties to even.  Below 2^-14 a half is a multiple of 2^-24: adding 1/2 rounds to that."""
    for i in range(x.size):
        u = np.float32(x[i]).view(np.uint32)
        magnitude = np.uint32(u & np.uint32(0x7FFFFFFF))
        shifted = np.float32(np.uint32(magnitude).view(np.float32) + np.float32(0.5)).view(np.uint32)
        small = np.uint32(shifted - np.uint32(0x3F000000))
        odd = np.uint32((magnitude >> np.uint32(13)) & np.uint32(1))
        normal = np.uint32(magnitude - np.uint32(0x38000000) + np.uint32(0xFFF) + odd) >> np.uint32(13)
        half = small if magnitude < np.uint32(0x38800000) else normal
        half = np.uint32(0x7C00) if magnitude >= np.uint32(0x477FF000) else half
        half = np.uint32(0x7E00) if magnitude > np.uint32(0x7F800000) else half
        out[i] = np.uint16(np.uint32((u >> np.uint32(31)) << np.uint32(15)) | half)


# ---- row: rows -------------------------------------------------------------------------------------------------------


def row_state(row, scale, entropy, scratch):
    """(peak, S, U, sound) of one row; an unsound row's peak is its log-sum-exp: NaN or an infinity."""
    peak, total, weighted = real(-np.inf), 0.0, 0.0
    for at in range(0, row.size, TILE):
        x = load(row[at : at + TILE], scratch)
        top = tile_max(x)
        if not (top <= peak):  # a NaN becomes the peak, and the row unsound
            change = (np.float64(peak) - np.float64(top)) * scale
            factor = 0.0 if peak == -np.inf else math.exp(change)
            weighted = factor * (weighted + total * change) if total > 0.0 else 0.0
            total *= factor
            peak = top
        base = real(0.0) if peak == -np.inf else peak
        if entropy:
            s, u = tile_sums(x, base, real(scale))
            weighted += np.float64(u)
        else:
            s = tile_sum(x, base, real(scale))
        total += np.float64(s)
    if total > 0.5 and total < np.inf:
        return np.float64(peak), total, weighted, True
    limit = -np.inf
    for at in range(0, row.size, TILE):
        x = load(row[at : at + TILE], scratch)
        for i in range(x.size):
            if x[i] != x[i]:
                return np.nan, 1.0, 0.0, False
            if x[i] == np.inf:
                limit = np.inf
    return limit, 1.0, 0.0, False


def forward(logits, tokens, mask, scale, logp, lse, entropy):
    scratch = np.empty(TILE, real)
    for r in range(logits.shape[0]):
        if mask.size and mask[r] == 0:
            logp[r] = 0.0
            lse[r] = 0.0
            if entropy.size:
                entropy[r] = 0.0
            continue
        peak, total, weighted, sound = row_state(logits[r], scale, entropy.size > 0, scratch)
        lse[r] = peak * scale + math.log(total) if sound else peak
        if sound:
            chosen = np.float64(load(logits[r, tokens[r] : tokens[r] + 1], scratch)[0])
            logp[r] = (chosen - peak) * scale - math.log(total)
        else:
            logp[r] = np.nan
        if entropy.size:
            entropy[r] = row_entropy(total, weighted) if sound else np.nan


def backward(logits, tokens, mask, scale, grad_logp, grad_lse, grad_entropy, lse, entropy, out):
    scratch = np.empty(TILE, real)
    one = np.empty(1, real)
    for r in range(logits.shape[0]):
        if mask.size and mask[r] == 0:
            out[r, :] = 0
            continue
        g_entropy = np.float64(grad_entropy[r]) if grad_entropy.size else 0.0
        peak, h = 0.0, 0.0
        if lse.size == 0 or (g_entropy != 0.0 and entropy.size == 0):
            peak, total, weighted, sound = row_state(logits[r], scale, g_entropy != 0.0, scratch)
            rest = math.log(total)
            h = row_entropy(total, weighted) if sound else np.nan
        else:
            rest = np.float64(lse[r])
            h = np.float64(entropy[r]) if entropy.size else 0.0
        if not math.isfinite(peak + rest):  # no probabilities: every derivative is NaN
            one[0] = np.nan
            for j in range(logits.shape[1]):
                put(one, out[r, j : j + 1])
            continue
        g_lse = np.float64(grad_lse[r]) if grad_lse.size else 0.0
        a, b = row_slope(np.float64(grad_logp[r]), g_lse, g_entropy, h, scale)
        y = tokens[r]
        chosen = np.float64(load(logits[r, y : y + 1], scratch)[0])  # before out, which may be logits, is written
        for at in range(0, logits.shape[1], TILE):
            x = load(logits[r, at : at + TILE], scratch)
            slopes = target(out[r, at : at + TILE], x)
            tile_slopes(x, real(peak), real(scale), real(rest), real(a), real(b), slopes)
            narrow(slopes, out[r, at : at + TILE])
        t = (chosen - peak) * scale - rest
        p = math.exp(t)
        one[0] = (p * (a + b * t) if p > 0.0 else 0.0) + np.float64(grad_logp[r]) * scale
        put(one, out[r, y : y + 1])


def in_place(out, x):
    return out


def in_scratch(out, x):
    return x


def copy_one(x, out):
    out[0] = x[0]


HALVES = {"f16": (widen_f16, narrow_f16), "bf16": (widen_bf16, narrow_bf16)}


@cache
def row_kernels(kind: str) -> tuple[Any, Any]:
    """(forward, backward) for one kind of logits."""
    world = vars(F64 if kind == "f64" else F32).copy()
    world |= {f"c{k}": value for k, value in enumerate(world.pop("series"), 2)}
    bind, name = rules(), "f64" if kind == "f64" else "f32"

    def make(loop: Any, flags: set[str], suffix: str = name, **free: Any) -> Any:
        return bind.drive(loop, suffix, _jit(fastmath=flags), **world, **free)

    exp = make(exp_float64 if kind == "f64" else exp_float32, CONTRACT)
    tiles = {
        "tile_max": make(tile_max, CONTRACT),
        "tile_sum": make(tile_sum, SUMS, exp=exp),
        "tile_sums": make(tile_sums, SUMS, exp=exp),
        "tile_slopes": make(tile_slopes, CONTRACT, exp=exp),
    }
    widen, narrow = HALVES.get(kind, (same, stay))
    put = HALVES[kind][1] if kind in HALVES else copy_one
    moves = {
        "load": make(widen, CONTRACT, kind),
        "narrow": make(narrow, CONTRACT, kind),
        "put": make(put, CONTRACT, kind),
        "target": make(in_scratch if kind in HALVES else in_place, CONTRACT, kind),
    }
    state = make(row_state, CONTRACT, kind, **tiles, **moves)
    free = {**tiles, **moves, "row_state": state, **vars(bind.rules)}
    return make(forward, CONTRACT, kind, **free), make(backward, CONTRACT, kind, **free)


def _given(x: Array | None, like: Array) -> Array:
    return NOTHING[like.dtype.name] if x is None else x


def row_forward(
    logits: Array, kind: str, tokens: Array, mask: Any, scale: float, logp: Array, lse: Array, entropy: Any
) -> None:
    mask = NOTHING["uint8"] if mask is None else mask
    row_kernels(kind)[0](logits, tokens, mask, scale, logp, lse, _given(entropy, logp))


def row_backward(
    logits: Array,
    kind: str,
    tokens: Array,
    mask: Any,
    scale: float,
    grad_logp: Array,
    grad_lse: Any,
    grad_entropy: Any,
    lse: Any,
    entropy: Any,
    out: Array,
) -> None:
    mask = NOTHING["uint8"] if mask is None else mask
    optional = [_given(x, grad_logp) for x in (grad_lse, grad_entropy, lse, entropy)]
    row_kernels(kind)[1](logits, tokens, mask, scale, grad_logp, *optional, out)


# ---- pointwise -------------------------------------------------------------------------------------------------------


def read2(x, i):
    return np.float64(x[0][i]), np.float64(x[1][i])


def read3(x, i):
    return np.float64(x[0][i]), np.float64(x[1][i]), np.float64(x[2][i])


def read4(x, i):
    return np.float64(x[0][i]), np.float64(x[1][i]), np.float64(x[2][i]), np.float64(x[3][i])


READ = {2: read2, 3: read3, 4: read4}


def pointwise_loop(inputs, mask, params, outputs, partials):
    for block in range(partials.shape[0]):
        for k in range(sums):
            partials[block, k] = 0.0
        for k in range(sums, tallies):
            partials[block, k] = -np.inf
        for i in range(block * BLOCK, min(inputs[0].size, (block + 1) * BLOCK)):
            if mask.size and mask[i] == 0:
                for k in range(stored):
                    if outputs[k].size:
                        outputs[k][i] = 0.0
                continue
            results = element(*read(inputs, i), *params)
            for k in range(stored):
                if outputs[k].size:
                    outputs[k][i] = results[k]
            for k in range(sums):
                partials[block, k] += results[stored + k]
            for k in range(sums, tallies):
                v = results[stored + k]
                partials[block, k] = v if v > partials[block, k] or v != v else partials[block, k]


@cache
def pointwise_kernel(family: str, kind: str) -> Any:
    shape, bind = FAMILIES[family], rules()
    free = {
        "element": bind.element(family, kind),
        "read": bind.compile(READ[len(shape.inputs)]),
        "stored": len(shape.outputs),
        "sums": len(shape.sums),
        "tallies": shape.tallies,
    }
    return bind.drive(pointwise_loop, f"{family}_{kind}", **free)


def pointwise(
    family: str, kind: str, inputs: tuple[Array, ...], mask: Any, params: Any, outputs: Any, partials: Array
) -> None:
    mask = NOTHING["uint8"] if mask is None else mask
    pointwise_kernel(family, kind)(inputs, mask, tuple(map(float, params)), outputs, partials)


# ---- scan ------------------------------------------------------------------------------------------------------------


def scan_loop(
    rewards, values, next_values, final_values, last_values, terminated, truncated, mask, gamma, lam, time_major, out,
    returns,
):  # fmt: skip
    """Arrays are flat; streams are walked side by side where they are neighbours in memory, else one by one."""
    steps, streams = rewards.shape if time_major else rewards.shape[::-1]
    together = min(streams, 64) if time_major else 1
    carry, follow, seen = np.empty(together), np.empty(together), np.empty(together, np.uint8)
    for first in range(0, streams, together):
        width = min(together, streams - first)
        for j in range(width):
            carry[j], seen[j] = 0.0, 0
            follow[j] = last_values[first + j] if last_values.size else 0.0
        for t in range(steps - 1, -1, -1):
            for j in range(width):
                a, b = (t, first + j) if time_major else (first + j, t)
                if mask.size and mask[a, b] == 0:
                    out[a, b] = 0.0
                    if returns.size:
                        returns[a, b] = 0.0
                    continue
                alive = terminated[a, b] == 0
                cut = truncated.size > 0 and truncated[a, b] != 0
                value = np.float64(values[a, b]) if values.size else 0.0
                after = follow[j]
                if next_values.size:
                    after = np.float64(next_values[a, b])
                elif cut and alive and final_values.size:
                    after = np.float64(final_values[a, b])
                going = alive and not cut and seen[j] != 0
                carry[j] = step(
                    np.float64(rewards[a, b]), value, after, carry[j], 1.0 if alive else 0.0, 1.0 if going else 0.0,
                    gamma, lam,
                )  # fmt: skip
                follow[j] = value
                seen[j] = 1
                out[a, b] = carry[j]
                if returns.size:
                    returns[a, b] = carry[j] + value


@cache
def scan_kernel(kind: str) -> Any:
    bind = rules()
    return bind.drive(scan_loop, kind, step=getattr(bind.rules, f"scan_{kind}"))


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
) -> None:
    none = np.empty((0, 0), rewards.dtype)
    values, next_values, final_values, returns = (
        none if x is None else x for x in (values, next_values, final_values, returns)
    )
    truncated, mask = (NO_FLAGS if x is None else x for x in (truncated, mask))
    last_values = _given(last_values, rewards)
    scan_kernel(kind)(
        rewards, values, next_values, final_values, last_values, terminated, truncated, mask, gamma, lam,
        layout == "TN", out, returns,
    )  # fmt: skip


# ---- group -----------------------------------------------------------------------------------------------------------


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
    return bind.drive(reduce_loop, "group"), bind.drive(spread_loop, "group")


def group_reduce(values: Array, offsets: Array, mask: Any, mean: bool, out: Array, counts: Array) -> None:
    group_kernels()[0](values, offsets, NOTHING["uint8"] if mask is None else mask, mean, out, counts)


def group_spread(grad: Array, offsets: Array, mask: Any, mean: bool, counts: Array, out: Array) -> None:
    group_kernels()[1](grad, offsets, NOTHING["uint8"] if mask is None else mask, mean, counts, out)


# ---- warmup ----------------------------------------------------------------------------------------------------------


def warmup() -> None:
    """Compile every kernel for float32 and float64: some ten seconds, or one from the disk cache."""
    from ..binding import family

    for kind, bits, real in (
        ("f32", "float32", "float32"), ("f64", "float64", "float64"), ("f16", "uint16", "float32"),
        ("bf16", "uint16", "float32"),
    ):  # fmt: skip
        x, ids = np.zeros((1, 1), bits), np.zeros(1, np.int64)
        a, b, c = (np.zeros(1, real) for _ in range(3))
        row_forward(x, kind, ids, None, 1.0, a, b, c)
        row_backward(x, kind, ids, None, 1.0, a, b, c, b, c, x.copy())
    for real in ("float32", "float64"):
        for name, shape in FAMILIES.items():
            inputs, outputs = (tuple(np.zeros(1, real) for _ in some) for some in (shape.inputs, shape.outputs))
            for kind in family(name):
                pointwise(name, kind, inputs, None, (1.0,) * len(shape.params), outputs, np.zeros((1, shape.tallies)))
        x, ends = np.zeros((1, 1), real), np.zeros((1, 1), np.uint8)
        for kind in family("scan"):
            scan(kind, x, x, None, None, None, ends, None, None, 1.0, 1.0, "TN", x.copy(), x.copy())
        group_reduce(x[0], np.array([0, 1]), None, False, np.zeros(1, real), np.zeros(1, np.int64))
        group_spread(x[0], np.array([0, 1]), None, False, np.ones(1, np.int64), np.zeros(1, real))
