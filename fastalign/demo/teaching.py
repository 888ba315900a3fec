"""The four parts in order, on one split of the pairs."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

from .. import PreferencePair
from . import dpo_part, ppo_part, reward_part
from .course import Course
from .exam import Exam, Marks, Scorer, Standardised
from .learning import Corpus, ReferenceResult, encode, train_reference
from .reward_part import RewardResult
from .settings import Settings


@dataclass
class Outcome:
    """All that was learned, for the report, the picture and the tests."""

    reward: RewardResult
    corpus: Corpus
    reference: ReferenceResult
    before: Marks
    dpo: Course
    ppo: Course
    examples: list[tuple[str, dict[str, str]]]


class Listener:
    """Hears of each part as it ends; this one says nothing."""

    def rewarded(self, result: RewardResult) -> None: ...
    def referred(self, corpus: Corpus, result: ReferenceResult) -> None: ...
    def dpo_done(self, before: Marks, course: Course, held: int) -> None: ...
    def ppo_done(self, before: Marks, course: Course) -> None: ...


def teach(
    pairs: list[PreferencePair],
    settings: Settings,
    seed: int,
    *,
    worth: Callable[[str], float] | None = None,
    listener: Listener | None = None,
) -> Outcome:
    """Reward model, reference, DPO and PPO, everything measured on pairs that nothing was trained on.

    ``worth`` is the true worth of an answer, where it is known; else a judge learns it from the held-out pairs.
    """
    listener = listener or Listener()
    # A stream of random numbers per part: a longer first part does not change what the next one draws.
    rngs = [np.random.default_rng(child) for child in np.random.SeedSequence(seed).spawn(6)]
    rewarded = reward_part.run(pairs, settings, rngs[0])
    listener.rewarded(rewarded)
    seen = [p for p, fold in zip(pairs, rewarded.folds, strict=True) if fold]
    unseen = [p for p, fold in zip(pairs, rewarded.folds, strict=True) if not fold]
    corpus = encode(seen, unseen, settings, rngs[1])
    reference = train_reference(corpus, settings, rngs[2])
    listener.referred(corpus, reference)
    exam = Exam(corpus, reference.model, settings, seed)
    texts, _ = exam.texts(reference.model)
    reward = Standardised(partial(reward_part.score, rewarded.first.model), texts)
    judge = Standardised(_judge(worth, unseen, settings, rngs[3]), texts)
    examine = partial(exam.marks, reward=reward, judge=judge)
    before = examine(reference.model)
    dpo = dpo_part.run(corpus, reference.model, examine, settings, rngs[4])
    listener.dpo_done(before, dpo, len(corpus.held_pairs))
    ppo = ppo_part.run(corpus, reference.model, reward, examine, settings, rngs[5])
    listener.ppo_done(before, ppo)
    written = {
        name: exam.texts(policy)[0]
        for name, policy in (("reference", reference.model), ("RLHF", ppo.policy), ("DPO", dpo.policy))
    }
    return Outcome(rewarded, corpus, reference, before, dpo, ppo, _examples(corpus, written))


def _judge(
    worth: Callable[[str], float] | None, unseen: list[PreferencePair], settings: Settings, rng: np.random.Generator
) -> Scorer:
    if worth is None:
        return partial(reward_part.score, reward_part.train_judge(unseen, settings, rng))
    known = worth
    return lambda texts: np.array([known(text) for text in texts])


def _examples(corpus: Corpus, written: dict[str, list[str]], count: int = 2) -> list[tuple[str, dict[str, str]]]:
    return [
        (corpus.held_pairs[k].prompt, {name: texts[k] for name, texts in written.items()})
        for k in range(min(count, len(corpus.held_pairs)))
    ]
