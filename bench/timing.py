"""One implementation, a few rounds: short ones many calls to a round, long ones fewer rounds."""

import time

SHORTEST_ROUND = 2e-4  # seconds; below, the clock and the loop count


def plan(call, seconds, setup=None):
    """(rounds, calls in a round) that take about ``seconds``; a call or two warm up and tell how long one takes."""
    once = seconds
    for _ in range(2):
        if setup:
            setup()
        start = time.perf_counter()
        call()
        once = max(time.perf_counter() - start, 1e-7)
        if once > 3 * seconds:  # where it is slow, the first tells enough
            break
    calls = 1 if setup else max(1, round(SHORTEST_ROUND / once))
    return int(min(200, max(2, seconds / (once * calls)))), calls


def measure(benchmark, call, seconds, setup=None):
    """Time ``call``; ``setup`` precedes every call and is not timed."""
    rounds, calls = plan(call, seconds, setup)
    benchmark.pedantic(call, setup=setup, rounds=rounds, iterations=calls)


def tell(benchmark, figures):
    """Figures that were measured elsewhere: in another process, or no times at all."""
    benchmark.extra_info["told"] = figures
    benchmark.pedantic(lambda: None, rounds=1)
