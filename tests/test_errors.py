"""Bad input: the argument, what was given, what was expected, the first place; and nothing is written."""

import enum
import math
import os
import re

import numpy as np
import pytest
from conftest import usable

import fastalign as fa
from fastalign.backends import cython_cpu

X = np.zeros((2, 3))
T = np.zeros(2, np.int64)
V = np.zeros(4)
F = np.zeros(4, bool)


def overlapping():
    x = np.zeros(20)
    return x[:12].reshape(4, 3), np.zeros(4, int), x[6:18].reshape(4, 3)


def grad_into_overlap():
    logits, tokens, out = overlapping()
    fa.token_log_probs_grad(logits, tokens, np.ones(4), out=out)


def read_only():
    x = np.zeros((2, 3))
    x.flags.writeable = False
    fa.token_log_probs_grad(X, T, np.ones(2), out=x)


def buffer_of(reward, value, last_value=0.0, values=None):
    buffer = fa.PPOBuffer()
    buffer.add(None, 0, reward, value, -1.0)
    buffer.values = values or buffer.values
    buffer.compute_advantages(last_value)


class Tensor:
    """What PyTorch's bfloat16 is to NumPy."""

    def __init__(self, shape, dtype="torch.bfloat16"):
        self.shape, self.dtype = shape, dtype

    def __array__(self, *_, **__):
        raise TypeError("unsupported")


CASES = [
    # tokens
    (lambda: fa.token_log_probs(X, [0, 3]), IndexError, r"tokens\[1\] is 3; expected 0 <= token < 3"),
    (lambda: fa.token_log_probs(X, [-1, 0]), IndexError, r"tokens\[0\] is -1"),
    (lambda: fa.token_log_probs(X, [0, -100]), IndexError, r"tokens\[1\] is -100.*ignore_index=-100"),
    (lambda: fa.token_log_probs(X[None], [[0, 5]]), IndexError, r"tokens\[0, 1\] is 5"),
    (lambda: fa.token_log_probs(X, np.array([0, 2**63], np.uint64)), IndexError, r"tokens\[1\] is 9223372036854775808"),
    (lambda: fa.token_log_probs(X, [0.0, 1.0]), TypeError, "tokens has dtype float64; expected integers"),
    (lambda: fa.token_log_probs(X, [0]), ValueError, r"tokens has shape \(1,\); expected \(2,\)"),
    (lambda: fa.selective_log_softmax(X, np.zeros((2, 3), int)), ValueError, "index has as many axes as logits"),
    # logits
    (lambda: fa.token_log_probs(X.astype(complex), T), TypeError, "logits has dtype complex128"),
    (lambda: fa.token_log_probs(np.zeros((2, 3), object), T), TypeError, "logits has dtype object"),
    (lambda: fa.token_log_probs(np.zeros((2, 0)), T), ValueError, "the vocabulary is empty"),
    (lambda: fa.token_log_probs(np.float64(1), T), ValueError, "expected at least one axis"),
    (lambda: fa.token_log_probs(None, T), TypeError, "logits is None"),
    (lambda: fa.token_log_probs([[1.0], [1.0, 2.0]], T), TypeError, "logits cannot be read as an array"),
    (lambda: fa.token_log_probs(np.ma.masked_array(X, X > 0), T), TypeError, "logits is a masked array"),
    (lambda: fa.compute_log_probs(X, T), ValueError, r"logits has shape \(2, 3\); expected a 3-D array"),
    # masks
    (lambda: fa.token_log_probs(X, T, mask=[0, 2]), ValueError, r"mask\[1\] is 2; expected 0 or 1"),
    (lambda: fa.token_log_probs(X, T, mask=[0.0, 1.0]), TypeError, "mask has dtype float64"),
    (lambda: fa.token_log_probs(X, T, mask=[True]), ValueError, r"mask has shape \(1,\); expected \(2,\)"),
    # numbers and choices
    (lambda: fa.token_log_probs(X, T, temperature=0), ValueError, "temperature is 0.0; expected a finite number > 0"),
    (lambda: fa.token_log_probs(X, T, temperature=np.nan), ValueError, "temperature is nan"),
    (lambda: fa.token_log_probs(X, T, temperature="1.5"), TypeError, "temperature is '1.5'; expected a number"),
    (lambda: fa.token_log_probs(X, T, temperature="hot"), TypeError, "temperature is 'hot'; expected a number"),
    (lambda: fa.token_log_probs(X, T, temperature=np.array("1.5")), TypeError, r"temperature is array\('1.5'"),
    (lambda: fa.gae(V, V, F, gamma=np.complex64(1)), TypeError, "gamma is np.complex64.*; expected a number"),
    (lambda: fa.preference_loss(V, V, beta=np.complex128(1 + 2j)), TypeError, "beta is np.complex128.*a number"),
    (lambda: fa.token_log_probs(X, T, backend="tpu"), ValueError, "backend is 'tpu'; expected one of 'cython'"),
    (lambda: fa.token_log_probs(X, T, backend=["numpy"]), ValueError, r"backend is \['numpy'\]; expected one of"),
    (lambda: fa.policy_loss(V, V, V, backend=["numpy"]), ValueError, r"backend is \['numpy'\]; expected one of"),
    (lambda: fa.token_log_probs(X, T, temperature=10**400), ValueError, "temperature is an integer beyond all floats"),
    (lambda: fa.token_log_probs_grad(X, T, V[:2], temperature=-(10**400)), ValueError, "temperature is an integer bey"),
    (lambda: fa.gae(V, V, F, gamma=10**400), ValueError, "gamma is an integer beyond all floats; expected a finite"),
    (lambda: fa.discounted_returns(V, F, gamma=10**400), ValueError, "gamma is an integer beyond all floats"),
    (lambda: fa.preference_loss(V, V, beta=10**400), ValueError, "beta is an integer beyond all floats"),
    (lambda: fa.preference_loss(V, V, V, V, loss_type="dpo"), ValueError, "loss_type is 'dpo'; expected one of 'sig"),
    (lambda: fa.preference_loss(V, V, V, V, beta=-1), ValueError, "beta is -1.0"),
    (lambda: fa.preference_loss(V, V, V, V, label_smoothing=2), ValueError, r"label_smoothing is 2.0.*\[0, 1\]"),
    (lambda: fa.DPOTrainer(beta=0), ValueError, "beta is 0.0"),
    (lambda: fa.policy_loss(V, V, V, clip_low=-0.1), ValueError, "clip_low is -0.1"),
    (lambda: fa.policy_loss(V, V, V, aggregation="max"), ValueError, "aggregation is 'max'"),
    (lambda: fa.ppo_loss(V, V, V, np.inf), ValueError, "clip_ratio is inf"),
    (lambda: fa.kl_estimate(V, V, estimator="k4"), ValueError, "estimator is 'k4'; expected one of 'k1', 'k2', 'k3'"),
    (lambda: fa.sequence_log_probs(X, reduction="max"), ValueError, "reduction is 'max'; expected one of 'sum'"),
    (lambda: fa.gae(V, V, F, gamma=1.5), ValueError, r"gamma is 1.5; expected a finite number in \[0, 1\]"),
    (lambda: fa.gae(V, V, F, layout="NTC"), ValueError, "layout is 'NTC'; expected one of 'TN', 'NT'"),
    (lambda: fa.AdaptiveKLController(0.1, 0, 1), ValueError, "target is 0.0"),
    (lambda: fa.set_num_threads(0), ValueError, "n is 0; expected a positive integer"),
    (lambda: fa.set_num_threads(True), ValueError, "n is True"),
    (
        lambda: fa.reward_model_loss(V, V, loss_type="elo"),
        ValueError,
        "loss_type is 'elo'; expected one of 'bradley_terry'",
    ),
    # shapes: nothing broadcasts
    (lambda: fa.preference_loss(V, V[:1], V, V), ValueError, r"policy_rejected_logps has shape \(1,\); expected \(4,"),
    (lambda: fa.preference_loss(V, V, V), TypeError, "only one of ref_chosen_logps and ref_rejected_logps"),
    (lambda: fa.policy_loss(V, V, 1.0), ValueError, r"advantages has shape \(\); expected \(4,\)"),
    (lambda: fa.kl_divergence(V, V[None]), ValueError, r"log_probs_q has shape \(1, 4\)"),
    (lambda: fa.reward_model_loss(V, V, margin=0.5), ValueError, r"margin has shape \(\)"),
    (lambda: fa.preference_loss(V, V.astype(str), V, V), TypeError, "policy_rejected_logps has dtype <U32"),
    (lambda: fa.gae(np.zeros((2, 2, 2)), np.zeros((2, 2, 2)), np.zeros((2, 2, 2), bool)), ValueError, "rewards has sh"),
    (lambda: fa.gae(V, None, F), TypeError, "values is None"),
    (lambda: fa.gae(V, V, None), TypeError, "terminated is None"),
    (lambda: fa.gae(V, V, [0, 1, 7, 0]), ValueError, r"terminated\[2\] is 7; expected 0 or 1 \(1 = ended\)"),
    (
        lambda: fa.gae(V, V, F, last_values=[1.0, 2.0]),
        ValueError,
        r"last_values has shape \(2,\); expected \(1,\) or a",
    ),
    (lambda: fa.gae(X, X, X > 0, last_values=1.0), ValueError, r"last_values has shape \(\); expected \(3,\), one per"),
    (lambda: fa.gae(V, V, F, last_values=1, next_values=V), ValueError, "last_values and next_values are both given"),
    (
        lambda: fa.gae(V, V, F, [0, 0, 1, 0]),
        ValueError,
        r"truncated\[2\] is True; expected final_values or next_values",
    ),
    (
        lambda: fa.gae(V[:3], V, F[:3]),
        ValueError,
        r"values has shape \(4,\); expected \(3,\), the shape of rewards: pass values\[:-1\], and values",
    ),
    (lambda: fa.gae(X[:1], X, X[:1] > 0), ValueError, r"pass values\[:-1\], and values\[-1\] as last_values$"),
    (
        lambda: fa.gae(X[:, :2], X, X[:, :2] > 0, layout="NT"),
        ValueError,
        r"expected \(2, 2\), the shape of rewards: pass values\[:, :-1\], and values\[:, -1\] as last_values$",
    ),
    (lambda: fa.gae(X[:, :2], X, X[:, :2] > 0), ValueError, r"expected \(2, 2\), the shape of rewards$"),
    (lambda: fa.gae(V[:3], V, F[:3], cu_seqlens=[0, 1, 3]), ValueError, r"expected \(3,\), the shape of rewards$"),
    (lambda: fa.gae(V[:3], V, F[:3], next_values=V[:3]), ValueError, r"expected \(3,\), the shape of rewards$"),
    (lambda: fa.gae(1.0, V[:1], F[:1]), ValueError, r"expected \(\), the shape of rewards$"),
    (lambda: buffer_of(1.0, 0.5, values=[0.5, 0.6]), ValueError, "values has 2 numbers of 1 steps; take the last off"),
    # sequences
    (lambda: fa.sequence_log_probs(V), ValueError, r"logp has shape \(4,\); expected \(batch, length\)"),
    (lambda: fa.sequence_log_probs(V, cu_seqlens=[1, 4]), ValueError, "cu_seqlens starts with 1; expected 0"),
    (lambda: fa.sequence_log_probs(V, cu_seqlens=[0, 3, 2, 4]), ValueError, r"cu_seqlens\[2\] is 2, less than the 3"),
    (lambda: fa.sequence_log_probs(V, cu_seqlens=[0, 3]), ValueError, "cu_seqlens ends with 3; expected 4"),
    (lambda: fa.sequence_log_probs(V, cu_seqlens=[0.0, 4.0]), TypeError, "cu_seqlens has dtype float64"),
    (lambda: fa.sequence_log_probs(X, cu_seqlens=[0, 6]), ValueError, "expected one axis with cu_seqlens"),
    (lambda: fa.sequence_log_probs_grad([1.0]), ValueError, "pass mask, cu_seqlens or shape"),
    (lambda: fa.sequence_log_probs_grad([1.0], mask=[1]), ValueError, r"^mask has shape \(1,\); expected \(batch, len"),
    (lambda: fa.sequence_log_probs_grad([1.0], (1,)), ValueError, r"^shape is \(1,\); expected \(batch, length\)"),
    (lambda: fa.sequence_log_probs_grad([1.0], 3), ValueError, "shape is 3; expected a tuple of lengths"),
    (lambda: fa.sequence_log_probs_grad([1.0], (1, 2.5)), ValueError, r"shape is \(1, 2.5\); expected a tuple"),
    (lambda: fa.sequence_log_probs_grad([1.0], (1, -3)), ValueError, r"shape is \(1, -3\); expected a tuple"),
    (
        lambda: fa.sequence_log_probs_grad([1.0], cu_seqlens=[]),
        ValueError,
        "cu_seqlens starts with nothing; expected 0",
    ),
    (lambda: fa.sequence_log_probs_grad([1.0], cu_seqlens=[[0, 2]]), ValueError, "cu_seqlens has shape"),
    (lambda: fa.sequence_log_probs_grad([1.0], cu_seqlens=5), ValueError, r"cu_seqlens has shape \(\)"),
    (lambda: fa.sequence_log_probs_grad([1.0], cu_seqlens=["a"]), TypeError, "cu_seqlens has dtype <U1"),
    (lambda: fa.sequence_log_probs_grad(np.array(["a"]), (1, 3)), TypeError, "grad has dtype <U1; expected float64"),
    (lambda: fa.sequence_log_probs_grad([1.0], (2, 3)), ValueError, r"grad has shape \(1,\); expected \(2,\)"),
    (
        lambda: fa.sequence_log_probs([1.0, 2.0], cu_seqlens=[0, 2**63 - 1, -(2**63) + 5, 2]),
        ValueError,
        r"cu_seqlens\[2\]",
    ),
    (
        lambda: fa.sequence_log_probs_grad([1.0] * 3, cu_seqlens=[0, 2**63 - 1, -(2**63) + 5, 2]),
        ValueError,
        "less than",
    ),
    (
        lambda: fa.sequence_log_probs_grad([1.0], cu_seqlens=np.array([0, 2**63 + 5], np.uint64)),
        ValueError,
        "ends with",
    ),
    (lambda: fa.sequence_log_probs_grad(np.ones(4), (4, 2**62 + 1)), ValueError, "more elements than can be counted"),
    # what is required
    (lambda: fa.policy_loss(None, V, V), TypeError, "log_probs is None; expected an array"),
    (lambda: fa.preference_loss(V, None), TypeError, "policy_rejected_logps is None"),
    (lambda: fa.kl_divergence(V, None), TypeError, "log_probs_q is None"),
    (lambda: fa.reward_model_loss(None, V), TypeError, "reward_chosen is None"),
    (lambda: fa.gae(None, V, F), TypeError, "rewards is None"),
    (lambda: fa.discounted_returns(None, F), TypeError, "rewards is None"),
    (lambda: fa.sequence_log_probs(None), TypeError, "logp is None"),
    # the caller's own names
    (lambda: fa.selective_log_softmax(X, [0, 5]), IndexError, r"index\[1\] is 5"),
    (lambda: fa.ppo_loss(V, V[:1], V), ValueError, r"old_log_probs has shape \(1,\); .*the shape of new_log_probs"),
    (lambda: fa.discounted_returns(V, F, out=np.zeros(3)), ValueError, r"out has shape \(3,\)"),
    # ignore_index and temperature
    (
        lambda: fa.token_log_probs(X, T, ignore_index=[0, 1]),
        TypeError,
        r"ignore_index is \[0, 1\]; expected an integer",
    ),
    (lambda: fa.token_log_probs(X, T, ignore_index=1.5), TypeError, "ignore_index is 1.5"),
    (lambda: fa.token_log_probs(X, T, temperature=1e-309), ValueError, "temperature is 1e-309, too small or too large"),
    (lambda: fa.token_log_probs(X.astype("f4"), T, temperature=1e39), ValueError, "too small or too large for float32"),
    # out
    (lambda: fa.token_log_probs_grad(X, T, T, out=[1.0]), TypeError, "out is a list; expected a numpy.ndarray"),
    (lambda: fa.token_log_probs_grad(X, T, T, out=np.zeros((3, 2))), ValueError, r"out has shape \(3, 2\)"),
    (lambda: fa.token_log_probs_grad(X, T, T, out=np.zeros((2, 3), "f4")), TypeError, "out has dtype float32"),
    (lambda: fa.token_log_probs_grad(X, T, T, out=np.zeros((3, 2)).T), ValueError, "out must have contiguous rows"),
    (read_only, ValueError, "out is read-only"),
    (grad_into_overlap, ValueError, "out shares memory with an input"),
    (lambda: fa.gae(V, V, F, out=V), TypeError, "out is a ndarray; expected a tuple of 2 arrays"),
    (lambda: fa.gae(V, V, F, out=(V, np.zeros(4))), ValueError, r"out\[0\] shares memory with an input"),
    (lambda: fa.gae(V, V, F, out=(np.zeros(4),) * 2), ValueError, r"out\[0\] shares memory with out\[1\]"),
    (lambda: fa.token_log_probs_grad(X, T, None), TypeError, "grad_logp is None"),
    (lambda: fa.token_log_probs_grad(X, T, np.zeros(3)), ValueError, r"grad_logp has shape \(3,\); expected \(2,\)"),
    # the curriculum's classes
    (lambda: fa.create_preference_dataset(["a"], ["b"], []), ValueError, "prompts 1, chosen_responses 1, rejected_re"),
    (lambda: fa.RewardModel(0), ValueError, "input_dim is 0; expected a positive integer"),
    (lambda: fa.RewardModel(2, 2.5), ValueError, "hidden_dim is 2.5"),
    (lambda: fa.RewardModel(2, dtype=int), TypeError, "dtype is int64; expected float32 or float64"),
    (lambda: fa.RewardModel(2).backward(np.ones((1, 1))), RuntimeError, "backward needs a forward before it"),
    (lambda: fa.RewardModel(2).forward(np.ones(2)), ValueError, r"x has shape \(2,\); expected \(batch, 2\)"),
    (lambda: fa.RewardModel(3, 2, rng=-1), ValueError, "^rng is -1; expected None, an int"),
    (lambda: fa.RewardModel(3, 2, rng="x"), TypeError, "^rng is 'x'; expected None, an int"),
    (lambda: fa.PPOBuffer(gamma=2), ValueError, "gamma is 2.0"),
    (lambda: buffer_of(np.ones(3), 0.5), ValueError, r"rewards has shape \(1, 3\); expected one number per step"),
    (lambda: buffer_of(None, 0.5), TypeError, "rewards has dtype object"),
    (lambda: buffer_of(1.0, "0.5"), TypeError, "values has dtype <U3"),
    (lambda: buffer_of(1.0, 0.5, [1.0, 2.0]), ValueError, r"last_value has shape \(2,\); expected one number"),
    # what NumPy cannot read
    (lambda: fa.token_log_probs(Tensor((2, 3)), T), TypeError, r"logits cannot .*its bits, x.view\(torch.uint16\)"),
    (lambda: fa.linear_log_probs(Tensor((2, 3)), X, T), TypeError, r"hidden cannot .*pass its bits, x.view"),
    (lambda: fa.linear_log_probs(X, Tensor((2, 3)), T), TypeError, r"weight cannot .*pass its bits, x.view"),
    (
        lambda: fa.selective_log_softmax(X, T.astype("i4"), mask=Tensor(2), out=np.zeros(2)),
        TypeError,
        "^mask cannot be read as an array: unsupported; pass x.float",
    ),
    (lambda: fa.policy_loss(Tensor(4), V, V), TypeError, r"log_probs cannot .*pass x.float\(\)"),
    (lambda: fa.preference_loss(Tensor(4, "torch.float32"), V), TypeError, "logps cannot .*: unsupported$"),
]


@pytest.mark.parametrize("call, error, text", CASES, ids=[text[:40] for *_, text in CASES])
def test_the_message_says_what_is_wrong(call, error, text):
    with pytest.raises(error, match=text):
        call()


def test_a_refused_call_writes_nothing(backend):
    out = np.full((2, 3), 7.0)
    with pytest.raises(IndexError):
        fa.token_log_probs_grad(X, [0, 9], np.ones(2), out=out, backend=backend)
    pair = np.full(4, 7.0), np.full(4, 7.0)
    with pytest.raises(ValueError, match="gamma"):
        fa.gae(V, V, F, gamma=3, out=pair, backend=backend)
    with pytest.raises(ValueError, match="truncated"):
        fa.gae(V, V, F, [0, 0, 0, 1], out=pair, backend=backend)
    assert (out == 7).all() and (pair[0] == 7).all() and (pair[1] == 7).all()


def test_out_is_filled_and_returned(backend):
    rng = np.random.default_rng(0)
    logits, tokens = rng.standard_normal((2, 3)), np.array([2, 0])
    out = np.full((2, 3), np.nan)
    assert fa.token_log_probs_grad(logits, tokens, [1.0, 2.0], out=out, backend=backend) is out
    np.testing.assert_array_equal(out, fa.token_log_probs_grad(logits, tokens, [1.0, 2.0], backend=backend))
    logp = np.full(2, np.nan)
    assert fa.selective_log_softmax(logits, tokens, out=logp, backend=backend) is logp
    np.testing.assert_array_equal(logp, fa.selective_log_softmax(logits, tokens, backend=backend))
    rewards, values = rng.standard_normal((2, 4))
    pair = np.full(4, np.nan), np.full(4, np.nan)
    got = fa.gae(rewards, values, F, out=pair, backend=backend)
    want = fa.gae(rewards, values, F, backend=backend)
    assert got[0] is pair[0] and got[1] is pair[1]
    np.testing.assert_array_equal(pair, want)
    returns = np.full(4, np.nan)
    assert fa.discounted_returns(rewards, F, out=returns, backend=backend) is returns
    np.testing.assert_array_equal(returns, fa.discounted_returns(rewards, F, backend=backend))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_dtypes_are_kept(backend, dtype):
    x = np.zeros(3, dtype)
    assert fa.kl_estimate(x, x, backend=backend).value.dtype == dtype
    assert fa.gae(x, x, x > 0, backend=backend)[0].dtype == dtype
    assert fa.preference_loss(x, x, x, x, backend=backend).grad_chosen.dtype == dtype
    mixed = fa.kl_estimate(x, np.zeros(3), backend=backend)
    assert mixed.value.dtype == np.float64
    assert fa.kl_estimate([1, 2], [1, 2], backend=backend).value.dtype == np.float64
    assert fa.kl_estimate(x.astype(np.float16), x.astype(np.float16), backend=backend).value.dtype == np.float32
    result = fa.preference_loss(x, x, x, x, backend=backend)
    assert type(result.loss) is float and all(type(v) is float for v in result.metrics.values())
    assert type(fa.kl_divergence(x, x, backend=backend)) is float


def test_shapes_are_kept(backend):
    x = np.zeros((2, 3, 4))
    assert fa.policy_loss(x, x, x, backend=backend).grad_log_probs.shape == x.shape
    assert fa.kl_penalty_reward(x, x, backend=backend).shape == x.shape
    assert fa.token_log_probs(x, np.zeros((2, 3), int), backend=backend).lse.shape == (2, 3)
    assert fa.token_log_probs(np.zeros(4), np.int64(2), backend=backend).logp.shape == ()
    scalar = fa.kl_estimate(np.float64(-1), np.float64(-2), estimator="k1", backend=backend).value
    assert scalar.shape == () and scalar == 1


@pytest.mark.parametrize("layout", ["TN", "NT"])
def test_what_is_said_of_values_of_one_step_more_is_right(backend, layout):
    """As the definition makes of them: V′ₜ = values[t + 1], the last one too."""
    rng = np.random.default_rng(1)
    rewards, values, ends = rng.standard_normal((5, 3)), rng.standard_normal((6, 3)), rng.random((5, 3)) < 0.3
    want = fa.gae(rewards, values[:-1], ends, next_values=values[1:], backend="numpy")
    if layout == "NT":
        rewards, values, ends = rewards.T, values.T, ends.T
    with pytest.raises(ValueError, match="pass values") as refused:
        fa.gae(rewards, values, ends, layout=layout, backend=backend)
    first, last = re.findall(r"values(\[.*?\])", str(refused.value))
    given, after = eval(f"x{first}", {"x": values}), eval(f"x{last}", {"x": values})
    got = fa.gae(rewards, given, ends, last_values=after, layout=layout, backend=backend)
    for g, w in zip(got, want, strict=True):
        np.testing.assert_allclose(g, w.T if layout == "NT" else w, rtol=1e-12, atol=1e-14)


def test_ints_of_every_width_are_tokens(backend):
    logits = np.random.default_rng(0).standard_normal((3, 100))
    want = fa.selective_log_softmax(logits, [1, 2, 99], backend=backend)
    for dtype in "bBhHiIlL":
        got = fa.selective_log_softmax(logits, np.array([1, 2, 99], dtype), backend=backend)
        np.testing.assert_array_equal(got, want)


def test_more_than_two_to_the_31_elements():
    """Offsets are 64 bits wide: a flat index past 2³¹ is reached, in a byte per element."""
    bits = np.zeros((70_000, 31_000), np.uint16)  # 4.3 GB of bfloat16 zeros that nobody touches
    rows = slice(69_290, None)  # 69,290 · 31,000 > 2³¹
    tokens = np.zeros(70_000, np.int64)
    mask = np.zeros(70_000, bool)
    mask[rows] = True
    bits[-1, 5] = 0x4040  # 3.0
    tokens[-1] = 5
    got = fa.token_log_probs(bits, tokens, mask=mask)
    assert not got.lse[: rows.start].any()
    np.testing.assert_allclose(got.lse[rows.start : -1], np.log(31_000), rtol=1e-6)
    assert got.logp[-1] == pytest.approx(3.0 - np.log(30_999 + np.exp(3.0)), rel=1e-6)


def test_more_than_two_to_the_31_elements_that_count():
    """Their number had the sign of an int, and so had the loss; without outputs, in a byte per element."""
    names = "SC_AVPHYS_PAGES", "SC_PAGE_SIZE"
    if not set(names) <= set(getattr(os, "sysconf_names", ())) or math.prod(map(os.sysconf, names)) < 6 << 30:
        pytest.skip("needs 6 GB of free memory")
    x = np.zeros(2**31 + 4096, np.float32)  # 8.6 GB of which nobody writes more than the last
    x[-1] = 1.0
    usable("cython")
    call = cython_cpu.core().Call("policy", "ppo", (0.2, 0.2, 20.0), None, 3, 0, None, None)
    (loss,) = call.ready((x, x, x), np.ones(x.shape, bool), None)
    assert loss == pytest.approx(-1.0 / x.size)


def test_a_buffer_that_shares_memory_is_seen():
    """Whatever numpy.asarray makes a view of."""
    x, out = np.array([[1.0, 2.0], [3.0, 4.0]]), np.ones((2, 2))
    with pytest.raises(ValueError, match="out shares memory"):
        fa.token_log_probs_grad(x, [0, 1], memoryview(out.reshape(-1)[2:]), out=out)
    buffer = np.ones(8)
    with pytest.raises(ValueError, match=r"out\[0\] shares memory"):
        fa.gae(np.arange(6.0), memoryview(buffer[1:7]), np.zeros(6, int), out=(buffer[:6], np.empty(6)))


def test_offsets_are_not_written_while_they_are_read(backend):
    """A kernel that finds its own results among them walks to wherever these say."""
    memory = np.zeros(4064)
    offsets = memory[32:65].view(np.int64)
    offsets[:] = np.linspace(0, 4000, 33)
    x = np.ones(4000)
    with pytest.raises(ValueError, match=r"out\[0\] shares memory with an input"):
        fa.gae(x, x, x < 0, cu_seqlens=offsets, out=(memory[:4000], x.copy()), backend=backend)
    with pytest.raises(ValueError, match="out shares memory with an input"):
        fa.discounted_returns(x, x < 0, cu_seqlens=offsets, out=memory[:4000], backend=backend)
    assert offsets[-1] == 4000


def test_an_option_is_not_taken_for_the_one_before(backend):
    """0.1 equals a float16 that is another number; a tensor, like this schedule, is hashed by where it lies."""

    class Schedule:
        def __float__(self):
            return self.value

    def loss(beta):
        return fa.preference_loss(V, V + 1, V, V, beta=beta, backend=backend).loss

    half, schedule = np.float16(0.1), Schedule()
    for beta in (float(half), 0.1):
        schedule.value = beta
        assert loss(schedule) == pytest.approx(math.log1p(math.exp(beta)), rel=1e-9)
    assert loss(half) != loss(0.1) == loss(schedule) != loss(half)
    fa.policy_loss(V, V, V, loss_type="ppo", backend=backend)
    with pytest.raises(ValueError, match="loss_type is array"):
        fa.policy_loss(V, V, V, loss_type=np.array("ppo"), backend=backend)


def test_names_may_be_of_a_subclass_of_str(backend):
    kind = enum.StrEnum("Kind", {"NT": "NT", "k3": "k3", "mean": "mean", "sigmoid": "sigmoid"})
    fa.gae(X, X, X > 0, layout=kind.NT, backend=backend)
    fa.kl_estimate(V, V, estimator=kind.k3, backend=backend)
    fa.sequence_log_probs(X, reduction=kind.mean, backend=backend)
    fa.DPOTrainer(loss_type=np.str_("sigmoid"), backend=backend).compute_loss(V, V, V, V)


def test_a_truncation_that_is_masked_or_terminated_needs_no_value(backend):
    one = np.array([1.0, 2.0, 3.0])
    fa.gae(one, one, [0, 0, 0], [0, 0, 1], mask=[1, 1, 0], backend=backend)
    fa.gae(one, one, [0, 0, 1], [0, 0, 1], backend=backend)
    with pytest.raises(ValueError, match=r"truncated\[1\] is True"):
        fa.gae(one, one, [0, 0, 1], [0, 1, 1], backend=backend)


def test_an_empty_list_is_an_array_of_any_dtype(backend):
    assert [x.shape for x in fa.gae([], [], [], truncated=[], mask=[], backend=backend)] == [(0,), (0,)]
    assert fa.token_log_probs(np.zeros((0, 3)), [], mask=[], backend=backend).logp.shape == (0,)
    assert fa.policy_loss([], [], [], mask=[], backend=backend).loss == 0.0
