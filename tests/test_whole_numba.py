"""Calls of recurrences and rows that the numba backend takes whole: the bits of the long way, and its errors."""

import ml_dtypes
import numpy as np
import pytest
from conftest import same, usable

from fastalign import discounted_returns, dispatch, gae, token_log_probs, token_log_probs_grad

RNG = np.random.default_rng(12)


@pytest.fixture
def taken(monkeypatch):
    """How often a call was taken whole."""
    usable("numba")
    from fastalign.backends import numba_cpu

    counted = []
    for name in ("scan_ready", "row_forward_ready", "row_backward_ready"):
        whole = getattr(numba_cpu.whole, name)

        def counting(*given, whole=whole):
            done = whole(*given)
            counted.append(done is not None)
            return done

        monkeypatch.setattr(numba_cpu.whole, name, counting)
    return counted


def both(taken, monkeypatch, call, *some, **options):
    """The results of the short way and of the long one."""
    before = len(taken)
    short = call(*some, **options, backend="numba")
    assert taken[before:] == [True]
    with monkeypatch.context() as patch:
        patch.setattr(dispatch.choose("numba").module, "whole", NotTaken)
        return short, call(*some, **options, backend="numba")


class NotTaken:
    scan_ready = row_forward_ready = row_backward_ready = staticmethod(lambda *given: None)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("flag", [bool, np.uint8])
@pytest.mark.parametrize(
    "shape, layout",
    [((1,), "TN"), ((700,), "NT"), ((31, 8), "TN"), ((60, 4096), "TN"), ((5, 90), "NT"), ((9, 1), "TN")],
)
def test_recurrences(taken, monkeypatch, dtype, flag, shape, layout):
    r, v = RNG.standard_normal((2, *shape)).astype(dtype)
    ends = (np.asarray(RNG.random(shape) < 0.1)).astype(flag)
    streams = 1 if len(shape) == 1 else shape[layout == "TN"]
    r.flat[0] = np.nan
    for last in (None, RNG.standard_normal(streams).astype(dtype)):
        options = {"last_values": last, "gamma": 0.9, "layout": layout}
        same(*both(taken, monkeypatch, gae, r, v, ends, lam=0.8, **options))
        kept = np.asarray(RNG.random(shape) < 0.6).astype(flag)
        same(*both(taken, monkeypatch, gae, r, v, ends, mask=kept, **options))
        same(*([x] for x in both(taken, monkeypatch, discounted_returns, r, ends, **options)))
        out = np.empty_like(r), np.empty_like(r)
        got, want = both(taken, monkeypatch, gae, r, v, ends, out=out, **options)
        assert got[0] is out[0] and got[1] is out[1]
        same(got, want)


@pytest.mark.parametrize("shape", [(5,), (1, 1), (3, 40), (2, 3, 700), (2, 20_000)])
@pytest.mark.parametrize("kind", [np.float32, np.float64, np.float16, np.uint16])
@pytest.mark.parametrize("masked", [None, bool, np.uint8])
def test_rows(taken, monkeypatch, shape, kind, masked):
    x = (3 * RNG.standard_normal(shape)).astype(np.float32)
    x = (x.view(np.uint32) >> 16).astype(np.uint16) if kind is np.uint16 else x.astype(kind)
    tokens = np.asarray(RNG.integers(0, shape[-1], shape[:-1]))
    mask = None if masked is None else np.asarray(RNG.random(shape[:-1]) < 0.6).astype(masked)
    for more in ({}, {"entropy": True}, {"sum_p2": True, "mean_logit": True}, {"top1": True, "temperature": 0.7}):
        got, want = both(taken, monkeypatch, token_log_probs, x, tokens, mask=mask, **more)
        same(got, want)
    real = np.float64 if kind is np.float64 else np.float32
    g, h = (np.asarray(RNG.standard_normal(shape[:-1]).astype(real)) for _ in range(2))
    for more in ({}, {"lse": got.lse, "temperature": 0.7}, {"grad_entropy": h, "grad_sum_p2": h, "grad_mean_logit": g}):
        options = {"mask": mask, **more}
        got_grad, want_grad = both(taken, monkeypatch, token_log_probs_grad, x, tokens, g, **options)
        same([got_grad], [want_grad])
        out = np.empty_like(x)
        got_grad, _ = both(taken, monkeypatch, token_log_probs_grad, x, tokens, g, out=out, **options)
        assert got_grad is out
        same([out], [want_grad])
    place = x.copy()
    token_log_probs_grad(place, tokens, g, mask=mask, out=place, backend="numba")
    assert taken[-1]
    same([place], [token_log_probs_grad(x, tokens, g, mask=mask, backend="numba")])


def test_what_must_be_prepared_is_left_alone(taken):
    x = RNG.standard_normal((6, 4)).astype(np.float32)
    ends = np.zeros((6, 4), bool)
    want = gae(x, x, ends, backend="numpy")
    odd = np.frombuffer(b"\0" + x.tobytes(), np.float32, 24, 1).reshape(6, 4)
    for given in (np.asfortranarray(x), odd, x.astype(">f4")):
        np.testing.assert_allclose(gae(given, x, ends, backend="numba"), want, rtol=1e-5)
        tokens = np.zeros(6, np.int64)
        got = token_log_probs(given, tokens, backend="numba").logp
        np.testing.assert_allclose(got, token_log_probs(x, tokens, backend="numpy").logp, rtol=1e-5)
    for options in ({"truncated": ends}, {"next_values": x}, {"last_values": np.zeros(4)}, {"gamma": 1}):
        gae(x, x, ends, backend="numba", **options)
    for tokens, options in ((np.zeros(6, np.uint64), {}), (np.zeros(6, np.int64), {"temperature": 2})):
        token_log_probs(x, tokens, backend="numba", **options)
    assert gae(x[:0], x[:0], ends[:0], backend="numba")[0].shape == (0, 4)
    assert not any(taken)


def test_what_threads_divide_is_left_to_them(taken):
    x = RNG.standard_normal((60, 4096))
    gae(x, x, x > 9, layout="NT", backend="numba")
    assert taken == [False]


def test_what_is_wrong_is_explained(taken):
    x, ends, tokens = np.ones((6, 4), np.float32), np.zeros((6, 4), np.uint8), np.zeros(6, np.int64)
    ends[2, 3] = 2
    fixed = np.full((6, 4), 7.0, np.float32)
    fixed.flags.writeable = False
    fine, other = np.zeros((6, 4), np.uint8), np.full((6, 4), 7.0, np.float32)
    for wrong, words in (
        (lambda: gae(x, x, ends, backend="numba"), r"terminated\[2, 3\] is 2"),
        (lambda: gae(x, x[:5], fine, backend="numba"), "values has shape"),
        (lambda: gae(x, x, fine, gamma=1.5, backend="numba"), "gamma is 1.5"),
        (lambda: gae(x, x, fine, layout="TT", backend="numba"), "layout is 'TT'"),
        (lambda: gae(x, x, fine, last_values=x[0, :3], backend="numba"), "last_values has shape"),
        (lambda: gae(x, x, fine, out=(other, x), backend="numba"), r"out\[1\] shares memory"),
        (lambda: gae(x, x, fine, out=(other, other), backend="numba"), r"out\[0\] shares memory with out\[1\]"),
        (lambda: gae(x, x, fine, out=(other, fixed), backend="numba"), r"out\[1\] is read-only"),
        (lambda: token_log_probs(x, tokens - 1, backend="numba"), r"tokens\[0\] is -1"),
        (lambda: token_log_probs(x, tokens + 4, backend="numba"), r"tokens\[0\] is 4"),
        (lambda: token_log_probs(x, tokens[:5], backend="numba"), "tokens has shape"),
        (lambda: token_log_probs(x, tokens, temperature=0.0, backend="numba"), "temperature is 0.0"),
        (lambda: token_log_probs(x, tokens, mask=ends[:, 3], backend="numba"), r"mask\[2\] is 2"),
        (lambda: token_log_probs_grad(x, tokens, x[:5, 0], backend="numba"), "grad_logp has shape"),
        (lambda: token_log_probs_grad(x, tokens, x[:, 0], out=x[::-1], backend="numba"), "must have contiguous rows"),
        (lambda: token_log_probs_grad(x[:5], tokens[:5], np.ones(5), out=x[1:], backend="numba"), "shares memory"),
        (lambda: token_log_probs_grad(x, tokens, x[0], out=x, backend="numba"), "grad_logp has shape"),
    ):
        with pytest.raises((ValueError, IndexError), match=words):
            wrong()
    with pytest.raises(TypeError, match="grad_logp is None"):
        token_log_probs_grad(x, tokens, None, backend="numba")
    with pytest.raises(TypeError, match="logits has dtype int1"):  # whose character is float16's
        token_log_probs(np.zeros((6, 4), ml_dtypes.int1), tokens, backend="numba")
    assert not any(taken) and (x == 1.0).all() and (other == 7.0).all() and (fixed == 7.0).all()
