"""What the machine needs for the same bytes if nothing is computed."""

import numba
import numpy as np

from fastalign import threads


@numba.njit(nogil=True, cache=True)
def _read(words):
    """Every word once, in sixteen lanes: what the compiler makes of it is loads and ors."""
    lanes = np.zeros(16, np.uint64)
    for i in range(0, len(words) - 15, 16):
        for k in range(16):
            lanes[k] |= words[i + k]
    return lanes[0]


def _split(body, n):
    count = min(threads.get_num_threads(), max(1, n // 4096))
    if count == 1:
        body(0, n)
    else:
        threads.run(body, n, 16, count)


class Read:
    """Read ``size`` bytes that lie in memory like the inputs: not fresh pages."""

    def __init__(self, size: int) -> None:
        self.words = np.ones(max(16, size // 8), np.uint64)

    def __call__(self) -> None:
        _split(lambda a, b: _read(self.words[a:b]), len(self.words))


class Copy:
    """Copy, with ``size`` bytes read and written in all."""

    def __init__(self, size: int) -> None:
        self.source = np.ones(max(16, size // 16), np.uint64)
        self.target = np.zeros_like(self.source)

    def __call__(self) -> None:
        _split(lambda a, b: np.copyto(self.target[a:b], self.source[a:b]), len(self.source))


def floor_of(read: int, written: int):
    """The floor of a kernel: a pure read where next to nothing is written, else a copy of as many bytes."""
    return ("read", Read(read)) if written * 10 < read else ("copy", Copy(read + written))
