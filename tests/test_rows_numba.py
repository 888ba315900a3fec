"""Sums of rows in the numba backend where octaves cannot be counted, at the ends of both dtypes, and without FMA."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import usable

from fastalign import token_log_probs

MORE = {"entropy": True, "sum_p2": True, "mean_logit": True, "top1": True}


def rows(dtype):
    """Logits around bases of all sizes, peaks that appear late, -inf where the first peak is looked for."""
    rng, width, of = np.random.default_rng(3), 5000, np.finfo(dtype)
    found = [rng.standard_normal(width) * 3 + base for base in (0, 50, -1e4, 1e4, 7e5, -8e5, 3e6, -1e9)]
    found += [np.linspace(-5e3, 5e3, width), np.linspace(3e3, -3e3, width)]
    late = rng.standard_normal(width)
    late[3000] = 250.0  # octaves wrap round if nothing bounds them
    later = late.copy()
    later[3000:3002] = 1e30
    hidden = np.full(width, -np.inf)
    hidden[4000:] = -1e4 - rng.random(1000)
    lone = np.full(width, -np.inf)
    lone[4500] = -of.max
    wide = np.where(rng.random(width) < 0.5, -of.max, of.max / 4)
    return np.array([*found, late, later, hidden, lone, wide]).astype(dtype)


def close(got, x, tokens, temperature):
    """As the reference, to the digits it can have; an entropy is a difference of sums, scaled as peaks rose."""
    eps = float(np.finfo(x.dtype).eps)
    want = token_log_probs(x.astype(np.float64), tokens, temperature=temperature, backend="numpy", **MORE)
    size = np.abs(np.where(np.isfinite(want.lse), want.lse, 0.0))
    with np.errstate(invalid="ignore"):
        spread = np.abs((x[np.arange(len(x)), tokens] - x.max(axis=1)).astype(np.float64) / temperature)
    spread[~np.isfinite(spread)] = 0.0
    for name in ("logp", "lse", "entropy", "sum_p2"):
        g, w = np.asarray(getattr(got, name), np.float64), getattr(want, name).astype(x.dtype).astype(np.float64)
        bound = (64 if name == "entropy" else 16) * eps * (1 + {"lse": size, "logp": spread}.get(name, np.abs(w)))
        assert (np.isfinite(w) == np.isfinite(g)).all(), name
        assert (np.abs(g - w)[np.isfinite(w)] <= bound[np.isfinite(w)]).all(), (name, g, w)
    np.testing.assert_array_equal(got.top1, want.top1)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("temperature", [1.0, 0.7, 1e-3, 1e4, 1e30, 1e-30])
def test_any_base_and_any_temperature(dtype, temperature):
    usable("numba")
    x = rows(dtype)
    tokens = np.random.default_rng(4).integers(0, x.shape[1], len(x))
    with np.errstate(all="ignore"):
        close(token_log_probs(x, tokens, temperature=temperature, backend="numba", **MORE), x, tokens, temperature)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_sure_token_has_exactly_one(dtype):
    usable("numba")
    x = np.full((64, 3000), -1e4, dtype)
    tokens = np.arange(64)
    x[tokens, tokens] = np.random.default_rng(5).standard_normal(64) * 30
    got = token_log_probs(x, tokens, backend="numba", **MORE)
    np.testing.assert_array_equal(got.logp, 0.0)
    np.testing.assert_array_equal(got.lse, x[tokens, tokens])
    np.testing.assert_allclose(got.sum_p2, 1.0, rtol=np.finfo(dtype).eps)
    assert (got.entropy >= 0).all() and (got.entropy < 1e-30).all()


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="names a processor of x86")
def test_a_processor_without_fused_operations():
    usable("numba")
    use = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "import numpy as np, test_rows_numba as here\n"
        "from fastalign.backends.numba_cpu.compiling import fuses\n"
        "assert not fuses()\n"
        "for dtype in (np.float32, np.float64):\n"
        "    here.test_a_sure_token_has_exactly_one(dtype)\n"
        "    for temperature in (1.0, 0.7, 1e4):\n"
        "        here.test_any_base_and_any_temperature(dtype, temperature)\n"
        "print('agreed')"
    )
    changes = {**os.environ, "NUMBA_CPU_NAME": "x86-64", "NUMBA_CPU_FEATURES": ""}
    done = subprocess.run([sys.executable, "-c", use], env=changes, capture_output=True, text=True)
    assert "agreed" in done.stdout, done.stderr[-3000:]
