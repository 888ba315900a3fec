"""Losses that learn from preference pairs without a reward model."""

from typing import Any, NamedTuple

from . import arrays
from .arrays import Array
from .elementwise import Rule, Rules

RATES = (("rewards/chosen", 1), ("rewards/rejected", 2), ("rewards/accuracies", 3), ("rewards/margins", 4))
TRAINER_RATES = (("loss", 0), ("accuracy", 3), ("chosen_reward", 1), ("rejected_reward", 2), ("reward_margin", 4))
NAMES = ("policy_chosen_logps", "policy_rejected_logps", "ref_chosen_logps", "ref_rejected_logps")


class PreferenceLoss(NamedTuple):
    """What ``preference_loss`` returns; arrays of one element per pair."""

    loss: float
    grad_chosen: Array
    grad_rejected: Array
    chosen_rewards: Array
    rejected_rewards: Array
    metrics: dict[str, float]


def preference_loss(
    policy_chosen_logps: Array,
    policy_rejected_logps: Array,
    ref_chosen_logps: Array | None = None,
    ref_rejected_logps: Array | None = None,
    *,
    loss_type: str = "sigmoid",
    beta: float = 0.1,
    label_smoothing: float = 0.0,
    out: tuple[Array, Array, Array, Array] | None = None,
    backend: str | None = None,
) -> PreferenceLoss:
    """Mean preference loss of pairs of answers, with its gradients, in one pass.

    h = log π − log π_ref,   z = β (h_chosen − h_rejected)
    sigmoid (DPO, arXiv:2305.18290, eq. 7; ε: conservative DPO):  −(1−ε) log σ(z) − ε log σ(−z)

    Sequence log-probabilities in nats, of one shape; without a reference both ref arguments are None and count as 0.
    Returns the mean over pairs (a float, summed in double), ∂loss/∂policy log-probabilities, the implicit rewards β h,
    and the metrics rewards/chosen, rewards/rejected, rewards/accuracies (z > 0), rewards/margins.  Arrays keep the
    inputs' dtype; half precision gives float32.  float32 arrays are computed in float32, within 4 eps of what exact
    arithmetic makes of inputs a rounding away, and summed so 32 at a time.  Finite at every finite z, an infinite one
    gives the limits; NaN, also of ∞ − ∞, propagates to the loss and its pair.  No pairs: loss 0.0, empty gradients,
    metrics NaN.  ``out``: four arrays, for the gradients and the rewards.  Raises ValueError for shapes, an unknown
    loss_type, options out of range or overlapping arrays, TypeError for dtypes; then nothing is written.

    >>> from fastalign import preference_loss
    >>> r = preference_loss([-12.5], [-14.0], [-13.0], [-13.2], beta=0.5)
    >>> round(r.loss, 7), float(r.grad_chosen[0].round(7))
    (0.4200553, -0.1714948)
    """
    logps = (policy_chosen_logps, policy_rejected_logps, ref_chosen_logps, ref_rejected_logps)
    call = _rules.call
    return call((loss_type, beta, label_smoothing), logps, None, out, backend)


@Rules
def _rules(loss_type: str, beta: float, label_smoothing: float, trainer: bool = False) -> Rule:
    """That of preference_loss, or without rewards and with other metrics that of DPOTrainer."""
    loss_type = arrays.kind("loss_type", loss_type, "pair")
    beta = arrays.number("beta", beta, 0.0, above=True)
    options = beta, arrays.number("label_smoothing", label_smoothing, 0.0, 1.0)
    if trainer:
        return Rule("pair", loss_type, NAMES, options, wanted=2, rates=TRAINER_RATES)
    return Rule("pair", loss_type, NAMES, options, wanted=4, rates=RATES, result=PreferenceLoss)


class DPOTrainer:
    """The curriculum's trainer: holds the options, computes loss, metrics and gradients of a batch.

    It trains nothing itself.  The formula, options, dtypes, special values and errors are those of ``preference_loss``.

    >>> from fastalign import DPOTrainer
    >>> trainer = DPOTrainer(beta=0.5)
    >>> loss, metrics, grad_chosen, grad_rejected = trainer.compute_loss([-12.5], [-14.0], [-13.0], [-13.2])
    >>> round(loss, 7), sorted(metrics)
    (0.4200553, ['accuracy', 'chosen_reward', 'loss', 'rejected_reward', 'reward_margin'])
    """

    def __init__(
        self,
        beta: float = 0.1,
        label_smoothing: float = 0.0,
        *,
        loss_type: str = "sigmoid",
        backend: str | None = None,
    ) -> None:
        self.beta = arrays.number("beta", beta, 0.0, above=True)
        self.label_smoothing = arrays.number("label_smoothing", label_smoothing, 0.0, 1.0)
        self.loss_type = arrays.kind("loss_type", loss_type, "pair")
        self.backend = backend

    def compute_loss(
        self,
        policy_chosen_logps: Array,
        policy_rejected_logps: Array,
        ref_chosen_logps: Array,
        ref_rejected_logps: Array,
        *,
        out: tuple[Array, Array] | None = None,
    ) -> tuple[float, dict[str, float], Array, Array]:
        """(loss, metrics, ∂loss/∂policy_chosen_logps, ∂loss/∂policy_rejected_logps); see ``preference_loss``.

        The curriculum adds 1e-10 inside its logarithms, so that its loss saturates at 23.03 while its gradient does
        not; this is the loss whose derivative the gradient is.  Metrics: loss, accuracy (share of z > 0),
        chosen_reward, rejected_reward, reward_margin (means).  ``out``: a pair that receives the gradients.
        """
        logps = (policy_chosen_logps, policy_rejected_logps, ref_chosen_logps, ref_rejected_logps)
        options = self.loss_type, self.beta, self.label_smoothing, True
        loss, chosen, rejected, metrics = _rules.call(options, logps, None, out, self.backend)
        return loss, metrics, chosen, rejected

    def __repr__(self) -> str:
        options: dict[str, Any] = vars(self)
        return f"DPOTrainer({', '.join(f'{name}={value!r}' for name, value in options.items())})"
