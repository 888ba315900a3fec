"""What every part does with the language model: token log-probabilities forward, gradients of the logits backward."""

from dataclasses import dataclass

import numpy as np

from .. import PreferencePair, TokenLogProbs, compute_log_probs, token_log_probs, token_log_probs_grad
from ..progress import stage
from .model import LanguageModel, Trace
from .optimiser import Adam
from .settings import Settings
from .tokens import Answers, Vocabulary, Widths, encode_answers, encode_prompts, join, widths_of

LARGEST_NORM = 1.0


@dataclass
class Pass:
    """A forward pass whose loss is still to come."""

    model: LanguageModel
    answers: Answers
    logits: np.ndarray
    trace: Trace
    tokens: TokenLogProbs

    def backward(self, grad_logp: np.ndarray) -> dict[str, np.ndarray]:
        """Gradients of the parameters from those of the token log-probabilities; the logits are overwritten."""
        grad_logits = token_log_probs_grad(
            self.logits,
            self.answers.tokens,
            grad_logp,
            lse=self.tokens.lse,
            mask=self.answers.mask,
            out=self.logits,
        )
        return self.model.backward(self.trace, grad_logits)


def forward(model: LanguageModel, answers: Answers) -> Pass:
    """Log-probabilities of the tokens of answers, ready for ``backward``."""
    logits, trace = model.forward(answers)
    return Pass(model, answers, logits, trace, token_log_probs(logits, answers.tokens, mask=answers.mask))


def sequence_logps(model: LanguageModel, answers: Answers, batch: int = 128) -> np.ndarray:
    """Log-probability of each answer, without gradients."""
    parts = []
    for k in range(0, len(answers.tokens), batch):
        some = answers.take(np.arange(k, min(k + batch, len(answers.tokens))))
        parts.append(compute_log_probs(model.forward(some)[0], some.tokens, mask=some.mask))
    return np.concatenate(parts)


@dataclass
class Corpus:
    """Pairs as the language model sees them."""

    vocabulary: Vocabulary
    widths: Widths
    chosen: Answers
    rejected: Answers
    held_chosen: Answers
    held_rejected: Answers
    held_pairs: list[PreferencePair]


def encode(
    pairs: list[PreferencePair], held: list[PreferencePair], settings: Settings, rng: np.random.Generator
) -> Corpus:
    """Training and held-out pairs as arrays; vocabulary and widths come from the training pairs alone."""
    pairs = [pairs[k] for k in rng.permutation(len(pairs))[: settings.language_pairs]]
    held = [held[k] for k in rng.permutation(len(held))[: settings.exam_pairs]]
    texts = [text for p in pairs for text in (p.prompt, p.chosen, p.rejected)]
    vocabulary, widths = Vocabulary(texts, settings.most_words), widths_of(pairs, settings.most_tokens)

    def both(some: list[PreferencePair]) -> tuple[Answers, Answers]:
        prompts = encode_prompts([p.prompt for p in some], vocabulary, widths.prompt)
        chosen, rejected = (
            encode_answers(prompts, texts, vocabulary, widths.answer)
            for texts in ([p.chosen for p in some], [p.rejected for p in some])
        )
        return chosen, rejected

    return Corpus(vocabulary, widths, *both(pairs), *both(held), held)


@dataclass
class ReferenceResult:
    """The model that later parts start from and are held against."""

    model: LanguageModel
    losses: list[float]
    held_loss: float


def train_reference(corpus: Corpus, settings: Settings, rng: np.random.Generator) -> ReferenceResult:
    """Fit all answers, preferred or not, by maximum likelihood: a reference without a preference of its own."""
    words = corpus.vocabulary
    model = LanguageModel(words.inputs, words.size, settings.embedding, settings.hidden, rng)
    optimiser = Adam(model.parameters, settings.reference_rate, largest_norm=LARGEST_NORM)
    answers, losses = join(corpus.chosen, corpus.rejected), []
    with stage("   reference: language model by maximum likelihood", settings.reference_steps) as advance:
        for step in range(settings.reference_steps):
            # Down to nothing along a line: the last steps average the noise of the batches away.
            optimiser.rate = settings.reference_rate * (1.0 - step / settings.reference_steps)
            batch = answers.take(rng.integers(len(answers.tokens), size=settings.reference_batch))
            run = forward(model, batch)
            count = max(int(batch.mask.sum()), 1)
            losses.append(-float(run.tokens.logp.sum()) / count)
            optimiser.step(run.backward(np.full(batch.mask.shape, -1.0 / count, np.float32)))
            advance()
    held = join(corpus.held_chosen, corpus.held_rejected)
    held_loss = -float(sequence_logps(model, held).sum()) / max(int(held.mask.sum()), 1)
    return ReferenceResult(model, losses, held_loss)
