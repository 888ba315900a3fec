"""The order of the measurements: what is compared is timed in turn, several times over."""

import os
from contextlib import contextmanager

import numpy as np
import pytest
import remote
from baselines import seed_of
from sizes import entries

import fastalign

# How often all implementations of an entry take their turn, and for how many seconds each.
PASSES = {True: (2, 0.02), False: (3, 0.08)}
# Why a side of a measure has no figure.
reasons: dict[tuple[str, str], str] = {}


def pytest_addoption(parser):
    parser.addoption("--quick", action="store_true", help="typical sizes in float32 only, fewer rounds, no peers")


def pytest_configure(config):
    # From here on the C library keeps what is freed up to this size: outputs of a few megabytes are not fresh pages
    # in one case and old ones in the next, depending on what ran before.
    np.zeros(31 << 20, np.uint8)[::4096] = 1


def pytest_unconfigure(config):
    remote.close()


def implementations(entry, count):
    """Names of what computes the entry with ``count`` threads; NumPy has one thread."""
    backends = [name for name, why in fastalign.available_backends().items() if why is None]
    own = [name for name in backends if name != "numpy"]
    if count > 1:
        return ["floor", *own]
    return ["floor", *(["seed"] if seed_of(entry) else []), "numpy", *own]


def kernels(quick):
    passes, seconds = PASSES[quick]
    every = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    jobs = []
    for entry in entries(quick):
        for count in sorted({1, every} if entry.large else {1}):
            for turn in range(passes):
                for name in implementations(entry, count):
                    jobs.append((entry, name, count, turn, seconds))
    return jobs


def measures(quick):
    from test_measures import CASES

    jobs = []
    for case in CASES:
        if quick and not case.quick:
            continue
        for turn in range(min(case.turns, 2) if quick else case.turns):
            for side in (*case.sides, *(() if quick else case.peers)):
                jobs.append((case._replace(seconds=case.seconds / 6) if quick else case, side, turn))
    return jobs


def pytest_generate_tests(metafunc):
    quick = metafunc.config.getoption("--quick")
    if "entry" in metafunc.fixturenames:
        jobs = kernels(quick)
        labels = [f"{entry}-{name}-{count}t-{turn}" for entry, name, count, turn, _ in jobs]
        metafunc.parametrize("entry, implementation, threads, turn, seconds", jobs, ids=_tidy(labels))
    elif "case" in metafunc.fixturenames:
        jobs = measures(quick)
        metafunc.parametrize("case, side, turn", jobs, ids=_tidy([f"{c.group}: {c.name}-{s}-{t}" for c, s, t in jobs]))


def _tidy(labels):
    return [label.replace("×", "x").replace(" ", "_").encode("ascii", "replace").decode() for label in labels]


@pytest.fixture
def record():
    """A context that notes why a side was skipped or failed."""

    @contextmanager
    def noting(case, side):
        try:
            yield
        except pytest.skip.Exception as why:
            reasons[case, side] = str(why)
            raise
        except Exception as error:
            reasons[case, side] = f"failed: {error}"
            raise

    return noting


def pytest_benchmark_update_json(output_json):
    output_json["reasons"] = [[*key, why] for key, why in reasons.items()]
