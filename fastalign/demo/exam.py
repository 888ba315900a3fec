"""The held-out measurements by which both ways of alignment are judged."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from .. import DPOTrainer, kl_estimate, token_log_probs
from .learning import Corpus, sequence_logps
from .model import LanguageModel
from .settings import Settings
from .tokens import Answers

Scorer = Callable[[list[str]], np.ndarray]


@dataclass
class Marks:
    """One policy on the held-out pairs: means over answers it wrote itself, and over the pairs it was not shown."""

    reward: float
    judged: float
    kl: float
    accuracy: float
    margin: float


class Standardised:
    """Rewards in standard deviations of what the reference writes, whose mean is 0.

    The scale of a Bradley–Terry reward is arbitrary, and that of the penalty against it must not be.
    """

    def __init__(self, scorer: Scorer, texts: list[str]) -> None:
        rewards = scorer(texts)
        self.scorer, self.mean, self.deviation = scorer, float(rewards.mean()), float(rewards.std()) or 1.0

    def __call__(self, texts: list[str]) -> np.ndarray:
        return (self.scorer(texts) - self.mean) / self.deviation


class Exam:
    """Held-out prompts and pairs with what the reference makes of them."""

    def __init__(self, corpus: Corpus, reference: LanguageModel, settings: Settings, seed: int) -> None:
        self.corpus, self.reference, self.seed = corpus, reference, seed
        self.trainer = DPOTrainer(beta=settings.dpo_beta)
        self.ref_chosen = sequence_logps(reference, corpus.held_chosen)
        self.ref_rejected = sequence_logps(reference, corpus.held_rejected)
        # Every held-out prompt about equally often.
        self.prompts = np.resize(corpus.held_chosen.prompts, (settings.exam_prompts, corpus.widths.prompt))

    def texts(self, policy: LanguageModel) -> tuple[list[str], float]:
        """An answer to every prompt, and the mean divergence from the reference per answer, in nats."""
        # The same random numbers for every policy: their differences are then less noisy than their marks.
        answers = policy.sample(self.prompts, self.corpus.widths.answer, np.random.default_rng(self.seed))
        kl = divergence(policy, self.reference, answers).sum() / len(answers.tokens)
        return [self.corpus.vocabulary.decode(ids) for ids in answers.tokens], float(kl)

    def preference(self, policy: LanguageModel) -> tuple[float, float]:
        """Share of held-out pairs whose implicit reward prefers the chosen answer, and the mean margin."""
        corpus = self.corpus
        chosen, rejected = sequence_logps(policy, corpus.held_chosen), sequence_logps(policy, corpus.held_rejected)
        _, metrics, _, _ = self.trainer.compute_loss(chosen, rejected, self.ref_chosen, self.ref_rejected)
        return metrics["accuracy"], metrics["reward_margin"]

    def marks(self, policy: LanguageModel, reward: Scorer, judge: Scorer) -> Marks:
        texts, kl = self.texts(policy)
        return Marks(float(reward(texts).mean()), float(judge(texts).mean()), kl, *self.preference(policy))


def divergence(policy: LanguageModel, reference: LanguageModel, answers: Answers) -> np.ndarray:
    """log π − log π_ref of each token: on the policy's own answers, an unbiased estimate of KL(π ‖ π_ref)."""
    ours, theirs = (
        token_log_probs(model.forward(answers)[0], answers.tokens, mask=answers.mask).logp
        for model in (policy, reference)
    )
    return kl_estimate(ours, theirs, estimator="k1", mask=answers.mask).value
