"""The curriculum's NumPy code on the arguments of an operation, where it has any."""

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
    if entry.dtype in ("float16", "bfloat16") or (entry.operation == "gae" and len(entry.shape) > 1):
        return None
    return SEED.get(entry.operation)
