"""A policy loss from logits in the numba backend, row by row: the exponentials of a sum are multiplied, wherever."""

import numpy as np
import pytest
from conftest import usable
from test_fused import hard_rows, hard_to_keep

from fastalign import policy_loss, policy_loss_from_logits, token_log_probs, token_log_probs_grad
from fastalign.backends import CUT
from fastalign.cases import as_dtype, real, widened

INF, NAN = np.inf, np.nan
DTYPES = ("float32", "float64", "float16", "bfloat16")
# Rows of few columns and of some, which are summed otherwise; as few as are kept; of a tile and a bit; of many.
WIDTHS = (5, 33, 512, 513, 2049, 20_000)


def rows(dtype, width):
    """Ordinary rows, the hard ones, and those without probabilities; tokens, old log-probabilities and advantages."""
    rng = np.random.default_rng(width)
    hard, tokens = hard_rows(width)
    bad = rng.standard_normal((6, width))
    bad[0, 1], bad[1, -1], bad[2], bad[3, 0], bad[4], bad[5] = NAN, INF, -INF, -INF, 0.0, NAN
    x = np.concatenate([rng.standard_normal((30, width)) * 3, hard, bad])
    tokens = np.concatenate([rng.integers(0, width, 30), tokens, rng.integers(0, width, 6)])
    with np.errstate(over="ignore"):
        x = as_dtype(np.clip(x, -6e4, 6e4) if dtype == "float16" else x, dtype)
    old = (rng.standard_normal(len(x)) - np.log(width)).astype(real(dtype))
    advantages = rng.standard_normal(len(x)).astype(real(dtype))
    advantages[::11] = 0.0
    return x, tokens, old, advantages


@pytest.mark.parametrize("coef, temperature", [(0.0, 0.7), (0.0, 1e25), (0.1, 0.7)])
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_in_place_it_is_the_same_to_the_bit(dtype, width, coef, temperature):
    usable("numba")
    x, tokens, old, advantages = rows(dtype, width)
    mask = np.arange(len(x)) % 7 != 2
    options = {"temperature": temperature, "entropy_coef": coef, "log_ratio_clamp": 3.0}
    named = {"mask": mask, "backend": "numba", **options}
    want = policy_loss_from_logits(x, tokens, old, advantages, **named)
    given = np.empty_like(x)
    policy_loss_from_logits(x, tokens, old, advantages, out=given, **named)
    got = policy_loss_from_logits(x, tokens, old, advantages, out=x, **named)
    bits = np.dtype(f"u{x.itemsize}")
    np.testing.assert_array_equal(x.view(bits), want.grad_logits.view(bits))
    np.testing.assert_array_equal(given.view(bits), want.grad_logits.view(bits))
    np.testing.assert_array_equal(got.logp, want.logp)
    assert repr((got.loss, got.metrics)) == repr((want.loss, want.metrics))
    assert not x[~mask].view(bits).any() and not got.logp[~mask].any()


@pytest.mark.parametrize("coef", [0.0, 0.1])
@pytest.mark.parametrize("width", [513, 2049, 20_000])
@pytest.mark.parametrize("dtype", DTYPES)
def test_each_row_is_as_by_the_separate_calls(dtype, width, coef):
    """Rows that cannot be kept, and rows without probabilities, between others."""
    usable("numba")
    x, tokens, old, advantages = rows(dtype, width)
    named = {"log_ratio_clamp": 3.0, "aggregation": "token_sum", "backend": "numba"}
    got = policy_loss_from_logits(x, tokens, old, advantages, temperature=0.7, entropy_coef=coef, **named)
    forward = token_log_probs(x, tokens, temperature=0.7, backend="numba")
    np.testing.assert_array_equal(got.logp, forward.logp)
    slope = policy_loss(forward.logp, old, advantages, **named).grad_log_probs
    exact, by = widened("logits", x), slope.astype(np.float64)
    pull = {"grad_entropy": np.full(len(x), -coef)} if coef else {}
    want = token_log_probs_grad(exact, tokens, by, temperature=0.7, backend="numpy", **pull)
    eps = {"float16": 1e-3, "bfloat16": 4e-3, "float32": 2e-6, "float64": 1e-14}[dtype]
    slopes = widened("logits", got.grad_logits)
    np.testing.assert_array_equal(np.isnan(slopes), np.isnan(want))
    np.testing.assert_allclose(slopes, want, rtol=eps, atol=eps * np.nanmax(np.abs(want)))
    still = (slope == 0) & np.isfinite(forward.logp)
    assert still.sum() > 3 and (coef or not slopes[still].any())


@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
def test_rows_of_several_parts(dtype, in_place):
    usable("numba")
    hard_to_keep("numba", 2 * CUT + 5, dtype, in_place)


def test_tallies_beyond_a_real():
    """Sums of a loss in double, and of each tally what the separate calls say."""
    usable("numba")
    rng = np.random.default_rng(2)
    x, tokens = rng.standard_normal((40, 600)).astype(np.float32), rng.integers(0, 600, 40)
    old, advantages = token_log_probs(x, tokens).logp, np.full(40, 3e38, np.float32)
    old[:9] += 0.5
    got = policy_loss_from_logits(x, tokens, old, advantages, backend="numba")
    want = policy_loss(token_log_probs(x, tokens, backend="numba").logp, old, advantages, backend="numpy")
    assert np.isfinite(got.loss) and got.loss == pytest.approx(want.loss, rel=1e-6)
    assert got.metrics == pytest.approx(want.metrics, rel=1e-6, abs=1e-7)
    advantages[7] = NAN
    lost = policy_loss_from_logits(x, tokens, old, advantages, backend="numba")
    assert np.isnan(lost.loss) and np.isnan(lost.grad_logits[7]).all() and np.isfinite(lost.grad_logits[8:]).all()


def test_what_cannot_be_written_needs_no_kernel_of_its_own():
    usable("numba")
    from fastalign.backends.numba_cpu.row_policy import policy_kernel

    x, tokens, old, advantages = rows("float32", 600)
    want = policy_loss_from_logits(x, tokens, old, advantages, backend="numba")
    for given in (x, tokens, old, advantages):
        given.flags.writeable = False
    got = policy_loss_from_logits(x, tokens, old, advantages, backend="numba")
    np.testing.assert_array_equal(got.grad_logits, want.grad_logits)
    assert len(policy_kernel("f32").signatures) == 1
