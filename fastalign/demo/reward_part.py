"""Part 1: a reward model from preference pairs, judged by cross-validation."""

import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from .. import PreferencePair, RewardModel, reward_model_loss
from ..progress import stage
from .features import COLUMNS, HashedTexts, hash_texts
from .optimiser import Adam
from .settings import Settings
from .statistics import wilson_interval

FOLDS = 5
BATCH = 64


@dataclass
class PairFeatures:
    """Features of the chosen and the rejected answers, row by row."""

    chosen: HashedTexts
    rejected: HashedTexts

    def rewards(self, model: RewardModel, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Rewards (n, 1) of both answers of some pairs; one forward pass, so that backward sees both."""
        both = np.concatenate([self.chosen.dense(rows), self.rejected.dense(rows)])
        rewards = model.forward(both)
        return rewards[: len(rows)], rewards[len(rows) :]


@dataclass
class Trained:
    """A reward model, the mean loss of each epoch, and what it took."""

    model: RewardModel
    losses: list[float]
    updates: int
    seconds: float


@dataclass
class RewardResult:
    """What part 1 found.  ``first`` did not see the pairs of fold 0, which later parts are measured on."""

    first: Trained
    folds: np.ndarray
    correct: int
    pairs: int
    shorter: float

    @property
    def accuracy(self) -> float:
        return self.correct / self.pairs

    @property
    def interval(self) -> tuple[float, float]:
        return wilson_interval(self.correct, self.pairs)


def featurise(pairs: list[PreferencePair]) -> PairFeatures:
    """Features of the answers; the prompt is the same for both, and says nothing about which is better."""
    return PairFeatures(hash_texts([p.chosen for p in pairs]), hash_texts([p.rejected for p in pairs]))


def score(model: RewardModel, texts: list[str]) -> np.ndarray:
    """The reward of each text."""
    hashed = hash_texts(texts)
    return np.concatenate([model.forward(hashed.dense(rows))[:, 0] for rows in _batches(np.arange(len(hashed)), 512)])


def _batches(rows: np.ndarray, size: int) -> Iterator[np.ndarray]:
    return (rows[k : k + size] for k in range(0, len(rows), size))


def folds_of(pairs: list[PreferencePair], rng: np.random.Generator) -> np.ndarray:
    """A fold for each pair, evenly filled; pairs with one prompt stay together, so that none is tested on its kin.

    With fewer prompts than folds that cannot be, and pairs are dealt singly.
    """
    _, group, sizes = np.unique([p.prompt for p in pairs], return_inverse=True, return_counts=True)
    if len(sizes) < FOLDS:
        return rng.permutation(len(pairs)) % FOLDS
    order = rng.permutation(len(sizes))
    order = order[np.argsort(-sizes[order], kind="stable")]
    fold_of_group = np.empty(len(sizes), np.int64)
    filled = [0] * FOLDS
    for k in order.tolist():
        fold_of_group[k] = fold = filled.index(min(filled))
        filled[fold] += int(sizes[k])
    return fold_of_group[group]


def train(features: PairFeatures, rows: np.ndarray, settings: Settings, rng: np.random.Generator) -> Trained:
    """A reward model of the pairs in ``rows``.

    The number of epochs is fixed beforehand: to stop where the held-out accuracy peaks would be to learn from it.
    """
    start = time.perf_counter()
    model = RewardModel(COLUMNS, settings.reward_hidden, rng=rng, dtype=np.float32)
    weights = {name: getattr(model, name) for name in ("W1", "b1", "W2", "b2")}
    optimiser = Adam(weights, settings.reward_rate, decay=settings.reward_decay)
    epochs = max(1, min(settings.reward_epochs, settings.reward_visits // len(rows)))
    losses = []
    for _ in range(epochs):
        total = 0.0
        for batch in _batches(rng.permutation(rows), BATCH):
            loss, grad_chosen, grad_rejected = reward_model_loss(*features.rewards(model, batch))
            model.backward(np.concatenate([grad_chosen, grad_rejected]))
            optimiser.step(model.grads)
            total += loss * len(batch)
        losses.append(total / len(rows))
    return Trained(model, losses, optimiser.steps, time.perf_counter() - start)


def run(pairs: list[PreferencePair], settings: Settings, rng: np.random.Generator) -> RewardResult:
    """Train five models, each without one fold, and let each judge the pairs it has not seen."""
    with stage("1. reward model: features and five folds", FOLDS + 1) as advance:
        features = featurise(pairs)
        advance()
        folds, correct, trained = folds_of(pairs, rng), 0, []
        for fold in range(FOLDS):
            trained.append(train(features, np.flatnonzero(folds != fold), settings, rng))
            correct += count_correct(features, trained[-1].model, np.flatnonzero(folds == fold))
            advance()
    shorter = sum(len(p.chosen) < len(p.rejected) for p in pairs) / len(pairs)
    return RewardResult(trained[0], folds, correct, len(pairs), shorter)


def count_correct(features: PairFeatures, model: RewardModel, rows: np.ndarray) -> int:
    """How many pairs the model orders as the data do; a tie is no success."""
    return sum(int(np.count_nonzero(np.greater(*features.rewards(model, batch)))) for batch in _batches(rows, 512))


def train_judge(pairs: list[PreferencePair], settings: Settings, rng: np.random.Generator) -> RewardModel:
    """A second reward model from pairs that nothing was trained on, to judge those who were trained on the first."""
    return train(featurise(pairs), np.arange(len(pairs)), settings, rng).model
