"""KL divergence: exact sums, per-token estimators, the penalty of RLHF and its controller."""

import math
from typing import NamedTuple

from . import arrays
from .arrays import Array
from .elementwise import Rule, Rules


class KLEstimate(NamedTuple):
    """What ``kl_estimate`` returns, per element: the value and its derivative with respect to log_probs."""

    value: Array
    grad: Array


def kl_divergence(log_probs_p: Array, log_probs_q: Array, *, backend: str | None = None) -> float:
    """KL(P ‖ Q) from the log-probabilities of all outcomes, summed over every element.

    Σ p (log p − log q),   p = exp(log p)

    Arrays of one shape, in nats; summed in double, float32 ones 32 at a time in float32.  p = 0 adds 0, whatever q; q
    = 0 < p gives inf, but from float32 arrays compiled kernels take p below 1.7e-38, that is log p below −87, for 0;
    NaN gives NaN; no elements give 0.0.  Raises ValueError for shapes, TypeError for dtypes.

    >>> from math import log
    >>> from fastalign import kl_divergence
    >>> round(kl_divergence([log(0.5), log(0.5)], [log(0.25), log(0.75)]), 6)
    0.143841
    """
    return _sums.call((), (log_probs_p, log_probs_q), None, None, backend)[0]


@Rules
def _sums() -> Rule:
    return Rule("kl", "p_log_ratio", ("log_probs_p", "log_probs_q"), wanted=0, weight=1.0)


def kl_estimate(
    log_probs: Array,
    ref_log_probs: Array,
    *,
    estimator: str = "k3",
    mask: Array | None = None,
    out: tuple[Array, Array] | None = None,
    backend: str | None = None,
) -> KLEstimate:
    """Estimates of KL(π ‖ ref) from sampled tokens, one per token, with their derivatives.

    h = log π − log ref;   k1: h, 1      k2: h²/2, h      k3: exp(−h) − 1 + h, 1 − exp(−h)
    p_log_ratio: π h, π (h + 1)          (value, ∂/∂ log π)

    Arrays of one shape, in nats; results in their dtype (halves: float32).  Masked elements (0) are not read and give
    0.  As a loss k1 trains nothing (its expected gradient is 0) and k3 follows KL(ref ‖ π); in a reward only the value
    matters.  Infinities and NaN follow arithmetic; a π that ``kl_divergence`` takes for 0 is 0.  ``out``: a pair that
    receives value and derivative.  Raises ValueError for shapes, an unknown estimator and overlapping arrays, TypeError
    for dtypes; then nothing is written.
    joschu.net/blog/kl-approx.html

    >>> from fastalign import kl_estimate
    >>> value, grad = kl_estimate([-1.3], [-1.0])
    >>> float(value[0].round(6)), float(grad[0].round(6))
    (0.049859, -0.349859)
    """
    _, value, grad = _estimates.call((estimator,), (log_probs, ref_log_probs), mask, out, backend)
    return KLEstimate(value, grad)


@Rules
def _estimates(estimator: str) -> Rule:
    estimator = arrays.kind("estimator", estimator, "kl")
    return Rule("kl", estimator, ("log_probs", "ref_log_probs"), wanted=2, weight=1.0)


def kl_penalty_reward(
    policy_log_probs: Array,
    ref_log_probs: Array,
    kl_coef: float = 0.1,
    *,
    estimator: str = "p_log_ratio",
    mask: Array | None = None,
    out: Array | None = None,
    backend: str | None = None,
) -> Array:
    """The KL penalty of each token: positive where the policy has moved away, to be subtracted from the reward.

    κ π (log π − log ref); or, by ``estimator``, κ times k1, k2 or k3 (see ``kl_estimate``)

    The default is a summand of the exact divergence, as in the curriculum; for sampled tokens k1 or k3 are the
    unbiased ones.  π = 0 gives 0.  Shapes, dtypes, masks and errors as in ``kl_estimate``; ``out`` receives the result.

    >>> from fastalign import kl_penalty_reward
    >>> kl_penalty_reward([-1.0], [-1.5], 0.2, estimator="k1").round(6).tolist()
    [0.1]
    """
    return _penalties.call((estimator, kl_coef), (policy_log_probs, ref_log_probs), mask, out, backend)[1]


@Rules
def _penalties(estimator: str, kl_coef: float) -> Rule:
    estimator = arrays.kind("estimator", estimator, "kl")
    names, weight = ("policy_log_probs", "ref_log_probs"), arrays.number("kl_coef", kl_coef)
    return Rule("kl", estimator, names, wanted=1, weight=weight)


class AdaptiveKLController:
    """A KL coefficient that steers the divergence to a target.

    κ ← κ (1 + clip(KL/target − 1, −0.2, 0.2) · steps/horizon)            (arXiv:1909.08593, section 2.2)

    ``value`` is κ, never below 0; KL in nats, as is the target, steps in the unit of the horizon.  Raises ValueError
    for numbers that are not finite or out of range, TypeError for what is none.

    >>> from fastalign import AdaptiveKLController
    >>> controller = AdaptiveKLController(0.001, target=0.1, horizon=10_000)
    >>> round(controller.update(0.3, 256), 8)
    0.00100512
    """

    def __init__(self, init_kl_coef: float, target: float, horizon: float) -> None:
        self.value = arrays.number("init_kl_coef", init_kl_coef, 0.0)
        self.target = arrays.number("target", target, 0.0, above=True)
        self.horizon = arrays.number("horizon", horizon, 0.0, above=True)

    def update(self, kl: float, n_steps: float) -> float:
        """Move the coefficient by what ``n_steps`` at divergence ``kl`` tell; return it.

        It is never below 0: five horizons at once of a divergence far below the target bring it there, where it stays.
        Raises ValueError, and leaves it as it is, where it would not be finite.
        """
        error = arrays.number("kl", kl) / self.target - 1.0
        clipped = min(max(error, -0.2), 0.2)
        moved = self.value * max(0.0, 1.0 + clipped * arrays.number("n_steps", n_steps, 0.0) / self.horizon)
        if not math.isfinite(moved):
            raise ValueError(f"n_steps is {n_steps}; expected fewer: the coefficient would be {moved}")
        self.value = moved
        return moved

    def __repr__(self) -> str:
        return f"AdaptiveKLController(value={self.value!r}, target={self.target!r}, horizon={self.horizon!r})"
