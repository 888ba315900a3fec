"""pair_*: losses of a pair of answers, from h = log π − log π_ref of the chosen and of the rejected one.

Each returns the value, ∂/∂h_chosen, ∂/∂h_rejected.
"""

from .elementary import exp_of_minus, log1p_unit


def pair_sigmoid(chosen: float, rejected: float, beta: float, label_smoothing: float) -> tuple[float, float, float]:
    """DPO, arXiv:2305.18290, eq. 7, with the label smoothing ε of cDPO: −(1−ε) log σ(z) − ε log σ(−z), z = βΔ."""
    z = beta * (chosen - rejected)
    kept = 1.0 - label_smoothing
    e = exp_of_minus(z)
    near = -kept if z < 0.0 else label_smoothing
    far = label_smoothing if z < 0.0 else -kept
    # Both logarithms share log(1 + exp(−|z|)).  The selection makes 0 · ∞ 0; a NaN of z is in the first summand.
    value = log1p_unit(e) + near * (0.0 if near == 0.0 else z)
    # ε σ(z) − (1−ε) σ(−z): each keeps its digits in its own tail.
    slope = beta * ((near + far * e) * (1.0 / (1.0 + e)))
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
    margin = beta * (chosen - rejected)
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
