"""Preference pairs."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass
class PreferencePair:
    """One comparison: of two answers to a prompt, the one that was preferred.

    >>> from fastalign import PreferencePair
    >>> PreferencePair("2 + 2?", chosen="4", rejected="5").chosen
    '4'
    """

    prompt: str
    chosen: str
    rejected: str


def create_preference_dataset(
    prompts: Sequence[str], chosen_responses: Sequence[str], rejected_responses: Sequence[str]
) -> list[PreferencePair]:
    """Pairs from three parallel lists.

    Raises ValueError where the lengths differ: nothing is dropped silently.

    >>> from fastalign import create_preference_dataset
    >>> create_preference_dataset(["p"], ["good"], ["bad"])
    [PreferencePair(prompt='p', chosen='good', rejected='bad')]
    """
    lengths = {
        "prompts": len(prompts),
        "chosen_responses": len(chosen_responses),
        "rejected_responses": len(rejected_responses),
    }
    if len(set(lengths.values())) > 1:
        raise ValueError("lists of unequal length: " + ", ".join(f"{name} {n}" for name, n in lengths.items()))
    return [PreferencePair(*three) for three in zip(prompts, chosen_responses, rejected_responses, strict=True)]
