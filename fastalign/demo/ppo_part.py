"""Part 3: the language model writes answers, the reward model scores them, PPO improves the model."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from .. import AdaptiveKLController, gae, kl_penalty_reward, policy_loss, token_log_probs
from ..progress import stage
from .course import Course, mark_steps
from .exam import Marks, Scorer
from .learning import LARGEST_NORM, Corpus, forward
from .model import LanguageModel
from .optimiser import Adam
from .settings import Settings
from .tokens import Answers

CLIP = 0.2
LAMBDA = 0.95
# Answers end: nothing is gained by preferring early rewards.
GAMMA = 1.0
# The coefficient may change by a tenth per iteration: 0.2, the controller's own bound, times batch / horizon.
HORIZON_IN_BATCHES = 2.0


@dataclass
class Experience:
    """Answers the policy wrote, and what each of their tokens was worth."""

    answers: Answers
    logp: np.ndarray
    advantages: np.ndarray
    returns: np.ndarray
    score: float
    kl: float

    def take(self, rows: np.ndarray) -> tuple[Answers, np.ndarray, np.ndarray, np.ndarray]:
        return self.answers.take(rows), self.logp[rows], self.advantages[rows], self.returns[rows]


class Critic:
    """A linear map from the policy's states to values.

    Its error does not flow into the states: on so small a model it would drown the gradient of the policy.
    """

    def __init__(self, hidden: int, rate: float) -> None:
        self.parameters = {"weight": np.zeros(hidden, np.float32), "bias": np.zeros(1, np.float32)}
        self.optimiser = Adam(self.parameters, rate)

    def values(self, states: np.ndarray) -> np.ndarray:
        return states @ self.parameters["weight"] + self.parameters["bias"]

    def update(self, states: np.ndarray, returns: np.ndarray, mask: np.ndarray) -> None:
        """One step down the mean of (value − return)² / 2."""
        error = np.where(mask, self.values(states) - returns, 0) / max(int(mask.sum()), 1)
        grads = {"weight": np.tensordot(error, states, 2), "bias": error.sum(keepdims=True)[0]}
        self.optimiser.step(grads)


def run(
    corpus: Corpus,
    reference: LanguageModel,
    reward: Scorer,
    examine: Callable[[LanguageModel], Marks],
    settings: Settings,
    rng: np.random.Generator,
) -> Course:
    """Train a copy of the reference on its own answers to training prompts."""
    course = Course(reference.copy())
    critic = Critic(settings.hidden, 10 * settings.ppo_rate)
    optimiser = Adam(course.policy.parameters, settings.ppo_rate, largest_norm=LARGEST_NORM)
    horizon = HORIZON_IN_BATCHES * settings.ppo_batch
    controller = AdaptiveKLController(settings.kl_coef, settings.kl_target, horizon)
    measured = mark_steps(settings.ppo_iterations, settings.exams)
    with stage("3. PPO", settings.ppo_iterations) as advance:
        for iteration in range(1, settings.ppo_iterations + 1):
            start = time.perf_counter()
            prompts = corpus.chosen.prompts[rng.integers(len(corpus.chosen.prompts), size=settings.ppo_batch)]
            found = explore(course.policy, reference, critic, corpus, prompts, reward, controller.value, rng)
            clipped = improve(course, critic, optimiser, found, settings, rng)
            course.record(reward=found.score, kl=found.kl, kl_coef=controller.value, clipped=clipped)
            controller.update(found.kl, settings.ppo_batch)
            course.answers_written += settings.ppo_batch
            course.seconds += time.perf_counter() - start
            if iteration in measured:
                course.marks.append((iteration, examine(course.policy)))
            advance()
    return course


def explore(
    policy: LanguageModel,
    reference: LanguageModel,
    critic: Critic,
    corpus: Corpus,
    prompts: np.ndarray,
    reward: Scorer,
    kl_coef: float,
    rng: np.random.Generator,
) -> Experience:
    """Write, score, and tell each token its share: the score at the end, the penalty where it arises."""
    answers = policy.sample(prompts, corpus.widths.answer, rng)
    mask = answers.mask
    logits, trace = policy.forward(answers)
    logp = token_log_probs(logits, answers.tokens, mask=mask).logp
    ref_logp = token_log_probs(reference.forward(answers)[0], answers.tokens, mask=mask).logp
    penalty = kl_penalty_reward(logp, ref_logp, 1.0, estimator="k1", mask=mask)
    scores = reward([corpus.vocabulary.decode(ids) for ids in answers.tokens]).astype(np.float32)
    last = mask.sum(axis=1).astype(np.int64) - 1  # every answer has a token: its end, at least
    rows = np.arange(len(scores))
    rewards = -kl_coef * penalty.astype(np.float32)
    rewards[rows, last] += scores
    ends = np.zeros(mask.shape, np.uint8)
    ends[rows, last] = 1
    values = critic.values(trace.states)
    advantages, returns = gae(rewards, values, ends, mask=mask, gamma=GAMMA, lam=LAMBDA, layout="NT")
    kl = float(penalty.sum()) / len(scores)
    return Experience(answers, logp, whiten(advantages, mask), returns, float(scores.mean()), kl)


def whiten(advantages: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Mean 0 and variance 1 over the tokens that count, 0 elsewhere."""
    kept = advantages[mask.astype(bool)].astype(np.float64)
    scale = 1.0 / (kept.std() + 1e-8)
    return np.where(mask, (advantages - kept.mean()) * scale, 0).astype(advantages.dtype)


def improve(
    course: Course,
    critic: Critic,
    optimiser: Adam,
    found: Experience,
    settings: Settings,
    rng: np.random.Generator,
) -> float:
    """Several epochs over one batch of answers; returns the share of tokens at which the clip bound, in the last."""
    clipped: list[float] = []
    for _ in range(settings.ppo_epochs):
        clipped.clear()
        for rows in np.array_split(rng.permutation(len(found.logp)), settings.ppo_minibatches):
            answers, old, advantages, returns = found.take(rows)
            run = forward(course.policy, answers)
            loss = policy_loss(run.tokens.logp, old, advantages, mask=answers.mask, clip_low=CLIP)
            critic.update(run.trace.states, returns, answers.mask)
            optimiser.step(run.backward(loss.grad_log_probs))
            clipped.append(loss.metrics["clip_ratio/region_mean"])
            course.updates += 1
    return float(np.mean(clipped))
