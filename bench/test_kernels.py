"""Every operation against NumPy and the machine's floor."""

from functools import cache, lru_cache

import numpy as np
import pytest
from baselines import seed_of
from floors import floor_of
from timing import measure

import fastalign
from fastalign.cases import OPERATIONS, disagreement, truth


@lru_cache(maxsize=1)
def prepared(entry):
    """Arguments, bytes read and bytes written."""
    operation = OPERATIONS[entry.operation]
    arguments = operation.make(np.random.default_rng(1), entry.shape, entry.dtype)
    read = sum(arguments[name].nbytes for name in operation.reads if arguments[name] is not None)
    results = operation.call(arguments, None)
    written = sum(x.nbytes for x in results if isinstance(x, np.ndarray))
    return arguments, read, written


@lru_cache(maxsize=1)
def floor(entry):
    return floor_of(*prepared(entry)[1:])


@lru_cache(maxsize=1)
def true_results(entry):
    return truth(OPERATIONS[entry.operation], prepared(entry)[0])


@cache
def check(entry, implementation):
    """A fast wrong answer is worth nothing."""
    got = OPERATIONS[entry.operation].call(prepared(entry)[0], implementation)
    found = disagreement(entry.operation, entry.dtype, got, true_results(entry))
    assert found is None, f"{implementation}: {found}"


@pytest.fixture
def one_count(threads):
    fastalign.set_num_threads(threads)
    yield
    fastalign.set_num_threads(None)


@pytest.mark.usefixtures("one_count")
def test_kernel(benchmark, entry, implementation, threads, turn, seconds):
    arguments, read, written = prepared(entry)
    kind, probe = floor(entry)
    if implementation == "floor":
        call = probe
    elif implementation == "seed":
        formula = seed_of(entry)
        call = lambda: formula(arguments)  # noqa: E731
    else:
        check(entry, implementation)
        operation = OPERATIONS[entry.operation]
        call = lambda: operation.call(arguments, implementation)  # noqa: E731
    benchmark.group = f"{entry} {threads}t"
    benchmark.extra_info.update(
        entry=str(entry), operation=entry.operation, size=entry.size, shape=entry.shape, dtype=entry.dtype,
        implementation=implementation, threads=threads, floor=kind, bytes=read + written,
    )  # fmt: skip
    measure(benchmark, call, seconds)
