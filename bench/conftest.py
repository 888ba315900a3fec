"""The order of the measurements: what is compared is timed in turn, several times over."""

import os

from baselines import seed_of
from sizes import entries

import fastalign

# How often all implementations of an entry take their turn, and for how many seconds each.
PASSES = {True: (2, 0.03), False: (3, 0.08)}


def pytest_addoption(parser):
    parser.addoption("--quick", action="store_true", help="typical sizes in float32 only, fewer rounds")


def implementations(entry, count):
    """Names of what computes the entry with ``count`` threads; NumPy has one thread."""
    backends = [name for name, why in fastalign.available_backends().items() if why is None]
    own = [name for name in backends if name != "numpy"]
    if count > 1:
        return ["floor", *own]
    return ["floor", *(["seed"] if seed_of(entry) else []), "numpy", *own]


def pytest_generate_tests(metafunc):
    if "entry" not in metafunc.fixturenames:
        return
    quick = metafunc.config.getoption("--quick")
    passes, seconds = PASSES[quick]
    every = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    jobs = []
    for entry in entries(quick):
        large = entry.size in ("typical", "large")
        for count in {1, every} if large else {1}:
            for turn in range(passes):
                for name in implementations(entry, count):
                    jobs.append((entry, name, count, turn, seconds))
    labels = [f"{entry}-{name}-{count}t-{turn}".replace(" ", "_") for entry, name, count, turn, _ in jobs]
    metafunc.parametrize("entry, implementation, threads, turn, seconds", jobs, ids=labels)
