"""Rows of some dozens or hundreds of columns in the numba backend: as by themselves, at every width and every place."""

import numpy as np
import pytest
from conftest import usable
from test_slim_numba import DTYPES, INF, MORE, NAN, OUTPUTS, TEMPERATURE, close, rows, slopes_asked_for

from fastalign import token_log_probs, token_log_probs_grad
from fastalign.cases import as_dtype, real, widened

# Around vectors of 4 to 16, steps of two and four of them, and where rows are no longer brief: forward, and back.
WIDTHS = (33, 34, 39, 40, 41, 47, 48, 49, 63, 64, 65, 97, 127, 128, 511, 512, 513, 1024, 1025)


def units(dtype):
    eps = 16 * float(np.finfo(real(dtype)).eps)
    return eps, {"float16": 2.0**-10, "bfloat16": 2.0**-7}.get(dtype, eps)


def by_themselves(x, dtype):
    """The same, of more columns, of which the others are nothing."""
    wide = as_dtype(np.full((len(x), 1100), -INF), dtype)
    wide[:, : x.shape[1]] = x
    return wide


@pytest.mark.parametrize("dtype", DTYPES)
def test_as_each_row_by_itself(dtype):
    usable("numba")
    eps, unit = units(dtype)
    for width in WIDTHS:
        x, tokens, ups = rows(dtype, width)
        wide = by_themselves(x, dtype)
        with np.errstate(all="ignore"):
            got = token_log_probs(x, tokens, temperature=TEMPERATURE, backend="numba", **MORE)
            want = token_log_probs(wide, tokens, temperature=TEMPERATURE, backend="numba", **MORE)
            for name in MORE | {"logp": True, "lse": True}:
                close(getattr(got, name), getattr(want, name), eps * (4 if name == "entropy" else 1))  # of raised peaks
            for more in slopes_asked_for(want, ups):
                given = {"temperature": TEMPERATURE, "backend": "numba", **more}
                slopes = token_log_probs_grad(x, tokens, ups[0], **given)
                alone = token_log_probs_grad(wide, tokens, ups[0], **given)[:, :width]
                close(widened("logits", slopes), widened("logits", alone), unit, 4.0)
                same = x.copy()
                assert token_log_probs_grad(same, tokens, ups[0], out=same, **given) is same
                assert same.tobytes() == slopes.tobytes(), (width, list(more))


@pytest.mark.parametrize("dtype", DTYPES)
def test_as_in_double(dtype):
    usable("numba")
    eps, unit = units(dtype)
    for width in WIDTHS:
        x, tokens, ups = rows(dtype, width)
        exact, more = widened("logits", x).astype(np.float64), {**MORE, "mean_logit": True}
        keep = np.isfinite(exact).all(axis=1) & (np.abs(exact).max(axis=1) < 1e3)
        x, exact, tokens, ups = x[keep], exact[keep], tokens[keep], ups[:, keep]
        got = token_log_probs(x, tokens, temperature=TEMPERATURE, backend="numba", **more)
        want = token_log_probs(exact, tokens, temperature=TEMPERATURE, backend="numpy", **more)
        for name in OUTPUTS:
            raised = name == "entropy" and width > 512  # a difference of sums, scaled as peaks rose
            close(getattr(got, name), getattr(want, name), eps * (4 if raised else 1))
        for given in ({}, {"grad_entropy": ups[1], "grad_mean_logit": ups[2], "grad_sum_p2": ups[3]}):
            slopes = token_log_probs_grad(x, tokens, ups[0], temperature=TEMPERATURE, backend="numba", **given)
            truth = token_log_probs_grad(exact, tokens, ups[0], temperature=TEMPERATURE, backend="numpy", **given)
            close(widened("logits", slopes), truth, unit, 4.0)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", [33, 47, 64, 71, 130])
def test_what_is_no_number_is_seen_at_every_place(dtype, width):
    """And by no neighbour."""
    usable("numba")
    rng = np.random.default_rng(width)
    x = as_dtype(rng.standard_normal((2 * width + 1, width)), dtype)
    tokens, up = (np.arange(len(x)) + 7) % width, rng.standard_normal(len(x)).astype(real(dtype))
    at = np.arange(width)
    clean = token_log_probs(x, tokens, backend="numba", **MORE)
    ways = ({}, {"grad_entropy": up}, {"lse": clean.lse})
    slopes = [widened("logits", token_log_probs_grad(x, tokens, up, backend="numba", **way)) for way in ways]
    far = {"float16": -6e4}.get(dtype, -1e30)
    for value in (NAN, INF, -INF, far):
        odd = x.copy()
        odd[2 * at + 1, at] = as_dtype(np.full(1, value), dtype)[0]
        with np.errstate(all="ignore"):
            got = token_log_probs(odd, tokens, backend="numba", **MORE)
            want = token_log_probs(widened("logits", odd).astype(np.float64), tokens, backend="numpy", **MORE)
            for name in MORE | {"logp": True, "lse": True}:
                assert getattr(got, name)[::2].tobytes() == getattr(clean, name)[::2].tobytes()
                close(getattr(got, name)[1::2], getattr(want, name)[1::2], units(dtype)[0])
            for way, sound in zip(ways[:2], slopes, strict=False):
                found = widened("logits", token_log_probs_grad(odd, tokens, up, backend="numba", **way))
                np.testing.assert_array_equal(found[::2], sound[::2])
                assert np.isfinite(found[1::2]).all() == (value < 0)
                assert np.isfinite(found[1::2]).any() == (value < 0)
                if value < 0:
                    hidden = found[2 * at + 1, at]
                    np.testing.assert_array_equal(hidden[tokens[1::2] != at], 0.0)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", [33, 48, 100, 600])
def test_the_bits_of_a_row_are_its_own(dtype, width):
    """Whatever rows there are, and wherever it is among them; masked ones are 0, and not read."""
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
                assert alone.tobytes() == whole[part].tobytes(), list(more)
        kept = np.random.default_rng(1).random(len(x)) < 0.5
        spoilt, ids = x.copy(), np.where(kept, tokens, -100)
        spoilt[~kept] = as_dtype(np.full((1, width), NAN), dtype)
        got = token_log_probs(spoilt, ids, mask=kept, backend="numba", **MORE)
        for name in MORE | {"logp": True, "lse": True}:
            np.testing.assert_array_equal(getattr(got, name), np.where(kept, getattr(want, name), 0))
        for more, whole in zip(asked, slopes, strict=True):
            y = spoilt.copy()
            token_log_probs_grad(y, ids, ups[0], mask=kept, backend="numba", out=y, **more)
            wide = widened("logits", whole)
            np.testing.assert_array_equal(widened("logits", y), np.where(kept[:, None], wide, 0))


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_sure_token_has_exactly_nothing_to_gain(dtype):
    usable("numba")
    for width in (33, 64, 100, 512, 1000):
        tokens = np.arange(70) * 3 % width
        x = np.full((70, width), -1e4)
        x[np.arange(70), tokens] = np.random.default_rng(2).standard_normal(70) * 30
        x, ups = as_dtype(x, dtype), np.random.default_rng(3).standard_normal(70).astype(real(dtype))
        got = token_log_probs(x, tokens, temperature=TEMPERATURE, backend="numba", **MORE)
        np.testing.assert_array_equal(got.logp, 0.0)
        if width <= 512:
            np.testing.assert_array_equal(got.sum_p2, 1.0)
        assert (np.abs(got.entropy) < 1e-30).all()
        for more in ({}, {"grad_entropy": ups}):
            slopes = token_log_probs_grad(x, tokens, ups, temperature=TEMPERATURE, backend="numba", **more)
            np.testing.assert_array_equal(widened("logits", slopes)[np.arange(70), tokens], 0.0)
            assert (np.abs(widened("logits", slopes)) < 1e-30).all()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("temperature", [1e-30, 1e-3, 1e4, 2.0**63, 2.0**65, 1e37])
def test_any_temperature(dtype, temperature):
    usable("numba")
    eps, most = units(dtype)[0], float(np.finfo(dtype).max)
    rng = np.random.default_rng(5)
    x = (rng.standard_normal((70, 77)) * 10.0 ** rng.integers(-30, 37, (70, 1))).astype(dtype)
    x[3, ::2], x[3, 1::2] = most, -most
    tokens, up = rng.integers(0, 77, 70), rng.standard_normal(70).astype(dtype)
    given = {"temperature": temperature}
    with np.errstate(all="ignore"):
        got = token_log_probs(x, tokens, backend="numba", entropy=True, **given)
        want = token_log_probs(x.astype(np.float64), tokens, backend="numpy", entropy=True, **given)
        slopes = token_log_probs_grad(x, tokens, up, backend="numba", **given)
        truth = token_log_probs_grad(x.astype(np.float64), tokens, up, backend="numpy", **given).astype(dtype)
        lse = want.lse.astype(dtype)
    # What a product rounds is as large as the distance, in which a probability is relative.
    sure = np.abs(x.max(axis=1) - x[np.arange(70), tokens]).astype(np.float64) / temperature < 40
    close(got.lse, lse, eps)
    close(got.entropy, want.entropy, 4 * eps)
    close(got.logp[sure], want.logp[sure], 4 * eps)
    scale = np.abs(up)[:, None] / temperature
    finite = np.isfinite(scale[:, 0])
    np.testing.assert_array_equal(np.isfinite(slopes), np.isfinite(truth))
    assert (np.abs(slopes - truth)[finite] <= 8 * eps * scale[finite]).all()
