"""The public functions through Numba's simulator: real launches, host arrays and device arrays in.

Prints {operation: None or what failed} as JSON.  Two calls of each operation: the simulator is slow.
"""

import os

os.environ["NUMBA_ENABLE_CUDASIM"] = "1"  # before anything imports Numba

import json
import sys
import warnings
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import numpy as np
import simwarp  # noqa: F401  adds the warp operations
from numba import cuda
from test_backends import agree

import fastalign
from fastalign.cases import OPERATIONS, truth

SHAPES = {"row": (3, 45), "scan": (4, 3), "pointwise": (40,), "group": (3, 7)}
# The calls differ in dtype, mask and home of the arrays, so that two cover what matters.
CALLS = (("float32", True, False), ("float64", False, True))


def device(name, x):
    """``x`` as a caller on the device has it: already of the dtype that kernels take."""
    if not isinstance(x, np.ndarray):
        return x
    return cuda.to_device(x.astype(np.uint8) if x.dtype == bool else x)


def home(x):
    return x if isinstance(x, float) else x.copy_to_host()


def run(operation, name):
    for dtype, masked, on_device in CALLS:
        arguments = operation.make(np.random.default_rng(3), SHAPES[operation.shape], dtype, masked)
        want = truth(operation, arguments)
        if on_device:
            placed = {key: device(key, x) for key, x in arguments.items()}
            results = operation.call(placed, None)
            kinds = {type(x) for x in results} - {float}
            assert kinds <= {type(placed[operation.reads[0]])}, f"device arrays in, {kinds} out"
            agree(name, dtype, tuple(map(home, results)), want)
        else:
            results = operation.call(arguments, "cuda")
            assert all(isinstance(x, (float, np.ndarray)) for x in results)
            agree(name, dtype, results, want)


def bad_token():
    tokens = np.array([0, 44, 45])
    for placed in (tokens, cuda.to_device(tokens)):
        logits = np.zeros((3, 45), np.float32)
        given = logits if placed is tokens else cuda.to_device(logits)
        try:
            fastalign.token_log_probs(given, placed, backend="cuda")
        except IndexError as error:
            assert "tokens[2]" in str(error), error
        else:
            raise AssertionError("a token beyond the vocabulary was accepted")


def view():
    """Rows that lie apart go up and come down piece by piece."""
    fastalign.logits.WORTH = 1
    whole = np.random.default_rng(4).standard_normal((2, 4, 9)).astype(np.float32)
    x, tokens, slope = whole[:, :-1], np.array([[0, 3, 8], [1, 1, 7]]), np.linspace(-1, 1, 6, dtype=np.float32)
    slope, out = slope.reshape(2, 3), np.full_like(whole, 7)
    for call in (fastalign.token_log_probs_grad, partial(fastalign.policy_loss_from_logits, advantages=slope)):
        want = call(x.copy(), tokens, slope, backend="cuda")
        got = call(x, tokens, slope, out=out[:, :-1], backend="cuda")
        np.testing.assert_array_equal(*(getattr(r, "grad_logits", r) for r in (got, want)))
        assert (out[:, -1] == 7).all()


def main():
    warnings.filterwarnings("ignore", "Grid size .* will likely result in GPU under-utilization")
    reason = fastalign.available_backends()["cuda"]
    if reason is not None:
        sys.exit(reason)
    jobs = {name: partial(run, operation, name) for name, operation in OPERATIONS.items()}
    report = {}
    for name, job in {**jobs, "bad token": bad_token, "a view": view}.items():
        report[name] = None
        try:
            job()
        except Exception as error:
            report[name] = f"{type(error).__name__}: {error}"
    json.dump(report, sys.stdout)


if __name__ == "__main__":
    main()
