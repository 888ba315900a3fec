"""Elements with a mask, a block of BLOCK after the other."""

from functools import cache
from typing import Any

import numpy as np

from ...binding import FAMILIES
from .. import BLOCK
from .compiling import rules


def read2(x, i):
    return np.float64(x[0][i]), np.float64(x[1][i])


def read3(x, i):
    return np.float64(x[0][i]), np.float64(x[1][i]), np.float64(x[2][i])


def read4(x, i):
    return np.float64(x[0][i]), np.float64(x[1][i]), np.float64(x[2][i]), np.float64(x[3][i])


READ = {2: read2, 3: read3, 4: read4}


def pointwise_loop(inputs, mask, params, outputs, partials):
    for block in range(partials.shape[0]):
        for k in range(sums):
            partials[block, k] = 0.0
        for k in range(sums, tallies):
            partials[block, k] = -np.inf
        for i in range(block * BLOCK, min(inputs[0].size, (block + 1) * BLOCK)):
            if mask.size and mask[i] == 0:
                for k in range(stored):
                    if outputs[k].size:
                        outputs[k][i] = 0.0
                continue
            results = element(*read(inputs, i), *params)
            for k in range(stored):
                if outputs[k].size:
                    outputs[k][i] = results[k]
            for k in range(sums):
                partials[block, k] += results[stored + k]
            for k in range(sums, tallies):
                v = results[stored + k]
                partials[block, k] = v if v > partials[block, k] or v != v else partials[block, k]


@cache
def pointwise_kernel(family: str, kind: str) -> Any:
    shape, bind = FAMILIES[family], rules()
    free = {
        "element": bind.element(family, kind),
        "read": bind.compile(READ[len(shape.inputs)]),
        "stored": len(shape.outputs),
        "sums": len(shape.sums),
        "tallies": shape.tallies,
    }
    return bind.drive(pointwise_loop, f"{family}_{kind}", **free)
