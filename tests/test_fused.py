"""From logits to loss and back: what the separate calls give, in less memory."""

import tracemalloc

import numpy as np
import pytest

from fastalign import policy_loss, policy_loss_from_logits, token_log_probs, token_log_probs_grad


def inputs(rows=23, vocabulary=700, dtype=np.float32):
    rng = np.random.default_rng(6)
    logits = (rng.standard_normal((rows, vocabulary)) * 3).astype(dtype)
    tokens = rng.integers(0, vocabulary, rows)
    real = np.float64 if dtype == np.float64 else np.float32
    old = token_log_probs(logits, tokens).logp + rng.standard_normal(rows).astype(real)
    return logits, tokens, old, rng.standard_normal(rows).astype(real)


@pytest.mark.parametrize("few", [1, 1 << 14, 1 << 30])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("aggregation, coef", [("token_mean", 0.02), ("token_sum", 0.02), ("token_mean", 0.0)])
def test_it_is_the_separate_calls(backend, monkeypatch, few, dtype, aggregation, coef):
    """However many rows are walked at a time; the exponentials are kept for the way back."""
    monkeypatch.setattr("fastalign.policy_rows.CACHED", few)
    logits, tokens, old, advantages = inputs(dtype=dtype)
    mask = np.arange(23) % 4 != 1
    named = {"clip_high": 0.3, "aggregation": aggregation, "backend": backend}
    forward = token_log_probs(logits, tokens, temperature=0.8, mask=mask, entropy=True, backend=backend)
    loss = policy_loss(forward.logp, old, advantages, mask=mask, **named)
    weight = 1 / mask.sum() if aggregation == "token_mean" else 1.0
    grad = token_log_probs_grad(
        logits, tokens, loss.grad_log_probs, grad_entropy=np.full(23, -coef * weight), lse=forward.lse,
        entropy=forward.entropy, temperature=0.8, mask=mask, backend=backend,
    )  # fmt: skip
    got = policy_loss_from_logits(
        logits, tokens, old, advantages, mask=mask, temperature=0.8, entropy_coef=coef, **named
    )
    tolerance = 1e-3 if dtype == np.float16 else 2e-6 if dtype == np.float32 else 1e-13
    np.testing.assert_allclose(got.grad_logits, grad, rtol=tolerance, atol=tolerance * np.abs(grad).max())
    np.testing.assert_array_equal(got.logp, forward.logp)
    assert got.loss == pytest.approx(loss.loss - coef * weight * forward.entropy.sum(dtype=np.float64), rel=1e-6)
    if coef:
        spread = got.metrics.pop("entropy")
        assert spread == pytest.approx(forward.entropy.sum(dtype=np.float64) / mask.sum(), rel=1e-6)
    assert got.metrics == pytest.approx(loss.metrics, rel=1e-6)


@pytest.mark.parametrize("coef", [0.0, 0.3])
def test_the_gradient_is_the_derivative_of_the_loss(backend, coef):
    logits, tokens, old, advantages = inputs(5, 7, np.float64)
    named = {"entropy_coef": coef, "temperature": 1.4, "backend": backend}
    grad = policy_loss_from_logits(logits, tokens, old, advantages, **named).grad_logits
    h = 1e-6
    for place in np.ndindex(logits.shape):
        step = np.zeros_like(logits)
        step[place] = h
        above, below = (
            policy_loss_from_logits(logits + sign * step, tokens, old, advantages, **named).loss for sign in (1, -1)
        )
        assert grad[place] == pytest.approx((above - below) / (2 * h), rel=1e-5, abs=1e-8)


def test_in_place(backend):
    logits, tokens, old, advantages = inputs()
    want = policy_loss_from_logits(logits, tokens, old, advantages, backend=backend)
    got = policy_loss_from_logits(logits, tokens, old, advantages, out=logits, backend=backend)
    assert got.grad_logits is logits and got.loss == want.loss
    np.testing.assert_array_equal(logits, want.grad_logits)


def hard_rows(width):
    """Rows whose peak rises and falls by little and by more than an exponential can hold, and their tokens."""
    x, inf = np.zeros((12, width)), np.inf
    rise = np.linspace(0, 1, width)
    x[0], x[1], x[2], x[3] = 3 * rise, 60 * rise, 3000 * rise, -3000 * rise
    x[4] = 1e30 * rise
    x[5, : width // 2] = -inf  # nothing in the first tiles
    x[6, width // 2 :] = -inf
    x[7, :-1] = -inf  # a probability of 1
    x[8], x[8, 0], x[8, -1] = -40 * rise, -500, 20
    x[9] = np.random.default_rng(1).permutation(200 * rise)
    x[10] = -3e4
    x[11] = 80 * (rise * 20 % 1)
    return x, np.array([width - 1, 0, width - 1, 0, width - 1, width - 1, 0, width - 1, 0, 0, width // 2, 0])


def hard_to_keep(backend, width, dtype, in_place, coef=0.0):
    x, tokens = hard_rows(width)
    with np.errstate(over="ignore"):
        x = np.where(np.isfinite(x), np.clip(x, -6e4, 6e4), x).astype(dtype) if dtype == np.float16 else x.astype(dtype)
    exact, real, one = x.astype(np.float64), np.float64 if dtype == np.float64 else np.float32, np.ones(len(x))
    tolerance = {np.float16: 1e-3, np.float32: 2e-6, np.float64: 1e-14}[dtype]
    # The slope is that of a ratio of 1, whatever the log-probability.
    spread = {"grad_entropy": np.full(len(x), -coef)} if coef else {}
    want = token_log_probs_grad(exact, tokens, -one, **spread, backend="numpy")
    forward = token_log_probs(x, tokens, backend=backend).logp
    alone = token_log_probs_grad(x, tokens, -one.astype(real), **spread, backend=backend)
    np.testing.assert_allclose(alone.astype(np.float64), want, atol=tolerance, rtol=0)
    named = {"clip_low": 1.0, "aggregation": "token_sum", "log_ratio_clamp": None, "backend": backend}
    got = policy_loss_from_logits(x, tokens, forward, one, out=x if in_place else None, entropy_coef=coef, **named)
    np.testing.assert_array_equal(got.logp, forward)
    truth = token_log_probs(exact, tokens, backend="numpy").logp.astype(real)
    np.testing.assert_allclose(got.logp, truth, rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(got.grad_logits.astype(np.float64), want, atol=tolerance, rtol=0)
    nothing = np.isneginf(exact)
    nothing[np.arange(len(x)), tokens] = False
    assert not got.grad_logits[nothing].any()


@pytest.mark.parametrize("coef", [0.0, 0.1])
@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
@pytest.mark.parametrize("width", [2, 511, 1024, 20_000])
def test_rows_that_are_hard_to_keep(backend, width, dtype, in_place, coef):
    hard_to_keep(backend, width, dtype, in_place, coef)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("width", [511, 20_000, 600_000])
def test_every_build_keeps_them(monkeypatch, width, dtype):
    """Also of more columns than are summed as one part."""
    from conftest import usable

    from fastalign.backends import cython_cpu

    usable("cython")
    for isa in cython_cpu.isas():
        monkeypatch.setattr(cython_cpu, "core", lambda isa=isa: cython_cpu.load(isa))
        hard_to_keep("cython", width, dtype, True)


@pytest.mark.parametrize("advantage", [np.nan, np.inf, -np.inf, 0.0])
@pytest.mark.parametrize("in_place", [False, True])
def test_odd_advantages(backend, advantage, in_place):
    """As by the separate calls: where a probability is nothing, so is its gradient."""
    x, tokens, old, _ = inputs(2, 600)
    x[0, 100:200] = -np.inf
    tokens[0], advantages = 5, np.array([advantage, 1.0], np.float32)
    forward = token_log_probs(x, tokens, backend=backend)
    slope = policy_loss(forward.logp, old, advantages, backend=backend).grad_log_probs
    want = token_log_probs_grad(x, tokens, slope, lse=forward.lse, backend=backend)
    got = policy_loss_from_logits(x, tokens, old, advantages, out=x if in_place else None, backend=backend)
    np.testing.assert_allclose(got.grad_logits, want, rtol=2e-6, atol=1e-9)


def test_in_place_it_allocates_nothing_of_the_size_of_the_logits(backend):
    if backend == "numpy":
        pytest.skip("the reference has temporaries of its own")
    logits, tokens, old, advantages = inputs(256, 8000)
    call = lambda: policy_loss_from_logits(logits, tokens, old, advantages, out=logits, backend=backend)  # noqa: E731
    call()
    tracemalloc.start()
    call()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < logits.nbytes / 50


@pytest.mark.parametrize("coef", [0.0, 0.1])
def test_bits_do_not_depend_on_the_threads(compiled, threads, monkeypatch, coef):
    monkeypatch.setattr("fastalign.threads.WORTH_SHARING", 2)
    monkeypatch.setattr("fastalign.policy_rows.CACHED", 1 << 13)
    arguments = inputs(40, 900)
    threads(1)
    want = policy_loss_from_logits(*arguments, entropy_coef=coef, backend=compiled)
    threads(3)
    got = policy_loss_from_logits(*arguments, entropy_coef=coef, backend=compiled)
    assert got.loss == want.loss and got.metrics == want.metrics
    np.testing.assert_array_equal(got.grad_logits, want.grad_logits)


def test_nothing_kept_and_no_rows(backend):
    logits, tokens, old, advantages = inputs(3, 5)
    got = policy_loss_from_logits(logits, tokens, old, advantages, mask=[0, 0, 0], entropy_coef=1.0, backend=backend)
    assert got.loss == 0 and not got.grad_logits.any() and all(np.isnan(v) for v in got.metrics.values())
    none = policy_loss_from_logits(logits[:0], tokens[:0], old[:0], advantages[:0], backend=backend)
    assert none.loss == 0 and none.grad_logits.shape == (0, 5)


def test_a_bad_row_is_its_own(backend):
    logits, tokens, old, advantages = inputs(6, 50)
    logits[2, 7] = np.nan
    got = policy_loss_from_logits(logits, tokens, old, advantages, backend=backend)
    good = np.arange(6) != 2
    assert np.isnan(got.loss) and np.isnan(got.grad_logits[2]).all() and np.isfinite(got.grad_logits[good]).all()


@pytest.mark.parametrize(
    "change, error, text",
    [
        (
            {"old_log_probs": np.zeros(4)},
            ValueError,
            r"shape \(5,\).*the shape of old_log_probs|old_log_probs has shape",
        ),
        ({"advantages": None}, TypeError, "advantages is None"),
        ({"tokens": np.full(5, 9)}, IndexError, r"tokens\[0\] is 9"),
        ({"entropy_coef": np.inf}, ValueError, "entropy_coef is inf"),
        ({"loss_type": "dpo"}, ValueError, "loss_type is 'dpo'"),
        ({"out": np.zeros((5, 8))}, ValueError, r"out has shape \(5, 8\)"),
    ],
)
def test_bad_input(change, error, text):
    logits, tokens, old, advantages = inputs(5, 7)
    given = {"logits": logits, "tokens": tokens, "old_log_probs": old, "advantages": advantages} | change
    with pytest.raises(error, match=text):
        policy_loss_from_logits(**given)
