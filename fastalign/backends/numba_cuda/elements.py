"""Elements with a mask: a thread block per BLOCK elements, which are one row of the partial tallies.

A thread adds its elements in order, then the threads are joined by a tree: the same bits whatever the grid.
Arithmetic is in double for both dtypes.
"""

from typing import Any

from ...binding import FAMILIES
from .. import BLOCK
from .device import binding, cuda, device, f64, u32, u64

THREADS = 256
INF = float("inf")


@device
def larger(a, b):
    """The maximum; NaN stays."""
    return a if a > b or a != a else b


def _written(signature: str, statements: list[str], returned: list[str]) -> Any:
    # Numba types a tuple only as a whole: what is done to each of its parts must be written out.
    space: dict[str, Any] = {"f64": f64, "larger": larger}
    lines = [*statements, f"return ({', '.join(returned)},)" if returned else "return"]
    exec(f"def written({signature}):\n    " + "\n    ".join(lines), space)
    return device(space["written"])


def make_pointwise(family: str, kind: str) -> Any:
    of = FAMILIES[family]
    stored, tallies = len(of.outputs), of.tallies
    element = binding().element(family, kind)
    load = _written("arrays, i", [], [f"f64(arrays[{k}][i])" for k in range(len(of.inputs))])
    lines = [f"if arrays[{k}].size > 0: arrays[{k}][i] = values[{k}]" for k in range(stored)]
    store = _written("arrays, i, values", lines, [])
    joins = ["{0} + {1}"] * len(of.sums) + ["larger({0}, {1})"] * len(of.peaks)
    parts = [join.format(f"tally[{k}]", f"values[{k + stored}]") for k, join in enumerate(joins)]
    add = _written("tally, values", [], parts)
    lines = [f"shared[{k}, t] = {join.format(f'shared[{k}, t]', f'shared[{k}, u]')}" for k, join in enumerate(joins)]
    join = _written("shared, t, u", lines, [])
    nothing = (0.0,) * stored
    empty = (0.0,) * len(of.sums) + (-INF,) * len(of.peaks)

    def pointwise(inputs, mask, params, outputs, partials):
        shared = cuda.shared.array((tallies, THREADS), f64)
        t = u32(cuda.threadIdx.x)
        n = u64(inputs[0].size)
        block = u64(cuda.blockIdx.x)
        while block < u64(partials.shape[0]):
            tally = empty
            i = u64(block * u64(BLOCK) + u64(t))
            end = u64((block + u64(1)) * u64(BLOCK))
            end = n if end > n else end
            while i < end:
                if mask.size > 0 and mask[i] == 0:
                    store(outputs, i, nothing)
                else:
                    values = element(*(load(inputs, i) + params))
                    store(outputs, i, values)
                    tally = add(tally, values)
                i = u64(i + u64(THREADS))
            for k in range(tallies):
                shared[k, t] = tally[k]
            cuda.syncthreads()
            half = u32(THREADS // 2)
            while half > u32(0):
                if t < half:
                    join(shared, t, u32(t + half))
                cuda.syncthreads()
                half = u32(half >> u32(1))
            if t < u32(tallies):
                partials[block, t] = shared[t, 0]
            cuda.syncthreads()  # the next block of elements writes there
            block = u64(block + u64(cuda.gridDim.x))

    return pointwise
