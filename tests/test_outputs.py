"""``out=`` of the elementwise losses, and calls that the extension takes whole: the same bits, the same errors."""

import os

import numpy as np
import pytest

from fastalign import (
    DPOTrainer,
    dispatch,
    gae,
    kl_divergence,
    kl_estimate,
    kl_penalty_reward,
    policy_loss,
    policy_loss_from_logits,
    ppo_loss,
    preference_loss,
    reward_model_loss,
    selective_log_softmax,
    token_log_probs_grad,
)

RNG = np.random.default_rng(4)


def flat(result):
    """The arrays of a result, and all its numbers."""
    parts = result if isinstance(result, tuple) else (result,)
    found = [x for x in parts if isinstance(x, np.ndarray)]
    numbers = [x for x in parts if isinstance(x, float)]
    return found, numbers + [v for x in parts if isinstance(x, dict) for v in x.values()]


CALLS = {
    "policy_loss": (policy_loss, 3, 1),
    "ppo_loss": (ppo_loss, 3, 1),
    "preference_loss": (preference_loss, 4, 4),
    "preference_loss, no reference": (preference_loss, 2, 4),
    "DPOTrainer": (lambda *logps, backend, **out: DPOTrainer(backend=backend).compute_loss(*logps, **out), 4, 2),
    "reward_model_loss": (reward_model_loss, 2, 2),
    "kl_estimate": (kl_estimate, 2, 2),
    "kl_penalty_reward": (kl_penalty_reward, 2, 1),
}


@pytest.fixture(params=CALLS)
def case(request):
    return CALLS[request.param]


def inputs(count, shape, dtype):
    return [(RNG.standard_normal(shape) - 1).astype(dtype) for _ in range(count)]


def outputs(count, shape, dtype):
    made = tuple(np.full(shape, 7.0, dtype) for _ in range(count))
    return made, made if count > 1 else made[0]


@pytest.mark.parametrize("shape", [(0,), (1,), (37,), (3, 50), (5000,)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_out_receives_what_is_returned(backend, case, shape, dtype):
    call, reads, writes = case
    some = inputs(reads, shape, dtype)
    arrays, out = outputs(writes, shape, dtype)
    want, numbers = flat(call(*some, backend=backend))
    got, told = flat(call(*some, out=out, backend=backend))
    assert all(x is y for x, y in zip(got, arrays, strict=True))
    np.testing.assert_array_equal(got, want)
    np.testing.assert_array_equal(told, numbers)


def test_out_may_be_of_a_subclass(backend, case, tmp_path):
    """A matrix keeps two axes whatever it is told; kernels take it for one axis and wrote past its end."""
    call, reads, writes = case
    some = inputs(reads, (20, 3), np.float32)
    want, numbers = flat(call(*some, backend=backend))
    matrices = [np.full((20, 3), 7.0, np.float32).view(np.matrix) for _ in range(writes)]
    mapped = [np.memmap(tmp_path / str(k), np.float32, "w+", shape=(20, 3)) for k in range(writes)]
    for arrays in (matrices, mapped):
        got, told = flat(call(*some, out=tuple(arrays) if writes > 1 else arrays[0], backend=backend))
        assert all(x is y for x, y in zip(got, arrays, strict=True))
        np.testing.assert_array_equal(got, want)
        np.testing.assert_array_equal(told, numbers)


def test_so_it_may_of_rows_and_recurrences(backend):
    def matrix(*shape):
        return np.full(shape, 7.0, np.float32).view(np.matrix)

    logits, tokens = RNG.standard_normal((20, 3, 5)).astype(np.float32), RNG.integers(0, 5, (20, 3))
    want = selective_log_softmax(logits, tokens, backend=backend)
    out = matrix(20, 3)
    assert selective_log_softmax(logits, tokens, out=out, backend=backend) is out
    np.testing.assert_array_equal(out, want)
    rewards, ends = want, tokens == 0
    pair = matrix(20, 3), matrix(20, 3)
    got = gae(rewards, rewards, ends, out=pair, backend=backend)
    assert got[0] is pair[0] and got[1] is pair[1]
    np.testing.assert_array_equal(pair, gae(rewards, rewards, ends, backend=backend))
    logits, tokens, one = logits[:, 0], tokens[:, 0], want[:, 0]
    grad = token_log_probs_grad(logits, tokens, one, backend=backend)
    fused = policy_loss_from_logits(logits, tokens, one, one, backend=backend).grad_logits
    for out in (matrix(20, 5), np.ma.masked_array(np.full((20, 5), 7.0, np.float32))):
        assert token_log_probs_grad(logits, tokens, one, out=out, backend=backend) is out
        np.testing.assert_array_equal(out, grad)
        assert policy_loss_from_logits(logits, tokens, one, one, out=out, backend=backend).grad_logits is out
        np.testing.assert_array_equal(out, fused)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_call_taken_whole_has_the_bits_of_one_that_is_not(monkeypatch, case, dtype):
    call, reads, _ = case
    some = inputs(reads, (9000,), dtype)
    want, numbers = flat(call(*some, backend="cython"))
    asked = []
    monkeypatch.setattr(dispatch.choose("cython"), "_pointwise_ready", lambda rule: asked.append(1))
    got, told = flat(call(*some, backend="cython"))
    assert asked
    np.testing.assert_array_equal(got, want)
    np.testing.assert_array_equal(told, numbers)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("call, reads", [(kl_divergence, 2), (reward_model_loss, 2), (policy_loss, 3)])
def test_many_blocks_are_added_in_one_order(call, reads, dtype):
    """Also those of a rule with a single tally, whatever way the call takes."""
    some = inputs(reads, (300_000,), dtype)
    want = call(*some)
    got = call(*(np.repeat(x, 2)[::2] for x in some))
    assert got == want if isinstance(want, float) else got[0] == want[0]


MASKED = [(policy_loss, 3), (ppo_loss, 3), (kl_estimate, 2), (kl_penalty_reward, 2)]


@pytest.mark.parametrize("call, reads", MASKED)
@pytest.mark.parametrize("dtype", [bool, np.uint8, np.int64])
@pytest.mark.parametrize("kept", ["some", "all", "none"])
@pytest.mark.parametrize("n", [1, 50, 5000, 12_000])
def test_a_masked_call_taken_whole_has_the_bits_of_one_that_is_not(monkeypatch, call, reads, dtype, kept, n):
    some = inputs(reads, (n,), np.float32)
    mask = {"some": RNG.random(n) < 0.5, "all": np.ones(n, bool), "none": np.zeros(n, bool)}[kept].astype(dtype)
    some[0][mask == 0] = np.nan  # is not read
    got, told = flat(call(*some, mask=mask))
    monkeypatch.setattr(dispatch.choose("cython"), "_pointwise_ready", None)
    want, numbers = flat(call(*some, mask=mask, backend="cython"))
    np.testing.assert_array_equal(got, want)
    np.testing.assert_array_equal(told, numbers)


@pytest.mark.parametrize("call, reads", MASKED)
def test_a_mask_of_other_bytes_is_refused(call, reads):
    mask = np.ones(50, np.uint8)
    mask[7] = 2
    with pytest.raises(ValueError, match=r"mask\[7\] is 2; expected 0 or 1"):
        call(*inputs(reads, (50,), np.float32), mask=mask)
    with pytest.raises(ValueError, match=r"mask has shape \(49,\); expected \(50,\)"):
        call(*inputs(reads, (50,), np.float32), mask=mask[1:])


def test_the_environment_chooses_also_what_was_taken_whole_before(monkeypatch):
    call = preference_loss
    some = inputs(4, (50,), np.float64)
    call(*some), gae(*some[:2], np.zeros(50, bool))
    monkeypatch.setenv("FASTALIGN_BACKEND", "hand")
    with pytest.raises(ValueError, match="FASTALIGN_BACKEND is 'hand'; expected one of"):
        call(*some)
    with pytest.raises(ValueError, match="FASTALIGN_BACKEND is 'hand'; expected one of"):
        gae(*some[:2], np.zeros(50, bool))


def test_the_environment_is_asked_whatever_else_changes_in_it(monkeypatch):
    """The extension asks for itself: any order of changes must be seen."""
    some, rng, held = inputs(4, (50,), np.float64), np.random.default_rng(4), set()
    names = ["FASTALIGN_BACKEND", *(f"FASTALIGN_OTHER_{k}" for k in range(6))]
    for _ in range(400):
        name = names[rng.integers(len(names))]
        if name in held and rng.random() < 0.6:
            monkeypatch.delenv(name)
            held.remove(name)
        else:
            monkeypatch.setenv(name, "hand" if rng.random() < 0.7 else "")
            held.add(name)
        if os.environ.get("FASTALIGN_BACKEND"):
            with pytest.raises(ValueError, match="FASTALIGN_BACKEND is 'hand'"):
                preference_loss(*some)
        else:
            preference_loss(*some)


def test_the_environment_is_asked_where_its_length_and_its_last_variable_stay_as_they_were(monkeypatch):
    """glibc gives a value that was there before its old place in memory again, and the list grows within its own."""
    some = inputs(4, (50,), np.float64)
    monkeypatch.delenv("FASTALIGN_BACKEND", raising=False)
    for name in ("FASTALIGN_OTHER", "FASTALIGN_LAST"):
        monkeypatch.setenv(name, "1")
    preference_loss(*some)
    preference_loss(*some)
    for name in ("FASTALIGN_LAST", "FASTALIGN_OTHER"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("FASTALIGN_BACKEND", "hand")
    monkeypatch.setenv("FASTALIGN_LAST", "1")
    with pytest.raises(ValueError, match="FASTALIGN_BACKEND is 'hand'"):
        preference_loss(*some)


def test_options_by_turns_each_get_their_own_loss():
    """The extension keeps a few sets of options; others, and equal objects, must come to the same."""
    some = inputs(2, (50,), np.float64)
    want = {beta: preference_loss(*some, beta=beta, backend="numpy").loss for beta in (0.1, 0.2, 0.3, 0.4, 0.5, 0.6)}
    order = np.random.default_rng(0).choice(list(want), 200)
    for beta in order:
        for given in (float(beta), float(str(beta)), np.float32(beta)):
            assert preference_loss(*some, beta=given).loss == pytest.approx(want[float(beta)], rel=1e-6)
    some = inputs(3, (50,), np.float64)
    for clip in (0.1, 0.2, 0.1):
        assert ppo_loss(*some, clip)[0] == pytest.approx(ppo_loss(*some, clip, backend="numpy")[0], rel=1e-13)


def test_a_zero_is_one_option_whatever_its_sign(backend):
    """0.0 == -0.0: what is remembered of one is found by the other, and its sign would show in a reward of 0."""
    p, q = np.zeros(3), np.array([0.0, 1.0, -1.0])
    for coef in (-0.0, 0.0, -0.0):
        reward = kl_penalty_reward(p, q, coef, estimator="k1", backend=backend)
        assert np.signbit(reward).tolist() == np.signbit(0.0 * (p - q)).tolist()


def test_a_sum_alone_needs_no_output():
    some = inputs(2, (50,), np.float64)
    want = (np.exp(some[0]) * (some[0] - some[1])).sum()
    assert kl_divergence(*some) == pytest.approx(want, rel=1e-14) == kl_divergence(*some, backend="cython")


@pytest.mark.parametrize("place", ["first", "last"])
def test_an_output_that_is_an_input_is_refused(backend, case, place):
    call, reads, writes = case
    some = inputs(reads, (50,), np.float64)
    arrays, out = outputs(writes, (50,), np.float64)
    kept = [x.copy() for x in (*some, *arrays)]
    shared = some[0 if place == "first" else -1]
    out = (*arrays[:-1], shared) if writes > 1 else shared
    with pytest.raises(ValueError, match=r"out(\[\d\])? shares memory with an input"):
        call(*some, out=out, backend=backend)
    np.testing.assert_array_equal((*some, *arrays), kept)


def test_two_outputs_that_overlap_are_refused(backend):
    some = inputs(2, (50,), np.float64)
    memory = np.zeros(60)
    with pytest.raises(ValueError, match=r"out\[0\] shares memory with out\[1\]"):
        kl_estimate(*some, out=(memory[:50], memory[10:]), backend=backend)
    assert not memory.any()


@pytest.mark.parametrize(
    "change, error, text",
    [
        (lambda x: x[:-1], ValueError, r"has shape \(49,\); expected \(50,\)"),
        (lambda x: x.astype(np.float32), TypeError, "has dtype float32; expected float64"),
        (lambda x: np.repeat(x, 2)[::2], ValueError, "must be C-contiguous"),
        (lambda x: x.tolist(), TypeError, "is a list; expected a numpy.ndarray"),
        (memoryview, TypeError, "is a memoryview; expected a numpy.ndarray"),
    ],
)
def test_an_output_of_another_kind_is_refused(backend, case, change, error, text):
    call, reads, writes = case
    arrays, out = outputs(writes, (50,), np.float64)
    wrong = change(arrays[-1])
    with pytest.raises(error, match=text):
        call(*inputs(reads, (50,), np.float64), out=(*arrays[:-1], wrong) if writes > 1 else wrong, backend=backend)
    assert all((x == 7.0).all() for x in arrays)


def test_a_read_only_output_is_refused(backend, case):
    call, reads, writes = case
    arrays, out = outputs(writes, (50,), np.float64)
    arrays[0].flags.writeable = False
    with pytest.raises(ValueError, match=r"out(\[0\])? is read-only"):
        call(*inputs(reads, (50,), np.float64), out=out, backend=backend)
    assert all((x == 7.0).all() for x in arrays)


def test_the_number_of_outputs_is_checked(backend):
    with pytest.raises(TypeError, match="out is a tuple of 1; expected a tuple of 2 arrays"):
        kl_estimate([0.0], [0.0], out=(np.zeros(1),), backend=backend)
    with pytest.raises(TypeError, match="out is a ndarray; expected a tuple of 2 arrays"):
        kl_estimate(np.zeros(1), np.zeros(1), out=np.zeros(1), backend=backend)


def test_inputs_taken_whole_are_those_that_need_nothing(case):
    """Swapped, strided, unaligned, mixed and masked ones give the same numbers by the long way."""
    call, reads, _ = case
    some = inputs(reads, (50,), np.float64)
    want, numbers = flat(call(*some, backend="cython"))
    unaligned = np.zeros(50 * 8 + 1, np.uint8)[1:].view(np.float64)
    unaligned[:] = some[0]
    for other in (some[0].astype(">f8"), np.repeat(some[0], 2)[::2], unaligned, np.ma.asarray(some[0]).data):
        got, told = flat(call(other, *some[1:], backend="cython"))
        np.testing.assert_array_equal(got, want)
        np.testing.assert_array_equal(told, numbers)
    with pytest.raises(ValueError, match="has shape"):
        call(*some[:-1], some[-1][:-1], backend="cython")
