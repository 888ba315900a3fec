"""Calls on logits that the extension takes whole: the bits of the long way, and its errors."""

import ml_dtypes
import numpy as np
import pytest
from conftest import same

from fastalign import (
    TokenLogProbs,
    policy_loss_from_logits,
    selective_log_softmax,
    token_log_probs,
    token_log_probs_grad,
)
from fastalign.backends import cython_cpu

pytestmark = pytest.mark.skipif(cython_cpu.why_not() is not None, reason=f"cython: {cython_cpu.why_not()}")

RNG = np.random.default_rng(11)
SHAPES = [(5,), (1, 1), (3, 40), (2, 3, 700), (2, 20_000)]
KINDS = ["f32", "f64", "f16", "bf16", "bfloat16"]


def rows(shape, kind):
    x = (3 * RNG.standard_normal(shape)).astype(np.float32)
    if kind == "bfloat16":
        return x.astype(ml_dtypes.bfloat16)
    if kind == "bf16":
        return (x.view(np.uint32) >> 16).astype(np.uint16)
    return x.astype({"f16": np.float16, "f32": np.float32, "f64": np.float64}[kind])


def some(shape, kind):
    """Logits, tokens, and tokens of a dtype that is cast, which takes the long way."""
    tokens = RNG.integers(0, shape[-1], shape[:-1])
    return rows(shape, kind), np.asarray(tokens, np.int64), np.asarray(tokens, np.uint64)


def masks(shape):
    kept = RNG.random(shape) < 0.6
    return None, np.asarray(kept), np.asarray(kept, np.uint8)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", KINDS)
def test_forward(shape, kind):
    x, tokens, cast = some(shape, kind)
    for mask in masks(shape[:-1]):
        for more in ({}, {"entropy": True}, {"sum_p2": True, "mean_logit": True}, {"top1": True, "temperature": 0.7}):
            same(token_log_probs(x, tokens, mask=mask, **more), token_log_probs(x, cast, mask=mask, **more))
    want = selective_log_softmax(x, cast)
    out = np.full_like(want, 7)
    assert selective_log_softmax(x, tokens, out=out) is out
    same([selective_log_softmax(x, tokens), out], [want, want])


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", KINDS)
def test_backward(shape, kind):
    x, tokens, cast = some(shape, kind)
    real = np.float64 if kind == "f64" else np.float32
    forward = token_log_probs(x, tokens, entropy=True)
    g, h, q = (RNG.standard_normal(shape[:-1]).astype(real) for _ in range(3))
    g, h, q = (np.asarray(v) for v in (g, h, q))
    options = (
        {},
        {"lse": forward.lse},
        {"lse": forward.lse, "entropy": forward.entropy, "grad_entropy": h},
        {"grad_sum_p2": q, "grad_mean_logit": h, "grad_lse": q, "temperature": 2},
    )
    for mask in masks(shape[:-1]):
        for more in options:
            want = token_log_probs_grad(x, cast, g, mask=mask, **more)
            out = np.full_like(x, 7)
            same([token_log_probs_grad(x, tokens, g, mask=mask, **more)], [want])
            assert token_log_probs_grad(x, tokens, g, mask=mask, out=out, **more) is out
            same([out], [want])
            place = x.copy()
            assert token_log_probs_grad(place, tokens, g, mask=mask, out=place, **more) is place
            same([place], [want])


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", KINDS)
def test_policy_loss(monkeypatch, shape, kind):
    x, tokens, cast = some(shape, kind)
    real = np.float64 if kind == "f64" else np.float32
    old, advantages = (np.asarray(RNG.standard_normal(shape[:-1]), real) for _ in range(2))
    for mask in masks(shape[:-1]):
        for cached in (1 << 20, 3 * x[..., :1, :].nbytes if x.ndim > 1 else 1):
            monkeypatch.setattr("fastalign.policy_rows.CACHED", cached)
            summed = {"aggregation": "token_sum", "clip_high": 0.3, "temperature": 0.7}
            for more in ({}, summed, {"entropy_coef": 0.01}, {**summed, "entropy_coef": -3}):
                want = policy_loss_from_logits(x, cast, old, advantages, mask=mask, **more)
                out, place = np.full_like(x, 7), x.copy()
                for logits, target in ((x, None), (x, out), (place, place)):
                    got = policy_loss_from_logits(logits, tokens, old, advantages, mask=mask, out=target, **more)
                    assert type(got) is type(want) and (target is None or got.grad_logits is target)
                    same(got[1:3], want[1:3])
                    np.testing.assert_equal((got.loss, got.metrics), (want.loss, want.metrics))


@pytest.mark.parametrize("kind", KINDS)
def test_all_are_taken(kind):
    core = cython_cpu.load(cython_cpu.isas()[-1])
    x, tokens, _ = some((3, 40), kind)
    out, g = np.zeros_like(x), np.ones(3, np.float64 if kind == "f64" else np.float32)
    for temperature in (1.0, 1, np.float64(1.0)):
        assert core.row_forward_ready(
            TokenLogProbs, x, tokens, temperature, None, False, False, False, False, None, 1 << 40
        )
    logp = np.empty_like(g)
    done = core.row_forward_ready(TokenLogProbs, x, tokens, 1.0, None, False, False, False, False, logp, 1 << 40)
    assert done.logp is logp
    assert core.row_backward_ready(x, tokens, (g, *[None] * 6), 1.0, None, out, 1 << 40) is out
    assert core.row_backward_ready(x, tokens, (g, *[None] * 6), 1.0, None, None, 1 << 40).dtype == x.dtype


def test_other_types_of_two_bytes_are_not():
    """Nor are bfloat16 and its bits one dtype of logits and gradient: what is written would be read as numbers."""
    core = cython_cpu.load(cython_cpu.isas()[-1])
    x, tokens, _ = some((3, 40), "bfloat16")
    structured = x.view(np.uint16).view([("bfloat16", np.uint16)])
    options = 1.0, None, False, False, False, False, None, 1 << 40
    for logits in (structured, x.view("V2")):
        assert core.row_forward_ready(TokenLogProbs, logits, tokens, *options) is None
    numbers = x.view(np.int16)
    same(core.row_forward_ready(TokenLogProbs, numbers, tokens, *options), token_log_probs(numbers * 1.0, tokens))
    g = np.ones(3, np.float32)
    out = np.zeros((3, 40), np.uint16)
    assert core.row_backward_ready(x, tokens, (g, *[None] * 6), 1.0, None, out, 1 << 40) is None


def every_call(x, tokens, mask=None, ignore_index=None, out=None):
    g = np.linspace(-1, 1, len(x), dtype=np.float32)
    more = {"mask": mask, "ignore_index": ignore_index}
    got = [*token_log_probs(x, tokens, entropy=True, **more), token_log_probs_grad(x, tokens, g, out=out, **more)]
    fused = policy_loss_from_logits(x, tokens, g - 1, g, out=None if out is None else x.copy(), **more)
    return [*got, fused.grad_logits, fused.logp, np.array([fused.loss, *fused.metrics.values()])]


@pytest.mark.parametrize("dtype", [np.int8, np.int32, np.int64, np.uint16, ">i4"])
def test_other_integers_and_ignored_tokens_are_taken(monkeypatch, dtype):
    x, tokens, _ = some((9, 40), "f32")
    tokens[[2, 5]] = 7
    mask = np.arange(9) % 3 > 0
    others = [{}, {"mask": mask}, {"ignore_index": 7}, {"ignore_index": 7, "mask": mask}, {"ignore_index": 1 << 40}]
    given = tokens.astype(dtype)[::-1][::-1]
    want = [every_call(x, tokens.tolist(), **other) for other in others]
    for module in ("log_probs", "fused"):
        monkeypatch.setattr(f"fastalign.{module}.choose", None)  # the long way
    for other, expected in zip(others, want, strict=True):
        same(every_call(x, given, **other), expected)
        same(every_call(x, given, out=np.empty_like(x), **other), expected)


class Elsewhere:
    """As a tensor on a device, which NumPy may not ask for an array."""

    def __array__(self, *dtype, **copy):
        raise RuntimeError("this can't be converted")


def test_of_these_too_what_is_wrong_is_said_and_changes_nothing():
    x, tokens, _ = some((9, 40), "f32")
    g, out = np.ones(9, np.float32), np.full((9, 40), 7, np.float32)
    short = tokens.astype(np.int32)
    wrong = short.copy()
    wrong[4] = -100
    lying_there = out.reshape(-1).view(np.int32)[:9]
    with pytest.raises(IndexError, match=r"tokens\[4\] is -100; expected 0 <= token < 40; ignore_index=-100 skips"):
        token_log_probs_grad(x, wrong, g, out=out)
    with pytest.raises(TypeError, match="ignore_index is True; expected an integer"):
        token_log_probs_grad(x, tokens, g, ignore_index=True, out=out)
    with pytest.raises(TypeError, match="ignore_index is 0.5; expected an integer"):
        token_log_probs_grad(x, tokens, g, ignore_index=0.5, out=out)
    with pytest.raises(ValueError, match=r"mask has shape \(1,\); expected \(9,\)"):
        token_log_probs_grad(x, tokens, g, ignore_index=0, mask=np.array([True]), out=out)
    with pytest.raises(ValueError, match=r"mask\[3\] is 2; expected 0 or 1"):
        token_log_probs_grad(x, tokens, g, ignore_index=0, mask=np.eye(9, dtype=np.uint8)[3] * 2, out=out)
    assert np.all(out == 7)
    out.reshape(-1)[:9].view(np.int32)[:] = short
    for more in ({}, {"ignore_index": 3}):
        with pytest.raises(ValueError, match="out shares memory with an input"):
            token_log_probs_grad(x, lying_there, g, out=out, **more)
        with pytest.raises(ValueError, match="out shares memory with an input"):
            policy_loss_from_logits(x, lying_there, g, g, out=out, **more)
    for more in ({}, {"ignore_index": 3}):
        with pytest.raises(TypeError, match="out is a Elsewhere; expected a numpy.ndarray"):
            token_log_probs_grad(x, short, g, out=Elsewhere(), **more)
        with pytest.raises(TypeError, match="out is a Elsewhere; expected a numpy.ndarray"):
            policy_loss_from_logits(x, short, g, g, out=Elsewhere(), **more)
    kept = np.frombuffer(out, np.bool_, 9, 72)
    with pytest.raises(ValueError, match="out shares memory with an input"):
        token_log_probs_grad(x, tokens, g, ignore_index=3, mask=kept, out=out)


def test_special_rows():
    x = np.array([[np.nan, 1.0], [np.inf, 0.0], [-np.inf, -np.inf], [-np.inf, 2.0], [-0.0, 1e-40]], np.float32)
    tokens = np.array([0, 1, 0, 0, 1])
    every = {"entropy": True, "sum_p2": True, "mean_logit": True, "top1": True}
    same(token_log_probs(x, tokens, **every), token_log_probs(x, tokens.astype(np.uint64), **every))
    g = np.ones(5, np.float32)
    same([token_log_probs_grad(x, tokens, g)], [token_log_probs_grad(x, tokens.astype(np.uint64), g)])


def test_what_is_wrong_is_said_and_changes_nothing():
    x, tokens, _ = some((3, 40), "f32")
    g, out = np.ones(3, np.float32), np.full_like(x, 7)
    for bad in (-1, 40):
        wrong = tokens.copy()
        wrong[1] = bad
        with pytest.raises(IndexError, match=rf"tokens\[1\] is {bad}; expected 0 <= token < 40"):
            token_log_probs(x, wrong)
        with pytest.raises(IndexError, match=rf"tokens\[1\] is {bad}; expected 0 <= token < 40"):
            token_log_probs_grad(x, wrong, g, out=out)
        token_log_probs(x, wrong, mask=np.array([1, 0, 1], np.uint8))  # is not looked at
    with pytest.raises(ValueError, match=r"tokens has shape \(2,\); expected \(3,\)"):
        token_log_probs(x, tokens[:2])
    with pytest.raises(ValueError, match="mask.*is 2; expected 0 or 1"):
        token_log_probs(x, tokens, mask=np.array([1, 2, 1], np.uint8))
    with pytest.raises(ValueError, match="temperature is 0.0; expected a finite number > 0"):
        token_log_probs(x, tokens, temperature=0.0)
    with pytest.raises(ValueError, match="temperature is nan"):
        token_log_probs(x, tokens, temperature=float("nan"))
    with pytest.raises(ValueError, match=r"grad_logp has shape \(2,\)"):
        token_log_probs_grad(x, tokens, g[:2], out=out)
    with pytest.raises(TypeError, match="grad_logp is None"):
        token_log_probs_grad(x, tokens, None, out=out)
    with pytest.raises(TypeError, match="out has dtype float64; expected float32"):
        token_log_probs_grad(x, tokens, g, out=out.astype(np.float64))
    with pytest.raises(ValueError, match="out is read-only"):
        fixed = out.copy()
        fixed.flags.writeable = False
        token_log_probs_grad(x, tokens, g, out=fixed)
    with pytest.raises(ValueError, match=r"old_log_probs has shape \(2,\)"):
        policy_loss_from_logits(x, tokens, g[:2], g[:2], out=out)
    with pytest.raises(ValueError, match="out shares memory with an input"):
        policy_loss_from_logits(x, tokens, out.reshape(-1)[:3], g, out=out)
    with pytest.raises(ValueError, match="loss_type is 'reinforced'"):
        policy_loss_from_logits(x, tokens, g, g, loss_type="reinforced", out=out)
    memory = np.zeros(200, np.float32)
    memory[:120] = x.reshape(-1)
    with pytest.raises(ValueError, match="out shares memory with an input"):
        token_log_probs_grad(memory[:120].reshape(3, 40), tokens, g, out=memory[40:160].reshape(3, 40))
    np.testing.assert_array_equal(memory[:120], x.reshape(-1))
    assert (out == 7).all()


def test_half_of_the_saved_values_in_another_dtype_are_cast():
    x, tokens, cast = some((3, 40), "f32")
    g = np.ones(3)  # float64 beside float32 logits
    same([token_log_probs_grad(x, tokens, g)], [token_log_probs_grad(x, cast, g.astype(np.float32))])
