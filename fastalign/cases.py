"""One table of operations for tests, `fastalign verify`, the demo and bench/: inputs, call, what it reads, tolerance.

Kinds come from the rules themselves: a new rule is tested and timed without another line here.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

import fastalign

from .binding import family

Arguments = dict[str, Any]
Results = tuple[Any, ...]
Random = np.random.Generator
Shape = tuple[int, ...]

HALVES = ("float16", "bfloat16")
Call = Callable[[Arguments, str | None], Results]


class Operation(NamedTuple):
    """make(rng, shape, dtype) -> arguments; call(arguments, backend) -> results."""

    make: Callable[..., Arguments]
    call: Call
    shape: str  # which walk: row, scan, pointwise, group
    reads: tuple[str, ...]  # arguments read once
    tolerance: float = 8.0  # in eps of the results' dtype, of the largest result
    least: float = 1e-3  # or of this much, the size of what cancels in it


def as_dtype(x: np.ndarray, dtype: str) -> np.ndarray:
    """bfloat16 as its uint16 bits, by truncation."""
    if dtype == "bfloat16":
        return (np.ascontiguousarray(x, np.float32).view(np.uint32) >> 16).astype(np.uint16)
    return x.astype(dtype)


def widened(name: str, x: Any) -> Any:
    """The same value in float64: what the truth is computed from."""
    if not isinstance(x, np.ndarray):
        return x
    if name.endswith("logits") and x.dtype == np.uint16:
        return (x.astype(np.uint32) << 16).view(np.float32).astype(np.float64)
    return x.astype(np.float64) if x.dtype.kind == "f" else x


def truth(operation: Operation, arguments: Arguments) -> Results:
    """The results of the float64 reference."""
    return operation.call({name: widened(name, x) for name, x in arguments.items()}, "numpy")


def real(dtype: str) -> Any:
    return np.float64 if dtype == "float64" else np.float32


def make_rows(rng: Random, shape: Shape, dtype: str, masked: bool = False) -> Arguments:
    rows, vocabulary = shape
    return {
        "logits": as_dtype(rng.standard_normal(shape) * 3, dtype),
        "tokens": rng.integers(0, vocabulary, rows),
        "mask": rng.random(rows) < 0.7 if masked else None,
    }


def make_tops(rng: Random, shape: Shape, dtype: str, masked: bool = False) -> Arguments:
    """Every second token is the first or the second of two equal largest logits."""
    a = make_rows(rng, shape, dtype, masked)
    for r in range(0, shape[0], 2):
        places = np.sort(rng.integers(0, shape[1], 2))
        a["logits"][r, places] = as_dtype(np.array([20.0]), dtype)[0]
        a["tokens"][r] = places[r // 2 % 2]
    return a


def make_rows_grad(rng: Random, shape: Shape, dtype: str, masked: bool = False) -> Arguments:
    names = ("logp", "lse", "entropy", "sum_p2", "mean_logit")
    extra = {f"grad_{name}": rng.standard_normal(shape[0]).astype(real(dtype)) for name in names}
    return make_rows(rng, shape, dtype, masked) | extra


def call_forward(a: Arguments, backend: str | None) -> Results:
    return fastalign.token_log_probs(**a, entropy=True, backend=backend)[:3]


def call_moments(a: Arguments, backend: str | None) -> Results:
    r = fastalign.token_log_probs(**a, temperature=0.8, sum_p2=True, mean_logit=True, top1=True, backend=backend)
    return r.logp, *r[3:]


def call_logp(a: Arguments, backend: str | None) -> Results:
    return (fastalign.selective_log_softmax(a["logits"], a["tokens"], mask=a["mask"], backend=backend),)


def call_backward(a: Arguments, backend: str | None) -> Results:
    return (fastalign.token_log_probs_grad(**a, temperature=1.3, backend=backend),)


def make_fused(rng: Random, shape: Shape, dtype: str, masked: bool = False) -> Arguments:
    old = (rng.standard_normal(shape[0]) - math.log(shape[1]) - 1).astype(real(dtype))
    return make_rows(rng, shape, dtype, masked) | {
        "old_log_probs": old,
        "advantages": rng.standard_normal(shape[0]).astype(real(dtype)),
    }


def call_fused(kind: str, entropy_coef: float) -> Call:
    def call(a: Arguments, backend: str | None) -> Results:
        named: dict[str, Any] = {"loss_type": kind, "temperature": 1.3, "log_ratio_clamp": 2.0}
        named["entropy_coef"] = entropy_coef
        r = fastalign.policy_loss_from_logits(**a, **named, backend=backend)
        return (r.loss, r.grad_logits, r.logp, *r.metrics.values())

    return call


def make_fused_pairs(rng: Random, shape: Shape, dtype: str, masked: bool = False) -> Arguments:
    """As many rows in all, or up to two more: two tokens of each chosen answer, one of the rejected."""
    pairs, arguments = -(-shape[0] // 3), {}
    for side, length in (("chosen", 2), ("rejected", 1)):
        rows = make_rows(rng, (pairs * length, shape[1]), dtype, masked)
        for name, x in rows.items():
            arguments[f"{side}_{name}"] = None if x is None else x.reshape((pairs, length, *x.shape[1:]))
        ref = rng.standard_normal(pairs) - length * (math.log(shape[1]) + 1)
        arguments[f"ref_{side}_logps"] = ref.astype(real(dtype))
    return arguments


def call_fused_pairs(kind: str) -> Call:
    def call(a: Arguments, backend: str | None) -> Results:
        named: dict[str, Any] = {"loss_type": kind, "temperature": 1.3, "beta": 0.3, "label_smoothing": 0.1}
        r = fastalign.dpo_loss_from_logits(**a, **named, reduction="mean", backend=backend)
        return (*r[:7], *r.metrics.values())

    return call


def make_streams(rng: Random, shape: Shape, dtype: str, masked: bool = False) -> Arguments:
    shape = tuple(shape)
    rewards, values, final = (rng.standard_normal(shape).astype(dtype) for _ in range(3))
    streams = shape[1] if len(shape) == 2 else 1
    return {
        "rewards": rewards,
        "values": values,
        "terminated": rng.random(shape) < 0.05,
        "truncated": rng.random(shape) < 0.05 if masked else None,
        "final_values": final if masked else None,
        "mask": rng.random(shape) < 0.7 if masked else None,
        "last_values": rng.standard_normal(streams).astype(dtype),
    }


def call_gae(a: Arguments, backend: str | None) -> Results:
    return fastalign.gae(**a, gamma=0.97, lam=0.9, backend=backend)


def call_returns(a: Arguments, backend: str | None) -> Results:
    given = {name: x for name, x in a.items() if name not in ("values", "mask")}
    return (fastalign.discounted_returns(**given, gamma=0.97, backend=backend),)


def make_pairs(rng: Random, shape: Shape, dtype: str, masked: bool = False) -> Arguments:
    names = ("policy_chosen_logps", "policy_rejected_logps", "ref_chosen_logps", "ref_rejected_logps")
    return {name: (rng.standard_normal(shape) * 20 - 100).astype(dtype) for name in names}


def call_pairs(kind: str) -> Call:
    def call(a: Arguments, backend: str | None) -> Results:
        r = fastalign.preference_loss(**a, loss_type=kind, beta=0.3, label_smoothing=0.1, backend=backend)
        return (*r[:5], *r.metrics.values())

    return call


def make_rewards(rng: Random, shape: Shape, dtype: str, masked: bool = False) -> Arguments:
    return {
        name: (rng.standard_normal(shape) * 3).astype(dtype) for name in ("reward_chosen", "reward_rejected", "margin")
    }


def call_rewards(kind: str) -> Call:
    return lambda a, backend: fastalign.reward_model_loss(**a, loss_type=kind, center_coef=0.01, backend=backend)


def make_policy(rng: Random, shape: Shape, dtype: str, masked: bool = False) -> Arguments:
    old = rng.standard_normal(shape) - 2
    return {
        "log_probs": (old + 0.3 * rng.standard_normal(shape)).astype(dtype),
        "old_log_probs": old.astype(dtype),
        "advantages": rng.standard_normal(shape).astype(dtype),
        "mask": rng.random(shape) < 0.7 if masked else None,
    }


def call_policy(kind: str) -> Call:
    def call(a: Arguments, backend: str | None) -> Results:
        r = fastalign.policy_loss(**a, loss_type=kind, clip_high=0.28, backend=backend)
        return (r.loss, r.grad_log_probs, *r.metrics.values())

    return call


def make_kl(rng: Random, shape: Shape, dtype: str, masked: bool = False) -> Arguments:
    return {
        "log_probs": (rng.standard_normal(shape) - 2).astype(dtype),
        "ref_log_probs": (rng.standard_normal(shape) - 2).astype(dtype),
        "mask": rng.random(shape) < 0.7 if masked else None,
    }


def call_kl(kind: str) -> Call:
    return lambda a, backend: fastalign.kl_estimate(**a, estimator=kind, backend=backend)


def make_sequences(rng: Random, shape: Shape, dtype: str, masked: bool = False) -> Arguments:
    return {
        "logp": (rng.standard_normal(shape) - 2).astype(dtype),
        "mask": rng.random(shape) < 0.7 if masked else None,
    }


def call_sequences(reduction: str) -> Call:
    def call(a: Arguments, backend: str | None) -> Results:
        sums = fastalign.sequence_log_probs(**a, reduction=reduction, backend=backend)
        grad = fastalign.sequence_log_probs_grad(
            sums, a["logp"].shape, mask=a["mask"], reduction=reduction, backend=backend
        )
        return sums, grad

    return call


PAIR_READS = ("policy_chosen_logps", "policy_rejected_logps", "ref_chosen_logps", "ref_rejected_logps")
STREAM_READS = ("rewards", "values", "terminated", "truncated", "final_values", "mask")

OPERATIONS = {
    "token_log_probs": Operation(make_rows, call_forward, "row", ("logits",), 40),
    "token_log_probs-moments": Operation(make_tops, call_moments, "row", ("logits",), 40),
    "selective_log_softmax": Operation(make_rows, call_logp, "row", ("logits",), 40),
    "token_log_probs_grad": Operation(make_rows_grad, call_backward, "row", ("logits",), 40),
    **{
        f"policy_loss_from_logits-{kind}{note}": Operation(
            make_fused, call_fused(kind, coef), "row", ("logits",), 40, 0.05
        )
        for kind in family("policy")
        for note, coef in (("", 0.0), (" with entropy", 0.01))
    },
    **{
        f"dpo_loss_from_logits-{kind}": Operation(
            make_fused_pairs, call_fused_pairs(kind), "row", ("chosen_logits", "rejected_logits"), 40, 0.05
        )
        for kind in family("pair")
    },
    "gae": Operation(make_streams, call_gae, "scan", STREAM_READS, 16),
    "discounted_returns": Operation(make_streams, call_returns, "scan", ("rewards", "terminated"), 16),
    **{
        f"reward_model_loss-{kind}": Operation(
            make_rewards, call_rewards(kind), "pointwise", ("reward_chosen", "reward_rejected", "margin")
        )
        for kind in family("reward")
    },
    **{
        f"preference_loss-{kind}": Operation(make_pairs, call_pairs(kind), "pointwise", PAIR_READS)
        for kind in family("pair")
    },
    **{
        f"policy_loss-{kind}": Operation(
            make_policy, call_policy(kind), "pointwise", ("log_probs", "old_log_probs", "advantages")
        )
        for kind in family("policy")
    },
    **{
        f"kl_estimate-{kind}": Operation(make_kl, call_kl(kind), "pointwise", ("log_probs", "ref_log_probs"))
        for kind in family("kl")
    },
    **{
        f"sequence_log_probs-{how}": Operation(make_sequences, call_sequences(how), "group", ("logp",))
        for how in ("sum", "mean")
    },
}

# Each shape with its reason.  A row tile: 512 to 2048; a pointwise one: 128 or 512, its block 4096; a scan's: 64.
SHAPES: dict[str, dict[str, Shape]] = {
    "row": {
        "one": (1, 1),
        "V=1": (3, 1),
        "odd": (5, 7),
        "tile-1": (2, 2047),
        "tile": (2, 2048),
        "tile+1": (2, 2049),
        "long": (2, 5003),
        "no rows": (0, 9),
    },
    "scan": {
        "one step": (1,),
        "one stream": (100,),
        "one step each": (1, 5),
        "odd": (7, 3),
        "block-1": (5, 63),
        "block+1": (5, 65),
        "no steps": (0,),
        "no streams": (4, 0),
    },
    "pointwise": {
        "one": (1,),
        "odd": (7,),
        "tile+1": (129,),
        "block": (4096,),
        "block+1": (4097,),
        "two axes": (3, 50),
        "none": (0,),
    },
    "group": {"one": (1, 1), "odd": (3, 7), "no sequences": (0, 4), "empty sequences": (4, 0)},
}
DTYPES = {
    "row": ("float32", "float64", "float16", "bfloat16"),
    "scan": ("float32", "float64"),
    "pointwise": ("float32", "float64"),
    "group": ("float32", "float64"),
}


def eps_of(dtype: str, x: Any) -> float:
    """The rounding unit of a result."""
    if isinstance(x, float):
        return float(np.finfo(np.float64 if dtype == "float64" else np.float32).eps)
    if x.dtype == np.uint16:
        return 2.0**-8
    if x.dtype.kind == "b":
        return 0.0
    return float(np.finfo(x.dtype).eps)


def disagreement(name: str, dtype: str, got: Results, want: Results) -> str | None:
    """How the results differ from the truth by more than the operation's tolerance of the largest; None: they agree.

    A loss or metric is a sum of thousands of terms of either sign: it may be off by four times as much, of terms of
    order one at least.
    """
    if len(got) != len(want):
        return f"{len(got)} results, expected {len(want)}"
    for k, (g, w) in enumerate(zip(got, want, strict=True)):
        eps = eps_of(dtype, g)
        summed = isinstance(g, float)
        tolerance = OPERATIONS[name].tolerance * eps * (4 if summed else 1) if eps < 1e-4 else eps
        least = 1.0 if summed else OPERATIONS[name].least
        g, w = (widened("logits", np.asarray(x) if np.asarray(x).dtype != bool else np.float64(x)) for x in (g, w))
        if g.shape != w.shape:
            return f"result {k}: shape {g.shape}, expected {w.shape}"
        scale = max(least, float(np.abs(w[np.isfinite(w)]).max(initial=0)))
        near = np.isclose(g, w, rtol=tolerance, atol=tolerance * scale, equal_nan=True)
        if not near.all():
            at = np.unravel_index(int(np.argmin(near)), near.shape)
            place = tuple(map(int, at))
            return f"result {k} at {place}: {g[at]!r}, expected {w[at]!r} within {tolerance:.2g} of {scale:.3g}"
    return None
