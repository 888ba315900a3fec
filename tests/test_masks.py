"""Masks and flags of integers, as tokenizers give them, mean what those of bools do, and nothing but 0 and 1 is one."""

import numpy as np
import pytest
from conftest import same

import fastalign as fa

RNG = np.random.default_rng(5)
LOGITS = RNG.standard_normal((4, 33, 7)).astype(np.float32)
TOKENS = RNG.integers(0, 7, (4, 33))
A, B, C = RNG.standard_normal((3, 4, 33)).astype(np.float32)
FLAGS = RNG.random((4, 33)) < 0.7
ENDS = RNG.random((4, 33)) < 0.1

CALLS = {
    "token_log_probs": lambda m, b, o: fa.token_log_probs(LOGITS, TOKENS, mask=m, backend=b)[:2],
    "token_log_probs_grad": lambda m, b, o: [fa.token_log_probs_grad(LOGITS, TOKENS, A, mask=m, out=o, backend=b)],
    "policy_loss": lambda m, b, o: [fa.policy_loss(A, B, C, mask=m, out=o, backend=b).grad_log_probs],
    "policy_loss_from_logits": lambda m, b, o: fa.policy_loss_from_logits(
        LOGITS, TOKENS, A, B, mask=m, out=o, backend=b
    )[1:3],
    "kl_penalty_reward": lambda m, b, o: [fa.kl_penalty_reward(A, B, mask=m, out=o, backend=b)],
    "gae": lambda m, b, o: fa.gae(A, B, ENDS.astype(m.dtype), mask=m, out=o and (o, np.empty_like(A)), backend=b),
    "sequence_log_probs": lambda m, b, o: [fa.sequence_log_probs(A, mask=m, backend=b)],
}


@pytest.mark.parametrize("dtype", [np.int64, np.int32, np.int16, np.int8, np.uint8, np.uint32, np.uint64])
@pytest.mark.parametrize("name", CALLS)
def test_integers_are_flags(backend, name, dtype):
    want = CALLS[name](FLAGS, backend, None)
    given = FLAGS.astype(dtype)
    same(CALLS[name](given, backend, None), want)
    same(CALLS[name](np.repeat(given, 2, axis=1)[:, ::2], backend, None), want)
    np.testing.assert_array_equal(given, FLAGS)


@pytest.mark.parametrize("value", [2, -1, 256, 1 << 32])
@pytest.mark.parametrize("name", CALLS)
def test_other_integers_are_not(backend, name, value):
    """Also where their last byte, or their last four, are 0: what is given as out is not written."""
    given = FLAGS.astype(np.int64)
    given[2, 5] = value
    out = np.full_like(LOGITS if "logits" in name or "token" in name else A, 7.0)
    out = None if name == "gae" else out
    with pytest.raises(ValueError, match=rf"\[2, 5\] is {value}; expected 0 or 1"):
        CALLS[name](given, backend, out)
    assert out is None or (out == 7.0).all()
