"""NaN, infinities, signed zeros, subnormals, rows of nothing, on every host backend."""

import math

import ml_dtypes
import numpy as np
import pytest
from conftest import usable

from fastalign import (
    discounted_returns,
    gae,
    kl_divergence,
    kl_estimate,
    policy_loss,
    preference_loss,
    reward_model_loss,
    selective_log_softmax,
    sequence_log_probs,
    sequence_log_probs_grad,
    token_log_probs,
    token_log_probs_grad,
)

NAN, INF = math.nan, math.inf
# Quiet and signalling, both signs, full payload: none may be taken for a number by a comparison or a bit trick.
NAN_BITS = {
    "float32": np.array([0x7FC00000, 0xFFC00000, 0x7F800001, 0xFF800001, 0x7FFFFFFF], np.uint32).view(np.float32),
    "float64": np.array(
        [0x7FF8000000000000, 0xFFF8000000000000, 0x7FF0000000000001, 0xFFFFFFFFFFFFFFFF], np.uint64
    ).view(np.float64),
    "float16": np.array([0x7E00, 0xFE00, 0x7C01, 0xFFFF], np.uint16).view(np.float16),
    "bfloat16": np.array([0x7FC0, 0xFFC0, 0x7F81, 0xFFFF], np.uint16).view(ml_dtypes.bfloat16),
}
DTYPES = {"float32": np.float32, "float64": np.float64, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}
# Long enough for the vector loops, their unrolled bodies and their remainders.
WIDTHS = (1, 7, 40, 600)


def rows_of(dtype, width, filled, count=1):
    return np.full((count, width), filled, np.float32).astype(DTYPES[dtype])


@pytest.mark.parametrize("filled", [0.0, -INF, 60000.0], ids=["zeros", "-inf", "large"])
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_nan_anywhere_makes_its_row_nan(backend, dtype, width, filled):
    """Every pattern of NaN at every kind of position; the rows around it stay what they were."""
    places = sorted({0, 1, 15, 16, 31, width // 2, width - 2, width - 1} & set(range(width)))
    for pattern in NAN_BITS[dtype]:
        x = rows_of(dtype, width, 0.0, len(places) + 2)
        for k, place in enumerate(places):
            x[k + 1] = filled
            x[k + 1, place] = pattern
        tokens = np.zeros(len(x), np.int64)
        got = token_log_probs(x, tokens, entropy=True, backend=backend)
        grad = token_log_probs_grad(x, tokens, np.ones(len(x)), lse=got.lse, backend=backend)
        for result in (got.logp, got.lse, got.entropy):
            assert np.isnan(result[1:-1]).all(), places
            assert np.isfinite(result[[0, -1]]).all()
        grad = grad.astype(np.float64)
        assert np.isnan(grad[1:-1]).all() and np.isfinite(grad[[0, -1]]).all()


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_infinite_logits(backend, dtype, width):
    x = rows_of(dtype, width, 0.5, 2)
    x[0, width // 2] = INF
    x[1] = -INF
    got = token_log_probs(x, [0, 0], entropy=True, backend=backend)
    assert np.isposinf(got.lse[0]) and np.isneginf(got.lse[1])
    assert np.isnan(got.logp).all() and np.isnan(got.entropy).all()
    assert np.isnan(token_log_probs_grad(x, [0, 0], [1.0, 1.0], backend=backend).astype(np.float64)).all()


@pytest.mark.parametrize("width", [2, 7, 600])
@pytest.mark.parametrize("dtype", DTYPES)
def test_minus_infinity_is_a_probability_of_zero(backend, dtype, width):
    x = rows_of(dtype, width, -INF, 2)
    x[:, 1] = 3.0
    got = token_log_probs(x, [1, 0], entropy=True, backend=backend)
    np.testing.assert_array_equal(got.logp, [0.0, -INF])
    np.testing.assert_array_equal(got.lse, [3.0, 3.0])
    assert (got.entropy >= 0).all() and (got.entropy < 1e-30).all()  # exp is bounded below, at its least normal number
    grad = token_log_probs_grad(x, [1, 0], [1.0, 1.0], grad_entropy=[1.0, 1.0], backend=backend).astype(np.float64)
    np.testing.assert_array_equal(grad[0], 0.0)
    assert grad[1, 0] == 1.0 and grad[1, 1] == -1.0 and not grad[1, 2:].any()


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_vocabulary_of_one(backend, dtype):
    x = rows_of(dtype, 1, 5.0, 3)
    x[1, 0] = -0.0
    got = token_log_probs(x, [0, 0, 0], entropy=True, backend=backend)
    np.testing.assert_array_equal(got.logp, 0.0)
    np.testing.assert_array_equal(got.lse, [5.0, 0.0, 5.0])
    np.testing.assert_array_equal(got.entropy, 0.0)
    grad = token_log_probs_grad(x, [0, 0, 0], [1.0, 2.0, 3.0], grad_entropy=[1.0, 1.0, 1.0], backend=backend)
    np.testing.assert_array_equal(grad.astype(np.float64), 0.0)


@pytest.mark.parametrize("offset", [0.0, 3e4, -3e4])
def test_an_offset_keeps_the_entropy(backend, offset):
    """lse − Σ p z would lose it: at 3e4 a float32 has steps of 0.002."""
    x = np.zeros((1, 1000), np.float32) + np.float32(offset)
    got = token_log_probs(x, [3], entropy=True, backend=backend)
    assert abs(got.entropy[0] - math.log(1000)) < 2e-6 and abs(got.logp[0] + math.log(1000)) < 2e-6


def test_extreme_finite_logits(backend):
    top = np.finfo(np.float32).max
    got = token_log_probs(np.array([[top, -top, 0.0], [-top, -top, -top]], np.float32), [0, 2], backend=backend)
    np.testing.assert_allclose(got.logp, [0.0, -math.log(3)], rtol=1e-6)
    top = np.finfo(np.float64).max
    assert token_log_probs(np.array([[top, 0.0]]), [0], backend=backend).logp[0] == 0.0


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_subnormals_are_numbers(backend, dtype):
    """Nothing is flushed to zero, in whatever mode other libraries have left the processor."""
    tiny = np.finfo(dtype).smallest_subnormal
    x = np.full(9, 3 * tiny, dtype)
    value, grad = kl_estimate(x, np.zeros_like(x), estimator="k1", backend=backend)
    np.testing.assert_array_equal(value, x)
    np.testing.assert_array_equal(grad, 1)
    np.testing.assert_array_equal(discounted_returns(x, x > 0, backend=backend), x)
    np.testing.assert_array_equal(sequence_log_probs(x.reshape(9, 1), backend=backend), x)


def test_underflow_is_no_error(backend):
    """A share of a slope may be subnormal, also where NumPy was told to raise."""
    with np.errstate(all="raise"):
        got = sequence_log_probs_grad(np.array([5e-324, 1e-310]), (2, 3), reduction="mean", backend=backend)
    np.testing.assert_array_equal(got, np.repeat([[5e-324 / 3], [1e-310 / 3]], 3, axis=1))


def test_the_sign_of_zero_is_kept_where_arithmetic_keeps_it(backend):
    x = np.array([-0.0, 0.0])
    value, _ = kl_estimate(x, x, estimator="k1", backend=backend)
    assert not np.signbit(value).any()  # −0 − −0 = +0
    assert (gae(x, x, [1, 1], backend=backend)[0] == 0).all()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_masked_elements_are_not_read(backend, dtype):
    """What is left out may be NaN, may be an invalid token: same bits as if it were absent."""
    rng = np.random.default_rng(3)
    kept = np.arange(12) % 3 != 1
    logits, tokens = rng.standard_normal((12, 50)).astype(dtype), rng.integers(0, 50, 12)
    dirty, odd = logits.copy(), tokens.copy()
    dirty[~kept], odd[~kept] = NAN, 10**9
    wanted = {"entropy": True, "sum_p2": True, "mean_logit": True, "top1": True, "backend": backend}
    want = token_log_probs(logits[kept], tokens[kept], **wanted)
    got = token_log_probs(dirty, odd, mask=kept, **wanted)
    grads = np.where(kept, 1.5, NAN)
    grad = token_log_probs_grad(dirty, odd, grads, mask=kept, backend=backend)
    for g, w in zip(got, want, strict=True):
        np.testing.assert_array_equal(g[kept], w)
        np.testing.assert_array_equal(g[~kept], 0)
    np.testing.assert_array_equal(grad[~kept], 0)
    assert np.isfinite(grad).all()
    a, b, c = rng.standard_normal((3, 12)).astype(dtype)
    want = policy_loss(a[kept], b[kept], c[kept], backend=backend)
    for x in (a, b, c):
        x[~kept] = NAN
    got = policy_loss(a, b, c, mask=kept, backend=backend)
    np.testing.assert_array_equal(got.grad_log_probs[kept], want.grad_log_probs)
    near = 1e-12 if dtype == "float64" else 1e-6  # float32 may be summed in another order
    assert got.loss == pytest.approx(want.loss, rel=near) and not got.grad_log_probs[~kept].any()
    assert got.metrics == pytest.approx(want.metrics, rel=near)


def test_ignore_index(backend):
    x = np.zeros((3, 4))
    got = token_log_probs(x, [1, -100, 2], ignore_index=-100, backend=backend)
    assert got.logp[1] == 0 and got.lse[1] == 0 and got.logp[0] == -math.log(4)
    both = token_log_probs(x, [1, -100, 9], ignore_index=-100, mask=[1, 1, 0], backend=backend)
    np.testing.assert_array_equal(both.logp[1:], 0)


def test_nothing_kept(backend):
    mask = np.zeros((2, 3), bool)
    x = np.full((2, 3), NAN)
    result = policy_loss(x, x, x, mask=mask, backend=backend)
    assert result.loss == 0.0 and not result.grad_log_probs.any()
    assert all(math.isnan(v) for v in result.metrics.values())
    np.testing.assert_array_equal(sequence_log_probs(x, mask=mask, reduction="mean", backend=backend), 0)
    advantages, returns = gae(x, x, mask, mask=mask, backend=backend)
    assert not advantages.any() and not returns.any()
    assert not kl_estimate(x, x, mask=mask, backend=backend).value.any()


def test_no_elements(backend):
    none = np.zeros(0)
    result = preference_loss(none, none, none, none, backend=backend)
    assert result.loss == 0.0 and result.grad_chosen.shape == (0,)
    assert all(math.isnan(v) for v in result.metrics.values())
    loss, *grads = reward_model_loss(none, none, backend=backend)
    assert loss == 0.0 and all(g.shape == (0,) for g in grads)
    assert policy_loss(none, none, none, backend=backend).loss == 0.0
    assert kl_divergence(none, none, backend=backend) == 0.0
    assert token_log_probs(np.zeros((0, 5)), np.zeros(0, int), backend=backend).logp.shape == (0,)
    assert token_log_probs(np.zeros((0, 0)), np.zeros(0, int), backend=backend).logp.shape == (0,)
    assert token_log_probs_grad(np.zeros((2, 0, 5)), np.zeros((2, 0), int), np.zeros((2, 0)), backend=backend).size == 0
    assert gae(none, none, none.astype(bool), backend=backend)[0].shape == (0,)
    assert sequence_log_probs(np.zeros((0, 4)), backend=backend).shape == (0,)
    assert sequence_log_probs(np.zeros((3, 0)), backend=backend).tolist() == [0, 0, 0]
    assert sequence_log_probs(none, cu_seqlens=[0], backend=backend).shape == (0,)


@pytest.mark.parametrize("bad", [NAN, INF, -INF])
def test_special_elements_stay_theirs(backend, bad):
    """Of a pair that is not a number only its own gradient and the sums are touched."""
    x = np.zeros(300)
    y = x.copy()
    y[130] = bad
    result = preference_loss(y, x, x, x, backend=backend)
    untouched = np.arange(300) != 130
    assert (result.grad_chosen[untouched] == -0.05 / 300).all()
    if math.isnan(bad):
        assert math.isnan(result.loss) and math.isnan(result.grad_chosen[130])
    elif bad > 0:
        assert result.loss == pytest.approx(math.log(2) * 299 / 300) and result.grad_chosen[130] == 0
    else:
        assert math.isinf(result.loss) and result.grad_chosen[130] == pytest.approx(-0.1 / 300)


def test_ppo_with_infinite_ratio(backend):
    """r = ∞: the clip holds for A > 0; A = 0 gives 0, not 0 · ∞; for A < 0 the loss is infinite."""
    new, old = np.array([800.0, 800.0, 800.0]), np.zeros(3)
    result = policy_loss(new, old, [1.0, 0.0, -1.0], log_ratio_clamp=None, backend=backend)
    assert result.loss == INF and result.grad_log_probs[0] == 0 and result.grad_log_probs[1] == 0
    for infinite in (800.0, INF):
        metrics = policy_loss([infinite], [0.0], [1.0], log_ratio_clamp=None, backend=backend).metrics
        assert metrics["approx_kl"] == metrics["ratio_mean"] == metrics["ratio_max"] == INF
    bounded = policy_loss(new, old, [1.0, 0.0, -1.0], backend=backend)
    assert bounded.loss == pytest.approx((-1.2 + math.exp(20)) / 3) and not bounded.grad_log_probs.any()
    assert math.isnan(policy_loss([NAN], [0.0], [1.0], backend=backend).metrics["ratio_max"])


def test_sums_of_opposite_infinities_are_nan_and_no_warning(backend):
    """Within a sequence, and of elements too far apart for one block."""
    assert math.isnan(sequence_log_probs([[INF, -INF]], backend=backend)[0])
    x = np.zeros(10_000)
    x[0], x[-1] = INF, -INF
    for given in (x, np.repeat(x, 2)[::2]):
        result = policy_loss(np.zeros(10_000), np.zeros(10_000), given, backend=backend)
        assert math.isnan(result.loss) and result.grad_log_probs[1] == 0


def test_a_recurrence_beyond_float32_is_infinite_and_no_warning(backend):
    x = np.full(3, 3e38, np.float32)
    advantages, _ = gae(x, 0 * x, [0, 0, 0], gamma=1.0, lam=1.0, backend=backend)
    assert advantages.tolist() == [INF, INF, x[2]]


def test_kl_without_probability(backend):
    assert kl_divergence([-INF, 0.0], [-INF, 0.0], backend=backend) == 0.0
    assert kl_divergence([-INF, 0.0], [0.0, -INF], backend=backend) == INF
    assert math.isnan(kl_divergence([NAN], [0.0], backend=backend))


@pytest.mark.parametrize("name", ["cython", "numba"])
def test_a_probability_that_float32_barely_holds_is_none_to_a_compiled_kernel(name):
    usable(name)
    for log_p, dtype, want in ((-86.9, "f4", INF), (-87.1, "f4", 0.0), (-87.1, "f8", INF)):
        assert kl_divergence(np.array([log_p], dtype), np.array([-INF], dtype), backend=name) == want
    assert "log p below −87" in kl_divergence.__doc__


def test_beyond_an_episodes_end_may_be_anything(backend):
    rewards, values = np.array([1.0, 2.0, NAN, NAN]), np.array([0.5, 0.5, NAN, NAN])
    advantages, returns = gae(rewards, values, [0, 1, 0, 0], backend=backend)
    clean = gae(rewards[:2], values[:2], [0, 1], backend=backend)
    np.testing.assert_array_equal(advantages[:2], clean[0])
    np.testing.assert_array_equal(returns[:2], clean[1])
    assert np.isnan(advantages[2:]).all()


def test_overflow_of_a_narrow_gradient_is_infinite(backend):
    x = np.zeros((1, 4), np.float16)
    grad = token_log_probs_grad(x, [0], np.array([1e6], np.float32), backend=backend)
    assert np.isposinf(grad[0, 0]) and np.isneginf(grad[0, 1:]).all()


def test_bits_of_bfloat16_are_bfloat16(backend):
    rng = np.random.default_rng(1)
    typed = rng.standard_normal((5, 33)).astype(ml_dtypes.bfloat16)
    tokens, grads = rng.integers(0, 33, 5), rng.standard_normal(5).astype(np.float32)
    bits = typed.view(np.uint16)
    for a, b in zip(
        token_log_probs(typed, tokens, entropy=True, backend=backend)[:3],
        token_log_probs(bits, tokens, entropy=True, backend=backend)[:3],
        strict=True,
    ):
        np.testing.assert_array_equal(a, b)
    grad_typed = token_log_probs_grad(typed, tokens, grads, backend=backend)
    grad_bits = token_log_probs_grad(bits, tokens, grads, backend=backend)
    assert grad_typed.dtype == typed.dtype and grad_bits.dtype == np.uint16
    np.testing.assert_array_equal(grad_typed.view(np.uint16), grad_bits)


@pytest.mark.parametrize("width", [3, 600])
def test_rows_in_place(backend, width):
    rng = np.random.default_rng(2)
    for dtype in DTYPES.values():
        x = rng.standard_normal((4, width)).astype(dtype)
        tokens, grads = rng.integers(0, width, 4), np.ones(4)
        want = token_log_probs_grad(x, tokens, grads, backend=backend)
        assert token_log_probs_grad(x, tokens, grads, out=x, backend=backend) is x
        np.testing.assert_array_equal(x.view(np.uint8), want.view(np.uint8))


def test_selective_log_softmax_is_the_first_result(backend):
    x = np.random.default_rng(0).standard_normal((3, 4, 5))
    tokens = np.zeros((3, 4), int)
    got = selective_log_softmax(x, tokens, backend=backend)
    np.testing.assert_array_equal(got, token_log_probs(x, tokens, backend=backend).logp)
    assert got.shape == (3, 4)


def test_a_bool_of_any_byte_is_true(backend):
    """What another library stored as True need not be 1."""
    odd = np.array([[2, 1], [4, 0]], np.uint8).view(bool)
    even = odd != 0
    for reduction in ("sum", "mean"):
        for call in (
            lambda m, r=reduction: sequence_log_probs([[1.0, 2.0], [3.0, 4.0]], mask=m, reduction=r, backend=backend),
            lambda m, r=reduction: sequence_log_probs_grad([1.0, 3.0], mask=m, reduction=r, backend=backend),
        ):
            np.testing.assert_array_equal(call(odd), call(even))
    x = np.arange(4.0).reshape(2, 2)
    np.testing.assert_array_equal(gae(x, x, odd, backend=backend), gae(x, x, even, backend=backend))


@pytest.mark.parametrize("offset", [0.0, 100.0, 1e4, 1e6])
def test_a_saved_lse_costs_no_digits(backend, offset):
    """Beyond 64 its rounding would show in every probability: there the row is summed again."""
    rng = np.random.default_rng(0)
    x = (rng.standard_normal((20, 1000)) * 3 + offset).astype(np.float32)
    tokens, ones = x.argmax(axis=1), np.ones(20)
    saved = token_log_probs(x, tokens, entropy=True, backend=backend)
    named = {"grad_entropy": ones, "backend": backend}
    got = token_log_probs_grad(x, tokens, ones, lse=saved.lse, entropy=saved.entropy, **named)
    want = token_log_probs_grad(x.astype(np.float64), tokens, ones, grad_entropy=ones, backend="numpy")
    assert np.abs(got - want).max() < 5e-6


def test_logits_beyond_the_largest_number_once_scaled(backend):
    for dtype, big in ((np.float32, 3e38), (np.float64, 1.7e308)):
        x = np.array([[big, -big, big, 0]], dtype)
        got = token_log_probs(x, [0], temperature=0.5, backend=backend)
        assert got.logp[0] == pytest.approx(-math.log(2)) and got.lse[0] == INF
        grad = token_log_probs_grad(x, [0], [1.0], lse=got.lse, temperature=0.5, backend=backend)
        np.testing.assert_allclose(grad, [[1.0, 0, -1.0, 0]])


def test_ppo_without_advantage_still_tells_a_nan(backend):
    result = policy_loss([NAN, 1.0], [0.0, 0.0], [0.0, 0.0], backend=backend)
    assert math.isnan(result.loss) and math.isnan(result.grad_log_probs[0]) and result.grad_log_probs[1] == 0


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_ppo_beyond_the_bound_of_its_log_ratio(backend, dtype):
    """A NaN of the advantages reaches its element there too; an infinite one has no derivative, finite ones 0."""
    advantages = np.array([NAN, INF, -INF, 1.0, -1.0] * 30, dtype)
    for far in (30.0, -30.0, 900.0):
        for bound in (20.0, 800.0 if far == 900.0 else 1.0):
            new, old = np.full(150, far, dtype), np.zeros(150, dtype)
            result = policy_loss(new, old, advantages, log_ratio_clamp=bound, backend=backend)
            assert math.isnan(result.loss)
            np.testing.assert_array_equal(result.grad_log_probs, np.where(np.isfinite(advantages), 0, NAN))


def test_ppo_of_equal_branches_is_not_clipped(backend):
    """Of an infinite advantage both are infinite: the gradient passes, and none of the elements counts as clipped."""
    result = policy_loss([0.5, -0.5], [0.0, 0.0], [INF, -INF], backend=backend)
    np.testing.assert_array_equal(result.grad_log_probs, [-INF, INF])
    assert result.metrics["clip_ratio/region_mean"] == 0.0 and result.metrics["clipfrac"] == 1.0


@pytest.mark.parametrize("smoothing", [0.0, 1.0])
def test_a_weight_of_zero_does_not_meet_an_infinite_margin(backend, smoothing):
    best = INF if smoothing == 0 else -INF
    result = preference_loss([best], [0.0], label_smoothing=smoothing, backend=backend)
    assert result.loss == 0 and result.grad_chosen[0] == 0
