"""Preference pairs and the losses that learn from them without a reward model."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from . import arrays
from .arrays import Array
from .dispatch import choose


@dataclass
class PreferencePair:
    """One comparison: of two answers to a prompt, the one that was preferred.

    >>> PreferencePair("2 + 2?", chosen="4", rejected="5").chosen
    '4'
    """

    prompt: str
    chosen: str
    rejected: str


def create_preference_dataset(
    prompts: Sequence[str], chosen_responses: Sequence[str], rejected_responses: Sequence[str]
) -> list[PreferencePair]:
    """Pairs from three parallel lists.

    Raises ValueError where the lengths differ: nothing is dropped silently.

    >>> create_preference_dataset(["p"], ["good"], ["bad"])
    [PreferencePair(prompt='p', chosen='good', rejected='bad')]
    """
    lengths = {
        "prompts": len(prompts),
        "chosen_responses": len(chosen_responses),
        "rejected_responses": len(rejected_responses),
    }
    if len(set(lengths.values())) > 1:
        raise ValueError("lists of unequal length: " + ", ".join(f"{name} {n}" for name, n in lengths.items()))
    return [PreferencePair(*three) for three in zip(prompts, chosen_responses, rejected_responses, strict=True)]


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
    backend: str | None = None,
) -> PreferenceLoss:
    """Mean preference loss of pairs of answers, with its gradients, in one pass.

    h = log π − log π_ref,   z = β (h_chosen − h_rejected)
    sigmoid (DPO, arXiv:2305.18290, eq. 7; ε: conservative DPO):  −(1−ε) log σ(z) − ε log σ(−z)

    Sequence log-probabilities in nats, of one shape; without a reference both ref arguments are None and count as 0.
    Returns the mean over pairs (a float, summed in double), ∂loss/∂policy log-probabilities, the implicit rewards
    β h, and the metrics rewards/chosen, rewards/rejected, rewards/accuracies (z > 0), rewards/margins.  Arrays keep the
    inputs' dtype; half precision gives float32.  Finite at every finite z; NaN propagates to the loss and its pair.
    No pairs: loss 0.0, empty gradients, metrics NaN.  Raises ValueError for shapes, an unknown loss_type or options
    out of range, TypeError for dtypes.

    >>> from fastalign import preference_loss
    >>> r = preference_loss([-12.5], [-14.0], [-13.0], [-13.2], beta=0.5)
    >>> round(r.loss, 7), float(r.grad_chosen[0].round(7))
    (0.4200553, -0.1714948)
    """
    loss_type = arrays.kind("loss_type", loss_type, "pair")
    beta = arrays.number("beta", beta, 0.0, above=True)
    label_smoothing = arrays.number("label_smoothing", label_smoothing, 0.0, 1.0)
    logps = (policy_chosen_logps, policy_rejected_logps, ref_chosen_logps, ref_rejected_logps)
    return _preference_loss(*logps, loss_type, beta, label_smoothing, True, backend)


def _preference_loss(
    policy_chosen_logps: Array,
    policy_rejected_logps: Array,
    ref_chosen_logps: Array | None,
    ref_rejected_logps: Array | None,
    loss_type: str,
    beta: float,
    label_smoothing: float,
    rewards: bool,
    backend: str | None,
) -> PreferenceLoss:
    """With checked options; without ``rewards`` the arrays of rewards stay empty and cost no memory."""
    if (ref_chosen_logps is None) != (ref_rejected_logps is None):
        raise TypeError("only one of ref_chosen_logps and ref_rejected_logps is given; expected both or neither")
    engine = choose(backend, policy_chosen_logps, policy_rejected_logps)
    pc, pr, rc, rr = arrays.reals(
        "ref_chosen_logps",
        "ref_rejected_logps",
        policy_chosen_logps=policy_chosen_logps,
        policy_rejected_logps=policy_rejected_logps,
        ref_chosen_logps=ref_chosen_logps,
        ref_rejected_logps=ref_rejected_logps,
    )
    shape, n, like = pc.shape, pc.size, policy_chosen_logps
    flat = (n,)
    if rc is None:
        rc = rr = engine.zeros(flat, pc.dtype, like)
    inputs = tuple(x.reshape(flat) for x in (pc, pr, rc, rr))
    outputs = tuple(engine.empty(flat if k < 2 or rewards else (0,), pc.dtype, like) for k in range(4))
    params = (beta, label_smoothing, 1.0 / n if n else 0.0)
    loss, *means = (x / n if n else x for x in engine.pointwise("pair", loss_type, inputs, None, params, outputs))
    chosen, rejected, accuracy, margin = means if n else [float("nan")] * 4
    metrics = {
        "rewards/chosen": chosen,
        "rewards/rejected": rejected,
        "rewards/accuracies": accuracy,
        "rewards/margins": margin,
    }
    shaped = [x.reshape(shape) if x.size == n else x for x in outputs]
    return PreferenceLoss(loss, shaped[0], shaped[1], shaped[2], shaped[3], metrics)


class DPOTrainer:
    """The curriculum's trainer: holds the options, computes loss, metrics and gradients of a batch.

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
    ) -> tuple[float, dict[str, float], Array, Array]:
        """(loss, metrics, ∂loss/∂policy_chosen_logps, ∂loss/∂policy_rejected_logps); see ``preference_loss``.

        The curriculum adds 1e-10 inside its logarithms, so that its loss saturates at 23.03 while its gradient does
        not; this is the loss whose derivative the gradient is.  Metrics: loss, accuracy (share of z > 0),
        chosen_reward, rejected_reward, reward_margin (means).
        """
        logps = (policy_chosen_logps, policy_rejected_logps, ref_chosen_logps, ref_rejected_logps)
        result = _preference_loss(*logps, self.loss_type, self.beta, self.label_smoothing, False, self.backend)
        metrics = {
            "loss": result.loss,
            "accuracy": result.metrics["rewards/accuracies"],
            "chosen_reward": result.metrics["rewards/chosen"],
            "rejected_reward": result.metrics["rewards/rejected"],
            "reward_margin": result.metrics["rewards/margins"],
        }
        return result.loss, metrics, result.grad_chosen, result.grad_rejected

    def __repr__(self) -> str:
        options: dict[str, Any] = vars(self)
        return f"DPOTrainer({', '.join(f'{name}={value!r}' for name, value in options.items())})"
