"""The kernels compiled for one compute capability, on every case, by ptxsim.

    python run_compiled.py 9.0

Prints {table entry: None or what failed} as JSON.
"""

import json
import re
import sys

import nodriver

CAPABILITY = tuple(map(int, sys.argv[1].split("."))) if len(sys.argv) > 1 else (9, 0)
nodriver.install(CAPABILITY)

from functools import cache  # noqa: E402

import numpy as np  # noqa: E402
from numba import cuda, types  # noqa: E402
from numba.np.numpy_support import from_dtype  # noqa: E402
from ptxsim import Kernel, PTXError  # noqa: E402
from ptxsim import launch as simulate  # noqa: E402
from runs import TABLE, Run, check  # noqa: E402

ORDERS = ((1 << 20, None), (3, 1))


def type_of(x):
    if isinstance(x, tuple):
        return types.UniTuple(type_of(x[0]), len(x))
    if isinstance(x, np.ndarray):
        return types.Array(from_dtype(x.dtype), x.ndim, "C")
    return {bool: types.boolean, int: types.int64, float: types.float64}[type(x)]


@cache
def ptx_of(make, key, signature):
    return cuda.compile(make(*key), signature, cc=CAPABILITY, device=False, abi="numba", output="ptx")[0]


@cache
def kernel_of(make, key, signature):
    return Kernel(ptx_of(make, key, signature))


def signature_of(run):
    return tuple(map(type_of, run.arguments))


def launch(run: Run, blocks: int, seed: int | None) -> None:
    kernel = kernel_of(run.make, run.key, signature_of(run))
    simulation = simulate(kernel, blocks, run.threads, *run.arguments, seed=seed)
    for event in ("store collisions", "barrier at different places"):
        if simulation.events[event]:
            raise PTXError(event)


def loops_of(ptx):
    """The instructions of every innermost loop; one jumps back on a condition, a block moved ahead does not."""
    lines, labels, loops = ptx.splitlines(), {}, []
    for number, line in enumerate(lines):
        if label := re.match(r"(\$\w+):", line):
            labels[label[1]] = number
        jump = re.search(r"@!?%\w+\s+bra\s+(\$\w+);", line)
        if jump and jump[1] in labels:
            loops.append((labels[jump[1]], number))
    inner = [(a, b) for a, b in loops if not any((c, d) != (a, b) and a <= c and d <= b for c, d in loops)]
    return ["\n".join(lines[a : b + 1]) for a, b in inner]


def check_element_loops() -> None:
    """float32 lanes: the loops over the elements of a row have no double arithmetic."""
    for name in ("row_forward", "row_moments", "row_backward"):
        for kind in ("f32", "f16", "bf16"):
            run = next(TABLE[f"{name} {kind}"](False))
            loops = loops_of(ptx_of(run.make, run.key, signature_of(run)))
            over_elements = [loop for loop in loops if "ld.global" in loop]
            assert over_elements, f"{name} {kind}: no loop over the elements"
            for loop in over_elements:
                assert ".f64" not in loop, f"{name} {kind}: double arithmetic per element"


def check_no_calls() -> None:
    for name, runs in TABLE.items():
        run = next(runs(False))
        ptx = ptx_of(run.make, run.key, signature_of(run))
        assert f".target sm_{CAPABILITY[0]}{CAPABILITY[1]}" in ptx
        assert not re.search(r"\bcall\b", ptx), f"{name}: a function was not inlined"


def main() -> None:
    report = {}

    def attempt(name, job):
        report[name] = None
        try:
            job()
        except Exception as error:
            report[name] = f"{type(error).__name__}: {error}"

    def every(runs):
        for run in runs(True):
            check(run, launch, ORDERS)

    for name, runs in TABLE.items():
        attempt(name, lambda runs=runs: every(runs))
    attempt("element loops", check_element_loops)
    attempt("no calls", check_no_calls)
    json.dump(report, sys.stdout)


if __name__ == "__main__":
    main()
