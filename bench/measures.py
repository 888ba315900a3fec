"""What is promised: cases, each a set of sides timed in turn, and the claims about them."""

from collections.abc import Callable
from typing import Any, NamedTuple

import data
import numpy as np
import pytest

import fastalign


class Side(NamedTuple):
    """One implementation, or one floor, of a case."""

    call: Callable[[], Any]
    results: Callable[[Any], tuple] | None = None  # what it returned, to be compared with the truth
    check: tuple[str, tuple[int, ...], str] | None = None  # task, shape, dtype of that truth
    setup: Callable[[], None] | None = None  # before every call, not timed
    threads: int = 1
    tells: bool = False  # the call returns its figure instead of being timed


class Claim(NamedTuple):
    """``kind``: at most this share of the other's time; so many times as fast; or a figure of its own, with a unit.

    Without ``must`` it is shown, not promised.
    """

    work: str
    against: str
    kind: str  # share, speedup, seconds, bytes, error
    ours: str
    other: str | None = None
    must: float | None = None
    aim: float | None = None


class Case(NamedTuple):
    """``make`` gives the sides, in the order of ``sides``; ``peers`` compute ``task`` on the same arrays."""

    name: str
    group: str
    make: Callable[[], dict[str, Side]]
    sides: tuple[str, ...]
    claims: tuple[Claim, ...]
    task: tuple[str, tuple[int, ...], str] | None = None
    peers: tuple[str, ...] = ()
    quick: bool = True  # the sides here, without the peers
    seconds: float = 0.3
    turns: int = 3


def needs(name):
    """Skip with the reason while the package has no such function."""
    if not hasattr(fastalign, name):
        pytest.skip(f"fastalign has no {name} yet")
    return getattr(fastalign, name)


def sizes(shape):
    """1,024 × 32,000; 2^20."""
    return " × ".join(f"2^{n.bit_length() - 1}" if n >= 1 << 20 and n & (n - 1) == 0 else f"{n:,}" for n in shape)


def nbytes(*arrays):
    return sum(x.nbytes for x in arrays if isinstance(x, np.ndarray))


def speedups(work, ours, peers):
    """Claims without a bound: so many times as fast as each of them."""
    return tuple(Claim(work, peer, "speedup", ours, peer) for peer in peers)


def arrays(task):
    return data.arrays(*task)
