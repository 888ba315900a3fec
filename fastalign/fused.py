"""From logits to loss and back while a row is in the cache: log-probability, loss and gradient in one sweep."""

import math
from typing import NamedTuple

import numpy as np

from . import arrays
from .arrays import Array
from .dispatch import choose
from .log_probs import prepare
from .policy import kept_count, policy_options, policy_result


class FusedLoss(NamedTuple):
    """What ``policy_loss_from_logits`` returns; logp has the shape of the tokens, grad_logits that of the logits."""

    loss: float
    grad_logits: Array
    logp: Array
    metrics: dict[str, float]


def policy_loss_from_logits(
    logits: Array,
    tokens: Array,
    old_log_probs: Array,
    advantages: Array,
    *,
    mask: Array | None = None,
    ignore_index: int | None = None,
    temperature: float = 1.0,
    entropy_coef: float = 0.0,
    loss_type: str = "ppo",
    clip_low: float = 0.2,
    clip_high: float | None = None,
    log_ratio_clamp: float | None = 20.0,
    aggregation: str = "token_mean",
    out: Array | None = None,
    backend: str | None = None,
) -> FusedLoss:
    """``policy_loss`` of the tokens' log-probabilities, with the gradient taken back to the logits in the same sweep.

    logp = log softmax(logits / T)[token],   loss = policy_loss(logp, old, A) − c · mean H,   ∂loss/∂logits

    logits: (…, V) and tokens: (…), as in ``token_log_probs``; old_log_probs and advantages: of the shape of the tokens,
    cast to float64 for float64 logits, else to float32.  c = entropy_coef weighs the entropy H of the rows, averaged or
    summed as aggregation says, and adds the metric entropy.  Options, metrics, masks, special values and errors as in
    ``token_log_probs`` and ``policy_loss``; the results are those of the separate calls.  grad_logits has the dtype of
    the logits; ``out`` receives it and may be ``logits`` itself: memory is then read once and written once, and nothing
    of the size of the logits is allocated.

    >>> import numpy as np
    >>> from fastalign import policy_loss_from_logits
    >>> logits = np.array([[1.0, 2.0, 3.0], [0.5, 0.5, 0.0]])
    >>> r = policy_loss_from_logits(logits, [2, 0], [-0.5, -1.0], [1.0, -0.5], out=logits)
    >>> round(r.loss, 6), r.grad_logits is logits, logits.round(4).tolist()
    (-0.28768, True, [[0.0494, 0.1342, -0.1836], [0.1607, -0.1, -0.0607]])
    """
    engine = choose(backend, logits, tokens, old_log_probs, advantages)
    options = policy_options(loss_type, clip_low, clip_high, log_ratio_clamp, aggregation)
    coef = arrays.number("entropy_coef", entropy_coef)
    rows, ids, kept, scale = prepare(logits, "tokens", tokens, temperature, mask, ignore_index)
    shape, flat = rows.shape[:-1], (rows.rows,)
    both = arrays.reals(old_log_probs=old_log_probs, advantages=advantages)
    if both[0].shape != shape:  # reals has seen to it that they are alike
        raise ValueError(f"old_log_probs has shape {both[0].shape}; expected {shape}, the shape of tokens")
    names = ("old_log_probs", "advantages")
    old, advantage = (arrays.cast_to(name, x, rows.real).reshape(flat) for name, x in zip(names, both, strict=True))
    if out is None:
        target = engine.empty((rows.rows, rows.vocabulary), rows.bits.dtype, logits)
    else:
        given = [x for x in (logits, tokens, mask, old_log_probs, advantages) if x is not None]
        target = rows.as_rows(arrays.output("out", out, rows.shape, rows.dtype, given, allowed=logits))
    logp, lse, grad = (engine.empty(flat, rows.real, logits) for _ in range(3))
    n = rows.rows if kept is None else kept_count(engine, kept)
    weight = 1.0 / n if n and options.mean else 1.0
    entropy = engine.empty(flat, rows.real, logits) if coef else None
    pull = engine.full(flat, -coef * weight, rows.real, logits) if coef else None
    tallies = engine.policy_rows(
        options.loss_type, rows.bits, rows.kind, ids, kept, scale, (old, advantage), (*options.bounds, weight),
        logp, lse, entropy, grad, pull, target,
    )  # fmt: skip
    loss, metrics = policy_result(tallies, n, weight)
    if entropy is not None:
        spread = float(engine.host(entropy).sum(dtype=np.float64))
        loss -= coef * weight * spread
        metrics["entropy"] = spread / n if n else math.nan
    if out is None:
        out = (target if target.dtype == rows.dtype else target.view(rows.dtype)).reshape(rows.shape)
    return FusedLoss(loss, out, logp.reshape(shape), metrics)
