"""policy_*: policy-gradient losses of one token.  Each returns the value and ∂/∂log_prob."""

from .elementary import clamp, differ, exp_within, growth_within


def policy_ppo(
    log_prob: float, old_log_prob: float, advantage: float, clip_low: float, clip_high: float, log_ratio_clamp: float
) -> tuple[float, float]:
    """−min(rA, clip(r, 1−ε_l, 1+ε_h) A), r = exp(log_prob − old_log_prob); PPO, arXiv:1707.06347, eq. 7.

    The derivative is −rA wherever the unclipped branch is the minimum, not merely inside the clip range; at the
    bounds themselves it passes.  A = 0 gives 0 also where r is infinite; where r is bounded, a NaN of A is still seen.
    """
    log_ratio = log_prob - old_log_prob
    ratio = exp_within(clamp(log_ratio, -log_ratio_clamp, log_ratio_clamp), log_ratio_clamp)
    descent = -advantage
    free = ratio * descent
    clipped = clamp(ratio, 1.0 - clip_low, 1.0 + clip_high) * descent
    # Of ∞ · 0, which is NaN, and a number, the number.
    value = free if free > clipped else clipped
    flowing = descent - descent if abs(log_ratio) > log_ratio_clamp else value
    slope = 0.0 if free < clipped else flowing
    return value, slope


def frame_policy(
    log_prob: float,
    old_log_prob: float,
    advantage: float,
    clip_low: float,
    clip_high: float,
    log_ratio_clamp: float,
    weight: float,
) -> tuple[float, float, float, float, float, float, float]:
    value, slope = rule(log_prob, old_log_prob, advantage, clip_low, clip_high, log_ratio_clamp)  # noqa: F821
    log_ratio = clamp(log_prob - old_log_prob, -log_ratio_clamp, log_ratio_clamp)
    ratio = exp_within(log_ratio, log_ratio_clamp)
    bounded = clamp(ratio, 1.0 - clip_low, 1.0 + clip_high)
    outside = differ(ratio, bounded)
    binding = 1.0 if ratio * -advantage < bounded * -advantage else 0.0
    approx_kl = growth_within(log_ratio, log_ratio_clamp)  # k3 of KL(old ‖ new), samples of old: (r − 1) − log r
    return (
        weight * slope,
        value,
        approx_kl,
        binding,
        outside,
        ratio,
        ratio,
    )
