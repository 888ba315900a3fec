"""The recurrences of the reference, as independent of fastalign/rules as the rest of it."""

from typing import Any

import numpy as np

Array = np.ndarray


def scan(kind: str, *arguments: Any) -> None:
    """Of all streams, or with offsets at the end, of each part of the one row that holds them."""
    *arrays, offsets = arguments if len(arguments) == 14 else (*arguments, None)
    if offsets is None:
        return _scan(kind, *arrays)
    for b, (start, end) in enumerate(zip(offsets[:-1], offsets[1:], strict=True)):
        part = slice(start, end)
        _scan(kind, *(x[..., part] if np.ndim(x) == 2 else x[b : b + 1] if np.ndim(x) == 1 else x for x in arrays))


def _scan(
    kind: str,
    rewards: Array,
    values: Array | None,
    next_values: Array | None,
    final_values: Array | None,
    last_values: Array | None,
    terminated: Array,
    truncated: Array | None,
    mask: Array | None,
    gamma: float,
    lam: float,
    layout: str,
    out: Array,
    returns: Array | None,
) -> None:
    """A loop over time, vectorised over streams; a single stream is a loop over Python's own floats, 26 times as fast
    as over arrays of one element."""
    streams = rewards.shape[1 if layout == "TN" else 0]
    single = streams == 1
    pick = _choose if single else np.where

    def steps_of(x: Array | None, dtype: Any) -> Any:
        if x is None:
            return None
        x = (x.T if layout == "NT" else x).astype(dtype)
        return x[:, 0].tolist() if single else x

    def start(x: Any) -> Any:
        return x[0].item() if single else x

    rewards, values, next_values, final_values = (
        steps_of(x, np.float64) for x in (rewards, values, next_values, final_values)
    )
    terminated, truncated, mask = (steps_of(x, bool) for x in (terminated, truncated, mask))
    follow = start(np.zeros(streams) if last_values is None else last_values.astype(np.float64))
    nothing, always = start(np.zeros(streams)), start(np.ones(streams, bool))
    carry, seen, steps = nothing, always ^ True, len(terminated)
    advantages, sums = [nothing] * steps, [nothing] * steps
    with np.errstate(all="ignore"):
        for t in range(steps - 1, -1, -1):
            here = always if mask is None else mask[t]
            ended = terminated[t]
            cut = ended if truncated is None else ended | truncated[t]
            after = follow
            if next_values is not None:
                after = next_values[t]
            elif truncated is not None and final_values is not None:
                after = pick(cut > ended, final_values[t], follow)
            value = nothing if values is None else values[t]
            if kind == "gae":
                delta = rewards[t] + pick(ended, 0.0, gamma * after) - value
                new = delta + pick(cut | (seen ^ True), 0.0, gamma * lam * carry)
            elif kind == "returns":
                new = rewards[t] + pick(ended, 0.0, gamma * pick(cut | (seen ^ True), after, carry))
            else:
                raise NotImplementedError(f"fastalign/backends/reference_scan.py has no recurrence for scan_{kind}")
            carry, follow, seen = pick(here, new, carry), pick(here, value, follow), seen | here
            advantages[t], sums[t] = pick(here, carry, nothing), pick(here, carry + value, nothing)
        for target, found in ((out, advantages), (returns, sums)):
            if target is not None and steps:
                by_time = np.array(found).reshape(steps, streams)
                target[...] = by_time if layout == "TN" else by_time.T


def _choose(condition: bool, x: float, y: float) -> float:
    return x if condition else y
