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

    Raises ValueError where the lengths differ: nothing is dropped silently; TypeError for one text, whose characters
    would be pairs, and for what has no order or no length, such as a set or a generator.

    >>> from fastalign import create_preference_dataset
    >>> create_preference_dataset(["p"], ["good"], ["bad"])
    [PreferencePair(prompt='p', chosen='good', rejected='bad')]
    """
    lists = {"prompts": prompts, "chosen_responses": chosen_responses, "rejected_responses": rejected_responses}
    for name, x in lists.items():
        if isinstance(x, (str, bytes)) or not (hasattr(x, "__len__") and hasattr(x, "__getitem__")):
            raise TypeError(f"{name} is a {type(x).__name__}; expected a list of texts")
    if len({len(x) for x in lists.values()}) > 1:
        raise ValueError("lists of unequal length: " + ", ".join(f"{name} {len(x)}" for name, x in lists.items()))
    return [PreferencePair(*three) for three in zip(*lists.values(), strict=True)]
