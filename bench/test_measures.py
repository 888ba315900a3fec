"""What fastalign promises: each side of a case in turn, several times over; bench/measures*.py say which."""

from functools import cache, lru_cache

import data
import measures_losses
import measures_machine
import measures_rows
import measures_scan
import pytest
import remote
from timing import measure, tell

import fastalign

CASES = [*measures_rows.CASES, *measures_losses.CASES, *measures_scan.CASES, *measures_machine.CASES]
TOLD = 3  # how often a side that tells its figure is asked in a turn, where figures vary


@lru_cache(maxsize=1)
def made(case):
    """The sides of a case, or the reason why there are none."""
    try:
        return case.make()
    except pytest.skip.Exception as why:
        return str(why)


@cache
def check(case, name):
    """A fast wrong answer is worth nothing."""
    side = made(case)[name]
    if side.results is None:
        return
    if side.setup:
        side.setup()
    data.compare(f"{case.name}, {name}", side.results(side.call()), data.truth(*side.check), side.check[2])


def local(benchmark, case, name):
    sides = made(case)
    if isinstance(sides, str):
        pytest.skip(sides)
    side = sides[name]
    fastalign.set_num_threads(side.threads)
    try:
        check(case, name)
        if side.tells:
            tell(benchmark, [side.call() for _ in range(TOLD if case.turns > 1 else 1)])
        else:
            measure(benchmark, side.call, case.seconds, side.setup)
    finally:
        fastalign.set_num_threads(None)


def peer(benchmark, case, name):
    try:
        worker = remote.worker(name)
        errors = worker.prepare(*case.task)
        if case.task[0] == "accuracy":
            return tell(benchmark, errors[:1])
        found = worker.ask(time=case.seconds)
    except remote.Unavailable as why:
        pytest.skip(str(why))
    benchmark.extra_info["processors"] = found["processors"]
    tell(benchmark, found["told"])


def test_measure(benchmark, case, side, turn, record):
    benchmark.group = case.name
    benchmark.extra_info.update(case=case.name, side=side)
    with record(case.name, side):
        (peer if side in case.peers else local)(benchmark, case, side)
