"""Part 2: direct preference optimisation of the language model against a frozen reference."""

import time
from collections.abc import Callable

import numpy as np

from .. import DPOTrainer, sequence_log_probs, sequence_log_probs_grad
from ..progress import stage
from .course import Course, mark_steps
from .exam import Marks
from .learning import LARGEST_NORM, Corpus, forward, sequence_logps
from .model import LanguageModel
from .optimiser import Adam
from .settings import Settings
from .tokens import join


def run(
    corpus: Corpus,
    reference: LanguageModel,
    examine: Callable[[LanguageModel], Marks],
    settings: Settings,
    rng: np.random.Generator,
) -> Course:
    """Train a copy of the reference on the preferences themselves; no reward model, no sampling."""
    course = Course(reference.copy())
    trainer = DPOTrainer(beta=settings.dpo_beta)
    optimiser = Adam(course.policy.parameters, settings.dpo_rate, largest_norm=LARGEST_NORM)
    start = time.perf_counter()
    # The reference does not move: its log-probabilities are computed once.
    ref_chosen, ref_rejected = (sequence_logps(reference, x) for x in (corpus.chosen, corpus.rejected))
    course.seconds = time.perf_counter() - start
    measured = mark_steps(settings.dpo_steps, settings.exams)
    with stage("2. DPO", settings.dpo_steps) as advance:
        for step in range(1, settings.dpo_steps + 1):
            start = time.perf_counter()
            rows = rng.integers(len(ref_chosen), size=settings.dpo_batch)
            update(course, trainer, optimiser, corpus, rows, ref_chosen[rows], ref_rejected[rows])
            course.seconds += time.perf_counter() - start
            if step in measured:
                course.marks.append((step, examine(course.policy)))
            advance()
    return course


def update(
    course: Course,
    trainer: DPOTrainer,
    optimiser: Adam,
    corpus: Corpus,
    rows: np.ndarray,
    ref_chosen: np.ndarray,
    ref_rejected: np.ndarray,
) -> None:
    """One step: logits, token and sequence log-probabilities, loss, and back through all of them."""
    batch = join(corpus.chosen.take(rows), corpus.rejected.take(rows))
    run = forward(course.policy, batch)
    logps = sequence_log_probs(run.tokens.logp)  # masked tokens are 0 already
    n = len(rows)
    loss, metrics, *grads = trainer.compute_loss(logps[:n], logps[n:], ref_chosen, ref_rejected)
    grad_logp = sequence_log_probs_grad(np.concatenate(grads), mask=batch.mask)
    optimiser.step(run.backward(grad_logp))
    course.updates += 1
    course.record(loss=loss, accuracy=metrics["accuracy"], margin=metrics["reward_margin"])
