"""pair_*: losses of a pair of answers, from h = log π − log π_ref of the chosen and of the rejected one.

Each returns the value, ∂/∂h_chosen, ∂/∂h_rejected.
"""

from .elementary import sigmoid, softplus


def pair_sigmoid(chosen: float, rejected: float, beta: float, label_smoothing: float) -> tuple[float, float, float]:
    """DPO, arXiv:2305.18290, eq. 7, with the label smoothing ε of cDPO: −(1−ε) log σ(z) − ε log σ(−z), z = βΔ."""
    z = beta * (chosen - rejected)
    kept = 1.0 - label_smoothing
    # Both logarithms share softplus(−|z|).  The selections make 0 · ∞ 0; a NaN of z is in the first summand.
    right = kept * (-z if z < 0.0 else 0.0)
    wrong = label_smoothing * (z if z > 0.0 else 0.0)
    value = softplus(-abs(z)) + (right if right > 0.0 else 0.0) + (wrong if wrong > 0.0 else 0.0)
    # σ(z) − (1 − ε) by parts: each keeps its digits in its own tail.
    slope = beta * (label_smoothing * sigmoid(z) - kept * sigmoid(-z))
    return value, slope, -slope


def frame_pair(
    policy_chosen: float,
    policy_rejected: float,
    ref_chosen: float,
    ref_rejected: float,
    beta: float,
    label_smoothing: float,
    weight: float,
) -> tuple[float, float, float, float, float, float, float, float, float]:
    chosen = policy_chosen - ref_chosen
    rejected = policy_rejected - ref_rejected
    value, d_chosen, d_rejected = rule(chosen, rejected, beta, label_smoothing)  # noqa: F821
    chosen_reward = beta * chosen
    rejected_reward = beta * rejected
    margin = chosen_reward - rejected_reward
    accuracy = 1.0 if margin > 0.0 else 0.0
    return (
        weight * d_chosen,
        weight * d_rejected,
        chosen_reward,
        rejected_reward,
        value,
        chosen_reward,
        rejected_reward,
        accuracy,
        margin,
    )
