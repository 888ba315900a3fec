"""One implementation, a few rounds: short ones many calls to a round, long ones fewer rounds."""

import time

SHORTEST_ROUND = 2e-4  # seconds; below, the clock and the loop count


def measure(benchmark, call, seconds):
    """Time ``call`` for about ``seconds``, after a call that warms up."""
    call()
    start = time.perf_counter()
    call()
    once = max(time.perf_counter() - start, 1e-7)
    iterations = max(1, round(SHORTEST_ROUND / once))
    rounds = int(min(200, max(2, seconds / (once * iterations))))
    benchmark.pedantic(call, rounds=rounds, iterations=iterations)
