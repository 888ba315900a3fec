"""Recurrences backwards over time."""

from functools import cache
from typing import Any

import numpy as np

from .compiling import rules


def scan_loop(
    rewards, values, next_values, final_values, last_values, terminated, truncated, mask, gamma, lam, time_major, out,
    returns,
):  # fmt: skip
    """Arrays are flat; streams are walked side by side where they are neighbours in memory, else one by one."""
    steps, streams = rewards.shape if time_major else rewards.shape[::-1]
    together = min(streams, 64) if time_major else 1
    carry, follow, seen = np.empty(together), np.empty(together), np.empty(together, np.uint8)
    for first in range(0, streams, together):
        width = min(together, streams - first)
        for j in range(width):
            carry[j], seen[j] = 0.0, 0
            follow[j] = last_values[first + j] if last_values.size else 0.0
        for t in range(steps - 1, -1, -1):
            for j in range(width):
                a, b = (t, first + j) if time_major else (first + j, t)
                if mask.size and mask[a, b] == 0:
                    out[a, b] = 0.0
                    if returns.size:
                        returns[a, b] = 0.0
                    continue
                alive = terminated[a, b] == 0
                cut = truncated.size > 0 and truncated[a, b] != 0
                value = np.float64(values[a, b]) if values.size else 0.0
                after = follow[j]
                if next_values.size:
                    after = np.float64(next_values[a, b])
                elif cut and alive and final_values.size:
                    after = np.float64(final_values[a, b])
                going = alive and not cut and seen[j] != 0
                carry[j] = step(
                    np.float64(rewards[a, b]), value, after, carry[j], 1.0 if alive else 0.0, 1.0 if going else 0.0,
                    gamma, lam,
                )  # fmt: skip
                follow[j] = value
                seen[j] = 1
                out[a, b] = carry[j]
                if returns.size:
                    returns[a, b] = carry[j] + value


@cache
def scan_kernel(kind: str) -> Any:
    bind = rules()
    return bind.drive(scan_loop, kind, step=getattr(bind.rules, f"scan_{kind}"))
