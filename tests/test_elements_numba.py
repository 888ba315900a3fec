"""Numba's loops over elements, a rule's exponentials before what is left of it, and both in one."""

import numpy as np
import pytest
from conftest import usable
from test_single import OPTIONS

from fastalign import preference_loss
from fastalign.backends import BLOCK
from fastalign.binding import FAMILIES, Binding, family

RULES = [(prefix, kind) for prefix in FAMILIES for kind in family(prefix) if Binding(lambda f: f).halves(prefix, kind)]
LENGTHS = (1, 7, 8, 9, 31, 127, 128, 129, 257, 511, 512, 513, 700, BLOCK + 100)


@pytest.fixture(autouse=True)
def _numba():
    usable("numba")


def kernels(monkeypatch, rule, dtype):
    """With AVX2, and without."""
    from fastalign.backends.numba_cpu import elements

    for letter in "yz":
        monkeypatch.setattr(elements, "vector_registers", lambda letter=letter: letter)
        yield elements.pointwise_kernel.__wrapped__(*rule, dtype, False)


def walked(kernel, prefix, x, mask):
    shape, n = FAMILIES[prefix], len(x[0])
    out, tallies = tuple(np.full_like(x[0], 7.0) for _ in shape.outputs), np.empty((-(-n // BLOCK), shape.tallies))
    kernel(tuple(x), mask, (*map(float, OPTIONS[prefix]), 1.0 / n), out, tallies)
    return *out, tallies


@pytest.mark.parametrize("rule, dtype", [*((rule, "float32") for rule in RULES), (("policy", "ppo"), "float64")])
def test_in_two_as_in_one(monkeypatch, rule, dtype):
    """What is masked is NaN, and shows nowhere."""
    cut, whole = kernels(monkeypatch, rule, dtype)
    error = 16 * np.finfo(dtype).eps
    for n in LENGTHS:
        rng = np.random.default_rng(n)
        x = [rng.normal(-1.0, 1.0, n).astype(dtype) for _ in FAMILIES[rule[0]].inputs]
        mask = (rng.random(n) < 0.6).astype(np.uint8)
        hidden = [np.where(mask, v, np.nan).astype(dtype) for v in x]
        for given, kept in ((x, np.empty(0, np.uint8)), (hidden, mask)):
            for got, want in zip(*(walked(k, rule[0], given, kept) for k in (cut, whole)), strict=True):
                np.testing.assert_allclose(got, want, rtol=error, atol=error, err_msg=str(n))


def test_a_mean_of_equal_terms_keeps_its_digits():
    """Few of them are added to one lane."""
    for margin in np.linspace(0.1, 3.0, 30, dtype=np.float32):
        x, zero = np.full(512, margin), np.zeros(512, np.float32)
        want = preference_loss(*(v.astype(float) for v in (x, zero, zero, zero)), backend="numpy").loss
        got = preference_loss(x, zero, zero, zero, backend="numba").loss
        assert abs(got / want - 1) < 4 * np.finfo(np.float32).eps
