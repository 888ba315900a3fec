"""One implementation, a few rounds: short ones many calls to a round, long ones fewer rounds."""

import time

SHORTEST_ROUND = 2e-4  # seconds; below, the clock and the loop count


def measure(benchmark, call, seconds, setup=None):
    """Time ``call`` for about ``seconds``; ``setup`` precedes every call and is not timed."""
    once = seconds
    for _ in range(2):  # the first call warms up; where it is slow, it tells enough
        if setup:
            setup()
        start = time.perf_counter()
        call()
        once = max(time.perf_counter() - start, 1e-7)
        if once > 3 * seconds:
            break
    iterations = 1 if setup else max(1, round(SHORTEST_ROUND / once))
    rounds = int(min(200, max(2, seconds / (once * iterations))))
    benchmark.pedantic(call, setup=setup, rounds=rounds, iterations=iterations)


def tell(benchmark, figures):
    """Figures that were measured elsewhere: in another process, or no times at all."""
    benchmark.extra_info["told"] = figures
    benchmark.pedantic(lambda: None, rounds=1)
