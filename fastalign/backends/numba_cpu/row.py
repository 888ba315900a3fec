"""Rows of logits: a running peak and the sums below it, tile by tile."""

import math
from functools import cache
from typing import Any

import numpy as np

from .compiling import CONTRACT, SUMS, jit, rules
from .exponential import F32, F64, LOG2E, exp2_float32, exp2_float64
from .tiles import (
    TILE,
    narrow_bf16,
    narrow_f16,
    same,
    stay,
    tile_max,
    tile_slopes,
    tile_sum,
    tile_sums,
    widen_bf16,
    widen_f16,
)

FIRST = 256  # elements searched for the first peak
BOUND = 65536.0  # of a tile's sum of exponentials: the peak is at most 16 octaves too low


def row_state(row, scale, entropy, scratch):
    """(peak, S, U, sound) of one row; an unsound row's peak is its log-sum-exp: NaN or an infinity.

    One sweep: the peak is near the maximum.  Where the sum of a tile says that it is far below, it is raised and the
    tile, still in L1, swept again.
    """
    octaves = real(scale * LOG2E)
    total, weighted = 0.0, 0.0
    peak = tile_max(load(row[:FIRST], scratch))
    for at in range(0, row.size, TILE):
        x = load(row[at : at + TILE], scratch)
        s, u = sums(x, peak, octaves, entropy)
        if not (s <= (BOUND if peak > -np.inf else 0.0)):
            top = tile_max(x)
            if not (top <= peak):  # a NaN becomes the peak, and the row unsound
                change = (np.float64(peak) - np.float64(top)) * scale
                factor = math.exp(change) if total > 0.0 else 0.0
                weighted = factor * (weighted + total * change) if factor > 0.0 else 0.0
                total *= factor
                peak = top
                s, u = sums(x, peak, octaves, entropy)
        total += np.float64(s)
        weighted += np.float64(u) / LOG2E
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


def sums(x, peak, octaves, entropy):
    """Of a tile; without a peak yet they are 0, or something else where there is more than -inf."""
    base = real(0.0) if peak == -np.inf else peak
    if entropy:
        return tile_sums(x, base, octaves)
    return tile_sum(x, base, octaves), real(0.0)


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
        saved = lse.size > 0 and (g_entropy == 0.0 or entropy.size > 0)
        if not saved or row_trusted(np.float64(lse[r])) == 0.0:
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
        # The base is where log p = 0, as far as a real can say; what is left over joins the factors.
        near = real(peak + rest / scale)
        base = near if math.isfinite(near) else real(peak)
        left = (np.float64(base) - peak) * scale - rest
        f = math.exp(left)
        slope, bend = real((a + b * left) * f), real(b * f / LOG2E)
        for at in range(0, logits.shape[1], TILE):
            x = load(logits[r, at : at + TILE], scratch)
            slopes = target(out[r, at : at + TILE], x)
            tile_slopes(x, base, real(scale * LOG2E), slope, bend, slopes)
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
    world |= {f"c{k}": value for k, value in enumerate(world.pop("series"), 1)}
    bind, name = rules(), "f64" if kind == "f64" else "f32"

    def make(loop: Any, flags: set[str], suffix: str = name, **free: Any) -> Any:
        return bind.drive(loop, suffix, jit(fastmath=flags), **world, **free)

    exp2 = make(exp2_float64 if kind == "f64" else exp2_float32, CONTRACT)
    tiles = {
        "tile_max": make(tile_max, CONTRACT),
        "tile_sum": make(tile_sum, SUMS, exp2=exp2),
        "tile_sums": make(tile_sums, SUMS, exp2=exp2),
        "tile_slopes": make(tile_slopes, CONTRACT, exp2=exp2),
    }
    widen, narrow = HALVES.get(kind, (same, stay))
    put = HALVES[kind][1] if kind in HALVES else copy_one
    moves = {
        "load": make(widen, CONTRACT, kind),
        "narrow": make(narrow, CONTRACT, kind),
        "put": make(put, CONTRACT, kind),
        "target": make(in_scratch if kind in HALVES else in_place, CONTRACT, kind),
    }
    tiles["sums"] = make(sums, CONTRACT, **tiles)
    state = make(row_state, CONTRACT, kind, **tiles, **moves)
    free = {**tiles, **moves, "row_state": state, **vars(bind.rules)}
    return make(forward, CONTRACT, kind, **free), make(backward, CONTRACT, kind, **free)
