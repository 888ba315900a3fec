"""The curriculum's formulas in NumPy, transcribed with their faults: the baseline of the benchmarks, and what the tests
show the differences against."""

import numpy as np


def seed_token_log_probs(logits, tokens):
    peak = logits.max(axis=-1, keepdims=True)
    log_probs = logits - peak - np.log(np.sum(np.exp(logits - peak), axis=-1, keepdims=True))
    return np.take_along_axis(log_probs, tokens[..., None], axis=-1).squeeze(-1)


def seed_compute_log_probs(logits, tokens):
    return seed_token_log_probs(logits, tokens).sum(axis=-1)


def seed_reward_model_loss(reward_chosen, reward_rejected):
    diff = reward_chosen - reward_rejected
    with np.errstate(over="ignore", invalid="ignore"):
        sigmoid = np.where(diff >= 0, 1 / (1 + np.exp(-diff)), np.exp(diff) / (1 + np.exp(diff)))
    loss = -np.mean(np.log(sigmoid + 1e-10))
    grad = (sigmoid - 1) / len(diff)
    return float(loss), grad, -grad


def seed_dpo_loss(policy_chosen, policy_rejected, ref_chosen, ref_rejected, beta=0.1, label_smoothing=0.0):
    chosen_rewards = beta * (policy_chosen - ref_chosen)
    rejected_rewards = beta * (policy_rejected - ref_rejected)
    logits = chosen_rewards - rejected_rewards
    labels = 1.0 - label_smoothing
    sigmoid = 1 / (1 + np.exp(-np.clip(logits, -500, 500)))
    loss = -np.mean(labels * np.log(sigmoid + 1e-10) + (1 - labels) * np.log(1 - sigmoid + 1e-10))
    metrics = {
        "loss": float(loss),
        "accuracy": float(np.mean(logits > 0)),
        "chosen_reward": float(np.mean(chosen_rewards)),
        "rejected_reward": float(np.mean(rejected_rewards)),
        "reward_margin": float(np.mean(chosen_rewards - rejected_rewards)),
    }
    grad = (sigmoid - labels) / len(logits)
    return loss, metrics, beta * grad, -beta * grad


def seed_gae(rewards, values, dones, last_value=0.0, gamma=0.99, lam=0.95):
    n = len(rewards)
    advantages = np.zeros(n)
    last_gae = 0
    for t in reversed(range(n)):
        next_value = last_value if t == n - 1 else values[t + 1]
        alive = 1.0 - float(dones[t])
        delta = rewards[t] + gamma * next_value * alive - values[t]
        advantages[t] = last_gae = delta + gamma * lam * alive * last_gae
    return advantages, advantages + values


def seed_ppo_loss(new_log_probs, old_log_probs, advantages, clip_ratio=0.2):
    ratio = np.exp(new_log_probs - old_log_probs)
    clipped_ratio = np.clip(ratio, 1 - clip_ratio, 1 + clip_ratio)
    loss = -np.mean(np.minimum(ratio * advantages, clipped_ratio * advantages))
    clipped = (ratio < 1 - clip_ratio) | (ratio > 1 + clip_ratio)
    grad_ratio = np.where(clipped, 0, advantages)
    return float(loss), -ratio * grad_ratio / len(ratio)


def seed_kl_divergence(log_probs_p, log_probs_q):
    return float(np.sum(np.exp(log_probs_p) * (log_probs_p - log_probs_q)))


def seed_kl_penalty_reward(policy_log_probs, ref_log_probs, kl_coef=0.1):
    return kl_coef * np.exp(policy_log_probs) * (policy_log_probs - ref_log_probs)
