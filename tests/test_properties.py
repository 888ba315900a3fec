"""What must hold for any input, searched by hypothesis."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fastalign import (
    available_backends,
    discounted_returns,
    gae,
    kl_divergence,
    kl_estimate,
    policy_loss,
    preference_loss,
    reward_model_loss,
    sequence_log_probs,
    sequence_log_probs_grad,
    token_log_probs,
    token_log_probs_grad,
)

# Not numba: what it compiles for a new dtype or dimension takes seconds of a search.
BACKENDS = st.sampled_from([name for name in ("numpy", "cython") if available_backends()[name] is None])
EPS = np.finfo(np.float64).eps


def floats(low, high):
    return st.floats(low, high, width=64)


@st.composite
def rows(draw, most=50.0):
    shape = (draw(st.integers(1, 4)), draw(st.integers(1, 40)))
    logits = draw(hnp.arrays(np.float64, shape, elements=floats(-most, most)))
    return logits, draw(hnp.arrays(np.int64, shape[0], elements=st.integers(0, shape[1] - 1)))


@given(rows(), BACKENDS)
def test_probabilities_are_probabilities(given_rows, backend):
    logits, tokens = given_rows
    got = token_log_probs(logits, tokens, entropy=True, backend=backend)
    assert (got.logp <= 4 * EPS * np.abs(logits).max()).all()
    assert (got.entropy >= -1e-12).all() and (got.entropy <= math.log(logits.shape[1]) + 1e-12).all()
    np.testing.assert_allclose(got.lse, np.logaddexp.reduce(logits, axis=1), rtol=1e-13, atol=1e-13)


@given(rows(), floats(-1000, 1000), BACKENDS)
def test_a_shift_of_all_logits_changes_nothing(given_rows, shift, backend):
    logits, tokens = given_rows
    a, b = (token_log_probs(x, tokens, entropy=True, backend=backend) for x in (logits, logits + shift))
    np.testing.assert_allclose(b.logp, a.logp, rtol=0, atol=1e-12 * max(1, abs(shift)))
    np.testing.assert_allclose(b.entropy, a.entropy, rtol=0, atol=1e-11 * max(1, abs(shift)))
    np.testing.assert_allclose(b.lse, a.lse + shift, rtol=0, atol=1e-12 * max(1, abs(shift)))


@given(rows(), floats(0.1, 10), BACKENDS)
def test_gradients_of_logits_sum_to_that_of_lse(given_rows, temperature, backend):
    """A shift changes neither logp nor entropy, and lse by itself."""
    logits, tokens = given_rows
    ones = np.ones(len(tokens))
    named = {"grad_entropy": 2 * ones, "temperature": temperature, "backend": backend}
    grad = token_log_probs_grad(logits, tokens, 3 * ones, **named)
    np.testing.assert_allclose(grad.sum(axis=1), 0, atol=1e-10 * (1 + 1 / temperature) * 100)
    with_lse = token_log_probs_grad(logits, tokens, 3 * ones, grad_lse=ones, **named)
    np.testing.assert_allclose(with_lse.sum(axis=1), 1 / temperature, rtol=1e-10, atol=1e-8)


@given(rows(10.0), st.randoms(use_true_random=False), BACKENDS)
def test_the_order_of_the_vocabulary_does_not_matter(given_rows, random, backend):
    logits, tokens = given_rows
    order = list(range(logits.shape[1]))
    random.shuffle(order)
    place = np.argsort(order)
    a = token_log_probs(logits, tokens, entropy=True, backend=backend)
    b = token_log_probs(logits[:, order], place[tokens], entropy=True, backend=backend)
    for x, y in zip(a[:3], b[:3], strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-12, atol=1e-12)


@st.composite
def streams(draw):
    shape = (draw(st.integers(1, 12)), draw(st.integers(1, 3)))
    values = hnp.arrays(np.float64, shape, elements=floats(-10, 10))
    flags = hnp.arrays(np.bool_, shape)
    last = draw(hnp.arrays(np.float64, shape[1], elements=floats(-10, 10)))
    return draw(values), draw(values), draw(flags), last


@given(streams(), floats(0, 1), BACKENDS)
def test_lambda_zero_is_the_td_error(given_streams, gamma, backend):
    rewards, values, ended, last = given_streams
    following = np.concatenate([values[1:], last[None]])
    want = rewards + gamma * np.where(ended, 0, following) - values
    got, returns = gae(rewards, values, ended, last_values=last, gamma=gamma, lam=0, backend=backend)
    np.testing.assert_allclose(got, want, rtol=1e-13, atol=1e-13)
    np.testing.assert_array_equal(returns, got + values)


@given(streams(), floats(0, 1), BACKENDS)
def test_lambda_one_is_the_return_less_the_value(given_streams, gamma, backend):
    rewards, values, ended, last = given_streams
    _, returns = gae(rewards, values, ended, last_values=last, gamma=gamma, lam=1, backend=backend)
    want = discounted_returns(rewards, ended, last_values=last, gamma=gamma, backend=backend)
    np.testing.assert_allclose(returns, want, rtol=1e-11, atol=1e-11)


def nearly_equal(got, want, *given):
    """To roundings of what is summed up: along a line neighbours are added first, by their place in it."""
    scale = len(given[0]) * (1 + max(np.abs(x).max() for x in given))
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-15 * scale)


@given(streams(), streams(), BACKENDS)
def test_concatenated_episodes_are_separate_ones(one, other, backend):
    (r1, v1, e1, _), (r2, v2, e2, last) = ((x[0][:, 0], x[1][:, 0], x[2][:, 0], x[3][0]) for x in (one, other))
    e1[-1] = True
    joined = [np.concatenate(pair) for pair in ((r1, r2), (v1, v2), (e1, e2))]
    got = gae(*joined, last_values=last, backend=backend)
    apart = gae(r1, v1, e1, backend=backend), gae(r2, v2, e2, last_values=last, backend=backend)
    for k in range(2):
        nearly_equal(got[k], np.concatenate([apart[0][k], apart[1][k]]), *joined[:2], last)


@given(streams(), BACKENDS)
def test_layouts_agree(given_streams, backend):
    rewards, values, ended, last = given_streams
    a = gae(rewards, values, ended, last_values=last, backend=backend)
    b = gae(rewards.T, values.T, ended.T, last_values=last, layout="NT", backend=backend)
    for x, y in zip(a, b, strict=True):
        nearly_equal(x, y.T, rewards, values, last)


@pytest.mark.parametrize("ends", [0.0, 0.001, 0.05])
def test_a_long_stream_is_its_episodes(compiled, ends):
    """Long enough to be walked in several chains at once, or along a line."""
    rng = np.random.default_rng(4)
    n = 20_000
    rewards, values = rng.standard_normal((2, n))
    ended = rng.random(n) < ends
    got = gae(rewards, values, ended, last_values=0.3, backend=compiled)
    bounds = [0, *(np.flatnonzero(ended) + 1), n]
    for start, end in zip(bounds, bounds[1:], strict=False):
        piece = slice(start, end)
        last = 0.3 if end == n else 0.0
        want = gae(rewards[piece], values[piece], ended[piece], last_values=last, backend="numpy")
        for g, w in zip(got, want, strict=True):
            np.testing.assert_allclose(g[piece], w, rtol=1e-12, atol=1e-12)


@st.composite
def several(draw, count, low=-30.0, high=30.0, least=1):
    n = draw(st.integers(least, 30))
    return [draw(hnp.arrays(np.float64, n, elements=floats(low, high))) for _ in range(count)]


@given(several(4), floats(0.01, 5), floats(0, 1), BACKENDS)
def test_dpo_swapped(logps, beta, smoothing, backend):
    """To exchange the answers of each pair is to smooth by 1 − ε."""
    a, b, c, d = logps
    one = preference_loss(a, b, c, d, beta=beta, label_smoothing=smoothing, backend=backend)
    two = preference_loss(b, a, d, c, beta=beta, label_smoothing=1 - smoothing, backend=backend)
    assert one.loss == pytest.approx(two.loss, rel=1e-9, abs=1e-12)
    np.testing.assert_allclose(one.grad_chosen, two.grad_rejected, rtol=1e-9, atol=1e-12)
    assert one.loss >= 0 and np.isfinite(one.grad_chosen).all()
    np.testing.assert_array_equal(one.grad_chosen, -one.grad_rejected)


@given(several(2), BACKENDS)
def test_bradley_terry_is_dpo_of_rewards(rewards, backend):
    won, lost = rewards
    none = np.zeros_like(won)
    loss, grad, _ = reward_model_loss(won, lost, backend=backend)
    other = preference_loss(won, lost, none, none, beta=1.0, backend=backend)
    assert loss == pytest.approx(other.loss, rel=1e-14)
    np.testing.assert_allclose(grad, other.grad_chosen, rtol=1e-14)


@given(several(3, -5.0, 0.0), floats(0, 0.5), st.randoms(use_true_random=False), BACKENDS)
def test_ppo_bounds_and_order(arrays, clip, random, backend):
    new, old, advantages = arrays
    advantages = advantages + 2.5
    got = policy_loss(new, old, advantages, clip_low=clip, backend=backend)
    ratio = np.exp(new - old)
    assert got.loss >= -np.mean(ratio * advantages) - 1e-12 * np.abs(ratio * advantages).max(initial=1)
    order = list(range(len(new)))
    random.shuffle(order)
    other = policy_loss(new[order], old[order], advantages[order], clip_low=clip, backend=backend)
    np.testing.assert_array_equal(got.grad_log_probs[order], other.grad_log_probs)
    assert got.loss == pytest.approx(other.loss, rel=1e-12, abs=1e-12)
    assert 0 <= got.metrics["clip_ratio/region_mean"] <= got.metrics["clipfrac"] <= 1


@given(several(2, -20.0, 0.0), BACKENDS)
def test_divergences_are_not_negative(arrays, backend):
    p, q = arrays
    assert (kl_estimate(p, q, estimator="k3", backend=backend).value >= 0).all()
    assert (kl_estimate(p, q, estimator="k2", backend=backend).value >= 0).all()
    p, q = p - np.logaddexp.reduce(p), q - np.logaddexp.reduce(q)
    assert kl_divergence(p, q, backend=backend) >= -1e-12
    assert kl_divergence(p, p, backend=backend) == 0


@st.composite
def batches(draw):
    lengths = draw(st.lists(st.integers(0, 40), min_size=1, max_size=6))
    width = max(lengths)
    padded = draw(hnp.arrays(np.float64, (len(lengths), width), elements=floats(-20, 0)))
    return padded, np.arange(width) < np.array(lengths)[:, None], np.array([0, *np.cumsum(lengths)])


@given(batches(), st.sampled_from(["sum", "mean"]), BACKENDS)
def test_packed_is_padded(given_batch, reduction, backend):
    padded, mask, bounds = given_batch
    named = {"reduction": reduction, "backend": backend}
    a = sequence_log_probs(padded, mask=mask, **named)
    b = sequence_log_probs(padded[mask], cu_seqlens=bounds, **named)
    np.testing.assert_array_equal(a, b)
    grad = sequence_log_probs_grad(a, mask=mask, **named)
    np.testing.assert_array_equal(grad[mask], sequence_log_probs_grad(a, cu_seqlens=bounds, **named))
    assert not grad[~mask].any()
    # <g, sum(x)> = <spread(g), x>: the two are adjoint
    np.testing.assert_allclose((grad * padded).sum(), (a * a).sum(), rtol=1e-10, atol=1e-10)
