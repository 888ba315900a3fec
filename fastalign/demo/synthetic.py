"""Preference pairs with a known preference, for a demo that needs no file.

Answers are put together from phrases, each with a worth in nats; of two answers to a prompt, one is preferred with the
probability that the Bradley–Terry model gives to the difference of their worths.  So the accuracy that the best judge
can reach is known, and a reward model can be held against it.  Some worths belong to pairs of words that single words
do not tell ("not hard" against "hard"), which is why the features need bigrams.
"""

import math

import numpy as np

from .. import PreferencePair, create_preference_dataset
from .features import grams

VERBS = "fix clean build paint move sell wash open cook store grow plan".split()
NOUNS = "bike door table boat soup garden roof lamp tent piano shelf fence wall clock oven cake".split()
TIMES = "today tomorrow tonight alone outside cheaply".split()
OPENINGS = ("gladly ,", "sure ,", "well ,", "maybe ,", "ugh ,", "")
MANNERS = ("carefully", "slowly", "quickly", "somehow", "")
VERDICTS = ("it is not hard", "it is hard", "it is not fun", "it is fun", "")
CLOSINGS = ("good luck !", "ask me again .", "do not ask again .", ".")

WORTH = {
    "gladly": 1.2,
    "sure": 0.6,
    "maybe": -0.4,
    "ugh": -1.2,
    "carefully": 0.8,
    "slowly": 0.2,
    "quickly": -0.2,
    "somehow": -0.8,
    "not hard": 0.8,
    "is hard": -0.8,
    "not fun": -0.6,
    "is fun": 0.6,
    "good luck": 0.6,
    "me again": 0.2,
    "not ask": -1.0,
}


def worth(text: str) -> float:
    """The sum of the worths of the phrases that occur in a text, each counted once."""
    found = grams(text)
    return sum(value for gram, value in WORTH.items() if gram in found)


def best_accuracy(pairs: list[PreferencePair]) -> float:
    """The expected accuracy of a judge that knows the worths: the mean of σ(|difference|)."""
    gaps = (abs(worth(p.chosen) - worth(p.rejected)) for p in pairs)
    return sum(1.0 / (1.0 + math.exp(-gap)) for gap in gaps) / len(pairs)


def _answer(verb: str, noun: str, rng: np.random.Generator) -> str:
    opening, manner, verdict, closing = (
        options[rng.integers(len(options))] for options in (OPENINGS, MANNERS, VERDICTS, CLOSINGS)
    )
    parts = (opening, "you", verb, "the", noun, manner, ";" if verdict else "", verdict, closing)
    return " ".join(part for part in parts if part)


def generate_pairs(count: int, rng: np.random.Generator) -> list[PreferencePair]:
    """``count`` pairs of different answers, each preference drawn, not decided, by the worths."""
    prompts: list[str] = []
    chosen: list[str] = []
    rejected: list[str] = []
    while len(prompts) < count:
        verb, noun, time = (options[rng.integers(len(options))] for options in (VERBS, NOUNS, TIMES))
        first, second = _answer(verb, noun, rng), _answer(verb, noun, rng)
        if first == second:
            continue
        wins = rng.random() < 1.0 / (1.0 + math.exp(worth(second) - worth(first)))
        prompts.append(f"how do i {verb} the {noun} {time} ?")
        chosen.append(first if wins else second)
        rejected.append(second if wins else first)
    return create_preference_dataset(prompts, chosen, rejected)
