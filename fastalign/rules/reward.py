"""reward_*: losses of a reward model on a pair of scores.  Each returns the value, ∂/∂chosen, ∂/∂rejected."""

from .elementary import sigmoid, softplus


def reward_bradley_terry(
    chosen: float, rejected: float, margin: float, center_coef: float
) -> tuple[float, float, float]:
    """−log σ(r_w − r_l − margin) + c (r_w + r_l)²; margin: arXiv:2307.09288, centring: arXiv:2312.09244."""
    d = chosen - rejected - margin
    total = chosen + rejected
    # With c = 0 the centring term must vanish also where the sum overflows.
    value = softplus(-d) + (center_coef * total * total if center_coef > 0.0 else 0.0)
    pull = 2.0 * center_coef * total if center_coef > 0.0 else 0.0
    slope = sigmoid(-d)
    return value, pull - slope, pull + slope


def frame_reward(
    reward_chosen: float, reward_rejected: float, margin: float, center_coef: float, weight: float
) -> tuple[float, float, float]:
    value, d_chosen, d_rejected = rule(reward_chosen, reward_rejected, margin, center_coef)  # noqa: F821
    return weight * d_chosen, weight * d_rejected, value
