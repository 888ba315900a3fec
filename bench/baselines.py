"""What stands for NumPy: the curriculum's own code, and the best that NumPy does with the same formulas.

Best: in the arrays' own dtype, in place, no masks, no second pass where a sum can be had from another.  In blocks that
stay in the cache it gains nothing here (bench/notes.md).
"""

import numpy as np
import seed


def _pairs(a):
    return seed.seed_dpo_loss(*a.values(), beta=0.3, label_smoothing=0.1)


def _stream(a):
    return seed.seed_gae(a["rewards"], a["values"], a["terminated"], a["last_values"][0], 0.97, 0.9)


SEED = {
    "token_log_probs": lambda a: seed.seed_token_log_probs(a["logits"], a["tokens"]),
    "selective_log_softmax": lambda a: seed.seed_token_log_probs(a["logits"], a["tokens"]),
    "gae": _stream,
    "preference_loss-sigmoid": _pairs,
    "policy_loss-ppo": lambda a: seed.seed_ppo_loss(a["log_probs"], a["old_log_probs"], a["advantages"]),
    "reward_model_loss-bradley_terry": lambda a: seed.seed_reward_model_loss(a["reward_chosen"], a["reward_rejected"]),
    "kl_estimate-p_log_ratio": lambda a: seed.seed_kl_penalty_reward(a["log_probs"], a["ref_log_probs"]),
}


def seed_of(entry):
    """A function of the arguments, or None: the curriculum has one stream only, and no halves."""
    if entry.dtype in ("float16", "bfloat16") or (entry.operation == "gae" and entry.size != "one stream"):
        return None
    return SEED.get(entry.operation)


def rows(logits, tokens):
    """One temporary of the size of the logits."""
    peak = logits.max(axis=-1, keepdims=True)
    shifted = logits - peak
    chosen = np.take_along_axis(shifted, tokens[:, None], axis=-1)[:, 0]
    return (chosen - np.log(np.exp(shifted, out=shifted).sum(axis=-1)),)


def policy(log_probs, old_log_probs, advantages, clip=0.2):
    """Loss, gradient and the metrics of ``policy_loss``, without its bound on the log-ratio."""
    n = log_probs.size
    ratio = log_probs - old_log_probs
    mean_log = ratio.mean()
    np.exp(ratio, out=ratio)
    mean, largest = ratio.mean(), ratio.max()
    outside = np.count_nonzero(ratio < 1 - clip) + np.count_nonzero(ratio > 1 + clip)
    clipped = np.clip(ratio, 1 - clip, 1 + clip)
    clipped *= advantages
    ratio *= advantages
    binds = clipped < ratio
    loss = -np.minimum(clipped, ratio, out=clipped).mean()
    bound = np.count_nonzero(binds) / n
    ratio *= -1 / n
    ratio *= np.logical_not(binds, out=binds)  # to select by a mask costs 4 ms of 2²⁰ random elements, this 0.2
    return loss, ratio, mean - 1 - mean_log, bound, outside / n, mean, largest


def pairs(chosen, rejected, ref_chosen, ref_rejected, beta=0.1):
    """Loss, gradients and metrics of ``preference_loss``, and as it returns them the two arrays of rewards."""
    n = chosen.size
    chosen_rewards = chosen - ref_chosen
    chosen_rewards *= beta
    rejected_rewards = rejected - ref_rejected
    rejected_rewards *= beta
    z = chosen_rewards - rejected_rewards
    small = np.abs(z)
    np.negative(small, out=small)
    np.exp(small, out=small)  # exp(−|z|), of which softplus(−z) and σ(−z) are made
    wrong = z <= 0
    below = np.minimum(z, 0, out=z).mean()
    np.maximum(small, wrong, out=z)  # the numerator of σ(−z): exp(−|z|) where z > 0, else 1
    small += 1
    grad_chosen = np.divide(z, small, out=z)
    grad_chosen *= -beta / n
    loss = np.log(small, out=small).mean() - below
    grad_rejected = np.negative(grad_chosen, out=small)
    means = chosen_rewards.mean(), rejected_rewards.mean()
    metrics = (*means, 1 - np.count_nonzero(wrong) / n, means[0] - means[1])
    return loss, grad_chosen, grad_rejected, *metrics, chosen_rewards, rejected_rewards
