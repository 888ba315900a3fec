"""Rows of few columns in the numba backend, many at a time: as by themselves, whatever is beside them."""

import numpy as np
import pytest
from conftest import usable

from fastalign import policy_loss_from_logits, token_log_probs, token_log_probs_grad
from fastalign.cases import as_dtype, real, widened

INF, NAN = np.inf, np.nan
DTYPES = ("float32", "float64", "float16", "bfloat16")
MORE = {"entropy": True, "sum_p2": True, "top1": True}
OUTPUTS = ("logp", "lse", "entropy", "sum_p2", "mean_logit", "top1")
TEMPERATURE = 0.8


def rows(dtype, width, seed=0):
    """More than a block of them, ordinary ones of three sizes between those that are not."""
    rng = np.random.default_rng((seed, width))
    x = rng.standard_normal((150, width)) * rng.choice([0.1, 3.0, 30.0], (150, 1))
    most = {"float16": 6e4, "float64": 1e308}.get(dtype, 3e38)
    first, last = np.arange(width) == 0, np.arange(width) == width - 1
    some = [np.full(width, e) for e in (-INF, INF, NAN, 0.0, most, -most)]
    some += [np.where(last, e, x[0]) for e in (-INF, INF, NAN, most)] + [np.where(first, e, x[1]) for e in (-INF, NAN)]
    some += [np.where(first, most, -most), np.where(last, 0.0, -INF), np.where(first, INF, -INF)]
    x[np.arange(len(some)) * 9 + 3] = some
    return as_dtype(x, dtype), rng.integers(0, width, len(x)), rng.standard_normal((4, len(x))).astype(real(dtype))


def by_themselves(x, dtype):
    """The same, of more columns, of which the others are nothing."""
    wide = as_dtype(np.full((len(x), 64), -INF), dtype)
    wide[:, : x.shape[1]] = x
    return wide


def close(got, want, eps, size=1.0):
    got, want = np.asarray(got, np.float64), np.asarray(want, np.float64)
    np.testing.assert_array_equal(np.isfinite(got), np.isfinite(want))
    np.testing.assert_allclose(got, want, rtol=eps, atol=eps * size)


def slopes_asked_for(found, ups):
    yield {}
    yield {"lse": found.lse}
    yield {"grad_lse": ups[1], "grad_entropy": ups[2]}
    yield {"lse": found.lse, "entropy": found.entropy, "grad_entropy": ups[2]}
    yield {"grad_sum_p2": ups[3], "grad_entropy": ups[2], "grad_lse": ups[1]}


@pytest.mark.parametrize("dtype", DTYPES)
def test_as_each_row_by_itself(dtype):
    usable("numba")
    eps = 16 * float(np.finfo(real(dtype)).eps)
    unit = {"float16": 2.0**-10, "bfloat16": 2.0**-7}.get(dtype, eps)
    for width in range(1, 41):
        x, tokens, ups = rows(dtype, width)
        wide = by_themselves(x, dtype)
        with np.errstate(all="ignore"):
            got = token_log_probs(x, tokens, temperature=TEMPERATURE, backend="numba", **MORE)
            want = token_log_probs(wide, tokens, temperature=TEMPERATURE, backend="numba", **MORE)
            for name in MORE | {"logp": True, "lse": True}:
                close(getattr(got, name), getattr(want, name), eps)
            for more in slopes_asked_for(want, ups):
                given = {"temperature": TEMPERATURE, "backend": "numba", **more}
                slopes = token_log_probs_grad(x, tokens, ups[0], **given)
                alone = token_log_probs_grad(wide, tokens, ups[0], **given)[:, :width]
                close(widened("logits", slopes), widened("logits", alone), unit, 4.0)  # sums of larger ones


@pytest.mark.parametrize("dtype", DTYPES)
def test_as_in_double(dtype):
    """Also the mean, which rows of more columns do not have; a sum of 32 is off by a few units."""
    usable("numba")
    eps = 16 * float(np.finfo(real(dtype)).eps)
    unit = {"float16": 2.0**-10, "bfloat16": 2.0**-7}.get(dtype, eps)
    for width in range(1, 41):
        x, tokens, ups = rows(dtype, width)
        exact, more = widened("logits", x).astype(np.float64), {**MORE, "mean_logit": True}
        keep = np.isfinite(exact).all(axis=1) & (np.abs(exact).max(axis=1) < 1e3)
        x, exact, tokens, ups = x[keep], exact[keep], tokens[keep], ups[:, keep]
        got = token_log_probs(x, tokens, temperature=TEMPERATURE, backend="numba", **more)
        want = token_log_probs(exact, tokens, temperature=TEMPERATURE, backend="numpy", **more)
        for name in OUTPUTS:
            close(getattr(got, name), getattr(want, name), eps)
        given = {"temperature": TEMPERATURE, "grad_entropy": ups[1], "grad_mean_logit": ups[2], "grad_sum_p2": ups[3]}
        slopes = token_log_probs_grad(x, tokens, ups[0], backend="numba", **given)
        truth = token_log_probs_grad(exact, tokens, ups[0], backend="numpy", **given)
        close(widened("logits", slopes), truth, unit, 4.0)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", [1, 2, 7, 32])
def test_the_bits_of_a_row_are_its_own(dtype, width):
    """Whatever rows there are, and wherever it is among them."""
    usable("numba")
    x, tokens, ups = rows(dtype, width)
    ups[:, ::5] = 0.0
    with np.errstate(all="ignore"):
        want = token_log_probs(x, tokens, backend="numba", **MORE)
    asked = list(slopes_asked_for(want, ups))
    slopes = [token_log_probs_grad(x, tokens, ups[0], backend="numba", **more) for more in asked]
    for part in (slice(0, 1), slice(70, 71), slice(1, 150), slice(63, 129), slice(None, None, -1)):
        y, ids = np.ascontiguousarray(x[part]), tokens[part].copy()
        got = token_log_probs(y, ids, backend="numba", **MORE)
        for name in MORE | {"logp": True, "lse": True}:
            assert getattr(got, name).tobytes() == getattr(want, name)[part].tobytes(), name
        for more, whole in zip(asked, slopes, strict=True):
            some = {name: v[part].copy() for name, v in more.items()}
            alone = token_log_probs_grad(y, ids, ups[0][part].copy(), backend="numba", **some)
            assert alone.tobytes() == whole[part].tobytes(), more


@pytest.mark.parametrize("dtype", DTYPES)
def test_what_is_masked_is_zero_whatever_is_there(dtype):
    usable("numba")
    x, tokens, ups = rows(dtype, 6)
    kept = np.random.default_rng(1).random(len(x)) < 0.5
    spoilt, ids = x.copy(), np.where(kept, tokens, -100)
    spoilt[~kept] = as_dtype(np.full((1, 6), NAN), dtype)
    with np.errstate(all="ignore"):
        whole = token_log_probs(x, tokens, backend="numba", **MORE)
        got = token_log_probs(spoilt, ids, mask=kept, backend="numba", **MORE)
        want = token_log_probs_grad(x, tokens, ups[0], grad_entropy=ups[1], backend="numba")
        slopes = token_log_probs_grad(spoilt, ids, ups[0], grad_entropy=ups[1], mask=kept, backend="numba", out=spoilt)
    for name in MORE | {"logp": True, "lse": True}:
        np.testing.assert_array_equal(getattr(got, name), np.where(kept, getattr(whole, name), 0))
    assert slopes is spoilt
    np.testing.assert_array_equal(widened("logits", slopes), np.where(kept[:, None], widened("logits", want), 0))


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_sure_token_has_exactly_nothing_to_gain(dtype):
    usable("numba")
    for width in (1, 2, 5, 32):
        tokens = np.arange(70) % width
        x = np.full((70, width), -1e4)
        x[np.arange(70), tokens] = np.random.default_rng(2).standard_normal(70) * 30
        x, ups = as_dtype(x, dtype), np.random.default_rng(3).standard_normal(70).astype(real(dtype))
        got = token_log_probs(x, tokens, temperature=TEMPERATURE, backend="numba", **MORE)
        np.testing.assert_array_equal(got.logp, 0.0)
        np.testing.assert_array_equal(got.sum_p2, 1.0)
        np.testing.assert_array_equal(got.entropy, 0.0)
        slopes = token_log_probs_grad(x, tokens, ups, temperature=TEMPERATURE, backend="numba")
        np.testing.assert_array_equal(widened("logits", slopes), 0.0)


@pytest.mark.parametrize("coef", [0.0, 0.01])
def test_a_policy_loss_of_few_columns(coef):
    usable("numba")
    rng = np.random.default_rng(4)
    x, tokens = rng.standard_normal((5000, 6)).astype(np.float32), rng.integers(0, 6, 5000)
    old, advantages = (rng.standard_normal(5000).astype(np.float32) * s for s in (0.1, 1.0))
    old += token_log_probs(x, tokens, backend="numpy").logp
    found = [
        policy_loss_from_logits(
            x.astype(t), tokens, old.astype(t), advantages.astype(t), entropy_coef=coef, backend=backend
        )
        for t, backend in ((np.float32, "numba"), (np.float64, "numpy"))
    ]
    assert found[0].loss == pytest.approx(found[1].loss, rel=1e-5)
    np.testing.assert_allclose(found[0].grad_logits, found[1].grad_logits, rtol=1e-4, atol=1e-10)
