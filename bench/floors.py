"""What the machine needs for the same bytes if nothing is computed."""

import time

import numba
import numpy as np

from fastalign import threads


@numba.njit(nogil=True, cache=True)
def _or_of_four(words):
    """Four streams at once: as good as four vector accumulators, and a call costs a quarter of NumPy's."""
    a = b = c = d = np.uint64(0)
    n = len(words) // 4
    for i in range(n):
        a |= words[i]
        b |= words[n + i]
        c |= words[2 * n + i]
        d |= words[3 * n + i]
    return a | b | c | d


# Each as fast as C with four accumulators of 32 bytes; which one wins depends on size and processor (bench/notes.md).
READERS = {
    "max of uint64": np.max,
    "max of uint8": lambda words: words.view(np.uint8).max(),
    "max of float32": lambda words: words.view(np.float32).max(),
    "or of four streams": _or_of_four,
}


def _split(body, n):
    count = min(threads.get_num_threads(), max(1, n // 4096))
    if count == 1:
        body(0, n)
    else:
        threads.run(body, n, 16, count)


def _seconds(f, words):
    f(words)
    iterations = max(1, 100_000 // len(words))
    found = []
    for _ in range(5):
        start = time.perf_counter()
        for _ in range(iterations):
            f(words)
        found.append(time.perf_counter() - start)
    return min(found)


class Read:
    """Read ``size`` bytes that lie in memory like the inputs, not fresh pages, in the fastest way there is."""

    def __init__(self, size: int) -> None:
        self.words = np.ones(max(16, size // 8), np.uint64)
        self.how = min(READERS, key=lambda name: _seconds(READERS[name], self.words))

    def __call__(self) -> None:
        reader = READERS[self.how]
        _split(lambda a, b: reader(self.words[a:b]), len(self.words))


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
