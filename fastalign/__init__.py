"""fastalign: log-probabilities, advantages, preference and policy losses, with their gradients, from NumPy arrays."""

from .advantages import PPOBuffer, discounted_returns, gae
from .dispatch import available_backends, check_environment, warmup
from .divergence import AdaptiveKLController, KLEstimate, kl_divergence, kl_estimate, kl_penalty_reward
from .fused import FusedLoss, FusedPreferenceLoss, dpo_loss_from_logits, policy_loss_from_logits
from .linear import (
    LinearGradients,
    LinearPolicyLoss,
    LinearPreferenceLoss,
    linear_dpo_loss,
    linear_log_probs,
    linear_log_probs_grad,
    linear_policy_loss,
)
from .log_probs import (
    TokenLogProbs,
    compute_log_probs,
    selective_log_softmax,
    token_log_probs,
    token_log_probs_grad,
)
from .policy import PolicyLoss, policy_loss, ppo_loss
from .preference import DPOTrainer, PreferenceLoss, PreferencePair, create_preference_dataset, preference_loss
from .reward import RewardModel, reward_model_loss
from .sequences import sequence_log_probs, sequence_log_probs_grad
from .system import show_versions
from .threads import get_num_threads, set_num_threads

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

check_environment()
del check_environment
