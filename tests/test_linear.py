"""From hidden states and weights: what the separate calls give on the matrix of logits, which is never there."""

import tracemalloc

import ml_dtypes
import numpy as np
import pytest

import fastalign
from fastalign import (
    at_once,
    linear,
    linear_dpo_loss,
    linear_log_probs,
    linear_log_probs_grad,
    linear_pairs,
    linear_policy_loss,
    policy_loss_from_logits,
    sweeps,
    token_log_probs,
    token_log_probs_grad,
)

ROWS, FEATURES, VOCABULARY = 23, 12, 150
TOLERANCE = {np.dtype(np.float64): 1e-13, np.dtype(np.float32): 2e-6}


@pytest.fixture(params=["at once", "whole", "blocks"])
def width(request, monkeypatch):
    """All logits at once; by tiles, of five blocks of the vocabulary and an odd rest, or of all of it."""
    if request.param != "at once":
        monkeypatch.setattr(at_once, "FEW", 0)
    if request.param == "blocks":
        monkeypatch.setattr(sweeps, "WIDTH", 32)
        monkeypatch.setattr(sweeps, "SAMPLE", 8)
    return request.param


# A row at a time; some; all.  What a piece of the weights may take is an eighth.
BYTES = [1, 4000, 1 << 24]


def inputs(dtype=np.float64, rows=ROWS, scale=1.0, seed=6):
    rng = np.random.default_rng(seed)
    hidden = (rng.standard_normal((rows, FEATURES)) * scale).astype(dtype)
    weight, bias = rng.standard_normal((VOCABULARY, FEATURES)).astype(dtype), rng.standard_normal(VOCABULARY)
    return hidden, weight, rng.integers(0, VOCABULARY, rows), bias.astype(dtype)


def product(hidden, weight, bias=None):
    logits = hidden.astype(np.float64) @ weight.astype(np.float64).T
    return logits if bias is None else logits + bias.astype(np.float64)


def close(got, want, tolerance=None, scale=None):
    assert got.shape == want.shape
    tolerance = tolerance or TOLERANCE[got.dtype]
    largest = scale or max(1e-3, np.abs(want[np.isfinite(want)]).max(initial=0))
    np.testing.assert_allclose(got, want, rtol=tolerance, atol=tolerance * largest)


def slopes(rows=ROWS, dtype=np.float64):
    rng = np.random.default_rng(9)
    return {f"grad_{name}": rng.standard_normal(rows).astype(dtype) for name in ("logp", "lse", "entropy")}


def back(hidden, weight, grad):
    """What a gradient of the logits gives to hidden, weight and bias."""
    grad = grad.astype(np.float64)
    return grad @ weight.astype(np.float64), grad.T @ hidden.astype(np.float64), grad.sum(axis=0)


@pytest.mark.parametrize("max_bytes", BYTES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("offset", [0.0, 3000.0])
def test_log_probs_are_those_of_the_logits(backend, width, max_bytes, dtype, offset):
    """With a log-sum-exp that lies far from 0 as well."""
    hidden, weight, tokens, bias = inputs(dtype)
    bias += dtype(offset)
    want = token_log_probs(product(hidden, weight, bias), tokens, temperature=0.8, entropy=True, backend="numpy")
    got = linear_log_probs(
        hidden, weight, tokens, bias, temperature=0.8, entropy=True, max_bytes=max_bytes, backend=backend
    )
    for g, w in zip(got[:3], want[:3], strict=True):
        assert g.dtype == dtype
        close(g, w, scale=max(10, 2 * offset))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("offset", [-3000.0, 0.0, 20.0, 3000.0])
@pytest.mark.parametrize("low", [-100.0, -6000.0, -np.inf])
def test_a_block_is_summed_as_exactly_as_a_row(backend, width, dtype, offset, low):
    """Whatever its first columns, of which some stand in for a token elsewhere, and its token's logit are."""
    hidden, weight, tokens, bias = inputs(dtype)
    hidden, one = hidden @ weight.T, np.eye(VOCABULARY, dtype=dtype)  # logits whose product rounds nothing
    columns = np.arange(VOCABULARY)
    bias[np.isin(columns, tokens[::2])] += dtype(low)
    bias += dtype(offset)
    for first in (1, 20):
        bias[columns % sweeps.WIDTH < first] += dtype(low)
        logits = hidden + bias
        exact = token_log_probs(logits.astype(np.float64), tokens, entropy=True, backend="numpy")
        row = token_log_probs(logits, tokens, entropy=True, backend=backend)
        got = linear_log_probs(hidden, one, tokens, bias, entropy=True, backend=backend)
        for g, r, x in zip(got[:3], row[:3], exact[:3], strict=True):
            sound = np.isfinite(x)
            np.testing.assert_array_equal(np.isfinite(g), sound)
            scale = np.maximum(1, np.abs(x[sound]))
            off, allowed = (np.abs((y[sound].astype(np.float64) - x[sound]) / scale).max(initial=0) for y in (g, r))
            assert off <= allowed + 4 * np.finfo(dtype).eps


def test_logits_beyond_the_largest_number_once_scaled(backend, width):
    """As whole rows: a block whose first columns are −∞ as well; and no warning."""
    bias = np.zeros(VOCABULARY, np.float32)
    bias[:40] = -np.inf
    bias[[50, 140]] = 3e38
    hidden, weight = np.zeros((2, 1), np.float32), np.zeros((VOCABULARY, 1), np.float32)
    got = linear_log_probs(hidden, weight, [50, 60], bias, temperature=0.5, backend=backend)
    np.testing.assert_allclose(got.logp, [-np.log(2), -np.inf], rtol=1e-6)
    assert (got.lse == np.inf).all()


def test_a_sure_token_keeps_its_digits(backend, width):
    """A log-probability near 0 is not the difference of two large numbers: the last digit of 420 is 6e-14."""
    hidden, weight, _, bias = inputs(np.float64, 2)
    tokens = np.array([100, 100])
    bias[100] = 420.0
    bias[3] = 405.0
    want = token_log_probs(product(hidden, weight, bias), tokens, backend="numpy").logp
    got = linear_log_probs(hidden, weight, tokens, bias, backend=backend).logp
    assert (got < 0).all() and (got > -1e-2).all()
    np.testing.assert_allclose(got, want, rtol=1e-12, atol=4e-16)


def test_what_is_left_of_certainty_keeps_its_digits():
    """Of two blocks, whose log-sum-exps are 50 apart, in nats."""
    base, rest, one = np.array([[700.0], [0.0]]), np.array([[0.0], [400.0]]), np.ones(1, np.int64)
    logp, lse, h = sweeps.merged(base, rest, 0.5, np.zeros(1), one, np.array([[0.0], [0.0]]))
    assert logp[0] == pytest.approx(-np.exp(-50), rel=1e-14) and lse[0] == 400
    assert h[0] == pytest.approx(51 * np.exp(-50), rel=1e-14)
    assert sweeps.merged(base, rest, 0.5, np.zeros(1), 0 * one, None)[0][0] == -50


@pytest.mark.parametrize("max_bytes", BYTES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("saved", [True, False])
@pytest.mark.parametrize("offset", [0.0, 3000.0])
def test_gradients_are_those_of_the_logits(backend, width, monkeypatch, max_bytes, dtype, saved, offset):
    if max_bytes == 4000:
        monkeypatch.setattr(sweeps, "WORTH_KEEPING", 1)
    hidden, weight, tokens, bias = inputs(dtype)
    bias += dtype(offset)
    given = slopes(dtype=dtype)
    logits = product(hidden, weight, bias)
    want = back(hidden, weight, token_log_probs_grad(logits, tokens, **given, temperature=0.8, backend="numpy"))
    forward = linear_log_probs(hidden, weight, tokens, bias, temperature=0.8, entropy=True, backend=backend)
    if saved:
        given |= {"lse": forward.lse, "entropy": forward.entropy}
    got = linear_log_probs_grad(
        hidden, weight, tokens, bias=bias, **given, temperature=0.8, max_bytes=max_bytes, backend=backend
    )
    tolerance = 4e-3 if offset and dtype == np.float32 else 4e-6 if dtype == np.float32 else 1e-11 if offset else 1e-13
    for g, w in zip(got, want, strict=True):
        assert g.dtype == dtype
        close(g, w, tolerance)


@pytest.mark.parametrize("max_bytes", BYTES)
def test_a_saved_log_sum_exp_far_from_0_is_computed_again(backend, width, max_bytes):
    """In float32 its rounding at 3000, 1e-4, would be that of every probability; these logits are exact."""
    hidden, weight, tokens, bias = (np.round(8 * x) / 8 if x.dtype == np.float32 else x for x in inputs(np.float32))
    bias += np.float32(3000)
    one, named = np.ones(ROWS), {"temperature": 0.7, "backend": backend}
    lse = linear_log_probs(hidden, weight, tokens, bias, **named).lse
    exact = token_log_probs_grad(product(hidden, weight, bias), tokens, one, temperature=0.7, backend="numpy")
    got = linear_log_probs_grad(hidden, weight, tokens, one, bias, lse=lse, max_bytes=max_bytes, **named)
    for g, w in zip(got, back(hidden, weight, exact), strict=True):
        close(g, w, 8e-6)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("saved", [True, False])
def test_gradients_are_derivatives(backend, width, bias, saved):
    hidden, weight, tokens, b = (x[:4] if k != 1 else x for k, x in enumerate(inputs()))
    b = inputs()[3] if bias else None
    mask, given = np.array([1, 0, 1, 1]), slopes(4)

    def value(hidden, weight, b):
        r = linear_log_probs(hidden, weight, tokens, b, mask=mask, entropy=True, temperature=1.3, backend=backend)
        return sum(float(x @ given[f"grad_{name}"]) for name, x in zip(("logp", "lse", "entropy"), r[:3], strict=True))

    forward = linear_log_probs(hidden, weight, tokens, b, mask=mask, entropy=True, temperature=1.3, backend=backend)
    kept = {"lse": forward.lse, "entropy": forward.entropy} if saved else {}
    got = linear_log_probs_grad(
        hidden, weight, tokens, bias=b, mask=mask, temperature=1.3, backend=backend, **given, **kept
    )
    h, arrays = 1e-6, [hidden, weight, b]
    for k, x in enumerate(arrays):
        if x is None:
            assert got[k] is None
            continue
        for place in list(np.ndindex(x.shape))[:: 1 if k == 0 else 7]:
            step = np.zeros_like(x)
            step[place] = h
            above, below = (value(*arrays[:k], x + sign * step, *arrays[k + 1 :]) for sign in (1, -1))
            assert got[k][place] == pytest.approx((above - below) / (2 * h), rel=1e-5, abs=1e-7)


@pytest.mark.parametrize("max_bytes", BYTES)
def test_what_is_masked_is_not_read(backend, width, max_bytes):
    hidden, weight, tokens, bias = inputs()
    mask = np.arange(ROWS) % 3 != 1
    want = linear_log_probs(hidden[mask], weight, tokens[mask], bias, entropy=True, backend=backend)
    given = slopes()
    grads = linear_log_probs_grad(
        hidden[mask], weight, tokens[mask], bias=bias, backend=backend, **{k: v[mask] for k, v in given.items()}
    )
    hidden[~mask] = np.nan
    tokens[~mask] = -100
    for x in given.values():
        x[~mask] = np.nan
    for named in ({"mask": mask}, {"ignore_index": -100}, {"mask": mask.astype(np.int64), "ignore_index": -100}):
        got = linear_log_probs(
            hidden, weight, tokens, bias, entropy=True, max_bytes=max_bytes, backend=backend, **named
        )
        for g, w in zip(got[:3], want[:3], strict=True):
            close(g[mask], w)
            assert not g[~mask].any()
        back = linear_log_probs_grad(
            hidden, weight, tokens, bias=bias, **given, max_bytes=max_bytes, backend=backend, **named
        )
        close(back.grad_hidden[mask], grads.grad_hidden)
        assert not back.grad_hidden[~mask].any()
        close(back.grad_weight, grads.grad_weight)
        close(back.grad_bias, grads.grad_bias)


HALVES = {
    "float16": lambda x: x.astype(np.float16),
    "bfloat16": lambda x: x.astype(ml_dtypes.bfloat16),
    "bits": lambda x: x.astype(ml_dtypes.bfloat16).view(np.uint16),
}


@pytest.mark.parametrize("name", HALVES)
@pytest.mark.parametrize("max_bytes", BYTES)
@pytest.mark.parametrize("mixed", [True, False])
def test_halves_are_widened_and_nothing_is_rounded_to_them(backend, width, name, max_bytes, mixed):
    hidden, weight, tokens, bias = inputs(np.float32)
    narrow = [x if mixed and k == 0 else HALVES[name](x) for k, x in enumerate((hidden, weight, bias))]
    wide = [
        (x.view(ml_dtypes.bfloat16) if x.dtype == np.uint16 else x).astype(np.float32).astype(np.float64)
        for x in narrow
    ]
    given = slopes(dtype=np.float32)
    logits = product(*wide)
    want = token_log_probs(logits, tokens, backend="numpy").logp
    got = linear_log_probs(narrow[0], narrow[1], tokens, narrow[2], max_bytes=max_bytes, backend=backend).logp
    assert got.dtype == np.float32
    close(got, want, scale=10)
    grads = linear_log_probs_grad(
        narrow[0], narrow[1], tokens, bias=narrow[2], **given, max_bytes=max_bytes, backend=backend
    )
    exact = back(wide[0], wide[1], token_log_probs_grad(logits, tokens, **given, backend="numpy"))
    for g, w in zip(grads, exact, strict=True):
        assert g.dtype == np.float32
        close(g, w, 4e-6)


def test_two_precisions_meet_in_the_wider(backend, width):
    hidden, weight, tokens, _ = inputs(np.float64)
    narrow = weight.astype(np.float32)
    got = linear_log_probs(hidden, narrow, tokens, backend=backend)
    want = linear_log_probs(hidden, narrow.astype(np.float64), tokens, backend=backend)
    assert got.logp.dtype == np.float64
    close(got.logp, want.logp)


@pytest.mark.parametrize("layout", ["shifted", "transposed", "strided", "swapped bytes", "one row", "three axes"])
def test_arrays_need_not_be_contiguous(backend, width, layout):
    hidden, weight, tokens, _ = inputs(rows=24)
    given = slopes(24)
    h, w, y = hidden, weight, tokens
    if layout == "shifted":
        h, y = hidden.reshape(4, 6, FEATURES)[:, :-1], tokens.reshape(4, 6)[:, 1:]
    elif layout == "transposed":
        h, w = np.asfortranarray(hidden), np.asfortranarray(weight)
    elif layout == "strided":
        h, w = np.repeat(hidden, 2, axis=1)[:, ::2], np.repeat(weight, 2, axis=1)[:, ::2]
    elif layout == "swapped bytes":
        h, w = hidden.astype(">f8"), weight.astype(">f8")
    elif layout == "one row":
        h, y = hidden[0], tokens[0]
    else:
        h, y = hidden.reshape(2, 3, 4, FEATURES), tokens.reshape(2, 3, 4)
    given = {name: x.reshape(-1)[: y.size].reshape(y.shape) for name, x in given.items()}
    flat_h, flat_y = h.reshape(-1, FEATURES).astype(np.float64), y.reshape(-1)
    want = linear_log_probs(np.ascontiguousarray(flat_h), weight, flat_y, backend=backend).logp
    got = linear_log_probs(h, w, y, max_bytes=4000, backend=backend).logp
    close(got, want.reshape(y.shape))
    grads = linear_log_probs_grad(h, w, y, **given, max_bytes=4000, backend=backend)
    exact = linear_log_probs_grad(
        np.ascontiguousarray(flat_h), weight, flat_y, **{name: x.reshape(-1) for name, x in given.items()},
        backend=backend,
    )  # fmt: skip
    close(grads.grad_hidden, exact.grad_hidden.reshape(h.shape))
    close(grads.grad_weight, exact.grad_weight)


@pytest.mark.parametrize("max_bytes", BYTES)
@pytest.mark.parametrize("bias, coef", [(True, 0.0), (False, 0.02)])
@pytest.mark.parametrize("aggregation", ["token_mean", "token_sum"])
def test_the_policy_loss_is_that_of_the_logits(backend, width, monkeypatch, max_bytes, bias, coef, aggregation):
    if max_bytes == 4000:
        monkeypatch.setattr(sweeps, "WORTH_KEEPING", 1)
    hidden, weight, tokens, b = inputs()
    b = b if bias else None
    logits = product(hidden, weight, b)
    rng = np.random.default_rng(2)
    old = token_log_probs(logits, tokens).logp + rng.standard_normal(ROWS) * 0.3
    advantages, mask = rng.standard_normal(ROWS), np.arange(ROWS) % 4 != 1
    named = {"clip_high": 0.3, "aggregation": aggregation, "temperature": 0.8, "entropy_coef": coef, "mask": mask}
    want = policy_loss_from_logits(logits, tokens, old, advantages, **named, backend=backend)
    hidden[~mask], old[~mask], advantages[~mask] = np.nan, np.nan, np.inf
    got = linear_policy_loss(hidden, weight, tokens, old, advantages, b, **named, max_bytes=max_bytes, backend=backend)
    hidden[~mask] = 0
    exact = back(hidden, weight, want.grad_logits)
    assert got.loss == pytest.approx(want.loss, rel=1e-12)
    assert got.metrics == pytest.approx(want.metrics, rel=1e-11)
    close(got.logp, want.logp)
    close(got.grad_hidden, exact[0], 1e-12)
    close(got.grad_weight, exact[1], 1e-12)
    assert (got.grad_bias is None) != bias
    if bias:
        close(got.grad_bias, exact[2], 1e-12)


@pytest.mark.parametrize("max_bytes", BYTES)
@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_the_preference_loss_is_that_of_the_logits(backend, width, max_bytes, packed, reduction):
    hidden, weight, tokens, bias = inputs(rows=28)
    ends = {"chosen": ((4, 4), slice(0, 16), [0, 3, 7, 12, 16]), "rejected": ((4, 3), slice(16, 28), [0, 0, 5, 9, 12])}
    mask = np.arange(28) % 5 != 2
    logits = product(hidden, weight, bias)
    hidden[~mask] = np.nan
    given, unfused = {}, {}
    for side, (shape, rows, bounds) in ends.items():
        lead = (rows.stop - rows.start,) if packed else shape
        for target, name, x in ((given, "hidden", hidden), (unfused, "logits", logits)):
            target[f"{side}_{name}"] = x[rows].reshape(*lead, -1)
        for target in (given, unfused):
            target[f"{side}_tokens"], target[f"{side}_mask"] = tokens[rows].reshape(lead), mask[rows].reshape(lead)
            target[f"ref_{side}_logps"] = np.linspace(-20, -12, 4)
            if packed:
                target[f"{side}_cu_seqlens"] = bounds
    named = {"reduction": reduction, "temperature": 1.2, "beta": 0.3, "label_smoothing": 0.1, "backend": backend}
    want = fastalign.dpo_loss_from_logits(**unfused, **named)
    got = linear_dpo_loss(**given, weight=weight, bias=bias, max_bytes=max_bytes, **named)
    hidden[~mask] = 0
    grads = [g.reshape(-1, VOCABULARY) for g in want[1:3]]
    exact = [back(hidden[ends[side][1]], weight, g) for side, g in zip(ends, grads, strict=True)]
    assert got.loss == pytest.approx(want.loss, rel=1e-12) and got.metrics == pytest.approx(want.metrics, rel=1e-11)
    for name in ("chosen_logps", "rejected_logps", "chosen_rewards", "rejected_rewards"):
        close(getattr(got, name), getattr(want, name))
    close(got.grad_chosen_hidden.reshape(-1, FEATURES), exact[0][0], 1e-12)
    close(got.grad_rejected_hidden.reshape(-1, FEATURES), exact[1][0], 1e-12)
    close(got.grad_weight, exact[0][1] + exact[1][1], 1e-12)
    close(got.grad_bias, exact[0][2] + exact[1][2], 1e-12)


@pytest.mark.parametrize(
    "value, lse, logp",
    [(np.nan, np.nan, np.nan), (np.inf, np.inf, np.nan)],
)
def test_a_bad_logit_is_its_rows_own(backend, width, value, lse, logp):
    """It makes the row NaN, whichever block it is in; the gradients of the weights sum over the rows."""
    hidden, weight, tokens, _ = inputs()
    hidden[:, 0], weight[:, 0] = 0.0, 0.0
    hidden[2, 0], weight[77, 0] = 1.0, value  # 0 · inf is NaN, so that every row is touched there
    bias = np.zeros(VOCABULARY)
    got = linear_log_probs(hidden[2:3], weight, tokens[2:3], bias, entropy=True, backend=backend)
    np.testing.assert_array_equal([x[0] for x in got[:3]], [logp, lse, np.nan])
    for saved in ({}, {"lse": got.lse, "entropy": got.entropy}):
        grads = linear_log_probs_grad(
            hidden[2:3], weight, tokens[2:3], [1.0], bias, grad_entropy=[1.0], backend=backend, **saved
        )
        assert np.isnan(grads.grad_hidden).all() and np.isnan(grads.grad_weight).all()
        assert np.isnan(grads.grad_bias).all()


@pytest.mark.parametrize("ruled_out", [slice(0, 64), slice(70, 75), slice(0, 149)])
def test_logits_of_minus_infinity(backend, width, ruled_out):
    """Whole blocks of them, the token among them or not."""
    hidden, weight, tokens, bias = inputs()
    bias[ruled_out] = -np.inf
    tokens[::2] = 3
    logits = product(hidden, weight, bias)
    want = token_log_probs(logits, tokens, entropy=True, backend="numpy")
    got = linear_log_probs(hidden, weight, tokens, bias, entropy=True, backend=backend)
    for g, w in zip(got[:3], want[:3], strict=True):
        close(g, w, scale=10)
    given = slopes()
    exact = token_log_probs_grad(logits, tokens, **given, backend="numpy")
    for saved in ({}, {"lse": got.lse, "entropy": got.entropy}):
        grads = linear_log_probs_grad(hidden, weight, tokens, bias=bias, **given, backend=backend, **saved)
        for g, w in zip(grads, back(hidden, weight, exact), strict=True):
            close(g, w, 1e-12)


def test_nothing_but_minus_infinity(backend, width):
    hidden, weight, tokens, bias = inputs(rows=2)
    bias[:] = -np.inf
    got = linear_log_probs(hidden, weight, tokens, bias, entropy=True, backend=backend)
    assert (got.lse == -np.inf).all() and np.isnan(got.logp).all() and np.isnan(got.entropy).all()
    grads = linear_log_probs_grad(hidden, weight, tokens, [1.0, 1.0], bias, lse=got.lse, backend=backend)
    assert np.isnan(grads.grad_hidden).all()


def test_blocks_that_lie_far_apart(backend, monkeypatch):
    """Their log-sum-exps differ by more than exp can hold."""
    monkeypatch.setattr(sweeps, "WIDTH", 32)
    hidden, weight, tokens, bias = inputs()
    bias[:32] -= 5000
    tokens[:] = np.arange(ROWS) * 6
    want = token_log_probs(product(hidden, weight, bias), tokens, entropy=True, backend="numpy")
    got = linear_log_probs(hidden, weight, tokens, bias, entropy=True, backend=backend)
    for g, w in zip(got[:3], want[:3], strict=True):
        close(g, w)


def test_empties(backend, width):
    hidden, weight, tokens, bias = inputs()
    none = linear_log_probs(hidden[:0], weight, tokens[:0], bias, entropy=True, backend=backend)
    assert all(x.shape == (0,) for x in none[:3])
    for kept in (slice(0, 0), slice(0, 3)):
        grads = linear_log_probs_grad(
            hidden[kept], weight, tokens[kept], np.ones(ROWS)[kept], bias, mask=np.zeros(ROWS, bool)[kept],
            backend=backend,
        )  # fmt: skip
        assert grads.grad_hidden.shape == hidden[kept].shape
        assert not any(x.any() for x in grads) and grads.grad_weight.shape == weight.shape
    r = linear_policy_loss(hidden[:3], weight, tokens[:3], *np.ones((2, 3)), mask=[0, 0, 0], backend=backend)
    assert r.loss == 0 and not r.grad_weight.any() and all(np.isnan(v) for v in r.metrics.values())
    shape = (0, 3, FEATURES)
    pairs = linear_dpo_loss(
        np.zeros(shape), np.zeros(shape[:2], int), np.zeros(shape), np.zeros(shape[:2], int), weight, backend=backend
    )
    assert pairs.loss == 0 and not pairs.grad_weight.any() and pairs.chosen_logps.shape == (0,)
    assert linear_log_probs(np.zeros((0, 0)), np.zeros((0, 0)), np.zeros(0, int), backend=backend).logp.shape == (0,)


def test_no_features(backend, width):
    """The bias alone is the logits."""
    _, _, tokens, bias = inputs()
    got = linear_log_probs(np.zeros((ROWS, 0)), np.zeros((VOCABULARY, 0)), tokens, bias, backend=backend)
    close(got.logp, token_log_probs(np.tile(bias, (ROWS, 1)), tokens).logp)
    grads = linear_log_probs_grad(
        np.zeros((ROWS, 0)), np.zeros((VOCABULARY, 0)), tokens, np.ones(ROWS), bias, backend=backend
    )
    assert grads.grad_hidden.shape == (ROWS, 0) and grads.grad_weight.shape == (VOCABULARY, 0)
    exact = token_log_probs_grad(np.tile(bias, (ROWS, 1)), tokens, np.ones(ROWS))
    close(grads.grad_bias, exact.sum(axis=0))


@pytest.mark.parametrize("vocabulary", [1, 15, 4000, 4001, 4096, 8192])
def test_blocks_cover_the_vocabulary(vocabulary):
    """Also those of the width in use, and never of rows a multiple of 1 KiB apart."""
    rng = np.random.default_rng(3)
    hidden, weight = rng.standard_normal((3, 2)), rng.standard_normal((vocabulary, 2))
    tokens = np.array([0, vocabulary // 2, vocabulary - 1])
    linear, _ = sweeps.prepare_linear(weight, None, 1.0, 1 << 20, None, hidden=hidden)
    blocks = linear.blocks()
    assert [s for s, _ in blocks[1:]] == [e for _, e in blocks[:-1]]
    assert blocks[0][0] == 0 and blocks[-1][1] == vocabulary and all(s < e for s, e in blocks)
    assert len(blocks) == 1 or blocks[0][1] % 256
    close(linear_log_probs(hidden, weight, tokens).logp, token_log_probs(product(hidden, weight), tokens).logp)


BIG = (512, 16, 16_000)  # 32 MB of float32 logits


@pytest.mark.parametrize("name", ["forward", "saved", "grad", "policy", "narrow policy", "dpo", "bfloat16", "masked"])
def test_memory_stays_within_max_bytes(compiled, name):
    rows, features, vocabulary = BIG
    rng = np.random.default_rng(1)
    hidden = rng.standard_normal((rows, features), np.float32)
    weight, tokens = rng.standard_normal((vocabulary, features), np.float32), rng.integers(0, vocabulary, rows)
    few, mask = np.ones(rows, np.float32), None
    if name == "bfloat16":
        hidden, weight = (x.astype(ml_dtypes.bfloat16) for x in (hidden, weight))
    if name == "masked":
        mask = np.arange(rows) % 2 == 0
    max_bytes = 1 << 19 if name == "narrow policy" else 6 << 20
    named = {"max_bytes": max_bytes, "backend": compiled}
    lse = linear_log_probs(hidden, weight, tokens, **named).lse
    three, two = hidden.reshape(2, -1, features), tokens.reshape(2, -1)
    call = {
        "forward": lambda: linear_log_probs(hidden, weight, tokens, entropy=True, **named),
        "saved": lambda: linear_log_probs_grad(hidden, weight, tokens, few, lse=lse, **named),
        "policy": lambda: linear_policy_loss(hidden, weight, tokens, few, few, entropy_coef=0.1, **named),
        "dpo": lambda: linear_dpo_loss(three, two, three, two, weight, **named),
    }
    call["narrow policy"] = call["policy"]
    work = call.get(name, lambda: linear_log_probs_grad(hidden, weight, tokens, few, mask=mask, **named))
    work()  # what is compiled or loaded once is not counted
    tracemalloc.start()
    result = work()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    own = sum(x.nbytes for x in result if isinstance(x, np.ndarray))
    assert peak - own < max_bytes + (1 << 19)  # some numbers per row
    assert peak - own > max_bytes / 4 or name == "bfloat16"  # and it is made use of


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_what_weights_take_is_bounded_too(compiled, dtype):
    """Their gradient is a result; what is added to it, and weights to be widened, come in pieces."""
    rng = np.random.default_rng(1)
    hidden, weight = (rng.standard_normal(shape).astype(dtype) for shape in ((300, 256), (8000, 256)))
    tokens, one = rng.integers(0, 8000, 300), np.ones(300)
    lse = linear_log_probs(hidden, weight, tokens).lse
    work = lambda: linear_log_probs_grad(  # noqa: E731
        hidden, weight, tokens, one, lse=lse, max_bytes=2 << 20, backend=compiled
    )
    work()
    tracemalloc.start()
    result = work()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak - result.grad_hidden.nbytes - result.grad_weight.nbytes < (2 << 20) + (1 << 17)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_bits_do_not_depend_on_the_threads(compiled, threads, monkeypatch, dtype):
    monkeypatch.setattr("fastalign.threads.WORTH_SHARING", 2)
    monkeypatch.setattr("fastalign.policy_rows.CACHED", 1 << 13)
    monkeypatch.setattr(sweeps, "WIDTH", 48)
    hidden, weight, tokens, bias = inputs(dtype)
    old, advantages = np.full((2, ROWS), -5, dtype)
    calls = (
        lambda: linear_log_probs(hidden, weight, tokens, bias, entropy=True, backend=compiled),
        lambda: linear_log_probs_grad(hidden, weight, tokens, np.ones(ROWS, dtype), bias, backend=compiled),
        lambda: linear_policy_loss(hidden, weight, tokens, old, advantages, bias, max_bytes=1, backend=compiled),
    )
    for call in calls:
        threads(1)
        want = call()
        threads(3)
        for g, w in zip(call(), want, strict=True):
            np.testing.assert_equal(g, w)


class OnADevice:
    __cuda_array_interface__ = {"shape": (5, FEATURES), "typestr": "<f4", "data": (0, False), "version": 3}


HIDDEN, WEIGHT, TOKENS, BIAS = inputs(rows=5)


@pytest.mark.parametrize(
    "change, error, text",
    [
        ({"hidden": OnADevice()}, TypeError, "hidden lies on a device; expected a host array"),
        ({"weight": OnADevice()}, TypeError, "weight lies on a device"),
        ({"tokens": OnADevice()}, TypeError, "tokens lies on a device"),
        ({"mask": OnADevice()}, TypeError, "mask lies on a device"),
        ({"bias": OnADevice()}, TypeError, "bias lies on a device"),
        ({"hidden": None}, TypeError, "hidden is None"),
        ({"hidden": 1.0, "tokens": 0}, ValueError, r"hidden has shape \(\); expected at least one axis"),
        ({"hidden": HIDDEN.astype(complex)}, TypeError, "hidden has dtype complex128"),
        ({"weight": WEIGHT.astype(str)}, TypeError, "weight has dtype <U"),
        ({"weight": WEIGHT.T}, ValueError, r"weight has shape \(12, 150\); expected \(V, 12\), as hidden"),
        ({"weight": WEIGHT[0]}, ValueError, r"weight has shape \(12,\); expected a 2-D array"),
        ({"weight": WEIGHT[:0]}, ValueError, "the vocabulary is empty"),
        ({"bias": BIAS[:-1]}, ValueError, r"bias has shape \(149,\); expected \(150,\)"),
        ({"bias": BIAS.astype(str)}, TypeError, "bias has dtype <U"),
        ({"tokens": TOKENS[:-1]}, ValueError, r"tokens has shape \(4,\); expected \(5,\), the shape of hidden without"),
        ({"tokens": np.array([0, 1, 150, -1, 0])}, IndexError, r"tokens\[2\] is 150; expected 0 <= token < 150"),
        ({"tokens": np.array([0, -100, 0, 0, 0])}, IndexError, r"tokens\[1\] is -100.*ignore_index=-100 skips"),
        ({"tokens": TOKENS * 1.0}, TypeError, "tokens has dtype float64"),
        ({"mask": [1, 0, 2, 1, 1]}, ValueError, r"mask\[2\] is 2"),
        ({"mask": np.ones(4, bool)}, ValueError, r"mask has shape \(4,\)"),
        ({"temperature": 0.0}, ValueError, "temperature is 0.0"),
        ({"max_bytes": 0}, ValueError, "max_bytes is 0; expected a positive integer"),
        ({"max_bytes": 1e9}, ValueError, "max_bytes is 1000000000.0; expected a positive integer"),
        ({"backend": "torch"}, ValueError, "backend is 'torch'"),
    ],
)
def test_bad_input(change, error, text):
    given = {"hidden": HIDDEN, "weight": WEIGHT, "tokens": TOKENS} | change
    with pytest.raises(error, match=text):
        linear_log_probs(**given)
    with pytest.raises(error, match=text):
        linear_log_probs_grad(**given, grad_logp=np.ones(5))
    with pytest.raises(error, match=text):
        linear_policy_loss(**given, old_log_probs=np.ones(5), advantages=np.ones(5))


@pytest.mark.parametrize(
    "change, error, text",
    [
        ({"grad_logp": None}, TypeError, "grad_logp is None"),
        ({"grad_logp": np.ones(4)}, ValueError, r"grad_logp has shape \(4,\); expected \(5,\), the shape of tokens"),
        ({"lse": np.ones((5, 1))}, ValueError, "lse has shape"),
        ({"entropy": OnADevice()}, TypeError, "entropy lies on a device"),
        ({"grad_entropy": np.ones(5, complex)}, TypeError, "grad_entropy has dtype complex128"),
    ],
)
def test_bad_slopes(change, error, text):
    with pytest.raises(error, match=text):
        linear_log_probs_grad(HIDDEN, WEIGHT, TOKENS, **({"grad_logp": np.ones(5)} | change))


@pytest.mark.parametrize(
    "change, error, text",
    [
        ({"advantages": np.ones(4)}, ValueError, r"advantages has shape \(4,\); expected \(5,\)"),
        ({"old_log_probs": None}, TypeError, "old_log_probs is None"),
        ({"loss_type": "dpo"}, ValueError, "loss_type is 'dpo'"),
        ({"entropy_coef": np.nan}, ValueError, "entropy_coef is nan"),
    ],
)
def test_bad_policies(change, error, text):
    given = {"old_log_probs": np.ones(5), "advantages": np.ones(5)} | change
    with pytest.raises(error, match=text):
        linear_policy_loss(HIDDEN, WEIGHT, TOKENS, **given)


@pytest.mark.parametrize(
    "change, error, text",
    [
        ({"rejected_hidden": np.zeros((3, 2, FEATURES))}, ValueError, r"rejected_tokens has shape \(2, 2\)"),
        ({"rejected_tokens": np.full((2, 2), 150)}, IndexError, r"rejected_tokens\[0, 0\] is 150"),
        ({"chosen_mask": np.ones(2, int)}, ValueError, r"chosen_mask has shape \(2,\)"),
        ({"chosen_hidden": np.zeros((4, FEATURES))}, ValueError, "chosen_hidden has shape.*need chosen_cu_seqlens"),
        ({"chosen_cu_seqlens": [0, 4]}, ValueError, "chosen_hidden has shape.*packed, with chosen_cu_seqlens"),
        ({"ref_chosen_logps": np.zeros(2)}, TypeError, "only one of ref_chosen_logps and ref_rejected_logps"),
        (
            {"ref_chosen_logps": np.zeros(3), "ref_rejected_logps": np.zeros(2)},
            ValueError,
            r"ref_chosen_logps has shape \(3,\); expected \(2,\), one per sequence",
        ),
        ({"beta": 0.0}, ValueError, "beta is 0.0"),
        ({"reduction": "max"}, ValueError, "reduction is 'max'"),
        (
            {"rejected_hidden": np.zeros((3, 2, FEATURES)), "rejected_tokens": np.zeros((3, 2), int)},
            ValueError,
            "rejected_hidden holds 3 sequences; expected 2",
        ),
    ],
)
def test_bad_pairs(change, error, text):
    given = {}
    for side in ("chosen", "rejected"):
        given |= {f"{side}_hidden": np.zeros((2, 2, FEATURES)), f"{side}_tokens": np.zeros((2, 2), int)}
    with pytest.raises(error, match=text):
        linear_dpo_loss(**(given | change), weight=WEIGHT)


@pytest.mark.parametrize("biased", [True, False])
@pytest.mark.parametrize("max_bytes", [1, 1 << 24])
def test_frozen_weights_have_no_gradient_and_change_nothing_else(width, max_bytes, biased):
    hidden, weight, tokens, bias = inputs(np.float32, 24)
    bias = bias if biased else None
    some = slopes(24, np.float32)["grad_logp"]
    three = hidden.reshape(2, 12, FEATURES), tokens.reshape(2, 12)
    calls = (
        lambda **o: linear_log_probs_grad(hidden, weight, tokens, some, bias, **o),
        lambda **o: linear_policy_loss(hidden, weight, tokens, some, some, bias, **o),
        lambda **o: linear_dpo_loss(*three, *three, weight, bias=bias, **o),
    )
    for call in calls:
        whole, part = (call(max_bytes=max_bytes, frozen=frozen)._asdict() for frozen in (False, True))
        assert whole.pop("grad_weight") is not None and part.pop("grad_weight") is None
        assert (whole.pop("grad_bias") is not None) == biased and part.pop("grad_bias") is None
        np.testing.assert_equal(part, whole)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_few_logits_need_no_tiles(monkeypatch, dtype):
    for module in (linear, linear_pairs):
        monkeypatch.setattr(module, "prepare_linear", lambda *args, **options: pytest.fail("by tiles"))
    hidden, weight, tokens, bias = inputs(dtype, 24)
    some = slopes(24, dtype)["grad_logp"]
    three = hidden.reshape(2, 12, FEATURES), tokens.reshape(2, 12)
    options = {"bias": bias, "max_bytes": 48 * VOCABULARY * hidden.itemsize}  # of two sides
    assert linear_log_probs(hidden, weight, tokens, **options).logp.dtype == dtype
    assert linear_log_probs_grad(hidden, weight, tokens, some, **options).grad_hidden.dtype == dtype
    assert linear_policy_loss(hidden, weight, tokens, some, some, **options).grad_bias.dtype == dtype
    assert linear_dpo_loss(*three, *three, weight, **options).grad_weight.dtype == dtype


def test_what_is_not_few_or_not_ready():
    hidden, weight, tokens, bias = inputs(np.float32, 24)
    side = hidden, tokens
    limit = 24 * VOCABULARY * 4
    assert at_once.is_few(weight, bias, limit, side) and at_once.is_few(weight, None, limit, side)
    assert not at_once.is_few(weight, bias, limit - 1, side)
    assert not at_once.is_few(weight, bias, limit, side, side)
    for other in (weight.astype(float), weight.astype(">f4"), np.asfortranarray(weight), weight[0], weight[:0], None):
        assert not at_once.is_few(other, None, limit, side)
    for other in (bias.astype(float), bias[1:], bias[::-1], bias.tolist()):
        assert not at_once.is_few(weight, other, limit, side)
    for other in (hidden.astype(float), np.asfortranarray(hidden), hidden[:, :1], hidden[0, 0], hidden.tolist()):
        assert not at_once.is_few(weight, bias, limit, (other, tokens))
    for other in (tokens.tolist(), tokens[1:], tokens[None]):
        assert not at_once.is_few(weight, bias, limit, (hidden, other))
    for other in (None, float(limit), True):
        assert not at_once.is_few(weight, bias, other, side)
