"""Backend "numpy": the oracle and the baseline.

Written from the papers in array style and on purpose not from fastalign/rules: if it shared the formulas, agreement
would prove nothing.  A new loss is one function here, registered under its family and kind.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from . import BLOCK, single_holds
from .reference_scan import scan

__all__ = ["scan"]

Array = np.ndarray
# The temporaries of a slab of rows stay in the cache: 256 x 32,000 float32 take 12.5 ms in slabs of 2^18 elements,
# 14.8 row by row, 34 at once.
SLAB = 1 << 18
SPACED = True

FORMULAS: dict[tuple[str, str], Callable[..., Any]] = {}


def formula(family: str, kind: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        FORMULAS[family, kind] = function
        return function

    return register


def why_not() -> str | None:
    return None


def warmup() -> None:
    """Nothing to compile."""


# ---- row -------------------------------------------------------------------------------------------------------------


def widen(logits: Array, kind: str) -> Array:
    """Half precision, given as bits, as float32."""
    if kind == "f16":
        return logits.view(np.float16).astype(np.float32)
    if kind == "bf16":
        return (logits.astype(np.uint32) << 16).view(np.float32)
    return logits


def narrow(values: Array, kind: str) -> Array:
    """float32 as half-precision bits, to the nearest, ties to even."""
    if kind == "f16":
        with np.errstate(over="ignore"):
            return values.astype(np.float16).view(np.uint16)
    if kind == "bf16":
        bits = np.ascontiguousarray(values).view(np.uint32)
        rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
        return np.where(np.isnan(values), (bits >> 16) | 0x40, rounded).astype(np.uint16)
    return values


def _log_softmax(x: Array, scale: float) -> tuple[Array, Array, Array]:
    """log p, the log-sum-exp, and whether a row has probabilities; where not, its log-sum-exp is NaN or an infinity."""
    peak = x.max(axis=1, keepdims=True)
    z = (x - peak) * x.dtype.type(scale)
    total = np.log(np.exp(z).sum(axis=1, keepdims=True, dtype=np.float64))
    sound = np.isfinite(peak[:, 0])  # the maximum of a row with a NaN is NaN
    lse = np.where(sound, (peak.astype(np.float64) * scale + total)[:, 0], peak[:, 0])
    return (z - total).astype(x.dtype), lse, sound


def _slabs(logits: Array, mask: Array | None) -> list[Any]:
    """Indices of the rows to work on together: without a mask slices, which need no copy."""
    rows, vocabulary = logits.shape
    step = max(1, SLAB // max(1, vocabulary))
    if mask is None:
        return [slice(i, i + step) for i in range(0, rows, step)]
    kept = np.flatnonzero(mask)
    return [kept[i : i + step] for i in range(0, len(kept), step)]


def row_forward(
    logits: Array, kind: str, tokens: Array, mask: Array | None, scale: float, logp: Array, lse: Array, entropy: Any,
    sum_p2: Any = None, mean_logit: Any = None, top1: Any = None,
) -> None:  # fmt: skip
    for out in (logp, lse, entropy, sum_p2, mean_logit, top1):
        if out is not None:
            out[...] = 0
    with np.errstate(all="ignore"):
        for at in _slabs(logits, mask):
            x = widen(logits[at], kind)
            log_p, total, sound = _log_softmax(x, scale)
            lse[at] = total
            chosen = np.take_along_axis(log_p, tokens[at, None], axis=1)[:, 0]
            logp[at] = np.where(sound, chosen, np.nan)
            if entropy is not None:
                p = np.exp(log_p)
                entropy[at] = np.where(sound, -np.where(p > 0, p * log_p, 0).sum(axis=1, dtype=np.float64), np.nan)
            if sum_p2 is not None:
                sum_p2[at] = np.where(sound, np.exp(2 * log_p).sum(axis=1, dtype=np.float64), np.nan)
            if mean_logit is not None:
                mean_logit[at] = x.mean(axis=1, dtype=np.float64) * scale
            if top1 is not None:  # argmax finds a NaN first
                top1[at] = (x.argmax(axis=1) == tokens[at]) & ~np.isnan(x.max(axis=1))


def row_backward(
    logits: Array, kind: str, tokens: Array, mask: Array | None, scale: float, grad_logp: Array,
    grad_lse: Array | None, grad_entropy: Array | None, lse: Array | None, entropy: Array | None, out: Array,
    grad_sum_p2: Array | None = None, grad_mean_logit: Array | None = None,
) -> None:  # fmt: skip
    """What the forward call saved, lse and entropy, is computed again."""
    if mask is not None:
        out[mask == 0] = 0
    with np.errstate(all="ignore"):
        for at in _slabs(logits, mask):
            log_p, _, sound = _log_softmax(widen(logits[at], kind), scale)
            p = np.exp(log_p)
            pull = -grad_logp[at, None]
            if grad_lse is not None:
                pull = pull + grad_lse[at, None]
            if grad_entropy is not None:
                own = -np.where(p > 0, p * log_p, 0).sum(axis=1)
                pull = pull - grad_entropy[at, None] * (log_p + own[:, None])
            if grad_sum_p2 is not None:
                pull = pull + 2 * grad_sum_p2[at, None] * (p - np.square(p).sum(axis=1, keepdims=True))
            slope = np.where(p > 0, p * pull, 0)  # log 0 must not meet 0
            if grad_mean_logit is not None:
                slope += grad_mean_logit[at, None] / p.shape[1]
            slope[np.arange(len(p)), tokens[at]] += grad_logp[at]
            slope[~sound] = np.nan
            out[at] = narrow((slope * scale).astype(grad_logp.dtype), kind)


# ---- pointwise -------------------------------------------------------------------------------------------------------


def pointwise(
    family: str,
    kind: str,
    inputs: tuple[Array, ...],
    mask: Array | None,
    params: tuple[float, ...],
    outputs: tuple[Array, ...],
    partials: Array,
) -> None:
    if (family, kind) not in FORMULAS:
        raise NotImplementedError(f"fastalign/backends/reference.py has no formula for {family}_{kind}")
    frame, rule = FRAMES[family], FORMULAS[family, kind]
    real = inputs[0].dtype if single_holds(params) else np.dtype(np.float64)
    with np.errstate(all="ignore"):
        for k in range(len(partials)):
            at = slice(k * BLOCK, (k + 1) * BLOCK)
            kept = slice(None) if mask is None else mask[at] != 0
            some = [x[at][kept].astype(real, copy=False) for x in inputs]
            results, partials[k] = frame(rule, *some, *params)
            if real == np.float32 and not np.isfinite(partials[k]).all():  # beyond it, as a mean need not be
                exact, partials[k] = frame(rule, *(x.astype(np.float64) for x in some), *params)
                results = [np.where(np.isfinite(x), x, y) for x, y in zip(results, exact, strict=True)]
            for out, result in zip(outputs, results, strict=True):
                if out.size:
                    if mask is not None:
                        out[at] = 0
                    out[at][kept] = result


def _sigmoid(x: Array) -> Array:
    return np.where(x < 0, np.exp(np.minimum(x, 0)), 1) / (1 + np.exp(-np.abs(x)))


@formula("pair", "sigmoid")
def _dpo(h_w: Array, h_l: Array, beta: float, eps: float) -> tuple[Array, Array, Array]:
    z = beta * (h_w - h_l)
    if eps == 0:
        loss, slope = np.logaddexp(0, -z), -beta * _sigmoid(-z)
    elif eps == 1:
        loss, slope = np.logaddexp(0, z), beta * _sigmoid(z)
    else:
        loss = (1 - eps) * np.logaddexp(0, -z) + eps * np.logaddexp(0, z)
        slope = beta * (eps * _sigmoid(z) - (1 - eps) * _sigmoid(-z))
    return loss, slope, -slope


def _pair_frame(f: Any, pc: Array, pr: Array, rc: Array, rr: Array, beta: float, eps: float, weight: float) -> Any:
    h_w, h_l = pc - rc, pr - rr
    loss, d_w, d_l = f(h_w, h_l, beta, eps)
    won, lost, margin = beta * h_w, beta * h_l, beta * (h_w - h_l)
    sums = [total(loss), total(won), total(lost), np.count_nonzero(margin > 0), total(margin)]
    return (weight * d_w, weight * d_l, won, lost), sums


@formula("reward", "bradley_terry")
def _bradley_terry(r_w: Array, r_l: Array, margin: Array, center: float) -> tuple[Array, Array, Array]:
    d = r_w - r_l - margin
    loss, slope = np.logaddexp(0, -d), _sigmoid(-d)
    if not center:
        return loss, -slope, slope
    pull = 2 * center * (r_w + r_l)
    return loss + center * np.square(r_w + r_l), pull - slope, pull + slope


def _reward_frame(f: Any, r_w: Array, r_l: Array, margin: Array, center: float, weight: float) -> Any:
    loss, d_w, d_l = f(r_w, r_l, margin, center)
    return (weight * d_w, weight * d_l), [total(loss)]


@formula("policy", "ppo")
def _ppo(new: Array, old: Array, advantage: Array, low: float, high: float, bound: float) -> tuple[Array, Array]:
    log_ratio = np.clip(new - old, -bound, bound)
    ratio = np.exp(log_ratio)
    free, clipped = ratio * -advantage, np.clip(ratio, 1 - low, 1 + high) * -advantage
    value = np.fmax(free, clipped)  # of ∞ · 0, which is NaN, and a number, the number
    flowing = np.where(np.abs(new - old) > bound, advantage - advantage, value)
    return value, np.where(free < clipped, 0, flowing)


def _policy_frame(
    f: Any, new: Array, old: Array, advantage: Array, low: float, high: float, bound: float, weight: float
) -> Any:
    loss, slope = f(new, old, advantage, low, high, bound)
    log_ratio = np.clip(new - old, -bound, bound)
    ratio = np.exp(log_ratio)
    bounded = np.clip(ratio, 1 - low, 1 + high)
    binding = ratio * -advantage < bounded * -advantage
    sums = [total(loss), total(np.expm1(log_ratio) - np.minimum(log_ratio, 1e30)), np.count_nonzero(binding)]
    sums += [np.count_nonzero((ratio < bounded) | (ratio > bounded)), total(ratio), ratio.max(initial=-np.inf)]
    return (weight * slope,), sums


@formula("kl", "k1")
def _k1(p: Array, q: Array) -> tuple[Array, Array]:
    return p - q, np.ones_like(p)


@formula("kl", "k2")
def _k2(p: Array, q: Array) -> tuple[Array, Array]:
    return np.square(p - q) / 2, p - q


@formula("kl", "k3")
def _k3(p: Array, q: Array) -> tuple[Array, Array]:
    return np.expm1(q - p) - (q - p), -np.expm1(q - p)


@formula("kl", "p_log_ratio")
def _p_log_ratio(p: Array, q: Array) -> tuple[Array, Array]:
    mass = np.exp(p)
    return np.where(mass == 0, 0, mass * (p - q)), np.where(mass == 0, 0, mass * (p - q + 1))


def _kl_frame(f: Any, p: Array, q: Array, weight: float) -> Any:
    value, slope = f(p, q)
    return (weight * value, weight * slope), [total(value)]


FRAMES: dict[str, Callable[..., Any]] = {
    "pair": _pair_frame,
    "reward": _reward_frame,
    "policy": _policy_frame,
    "kl": _kl_frame,
}


def total(x: Array) -> float:
    return float(x.sum(dtype=np.float64))


# ---- group -----------------------------------------------------------------------------------------------------------


@np.errstate(all="ignore")
def group_reduce(values: Array, offsets: Array, mask: Array | None, mean: bool, out: Array, counts: Array) -> None:
    kept = np.ones(len(values), bool) if mask is None else mask != 0
    ranks = np.concatenate([[0], np.cumsum(kept)])[offsets]
    packed = values[kept].astype(np.float64)
    counts[...] = np.diff(ranks)
    for b, (start, end) in enumerate(zip(ranks[:-1], ranks[1:], strict=True)):
        # cumsum adds in index order: a padded batch and its packed form give the same bits.
        out[b] = np.cumsum(packed[start:end])[-1] / (counts[b] if mean else 1) if end > start else 0


@np.errstate(all="ignore")
def group_spread(grad: Array, offsets: Array, mask: Array | None, mean: bool, counts: Array, out: Array) -> None:
    share = grad / np.maximum(counts, 1) if mean else grad
    out[...] = np.repeat(share, np.diff(offsets))
    if mask is not None:
        out[mask == 0] = 0
