"""The whole curriculum on one page: reward model, DPO, PPO, their comparison, and the kernels they run on."""

import time
from pathlib import Path

import numpy as np

from . import kernels_table, plot, synthetic
from .compare import comparison
from .course import Course
from .data import DataError, read_pairs
from .exam import Marks
from .learning import Corpus, ReferenceResult
from .report import heading, say, share
from .reward_part import RewardResult
from .settings import QUICK, Settings
from .statistics import wilson_interval
from .teaching import Listener, Outcome, teach

__all__ = ["DataError", "run"]


def run(data: Path | None = None, seed: int = 0, quick: bool = False, plot: Path | None = None) -> int:
    """The demo: results on stdout, progress on stderr; returns the exit code.

    ``data`` is a file of preference pairs, None for generated ones; ``plot`` is where the picture goes.  Raises
    DataError, with one line that names the place, for a file that cannot be used.
    """
    return _run(data, seed, QUICK if quick else Settings(), plot)


def _run(data: Path | None, seed: int, settings: Settings, picture: Path | None) -> int:
    start = time.perf_counter()
    if seed < 0:
        raise DataError(f"--seed is {seed}; expected 0 or more")
    if picture is not None:
        plot.check(picture)
    best, worth = None, None
    found = None if data is None else read_pairs(data)
    heading("fastalign demo: from preferences to aligned language models")
    if found is None:
        pairs = synthetic.generate_pairs(settings.synthetic_pairs, np.random.default_rng(seed))
        best, worth = synthetic.best_accuracy(pairs), synthetic.worth
        say(f"{len(pairs)} generated preference pairs, seed {seed}")
    else:
        pairs = found.pairs
        say(f"{len(pairs)} preference pairs from {data}")
        if skipped := found.skipped_line():
            say(skipped)
    outcome = teach(pairs, settings, seed, worth=worth, listener=_Reporter(settings, best))
    _conclude(outcome, settings, seed, data is None)
    if picture is not None:
        plot.draw(outcome, settings, picture)
        say(f"\nlearning curves: {picture}")
    say(f"\n{time.perf_counter() - start:.0f} s in all")
    return 0


class _Reporter(Listener):
    """Says what each part found."""

    def __init__(self, settings: Settings, best: float | None) -> None:
        self.settings, self.best = settings, best

    def rewarded(self, result: RewardResult) -> None:
        heading("1. Reward model (Bradley-Terry)")
        losses, low = result.first.losses, result.interval[0]
        say(f"loss {losses[0]:.4f} in the first epoch, {losses[-1]:.4f} in the last of {len(losses)}")
        say(f"held-out accuracy over all {result.pairs} pairs, five folds: {share(result.accuracy, result.interval)}")
        above = low > 0.5
        say("the interval lies above 0.5" if above else "the interval does not lie above 0.5: no better than chance")
        say(f"the shorter answer wins: {result.shorter:.3f}")
        if self.best is not None:
            say(f"the best possible, by the worths the preferences were drawn from: {self.best:.3f}")

    def referred(self, corpus: Corpus, result: ReferenceResult) -> None:
        size = sum(x.size for x in result.model.parameters.values())
        words = corpus.vocabulary.size - 1
        say()
        say(f"reference: a GRU of {size} parameters, {words} words; fitted to all answers, preferred or not")
        start, end = np.exp([result.losses[0], result.held_loss])
        say(f"perplexity of held-out answers: {end:.1f}, at the start {start:.0f}")

    def dpo_done(self, before: Marks, course: Course, held: int) -> None:
        heading("2. Direct preference optimisation (DPO)")
        after, trained = course.marks[-1][1], course.curves
        say(f"loss {trained['loss'][0]:.4f} at the start, {np.mean(trained['loss'][-20:]):.4f} over the last 20 steps")
        interval = wilson_interval(round(after.accuracy * held), held)
        say(f"held-out accuracy against the frozen reference: {share(after.accuracy, interval)}")
        say(f"held-out reward margin: {before.margin:.3f} -> {after.margin:.3f}")
        tail = {name: float(np.mean(trained[name][-20:])) for name in ("accuracy", "margin")}
        say(f"on the training pairs: accuracy {tail['accuracy']:.3f}, margin {tail['margin']:.3f}")

    def ppo_done(self, before: Marks, course: Course) -> None:
        heading("3. Proximal policy optimisation (PPO) against the reward model")
        after, curves = course.marks[-1][1], course.curves
        tail = {name: float(np.mean(values[-len(values) // 4 :])) for name, values in curves.items()}
        say(f"reward of its own answers: {curves['reward'][0]:.2f} at the start, {tail['reward']:.2f} at the end")
        say(f"reward on held-out prompts: {before.reward:.2f} -> {after.reward:.2f}")
        say(f"KL to the reference: {tail['kl']:.2f} nats per answer at the end, target {self.settings.kl_target:.2f}")
        first, last = curves["kl_coef"][0], curves["kl_coef"][-1]
        say(f"KL coefficient: {first:.3f} -> {last:.3f}; tokens clipped at the end: {100 * tail['clipped']:.1f} %")
        say("(the end: the last quarter of the iterations; rewards in standard deviations of the reference's answers)")


def _conclude(outcome: Outcome, settings: Settings, seed: int, generated: bool) -> None:
    heading("4. RLHF and DPO on the same held-out prompts")
    for line in comparison(outcome):
        say(line)
    # Of real data nothing is quoted: such prompts are long, and some are not fit to be read.
    for prompt, answers in outcome.examples if generated else []:
        say(f"\n{prompt}")
        for name, answer in answers.items():
            say(f"  {name:<10} {answer}")
    heading("5. Kernels")
    for line in kernels_table.run(settings, np.random.default_rng(seed)):
        say(line)
