"""Logits whose rows lie apart, as those of logits[:, :-1]: what their contiguous copy gives, without the copy."""

import tracemalloc

import numpy as np
import pytest

from fastalign import (
    dpo_loss_from_logits,
    logits,
    policy_loss_from_logits,
    selective_log_softmax,
    token_log_probs,
    token_log_probs_grad,
)

V = 40
VIEWS = {
    "all but the last": ((3, 6, V), lambda x: x[:, :-1]),
    "all but the first": ((3, 6, V), lambda x: x[:, 1:]),
    "a padded vocabulary": ((3, 5, V + 7), lambda x: x[..., :V]),
    "four axes": ((3, 2, 6, V), lambda x: x[:, 1, :-1]),
    "every other": ((6, 5, V), lambda x: x[::2]),
    "by time": ((5, 3, V), lambda x: x.swapaxes(0, 1)),
}
READ_ONLY = {
    "from the end": ((3, 5, V), lambda x: x[::-1]),
    "the same rows": ((5, V), lambda x: np.broadcast_to(x, (3, 5, V))),
}


@pytest.fixture(params=[1, logits.WORTH], ids=["where they lie", "copied"])
def worth(request, monkeypatch):
    monkeypatch.setattr(logits, "WORTH", request.param)


def inputs(name, dtype):
    shape, view = (VIEWS | READ_ONLY)[name]
    rng = np.random.default_rng(3)
    x = (rng.standard_normal(shape) * 3).astype(np.float32 if dtype == "bits" else dtype)
    whole = (x.view(np.uint32) >> 16).astype(np.uint16) if dtype == "bits" else x
    shape = view(whole).shape[:-1]
    real = np.float64 if dtype == "float64" else np.float32
    numbers = [rng.standard_normal(shape).astype(real) for _ in range(2)]
    return whole, view, rng.integers(0, V, shape), rng.random(shape) < 0.8, numbers


def same(got, want):
    for g, w in zip(got, want, strict=True):
        np.testing.assert_array_equal(g, w)
        assert getattr(g, "dtype", None) == getattr(w, "dtype", None)


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bits"])
@pytest.mark.parametrize("name", [*VIEWS, *READ_ONLY])
def test_it_is_read_as_its_copy(backend, worth, name, dtype):
    whole, view, tokens, mask, (slope, curve) = inputs(name, dtype)
    x, copy = view(whole), view(whole).copy()
    assert not x.flags.c_contiguous
    options = {"mask": mask, "temperature": 0.8, "backend": backend}
    moments = {"entropy": True, "sum_p2": True, "mean_logit": True, "top1": True}
    want = token_log_probs(copy, tokens, **moments, **options)
    same(token_log_probs(x, tokens, **moments, **options), want)
    for saved in ({}, {"lse": want.lse, "entropy": want.entropy}):
        grads = [token_log_probs_grad(y, tokens, slope, grad_entropy=curve, **saved, **options) for y in (x, copy)]
        assert grads[0].flags.c_contiguous
        same(grads[:1], grads[1:])


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bits"])
@pytest.mark.parametrize("name", VIEWS)
@pytest.mark.parametrize("place", ["in place", "alike", "contiguous", "of a contiguous one"])
def test_a_gradient_is_written_where_the_rows_lie(backend, worth, name, dtype, place):
    whole, view, tokens, mask, (old, advantages) = inputs(name, dtype)
    options = {"mask": mask, "backend": backend}
    want = token_log_probs_grad(view(whole).copy(), tokens, old, **options)
    loss = policy_loss_from_logits(view(whole).copy(), tokens, old, advantages, entropy_coef=0.01, **options)
    for call in ("log-probs", "policy"):
        target = whole.copy() if place == "in place" else np.full_like(whole, 7)
        before = target.copy()
        out = np.empty_like(want) if place == "contiguous" else view(target)
        x = out if place == "in place" else view(whole).copy() if place == "of a contiguous one" else view(whole)
        if call == "log-probs":
            got = token_log_probs_grad(x, tokens, old, out=out, **options)
            np.testing.assert_array_equal(out, want)
        else:
            r = policy_loss_from_logits(x, tokens, old, advantages, entropy_coef=0.01, out=out, **options)
            got = r.grad_logits
            np.testing.assert_array_equal(out, loss.grad_logits)
            np.testing.assert_array_equal(r.logp, loss.logp)
            assert r.loss == pytest.approx(loss.loss, rel=1e-5 if r.logp.dtype == np.float32 else 1e-12)
            assert r.metrics == pytest.approx(loss.metrics, rel=1e-5, abs=1e-6)
        assert got is out
        view(before)[...] = view(target)
        np.testing.assert_array_equal(target, before)  # nothing else was written


SPACES = {
    "contiguous": lambda v: ((3, 70, v), ...),
    "all but the last": lambda v: ((3, 71, v), np.s_[:, :-1]),
    "a padded vocabulary": lambda v: ((3, 70, v + 7), np.s_[..., :v]),
    "both": lambda v: ((3, 71, v + 3), np.s_[:, 1:, 2 : v + 2]),
    "every other": lambda v: ((3, 140, v), np.s_[:, ::2]),
}


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
@pytest.mark.parametrize("columns", [1, 3, 6, 33, 600])
@pytest.mark.parametrize("masked", [False, True])
def test_rows_of_any_length_between_any_places(compiled, dtype, columns, masked):
    rng = np.random.default_rng(columns)
    real = np.float64 if dtype is np.float64 else np.float32
    copy = (rng.standard_normal((3, 70, columns)) * 3).astype(dtype)
    tokens, slope = rng.integers(0, columns, (3, 70)), rng.standard_normal((3, 70)).astype(real)
    mask = np.arange(210).reshape(3, 70) % 90 < 60 if masked else None  # from one sequence into the next
    options = {"mask": mask, "backend": compiled}
    forward = token_log_probs(copy, tokens, entropy=True, sum_p2=True, top1=True, **options)
    calls = {
        "anew": lambda x, out: token_log_probs_grad(x, tokens, slope, out=out, **options),
        "saved": lambda x, out: token_log_probs_grad(x, tokens, slope, lse=forward.lse, out=out, **options),
        "policy": lambda x, out: policy_loss_from_logits(x, tokens, slope, slope, out=out, **options),
        "bonus": lambda x, out: policy_loss_from_logits(x, tokens, slope, slope, entropy_coef=0.1, out=out, **options),
    }
    want = {name: call(copy, None) for name, call in calls.items()}
    for given in SPACES:
        shape, at = SPACES[given](columns)
        whole = np.full(shape, 99, dtype)
        whole[at] = copy
        same(token_log_probs(whole[at], tokens, entropy=True, sum_p2=True, top1=True, **options)[:4], forward[:4])
        for written in (*SPACES, "in place"):
            for name, call in calls.items():
                x = whole.copy()
                shape, where = (shape, at) if written == "in place" else SPACES[written](columns)
                target = x if written == "in place" else np.full(shape, 99, dtype)
                view = x[at]
                got = call(view, view if written == "in place" else target[where])
                grad, gradient = (r if name in ("anew", "saved") else r.grad_logits for r in (got, want[name]))
                np.testing.assert_array_equal(grad, gradient)
                if name in ("policy", "bonus"):
                    assert got.loss == pytest.approx(want[name].loss, rel=1e-6)
                    np.testing.assert_array_equal(got.logp, want[name].logp)
                target[where] = 99
                assert (target == 99).all()  # nothing else was written


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("place", [None, "in place", "alike"])
def test_preference_losses_of_shifted_logits(backend, worth, dtype, place):
    whole, view, tokens, mask, _ = inputs("all but the last", dtype)
    other = whole[::-1].copy()
    given = {"chosen_tokens": tokens, "rejected_tokens": tokens, "chosen_mask": mask, "backend": backend}
    copies = {"chosen_logits": view(whole).copy(), "rejected_logits": view(other).copy()}
    want = dpo_loss_from_logits(**copies, **given)
    pair = whole.copy(), other.copy()
    views = tuple(view(x) for x in pair)
    targets = {None: None, "in place": pair, "alike": tuple(np.full_like(x, 7) for x in pair)}[place]
    out = {None: None, "in place": views}.get(place, targets and tuple(view(x) for x in targets))
    got = dpo_loss_from_logits(chosen_logits=views[0], rejected_logits=views[1], **given, out=out)
    assert got.loss == want.loss
    same(got[1:7], want[1:7])
    for target, before in zip(targets or (), (whole, other), strict=targets is not None):
        np.testing.assert_array_equal(target[:, -1], before[:, -1] if place == "in place" else 7)


def test_it_is_not_copied(compiled):
    whole = np.random.default_rng(4).standard_normal((4, 5, 20_000)).astype(np.float32)
    x, tokens = whole[:, :-1], np.zeros((4, 4), np.int64)
    slope = np.ones((4, 4), np.float32)
    calls = (
        lambda: token_log_probs(x, tokens, backend=compiled),
        lambda: token_log_probs_grad(x, tokens, slope, out=x, backend=compiled),
        lambda: policy_loss_from_logits(x, tokens, slope, slope, out=x, backend=compiled),
        lambda: dpo_loss_from_logits(x[:2], tokens[:2], x[2:], tokens[2:], out=(x[:2], x[2:]), backend=compiled),
    )
    for call in calls[:3]:
        call()
        tracemalloc.start()
        call()
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < x.nbytes / 8


def test_bits_do_not_depend_on_the_threads(compiled, threads, monkeypatch):
    monkeypatch.setattr("fastalign.threads.WORTH_SHARING", 2)
    whole = np.random.default_rng(5).standard_normal((3, 9, 9_000)).astype(np.float32)
    x, tokens = whole[:, :-1], np.zeros((3, 8), np.int64)
    slope = np.linspace(-3, 3, 24, dtype=np.float32).reshape(3, 8)
    results = []
    for count in (1, 3):
        threads(count)
        r = policy_loss_from_logits(x, tokens, slope, slope, entropy_coef=0.1, backend=compiled)
        results.append((*token_log_probs(x, tokens, entropy=True, backend=compiled)[:3], *r[1:3], np.array(r.loss)))
    same(*results)


@pytest.mark.parametrize(
    "change, text",
    [
        (lambda x: x[::-1], "out must have contiguous rows that do not overlap; its strides are"),
        (lambda x: np.broadcast_to(x[:1], x.shape), "out must have contiguous rows"),
        (lambda x: np.broadcast_to(x[:, :1], x.shape), "out must have contiguous rows"),
        (lambda x: np.repeat(x, 2, axis=-1)[..., ::2], "out must have contiguous rows"),
        (lambda x: np.lib.stride_tricks.as_strided(x, x.shape, (V * 4, V * 4, 4)), "out must have contiguous rows"),
    ],
)
def test_where_a_gradient_cannot_be_written(backend, change, text):
    x, tokens = np.zeros((3, 5, V), np.float32), np.zeros((3, 5), np.int64)
    out = change(np.full_like(x, 7))
    with pytest.raises(ValueError, match=text):
        token_log_probs_grad(x, tokens, np.ones((3, 5)), out=out, backend=backend)
    assert (out == 7).all()


def test_a_result_between_the_rows(backend):
    whole = np.zeros((5, V + 1), np.float32)
    with pytest.raises(ValueError, match="out (must|shares memory)"):
        selective_log_softmax(whole[:, :V], np.zeros(5, np.int64), out=whole[:, V], backend=backend)
    lying = np.zeros(5 * (V + 5), np.float32)
    spaced = np.lib.stride_tricks.as_strided(lying, (5, V), (4 * (V + 5), 4))
    with pytest.raises(ValueError, match="out shares memory with an input"):
        selective_log_softmax(spaced, np.zeros(5, np.int64), out=lying[V : V + 5], backend=backend)


def test_a_view_beside_another_of_the_same_memory(backend):
    whole, view, tokens, _, (slope, _) = inputs("all but the last", "float32")
    with pytest.raises(ValueError, match="out shares memory with an input"):
        token_log_probs_grad(whole[:, :-1], tokens, slope, out=whole[:, 1:], backend=backend)


def test_the_place_of_a_bad_token_is_that_in_the_view(backend, worth):
    whole, view, tokens, _, (slope, _) = inputs("all but the last", "float32")
    tokens[1, 3] = V
    target = np.full_like(whole, 7)
    with pytest.raises(IndexError, match=rf"tokens\[1, 3\] is {V}"):
        token_log_probs_grad(view(whole), tokens, slope, out=view(target), backend=backend)
    assert (target == 7).all()
