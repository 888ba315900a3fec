"""Rows as the loops see them: peaks that rise late, offsets, long prefixes of nothing, accuracy; in every build."""

import numpy as np
import pytest
from conftest import usable

from fastalign import token_log_probs, token_log_probs_grad
from fastalign.backends import cython_cpu
from fastalign.cases import HALVES, as_dtype, widened

INF = np.inf
DTYPES = ("float32", "float64", "float16", "bfloat16")


@pytest.fixture(params=["numpy", "numba", *(f"cython/{isa}" for isa in cython_cpu.ISAS)])
def walker(request, monkeypatch):
    """A backend; of the extension every build."""
    backend, _, isa = request.param.partition("/")
    usable(backend)
    if isa:
        try:
            module = cython_cpu.load(isa)
        except ImportError as error:
            pytest.skip(str(error))
        monkeypatch.setattr(cython_cpu, "core", lambda: module)
    return backend


def truth(logits, tokens):
    """(logp, lse, entropy, p) in long doubles."""
    x = logits.astype(np.longdouble)
    peak = x.max(axis=1, keepdims=True)
    z = x - peak
    log_total = np.log(np.exp(z).sum(axis=1, keepdims=True))
    log_p = z - log_total
    p = np.exp(log_p)
    entropy = -np.where(p > 0, p * np.where(p > 0, log_p, 0), 0).sum(axis=1)
    return np.take_along_axis(log_p, tokens[:, None], 1)[:, 0], (peak + log_total)[:, 0], entropy, p


def agree(walker, logits, dtype, eps):
    x = as_dtype(logits, dtype)
    exact = widened("logits", x)
    tokens = np.where(np.arange(len(x)) % 2, exact.argmax(axis=1), np.arange(len(x)) % exact.shape[1])
    got = token_log_probs(x, tokens, entropy=True, backend=walker)
    logp, lse, entropy, p = truth(exact, tokens)
    for g, w in zip(got, (logp, lse, entropy), strict=False):
        np.testing.assert_allclose(g, w.astype(np.float64), rtol=eps, atol=8 * eps)
    grad = token_log_probs_grad(x, tokens, np.ones(len(x)), backend=walker)
    want = -p.astype(np.float64)
    want[np.arange(len(x)), tokens] += 1
    unit = {"float16": 2.0**-10, "bfloat16": 2.0**-7}.get(dtype, 8 * eps)
    np.testing.assert_allclose(widened("logits", grad).astype(np.float64), want, rtol=unit, atol=max(unit, 1e-7) / 16)


EPS = {"float64": 1e-15, "float32": 3e-7, "float16": 3e-7, "bfloat16": 3e-7}


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_peak_that_rises_late(walker, dtype):
    """Slowly, in steps, all at the end; within a tile and across tiles; and falling."""
    n = 5003
    slow = np.linspace(-60.0, 60.0, n)
    steps = np.repeat(np.arange(12) * 30.0 - 200, n // 12 + 1)[:n]
    late = np.where(np.arange(n) < n - 3, -500.0, 0.0)
    inside = np.where(np.arange(n) % 2048 == 1000, 90.0 + np.arange(n) / 100, 0.0)
    agree(walker, np.stack([slow, slow[::-1], steps, steps[::-1], late, inside]), dtype, EPS[dtype])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("prefix", [1, 255, 256, 2048, 4096])
def test_a_prefix_of_nothing(walker, dtype, prefix):
    logits = np.random.default_rng(1).standard_normal((2, prefix + 5)) * 3
    logits[:, :prefix] = -INF
    agree(walker, logits, dtype, EPS[dtype])


@pytest.mark.parametrize("dtype, offset", [(d, o) for d in DTYPES for o in (0.0, 100.0, -3e4)] + [
    ("float32", 1e4), ("float32", 1e6), ("float32", -1e9), ("float32", 1e38), ("float64", 1e15), ("float64", 1e300),
    ("bfloat16", 1e38),
])  # fmt: skip
def test_an_offset(walker, dtype, offset):
    """Exact in what the logits, as rounded, are: far from 0 they have steps."""
    logits = np.random.default_rng(2).standard_normal((4, 2500)) * 3 + offset
    agree(walker, logits, dtype, EPS[dtype])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("place", [0, 255, 256, 2047, 2048, 4095, 4999])
@pytest.mark.parametrize("bad", [np.nan, -np.nan, INF])
def test_no_number_in_any_tile(walker, dtype, place, bad):
    x = as_dtype(np.zeros((3, 5000)), dtype)
    x[1, place] = as_dtype(np.array([bad]), dtype)[0]
    got = token_log_probs(x, np.zeros(3, int), entropy=True, backend=walker)
    assert np.isnan(got.logp[1]) and np.isnan(got.entropy[1])
    assert got.lse[1] == INF if bad == INF else np.isnan(got.lse[1])
    np.testing.assert_allclose(got.logp[[0, 2]], -np.log(5000), rtol=1e-6)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_sure_token_has_exactly_nothing_to_lose(walker, dtype):
    """Whatever the rounding of its product with log2(e)."""
    rng = np.random.default_rng(3)
    values = as_dtype(rng.standard_normal((200, 1)) * 50, dtype)
    assert not token_log_probs(values, np.zeros(200, int), temperature=0.7, backend=walker).logp.any()
    x = np.full((200, 70), -500.0 if dtype in HALVES else -INF)
    x[:, 33] = widened("logits", values)[:, 0]
    got = token_log_probs(as_dtype(x, dtype), np.full(200, 33), backend=walker)
    assert not got.logp.any()
    np.testing.assert_array_equal(got.lse, x[:, 33].astype(got.lse.dtype))


@pytest.mark.parametrize("dtype, most", [("float32", 4e-6), ("float64", 2e-13)])
def test_accuracy_of_a_long_vocabulary(walker, dtype, most):
    rng = np.random.default_rng(4)
    x = (rng.standard_normal((6, 128_256)) * 3).astype(dtype)
    tokens = np.concatenate([rng.integers(0, 128_256, 3), x[3:].argmax(axis=1)])
    got = token_log_probs(x, tokens, backend=walker)
    assert np.abs(got.logp - truth(x, tokens)[0]).max() <= most
