"""Policy-gradient losses on token log-probabilities."""

import math
from typing import Any, NamedTuple

import numpy as np

from . import arrays
from .arrays import Array
from .elementwise import Rule, Rules, mean_or_sum, metrics_of


class PolicyLoss(NamedTuple):
    """What ``policy_loss`` returns; the gradient has the shape of log_probs."""

    loss: float
    grad_log_probs: Array
    metrics: dict[str, float]


NAMES = ("log_probs", "old_log_probs", "advantages")
PPO_NAMES = ("new_log_probs", "old_log_probs", "advantages")
RATES = (("approx_kl", 1), ("clip_ratio/region_mean", 2), ("clipfrac", 3), ("ratio_mean", 4), ("ratio_max", 5))


def policy_loss(
    log_probs: Array,
    old_log_probs: Array,
    advantages: Array,
    *,
    mask: Array | None = None,
    loss_type: str = "ppo",
    clip_low: float = 0.2,
    clip_high: float | None = None,
    log_ratio_clamp: float | None = 20.0,
    aggregation: str = "token_mean",
    out: Array | None = None,
    backend: str | None = None,
) -> PolicyLoss:
    """Policy-gradient loss of tokens or actions, with its gradient and metrics, in one pass.

    Δ = log π − log π_old,   r = exp Δ
    ppo (arXiv:1707.06347, eq. 7):  −min(r A, clip(r, 1 − ε_low, 1 + ε_high) A)

    Arrays of one shape, in nats.  clip_high=None means clip_low.  Δ is bounded to ±log_ratio_clamp, with derivative 0
    beyond (None: not bounded).  aggregation: "token_mean", the mean over what the mask (1 = counts) keeps, or
    "token_sum".  Returns the loss (a float, summed in double), ∂loss/∂log_probs in the inputs' dtype (half precision:
    float32), and means over the kept elements: approx_kl (k3 of π_old ‖ π: r − 1 − Δ), clip_ratio/region_mean (the clip
    binds: its branch is the minimum), clipfrac (r outside the range), ratio_mean; and ratio_max.  The gradient is −r A
    wherever the unclipped branch is the minimum, also outside the range; at the bounds themselves it passes; A = 0
    gives 0.  Masked elements are not read and get 0.  NaN propagates to the loss and its element; an infinite Δ is
    bounded like any other, or makes r 0 or ∞; ∞ − ∞ is NaN.  Nothing kept: loss 0.0, gradients 0, metrics NaN.  float32
    arrays are computed in float32, within 4 eps of what exact arithmetic makes of inputs a rounding away, and summed so
    32 at a time.  ``out`` receives the gradient.  Raises ValueError for shapes, options and overlapping arrays,
    TypeError for dtypes; then nothing is written.

    >>> from fastalign import policy_loss
    >>> r = policy_loss([-1.5, -2.5], [-2.0, -2.0], [1.0, 1.0], clip_high=0.28)
    >>> round(r.loss, 6), r.grad_log_probs.round(6).tolist(), r.metrics["clipfrac"]
    (-0.943265, [0.0, -0.303265], 1.0)
    """
    call = _rules.call  # a statement of its own: 30 ns less than a method's call
    options = loss_type, clip_low, clip_high, log_ratio_clamp, aggregation
    return call(options, (log_probs, old_log_probs, advantages), mask, out, backend)


class PolicyOptions(NamedTuple):
    """Options of a policy loss, checked."""

    loss_type: str
    bounds: tuple[float, float, float]  # clip_low, clip_high, log_ratio_clamp
    mean: bool


@arrays.remembered
def policy_options(
    loss_type: str, clip_low: float, clip_high: float | None, log_ratio_clamp: float | None, aggregation: str
) -> PolicyOptions:
    loss_type = arrays.kind("loss_type", loss_type, "policy")
    mean = arrays.choice("aggregation", aggregation, ("token_mean", "token_sum")) == "token_mean"
    low = arrays.number("clip_low", clip_low, 0.0)
    high = low if clip_high is None else arrays.number("clip_high", clip_high, 0.0)
    bound = math.inf if log_ratio_clamp is None else arrays.number("log_ratio_clamp", log_ratio_clamp, 0.0, above=True)
    return PolicyOptions(loss_type, (low, high, bound), mean)


def entropy_weight(entropy_coef: float, real: np.dtype) -> float:
    """Checked: a number of that dtype, as the gradient that a row is given has to be."""
    most = float(np.finfo(real).max)
    return arrays.number("entropy_coef", entropy_coef, -most, most)


@Rules
def _rules(*given: Any) -> Rule:
    options = policy_options(*given)
    weight = None if options.mean else 1.0
    return Rule(
        "policy", options.loss_type, NAMES, options.bounds, wanted=1, weight=weight, rates=RATES, result=PolicyLoss
    )


def policy_result(tallies: list[float], n: int, options: PolicyOptions) -> tuple[float, dict[str, float]]:
    """Loss and metrics from the tallies of the family "policy" over ``n`` elements."""
    loss = mean_or_sum(tallies[0], n, None if options.mean else 1.0)
    return loss, metrics_of("policy", RATES, tallies, n, loss)


def ppo_loss(
    new_log_probs: Array,
    old_log_probs: Array,
    advantages: Array,
    clip_ratio: float = 0.2,
    *,
    mask: Array | None = None,
    out: Array | None = None,
    backend: str | None = None,
) -> tuple[float, Array]:
    """(loss, ∂loss/∂new_log_probs) of PPO's clipped surrogate, averaged over all elements.

    −mean min(r A, clip(r, 1 − ε, 1 + ε) A),   r = exp(new − old)            (arXiv:1707.06347, eq. 7)

    The curriculum's own gradient is 0 wherever r leaves the clip range.  That is not the derivative of its loss: for
    A > 0 and r < 1 − ε, and for A < 0 and r > 1 + ε, the unclipped branch is the minimum and −r A / N its slope, which
    is what this returns.  The log-ratio is not bounded here.  Arrays, masks, NaN, empty inputs and errors as in
    ``policy_loss``.

    >>> from fastalign import ppo_loss
    >>> loss, grad = ppo_loss([-2.5, -1.5], [-2.0, -2.0], [1.0, 1.0])
    >>> round(loss, 6), grad.round(6).tolist()
    (-0.903265, [-0.303265, 0.0])
    """
    return _ppo_rules.call((clip_ratio,), (new_log_probs, old_log_probs, advantages), mask, out, backend)


@Rules
def _ppo_rules(clip_ratio: float) -> Rule:
    clip = arrays.number("clip_ratio", clip_ratio, 0.0)
    return Rule("policy", "ppo", PPO_NAMES, (clip, clip, math.inf), wanted=1)
