"""scan_*: one step of a recurrence that runs backwards over time.  Each returns the new carry.

``alive`` is 1 unless the step terminated its episode, ``going`` is 1 unless the trace is cut after this step
(terminated, truncated, or the last step of the data).  ``next_value`` is the value of the state the step reached.
Selected, never multiplied: what lies beyond the end of an episode may be NaN.
"""


def scan_gae(
    reward: float,
    value: float,
    next_value: float,
    carry: float,
    alive: float,
    going: float,
    gamma: float,
    lam: float,
) -> float:
    """Â = δ + γλ Â', δ = r + γ V' − V; arXiv:1506.02438, eq. 16."""
    follow = next_value if alive > 0.0 else 0.0
    trace = carry if going > 0.0 else 0.0
    return (reward + gamma * follow - value) + (gamma * lam) * trace


def scan_returns(
    reward: float,
    value: float,
    next_value: float,
    carry: float,
    alive: float,
    going: float,
    gamma: float,
    lam: float,
) -> float:
    """G = r + γ G', bootstrapped from V' where the data or a truncated episode ends."""
    follow = carry if going > 0.0 else next_value
    return reward + gamma * (follow if alive > 0.0 else 0.0)
