"""kl_*: what one sampled token contributes to KL(π ‖ ref).  Each returns the value and ∂/∂log_prob.

k1, k2, k3: "Approximating KL Divergence", joschu.net/blog/kl-approx.html.
"""

import math


def kl_k1(log_prob: float, ref_log_prob: float) -> tuple[float, float]:
    """h = log π − log ref: unbiased, of either sign."""
    return log_prob - ref_log_prob, 1.0


def kl_k2(log_prob: float, ref_log_prob: float) -> tuple[float, float]:
    """h²/2: biased, low variance; as a loss its expected gradient is that of KL(π ‖ ref)."""
    h = log_prob - ref_log_prob
    return 0.5 * h * h, h


def kl_k3(log_prob: float, ref_log_prob: float) -> tuple[float, float]:
    """exp(−h) − 1 + h by expm1 (exp(−h) − 1 loses all digits near h = 0): unbiased, never negative."""
    d = ref_log_prob - log_prob
    growth = math.expm1(d)
    return growth - d, -growth


def kl_p_log_ratio(log_prob: float, ref_log_prob: float) -> tuple[float, float]:
    """π (log π − log ref), a summand of the exact divergence; π = 0 gives 0."""
    p = math.exp(log_prob)
    h = log_prob - ref_log_prob
    return (0.0 if p == 0.0 else p * h), (0.0 if p == 0.0 else p * (h + 1.0))


def frame_kl(log_prob: float, ref_log_prob: float, weight: float) -> tuple[float, float, float]:
    value, slope = rule(log_prob, ref_log_prob)  # noqa: F821
    return weight * value, weight * slope, value
