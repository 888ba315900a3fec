"""fastalign: log-probabilities, advantages, preference and policy losses, with their gradients, from NumPy arrays."""

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

from .advantages import PPOBuffer, discounted_returns, gae
from .dispatch import available_backends, check_environment, warmup
from .divergence import AdaptiveKLController, KLEstimate, kl_divergence, kl_estimate, kl_penalty_reward
from .log_probs import (
    TokenLogProbs,
    compute_log_probs,
    selective_log_softmax,
    token_log_probs,
    token_log_probs_grad,
)
from .policy import PolicyLoss, policy_loss, ppo_loss
from .preference import DPOTrainer, PreferenceLoss, preference_loss
from .reward import RewardModel, reward_model_loss
from .sequences import sequence_log_probs, sequence_log_probs_grad
from .threads import get_num_threads, set_num_threads

if TYPE_CHECKING:
    from .fused import FusedLoss, FusedPreferenceLoss, dpo_loss_from_logits, policy_loss_from_logits
    from .linear import (
        LinearGradients,
        LinearPolicyLoss,
        linear_log_probs,
        linear_log_probs_grad,
        linear_policy_loss,
    )
    from .linear_pairs import LinearPreferenceLoss, linear_dpo_loss
    from .pairs import PreferencePair, create_preference_dataset
    from .system import show_versions

__version__ = "0.1.0"

__all__ = [
    "AdaptiveKLController",
    "DPOTrainer",
    "FusedLoss",
    "FusedPreferenceLoss",
    "KLEstimate",
    "LinearGradients",
    "LinearPolicyLoss",
    "LinearPreferenceLoss",
    "PPOBuffer",
    "PolicyLoss",
    "PreferenceLoss",
    "PreferencePair",
    "RewardModel",
    "TokenLogProbs",
    "__version__",
    "available_backends",
    "compute_log_probs",
    "create_preference_dataset",
    "discounted_returns",
    "dpo_loss_from_logits",
    "gae",
    "get_num_threads",
    "kl_divergence",
    "kl_estimate",
    "kl_penalty_reward",
    "linear_dpo_loss",
    "linear_log_probs",
    "linear_log_probs_grad",
    "linear_policy_loss",
    "policy_loss",
    "policy_loss_from_logits",
    "ppo_loss",
    "preference_loss",
    "reward_model_loss",
    "selective_log_softmax",
    "sequence_log_probs",
    "sequence_log_probs_grad",
    "set_num_threads",
    "show_versions",
    "token_log_probs",
    "token_log_probs_grad",
    "warmup",
]

# What not every program uses is imported when it is first asked for: 6 ms, 25 where Python may keep no bytecode.
_LATER = {
    "fused": ("FusedLoss", "FusedPreferenceLoss", "dpo_loss_from_logits", "policy_loss_from_logits"),
    "linear": (
        "LinearGradients",
        "LinearPolicyLoss",
        "linear_log_probs",
        "linear_log_probs_grad",
        "linear_policy_loss",
    ),
    "linear_pairs": ("LinearPreferenceLoss", "linear_dpo_loss"),
    "pairs": ("PreferencePair", "create_preference_dataset"),
    "system": ("show_versions",),
}


if not TYPE_CHECKING:  # for whom a module with __getattr__ has every name

    def __getattr__(name: str) -> Any:
        for file, names in _LATER.items():
            if name == file or name in names:
                module = import_module(f".{file}", __name__)
                globals().update({each: getattr(module, each) for each in names})
                return globals()[name]
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    def __dir__() -> list[str]:
        return sorted({*globals(), *_LATER, *__all__})


def _is_the_command() -> bool:
    """Whether this process is `fastalign`, or `python -m fastalign`, which imports the package before it can begin."""
    given = getattr(sys, "argv", None) or [""]
    if given[0] == "-m":
        return sys.orig_argv[-len(given)].removeprefix("-m") in ("fastalign", "fastalign.__main__")
    return given[0].replace("\\", "/").rpartition("/")[2].partition(".")[0] == "fastalign"


try:
    check_environment()
except ValueError as error:
    if not _is_the_command():
        raise
    sys.stderr.write(f"fastalign: {error}\n")
    raise SystemExit(2) from None
del check_environment
