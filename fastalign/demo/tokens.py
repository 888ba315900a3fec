"""Words to ids and back, and pairs as arrays of fixed width for the language model."""

from collections import Counter
from dataclasses import dataclass

import numpy as np

from .. import PreferencePair
from .features import words

END = 0


class Vocabulary:
    """The most frequent words of some texts.

    Ids 0 … size−1 can be predicted: 0 ends an answer, the others are words.  Three more ids are only ever read:
    padding, the start of an answer, and any word that is not in the vocabulary.  Since the model has no output for an
    unknown word, it never writes one, and as a target such a word is masked.
    """

    def __init__(self, texts: list[str], most: int) -> None:
        counts = Counter(token for text in texts for token in words(text))
        # Ties by spelling, so that the order of the texts does not matter.
        ranked = sorted(counts, key=lambda word: (-counts[word], word))[:most]
        self.words = ["", *ranked]
        self.ids = {word: k for k, word in enumerate(self.words) if k}
        self.size = len(self.words)
        self.padding, self.start, self.unknown = range(self.size, self.size + 3)
        self.inputs = self.size + 3

    def encode(self, text: str) -> list[int]:
        return [self.ids.get(word, self.unknown) for word in words(text)]

    def decode(self, ids: np.ndarray) -> str:
        """The words before the end of the answer."""
        kept = []
        for k in ids.tolist():
            if k == END:
                break
            kept.append(self.words[k])
        return " ".join(kept)


@dataclass
class Answers:
    """Answers to prompts: prompts (N, P), padded on the left; tokens (N, T), padded on the right; mask (N, T).

    The mask is 1 on targets: words of the vocabulary and the end, not unknown words and padding, whose ids lie outside
    the logits and are never looked up there.
    """

    prompts: np.ndarray
    tokens: np.ndarray
    mask: np.ndarray

    def take(self, rows: np.ndarray) -> "Answers":
        return Answers(self.prompts[rows], self.tokens[rows], self.mask[rows])


def join(first: Answers, second: Answers) -> Answers:
    """One batch out of two, so that the model walks both in one pass."""
    both = zip(vars(first).values(), vars(second).values(), strict=True)
    return Answers(*(np.concatenate(two) for two in both))


@dataclass
class Widths:
    """How many tokens of prompts and answers the model sees."""

    prompt: int
    answer: int


def widths_of(pairs: list[PreferencePair], most: Widths) -> Widths:
    """Wide enough for 95 of 100 texts, but bounded: the time of a step grows with the width."""
    prompts = [len(words(p.prompt)) for p in pairs]
    answers = [len(words(text)) for p in pairs for text in (p.chosen, p.rejected)]
    # One more than the words: for the start of the answer, and for its end.
    prompt, answer = (int(np.percentile(lengths, 95)) + 1 for lengths in (prompts, answers))
    return Widths(min(most.prompt, prompt), min(most.answer, answer))


def encode_prompts(prompts: list[str], vocabulary: Vocabulary, width: int) -> np.ndarray:
    """The last words of each prompt, then the start of the answer."""
    ids = np.full((len(prompts), width), vocabulary.padding, np.int64)
    ids[:, -1] = vocabulary.start
    for row, prompt in zip(ids, prompts, strict=True):
        known = vocabulary.encode(prompt)[-(width - 1) :] if width > 1 else []
        if known:
            row[-1 - len(known) : -1] = known
    return ids


def encode_answers(prompts: np.ndarray, answers: list[str], vocabulary: Vocabulary, width: int) -> Answers:
    """Answers cut to ``width``; those that fit end with the end."""
    tokens = np.full((len(answers), width), vocabulary.padding, np.int64)
    for row, answer in zip(tokens, answers, strict=True):
        ids = [*vocabulary.encode(answer), END][:width]
        row[: len(ids)] = ids
    return Answers(prompts, tokens, (tokens < vocabulary.size).astype(np.uint8))
