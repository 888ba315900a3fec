"""Every backend, operation, dtype and shape against the float64 reference."""

import subprocess
import sys

import numpy as np
import pytest
from conftest import usable
from trees import environment

from fastalign.cases import DTYPES, OPERATIONS, SHAPES, disagreement, truth

GRID = [
    pytest.param(
        name, label, dtype, masked, id=f"{name}-{label}-{dtype}{'-masked' if masked else ''}".replace(" ", "_")
    )
    for name, operation in OPERATIONS.items()
    for label in SHAPES[operation.shape]
    for dtype in DTYPES[operation.shape]
    for masked in (False, True)
]


def inputs(name, label, dtype, masked):
    operation = OPERATIONS[name]
    return operation, operation.make(np.random.default_rng(7), SHAPES[operation.shape][label], dtype, masked)


def agree(name, dtype, got, want, note=""):
    found = disagreement(name, dtype, got, want)
    assert found is None, f"{found} {note}"


@pytest.mark.parametrize("name, label, dtype, masked", GRID)
def test_agrees_with_the_float64_reference(backend, name, label, dtype, masked):
    operation, arguments = inputs(name, label, dtype, masked)
    kept = {key: None if x is None else x.copy() for key, x in arguments.items()}
    for x in arguments.values():
        if x is not None:
            x.flags.writeable = False

    agree(name, dtype, operation.call(arguments, backend), truth(operation, arguments))

    for key, x in arguments.items():
        np.testing.assert_array_equal(x, kept[key], err_msg=f"{key} was modified")


def strided(x):
    """The same values, every second element of a larger array."""
    if not isinstance(x, np.ndarray) or x.ndim == 0:
        return x
    wide = np.zeros((*x.shape[:-1], 2 * x.shape[-1]), x.dtype)
    wide[..., ::2] = x
    return wide[..., ::2]


@pytest.mark.parametrize("name", OPERATIONS)
def test_strides_and_byte_order_do_not_matter(backend, name):
    operation = OPERATIONS[name]
    shape = {"row": (3, 9), "scan": (5, 3), "pointwise": (11,), "group": (3, 4)}[operation.shape]
    arguments = operation.make(np.random.default_rng(3), shape, "float64", True)
    swapped = {
        k: x.astype(x.dtype.newbyteorder()) if getattr(x, "dtype", None) == np.float64 else x
        for k, x in arguments.items()
    }
    want = operation.call(arguments, backend)
    for other in ({key: strided(x) for key, x in arguments.items()}, swapped):
        for g, w in zip(operation.call(other, backend), want, strict=True):
            np.testing.assert_array_equal(g, w)


@pytest.mark.parametrize("name", OPERATIONS)
def test_bits_do_not_depend_on_the_threads(backend, threads, monkeypatch, name):
    monkeypatch.setattr("fastalign.threads.WORTH_SHARING", 2)
    operation = OPERATIONS[name]
    shape = {"row": (13, 700), "scan": (13, 40), "pointwise": (20_000,), "group": (13, 40)}[operation.shape]
    arguments = operation.make(np.random.default_rng(5), shape, "float32", True)
    threads(1)
    want = operation.call(arguments, backend)
    for count in (2, 3):
        threads(count)
        for g, w in zip(operation.call(arguments, backend), want, strict=True):
            np.testing.assert_array_equal(g, w)


@pytest.mark.parametrize("name", OPERATIONS)
def test_every_build_of_the_extension(monkeypatch, name):
    from conftest import need

    from fastalign.backends import cython_cpu

    need("cython", cython_cpu.why_not())
    operation = OPERATIONS[name]
    shape = {"row": (5, 1100), "scan": (20, 70), "pointwise": (5000,), "group": (5, 9)}[operation.shape]
    for dtype in DTYPES[operation.shape]:
        arguments = operation.make(np.random.default_rng(9), shape, dtype, True)
        want = truth(operation, arguments)
        for isa in cython_cpu.isas():
            monkeypatch.setattr(cython_cpu, "core", lambda isa=isa: cython_cpu.load(isa))
            agree(name, dtype, operation.call(arguments, "cython"), want, isa)


def test_numba_that_is_told_not_to_compile_is_not_usable():
    """Chosen, it would fail in the middle of a call: "<intrinsic start> is not usable in pure-python"."""
    usable("numba")
    code = "import fastalign; print(fastalign.available_backends()['numba']); fastalign.warmup('numba')"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment(NUMBA_DISABLE_JIT="1")
    )
    assert done.stdout == "NUMBA_DISABLE_JIT is set\n"
    assert done.stderr.endswith("RuntimeError: backend 'numba' cannot be used: NUMBA_DISABLE_JIT is set\n")
