"""Recurrences backwards over time: one thread per stream; time-major neighbours read neighbouring elements.

Packed sequences are one row, of which stream n has the columns offsets[n] to offsets[n + 1].
"""

from typing import Any

from .device import binding, cuda, f64, u64

THREADS = 128


def make_scan(kind: str) -> Any:
    step = getattr(binding().rules, f"scan_{kind}")

    def scan(
        rewards, values, next_values, final_values, last_values, terminated, truncated, mask,
        gamma, lam, time_major, out, returns, offsets,
    ):  # fmt: skip
        """An absent array has size 0."""
        steps = u64(rewards.shape[0] if time_major else rewards.shape[1])
        streams = u64(rewards.shape[1] if time_major else rewards.shape[0])
        packed = offsets.size > 0
        if packed:
            streams = u64(offsets.size - 1)
        n = u64(cuda.blockIdx.x) * u64(cuda.blockDim.x) + u64(cuda.threadIdx.x)
        while n < streams:
            carry = f64(0.0)
            follow = f64(last_values[n]) if last_values.size > 0 else f64(0.0)
            seen = False
            t = u64(offsets[n + u64(1)]) if packed else steps
            first = u64(offsets[n]) if packed else u64(0)
            row = u64(0) if packed else n
            while t > first:
                t = u64(t - u64(1))
                i = t if time_major else row
                j = n if time_major else t
                if mask.size > 0 and mask[i, j] == 0:
                    out[i, j] = f64(0.0)
                    if returns.size > 0:
                        returns[i, j] = f64(0.0)
                else:
                    ended = terminated[i, j] != 0
                    cut = ended
                    if truncated.size > 0:
                        cut = ended or truncated[i, j] != 0
                    after = follow
                    if next_values.size > 0:
                        after = f64(next_values[i, j])
                    elif final_values.size > 0 and cut and not ended:
                        after = f64(final_values[i, j])
                    value = f64(values[i, j]) if values.size > 0 else f64(0.0)
                    alive = f64(0.0) if ended else f64(1.0)
                    going = f64(1.0) if seen and not cut else f64(0.0)
                    carry = step(f64(rewards[i, j]), value, after, carry, alive, going, gamma, lam)
                    out[i, j] = carry
                    if returns.size > 0:
                        returns[i, j] = carry + value
                    follow = value
                    seen = True
            n = u64(n + u64(cuda.gridDim.x) * u64(cuda.blockDim.x))

    return scan
