"""From hidden states and a weight matrix to log-probabilities, losses and gradients, without the matrix of logits."""

import math
from typing import Any, NamedTuple

import numpy as np

from .arrays import Array, is_device
from .at_once import is_few, logits_of, products
from .dispatch import fold
from .fused import policy_loss_from_logits
from .log_probs import TokenLogProbs, token_log_probs, token_log_probs_grad
from .policy import entropy_weight, policy_options, policy_result
from .projection import MAX_BYTES, Gradients
from .rules import FAMILIES
from .sweeps import FAR, Linear, Side, backward, forward, prepare_linear, prepare_side, slope_of_parts


def linear_log_probs(
    hidden: Array,
    weight: Array,
    tokens: Array,
    bias: Array | None = None,
    *,
    temperature: float = 1.0,
    mask: Array | None = None,
    ignore_index: int | None = None,
    entropy: bool = False,
    max_bytes: int = MAX_BYTES,
    backend: str | None = None,
) -> TokenLogProbs:
    """``token_log_probs`` of the logits hidden · weightᵀ + bias, which are never in memory at once.

    logits = h Wᵀ + b,   z = logits / T,   lse = log Σⱼ exp zⱼ,   logp = z_token − lse,   H = −Σⱼ pⱼ log pⱼ

    hidden: (…, H); weight: (V, H) and bias: (V,), as of torch's nn.Linear; tokens: (…).  float64, float32, float16,
    bfloat16 (ml_dtypes, or its uint16 bits) on the host.  Float64 where hidden or weight is, else float32: halves are
    widened, a part at a time, and logits are never rounded to them.  Results, masks, special values and errors as in
    ``token_log_probs``; rows that do not count are not read.  max_bytes bounds the memory beside the results and some
    numbers per row; at least one row of 4,000 logits at a time is computed.

    Results do not depend on fastalign's threads.  The products are those of NumPy's BLAS, whose last bits may depend on
    its own threads, on the processor, and on how many rows it is given at a time, by the call or by max_bytes.

    >>> import numpy as np
    >>> from fastalign import linear_log_probs
    >>> hidden, weight = np.array([[1.0, 0.5], [0.0, 2.0]]), np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    >>> linear_log_probs(hidden, weight, [2, 0]).logp.round(6).tolist()
    [-0.68027, -2.758624]
    """
    if mask is None and ignore_index is None and is_few(weight, bias, max_bytes, (hidden, tokens)):
        logits = logits_of(hidden, weight, bias)
        return token_log_probs(logits, tokens, temperature=temperature, entropy=entropy, backend=backend)
    linear, (h,) = prepare_linear(weight, bias, temperature, max_bytes, backend, hidden=hidden)
    side = prepare_side(linear, h, tokens, mask, ignore_index)
    logp, lse, spread = forward(linear, side, entropy)
    rows = side.rows
    return TokenLogProbs(rows.spread(logp), rows.spread(lse), None if spread is None else rows.spread(spread))


class LinearGradients(NamedTuple):
    """What ``linear_log_probs_grad`` returns, in the shapes of hidden, weight and bias.

    None is what is frozen, and the gradient of a bias that is not there.
    """

    grad_hidden: Array
    grad_weight: Array | None
    grad_bias: Array | None


def linear_log_probs_grad(
    hidden: Array,
    weight: Array,
    tokens: Array,
    grad_logp: Array,
    bias: Array | None = None,
    *,
    lse: Array | None = None,
    entropy: Array | None = None,
    grad_entropy: Array | None = None,
    grad_lse: Array | None = None,
    temperature: float = 1.0,
    mask: Array | None = None,
    ignore_index: int | None = None,
    frozen: bool = False,
    max_bytes: int = MAX_BYTES,
    backend: str | None = None,
) -> LinearGradients:
    """Gradients with respect to hidden, weight and bias of what ``linear_log_probs`` returns.

    G = ∂/∂logits, as in ``token_log_probs_grad``;   ∂/∂h = G W,   ∂/∂W = Gᵀ h,   ∂/∂b = Σ G

    The logits are computed again, part by part, and turned into G there.  lse and, with grad_entropy, entropy, saved
    from the forward call, let tiles be small; without them, or where |lse| > 64 in float32, whole rows are computed, or
    where max_bytes holds few of these, the forward pass again.  Arguments, masks and errors as in ``linear_log_probs``
    and ``token_log_probs_grad``.  Gradients are float64 where hidden or weight is, else float32, also of halves, and
    that of weight is summed in it.  Rows that do not count are not read and get 0; a row without probabilities gives
    NaN to its own gradient and, being a term of every sum, to those of weight and bias.  frozen: weight and bias are
    not trained; their gradients are None, and a product is saved.

    >>> import numpy as np
    >>> from fastalign import linear_log_probs_grad
    >>> hidden, weight = np.array([[1.0, 0.5]]), np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    >>> grads = linear_log_probs_grad(hidden, weight, [2], [1.0])
    >>> grads.grad_hidden.round(4).tolist(), grads.grad_weight.round(4).tolist()
    ([[0.1863, 0.3072]], [[-0.3072, -0.1536], [-0.1863, -0.0932], [0.4935, 0.2468]])
    """
    named = {"grad_logp": grad_logp, "grad_lse": grad_lse, "grad_entropy": grad_entropy, "lse": lse, "entropy": entropy}
    if mask is None and ignore_index is None and is_few(weight, bias, max_bytes, (hidden, tokens)):
        if not any(map(is_device, named.values())):
            logits = logits_of(hidden, weight, bias)
            token_log_probs_grad(logits, tokens, **named, temperature=temperature, out=logits, backend=backend)
            return LinearGradients(*products(logits, hidden, weight, bias, frozen))
    linear, (h,) = prepare_linear(weight, bias, temperature, max_bytes, backend, hidden=hidden)
    side = prepare_side(linear, h, tokens, mask, ignore_index)
    if grad_logp is None:
        raise TypeError("grad_logp is None; expected an array")
    taken = {name: None if x is None else side.rows.values(name, x) for name, x in named.items()}
    slopes = {name: taken[name] for name in ("grad_logp", "grad_lse", "grad_entropy")}
    gradients = Gradients(linear.projection, frozen)
    grad_hidden = _log_probs_backward(linear, side, slopes, taken["lse"], taken["entropy"], gradients)
    return LinearGradients(grad_hidden, *gradients.results())


def _log_probs_backward(
    linear: Linear, side: Side, slopes: dict[str, Any], lse: Any, entropy: Any, gradients: Gradients
) -> np.ndarray:
    curved, whole = slopes["grad_entropy"] is not None, linear.whole(side.rows.n)
    if lse is not None and linear.projection.real == np.float32 and (np.abs(lse) > FAR).any():
        lse = None
    if lse is None or (curved and entropy is None):
        if whole is not None:
            three = tuple(slopes.values())

            def slope(tile: np.ndarray, a: int, b: int, start: int, stop: int) -> None:
                some = (None if x is None else x[a:b] for x in three)
                given = linear.kind, side.ids[a:b], None, linear.scale, *some, None, None
                linear.engine.rows("row_backward", tile, *given, tile)

            return backward(linear, side, whole, slope, gradients)
        _, lse, entropy = forward(linear, side, curved)
    part = slope_of_parts(linear, side.ids, lse.astype(np.float64), entropy if curved else None, **slopes)
    return backward(linear, side, linear.blocks(), part, gradients)


class LinearPolicyLoss(NamedTuple):
    """What ``linear_policy_loss`` returns; logp has the shape of the tokens, a gradient that of its argument.

    None as in ``LinearGradients``.
    """

    loss: float
    grad_hidden: Array
    grad_weight: Array | None
    grad_bias: Array | None
    logp: Array
    metrics: dict[str, float]


def linear_policy_loss(
    hidden: Array,
    weight: Array,
    tokens: Array,
    old_log_probs: Array,
    advantages: Array,
    bias: Array | None = None,
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
    frozen: bool = False,
    max_bytes: int = MAX_BYTES,
    backend: str | None = None,
) -> LinearPolicyLoss:
    """``policy_loss_from_logits`` of the logits hidden · weightᵀ + bias, with the gradients of the three.

    logp = log softmax((h Wᵀ + b) / T)[token],   loss = policy_loss(logp, old, A) − c · mean H,   ∂loss/∂h, ∂W, ∂b

    hidden, weight, bias, tokens, frozen, max_bytes, precision and repeatability as in ``linear_log_probs`` and
    ``linear_log_probs_grad``; the loss, its options, metrics, masks, special values and errors as in
    ``policy_loss_from_logits``.  As many whole rows of logits as max_bytes holds are there at a time, from the product
    to the gradients; where it holds fewer than 48, narrower tiles are computed twice.

    >>> import numpy as np
    >>> from fastalign import linear_policy_loss
    >>> hidden, weight = np.array([[1.0, 0.5], [0.0, 2.0]]), np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    >>> r = linear_policy_loss(hidden, weight, [2, 0], [-0.5, -2.7], [1.0, -0.5])
    >>> round(r.loss, 6), r.grad_hidden.round(4).tolist()
    (-0.181757, [[-0.0778, -0.1283], [0.1104, -0.2208]])
    """
    options = policy_options(loss_type, clip_low, clip_high, log_ratio_clamp, aggregation)
    if mask is None and ignore_index is None and is_few(weight, bias, max_bytes, (hidden, tokens)):
        if not (is_device(old_log_probs) or is_device(advantages)):
            logits = logits_of(hidden, weight, bias)
            r = policy_loss_from_logits(
                logits, tokens, old_log_probs, advantages, temperature=temperature, entropy_coef=entropy_coef,
                loss_type=loss_type, clip_low=clip_low, clip_high=clip_high, log_ratio_clamp=log_ratio_clamp,
                aggregation=aggregation, out=logits, backend=backend,
            )  # fmt: skip
            return LinearPolicyLoss(r.loss, *products(logits, hidden, weight, bias, frozen), r.logp, r.metrics)
    linear, (h,) = prepare_linear(weight, bias, temperature, max_bytes, backend, hidden=hidden)
    coef = entropy_weight(entropy_coef, linear.projection.real)
    side = prepare_side(linear, h, tokens, mask, ignore_index)
    rows, real = side.rows, linear.projection.real
    others = rows.values("old_log_probs", old_log_probs), rows.values("advantages", advantages)
    n, gradients = rows.n, Gradients(linear.projection, frozen)
    share = 1.0 / n if n and options.mean else 1.0
    logp, lse, grad = (np.empty(n, real) for _ in range(3))
    spread, pull = (np.empty(n, real), np.full(n, -coef * share, real)) if coef else (None, None)
    tallies: list[list[float]] = []

    def loss_of(a: int, b: int) -> None:
        inputs = (logp[a:b], *(x[a:b] for x in others))
        params = (*options.bounds, share)
        tallies.append(linear.engine.pointwise("policy", options.loss_type, inputs, None, params, (grad[a:b],)))

    def slope(tile: np.ndarray, a: int, b: int, start: int, stop: int) -> None:
        h, p = (None if x is None else x[a:b] for x in (spread, pull))
        common = tile, linear.kind, side.ids[a:b], None, linear.scale
        linear.engine.rows("row_forward", *common, logp[a:b], lse[a:b], h)
        loss_of(a, b)
        linear.engine.rows("row_backward", *common, grad[a:b], None, p, lse[a:b], h, tile)

    whole = linear.whole(n)
    if whole is not None:
        grad_hidden = backward(linear, side, whole, slope, gradients)
    else:
        logp, exact, spread = forward(linear, side, bool(coef))
        loss_of(0, n)
        part = slope_of_parts(linear, side.ids, exact, spread, grad, None, pull)
        grad_hidden = backward(linear, side, linear.blocks(), part, gradients)
    family = FAMILIES["policy"]
    total = fold(np.array(tallies).reshape((-1, family.tallies)), len(family.sums))
    loss, metrics = policy_result(total, n, options)
    if spread is not None:
        bonus = float(spread.sum(dtype=np.float64))
        loss -= coef * share * bonus
        metrics["entropy"] = bonus / n if n else math.nan
    return LinearPolicyLoss(loss, grad_hidden, *gradients.results(), rows.spread(logp), metrics)
