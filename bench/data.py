"""The arrays of the measures and their results in float64: what is timed and every peer compute on the same numbers."""

from functools import lru_cache

import numpy as np

import fastalign
from fastalign.cases import as_dtype, widened

GAMMA, LAM, BETA, CLIP = 0.99, 0.95, 0.1, 0.2


def rows(shape, dtype):
    """Logits N(0, 3²) and a token per row."""
    rng = np.random.default_rng(0)
    logits = rng.standard_normal(shape, np.float32)
    logits *= 3
    return {"logits": as_dtype(logits, dtype), "tokens": rng.integers(0, shape[1], shape[0])}


def fused(shape, dtype):
    a = rows(shape, dtype)
    rng = np.random.default_rng(1)
    new = fastalign.selective_log_softmax(a["logits"], a["tokens"], backend="numpy")
    a["old_log_probs"] = (new - _log_ratios(rng, shape[0])).astype(dtype)
    a["advantages"] = rng.standard_normal(shape[0]).astype(dtype)
    return a


def _log_ratios(rng, shape):
    """None so near to a bound of the clip range that rounding would decide on which side it is."""
    found = 0.3 * rng.standard_normal(shape)
    for bound in np.log([1 - CLIP, 1 + CLIP]):
        found[np.abs(found - bound) < 1e-4] += 1e-3
    return found


def answers(shape, dtype):
    """The rows of both answers of each pair, the chosen ones first, and the reference's sums."""
    pairs, length, vocabulary = shape
    a = rows((2 * pairs * length, vocabulary), dtype)
    sums = fastalign.selective_log_softmax(a["logits"], a["tokens"], backend="numpy").reshape(2, pairs, length).sum(-1)
    return a | {"refs": (sums + np.random.default_rng(1).standard_normal((2, pairs))).astype(dtype)}


def policy(shape, dtype):
    rng = np.random.default_rng(0)
    old = rng.standard_normal(shape) - 2
    new = old + _log_ratios(rng, shape)
    found = {"log_probs": new, "old_log_probs": old, "advantages": rng.standard_normal(shape)}
    return {name: x.astype(dtype) for name, x in found.items()}


def pairs(shape, dtype):
    rng = np.random.default_rng(0)
    names = ("policy_chosen_logps", "policy_rejected_logps", "ref_chosen_logps", "ref_rejected_logps")
    return {name: (rng.standard_normal(shape) * 20 - 100).astype(dtype) for name in names}


def streams(shape, dtype):
    """Steps first; episodes end at random: one step in a thousand, in short arrays one in fifty."""
    rng = np.random.default_rng(0)
    rewards, values = rng.standard_normal((2, *shape)).astype(dtype)
    last = rng.standard_normal(shape[1:]).astype(dtype)
    ends = rng.random(shape) < (0.001 if shape[0] > 10_000 else 0.02)
    return {"rewards": rewards, "values": values, "terminated": ends, "last_values": last}


def unbroken(shape, dtype):
    """No episode ends: one chain from the last step to the first."""
    a = streams(shape, dtype)
    a["terminated"][...] = False
    return a


def truncated(shape, dtype):
    """As many episodes are cut as terminate."""
    a = streams(shape, dtype)
    rng = np.random.default_rng(1)
    a["truncated"] = rng.permutation(a["terminated"].reshape(-1)).reshape(shape)
    return a | {"final_values": rng.standard_normal(shape).astype(dtype)}


def masked(shape, dtype):
    """Answers, a row each, of which a mask keeps a beginning."""
    rng = np.random.default_rng(0)
    rewards, values = rng.standard_normal((2, *shape)).astype(dtype)
    kept = np.arange(shape[1]) < rng.integers(shape[1] // 4, shape[1], (shape[0], 1))
    ends = np.zeros(shape, bool)
    return {"rewards": rewards, "values": values, "terminated": ends, "mask": kept, "layout": "NT"}


def short(shape, dtype):
    """Streams of a few steps, a row each."""
    rng = np.random.default_rng(0)
    rewards, values = rng.standard_normal((2, *shape)).astype(dtype)
    ends = rng.random(shape) < 0.05
    last = rng.standard_normal(shape[0]).astype(dtype)
    return {"rewards": rewards, "values": values, "terminated": ends, "last_values": last, "layout": "NT"}


def linear(shape, dtype):
    rows_, width, vocabulary = shape
    rng = np.random.default_rng(0)
    hidden = rng.standard_normal((rows_, width), np.float32).astype(dtype, copy=False)
    weight = rng.standard_normal((vocabulary, width), np.float32).astype(dtype, copy=False)
    weight *= 3 / width**0.5
    return {"hidden": hidden, "weight": weight, "tokens": rng.integers(0, vocabulary, rows_)}


TASKS = (rows, fused, answers, policy, pairs, streams, unbroken, truncated, masked, short, linear)
MAKE = {f.__name__: f for f in TASKS} | {"accuracy": rows}


@lru_cache(maxsize=1)
def arrays(task, shape, dtype):
    return MAKE[task](shape, dtype)


def _true_in_long_double(logits, tokens):
    """A row at a time, summed from the smallest: 64 bits of mantissa where the platform has them."""
    found = []
    for x, token in zip(logits.astype(np.longdouble), tokens, strict=True):
        peak = x.max()
        found.append(x[token] - peak - np.log(np.sort(np.exp(x - peak)).sum()))
    return (np.array(found),)


def _true_linear(hidden, weight, tokens):
    """A few rows at a time, for the sake of memory."""
    parts = [slice(k, k + 64) for k in range(0, len(tokens), 64)]
    found = [fastalign.selective_log_softmax(hidden[p] @ weight.T, tokens[p], backend="numpy") for p in parts]
    return (np.concatenate(found),)


def _true_pairs(**a):
    r = fastalign.preference_loss(**a, beta=BETA, backend="numpy")
    return r.loss, r.grad_chosen, r.grad_rejected, *r.metrics.values()


def _true_policy(**a):
    r = fastalign.policy_loss(**a, clip_low=CLIP, backend="numpy")
    return r.loss, r.grad_log_probs, *r.metrics.values()


def _true_answers(logits, tokens, refs):
    """The separate calls."""
    pairs = refs.shape[1]
    logp = fastalign.selective_log_softmax(logits, tokens, backend="numpy")
    sums = logp.reshape(2, pairs, -1).sum(-1)
    r = fastalign.preference_loss(*sums, *refs, beta=BETA, backend="numpy")
    grad = np.repeat(np.concatenate([r.grad_chosen, r.grad_rejected]), len(tokens) // (2 * pairs))
    return r.loss, fastalign.token_log_probs_grad(logits, tokens, grad, backend="numpy")


def _true_fused(**a):
    r = fastalign.policy_loss_from_logits(**a, clip_low=CLIP, backend="numpy")
    return r.loss, r.grad_logits, r.logp


def _true_streams(**a):
    return fastalign.gae(**a, gamma=GAMMA, lam=LAM, backend="numpy")


TRUTH = {
    "rows": lambda logits, tokens: (fastalign.selective_log_softmax(logits, tokens, backend="numpy"),),
    "accuracy": _true_in_long_double,
    "answers": _true_answers,
    "fused": _true_fused,
    "policy": _true_policy,
    "pairs": _true_pairs,
    "streams": _true_streams,
    "unbroken": _true_streams,
    "truncated": _true_streams,
    "masked": _true_streams,
    "short": _true_streams,
    "linear": _true_linear,
}


@lru_cache(maxsize=1)
def truth(task, shape, dtype):
    """From the same numbers, in float64, by the reference."""
    given = arrays(task, shape, dtype)
    return TRUTH[task](**{name: widened(name, x) for name, x in given.items()})


def compare(what, got, want, dtype, slack=512.0):
    """AssertionError unless each result is within ``slack`` eps of the largest of its kind; None: not computed."""
    eps = float(np.finfo("float64" if dtype == "float64" else "float32").eps)
    assert len(got) == len(want), f"{what}: {len(got)} results, expected {len(want)}"
    for k, (g, w) in enumerate(zip(got, want, strict=True)):
        if g is None:
            continue
        g, w = np.asarray(g), np.asarray(w)
        assert g.shape == w.shape, f"{what}: result {k} has shape {g.shape}, expected {w.shape}"
        error, largest = float(np.abs(g - w).max(initial=0)), float(np.abs(w).max(initial=0))
        assert error <= slack * eps * max(largest, 1e-30 if w.ndim else 1.0), (
            f"{what}: result {k} is off by {error:.3g} of {largest:.3g} in {dtype}"
        )
