"""row_*: what a row of logits z yields from its sums S = Σ exp(z−m), U = Σ exp(z−m)(z−m), Q = Σ exp(2(z−m))."""

import math


def row_entropy(total: float, weighted: float) -> float:
    """H = log S − U/S.  From shifted sums: lse − Σ p z loses 2.3 nats at offset 1e4 in float32."""
    return math.log(total) - weighted / total


def row_sum_p2(total: float, squares: float) -> float:
    """Σ p² = Q/S²."""
    return squares / (total * total)


def row_mean_logit(linear: float, columns: float, scale: float) -> float:
    """The mean of z from the sum of the logits."""
    return linear / columns * scale


def row_slope(
    grad_logp: float, grad_lse: float, grad_entropy: float, entropy: float, scale: float
) -> tuple[float, float]:
    """(a, b) with ∂/∂logit_j = p_j (a + b log p_j) + grad_logp·scale·[j is the token].

    From ∂logp/∂z_j = [j=y] − p_j, ∂lse/∂z_j = p_j, ∂H/∂z_j = −p_j (log p_j + H); scale = ∂z/∂logit = 1/temperature.
    A grad_entropy of 0 must not meet an entropy of NaN.
    """
    curve = -grad_entropy * scale
    bend = curve * entropy if grad_entropy != 0.0 else 0.0
    return (grad_lse - grad_logp) * scale + bend, curve


def row_moment_slope(
    grad_sum_p2: float, grad_mean_logit: float, sum_p2: float, columns: float, scale: float
) -> tuple[float, float, float]:
    """(a, c, d): what Σ p² and the mean of z add to ∂/∂logit_j = p_j (a + b log p_j + c p_j) + d.

    From ∂Σp²/∂z_j = 2 p_j (p_j − Σp²), ∂mean/∂z_j = 1/V.  A grad_sum_p2 of 0 must not meet a sum of NaN.
    """
    curve = 2.0 * grad_sum_p2 * scale
    shift = -curve * sum_p2 if grad_sum_p2 != 0.0 else 0.0
    return shift, curve, grad_mean_logit * scale / columns


def row_trusted(lse: float) -> float:
    """1 where the rounding of a saved log-sum-exp cannot be seen in p = exp(z − lse), which has it as relative error.

    At 64 that is 4e-6 in float32; at 1e4, where shifted logits can lie, 5e-4: there the row is summed again.
    """
    return 1.0 if abs(lse) <= 64.0 else 0.0
