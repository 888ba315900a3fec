"""Calls on sequences that the extension takes whole: the bits of the long way and of the oracle, and their errors."""

import numpy as np
import pytest
from conftest import same

from fastalign import compute_log_probs, discounted_returns, gae, sequence_log_probs, sequence_log_probs_grad
from fastalign.backends import cython_cpu

pytestmark = pytest.mark.skipif(cython_cpu.why_not() is not None, reason=f"cython: {cython_cpu.why_not()}")

RNG = np.random.default_rng(17)
REALS = [np.float32, np.float64]
LENGTHS = [(1,), (255,), (256, 257), (3, 0, 700, 1, 512), (0, 0, 5), (40, 2000, 0, 7, 9, 300, 1, 513, 64)]
PADDED = [(1, 1), (3, 7), (4, 256), (5, 257), (9, 700), (2, 3000)]


def packed(lengths, real):
    offsets = np.cumsum([0, *lengths])
    return (50 * RNG.standard_normal(offsets[-1])).astype(real), offsets


def masks(shape):
    kept = np.asarray(RNG.random(shape) < 0.6)
    odd = (kept * RNG.integers(1, 256, shape)).astype(np.uint8).view(bool)  # any byte but 0 is True
    return (
        None,
        kept,
        kept.astype(np.int8),
        kept.astype(np.int64),
        odd,
        np.zeros(shape, bool),
        np.ones(shape, np.uint32),
    )


def taken(name, *given):
    return getattr(cython_cpu.core(), name)(*given)


def check(logp, reduction, mask, cu_seqlens=None):
    options = {"mask": mask, "cu_seqlens": cu_seqlens, "reduction": reduction}
    want = sequence_log_probs(logp, **options, backend="numpy")
    same([taken("group_reduce_ready", logp, mask, cu_seqlens, reduction)], [want])
    same([sequence_log_probs(logp, **options)], [want])
    same([sequence_log_probs(np.repeat(logp, 2, axis=0)[::2], **options)], [want])  # which must be copied
    grad = RNG.standard_normal(len(want)).astype(logp.dtype)
    back = sequence_log_probs_grad(grad, logp.shape, **options, backend="numpy")
    same([taken("group_spread_ready", grad, logp.shape, mask, cu_seqlens, reduction)], [back])
    same([sequence_log_probs_grad(grad, list(logp.shape), **options)], [back])
    if mask is not None or cu_seqlens is not None:
        same([taken("group_spread_ready", grad, None, mask, cu_seqlens, reduction)], [back])


@pytest.mark.parametrize("reduction", ["sum", "mean"])
@pytest.mark.parametrize("real", REALS)
@pytest.mark.parametrize("lengths", LENGTHS)
def test_packed(lengths, real, reduction):
    logp, offsets = packed(lengths, real)
    for mask in masks(logp.shape):
        for integers in (np.int64, np.int32):
            check(logp, reduction, mask, offsets.astype(integers))


@pytest.mark.parametrize("reduction", ["sum", "mean"])
@pytest.mark.parametrize("real", REALS)
@pytest.mark.parametrize("shape", PADDED)
def test_padded(shape, real, reduction):
    logp = (50 * RNG.standard_normal(shape)).astype(real)
    for mask in masks(shape):
        check(logp, reduction, mask)


@pytest.mark.parametrize("real", REALS)
def test_what_is_not_finite_stays_in_its_sequence(real):
    """And what is masked is not read."""
    for value in (np.nan, np.inf, -np.inf, -0.0):
        for at in (0, 255, 256, 299):
            logp = RNG.standard_normal((7, 300)).astype(real)
            logp[2, at] = value
            check(logp, "sum", None)
            mask = np.ones(logp.shape, bool)
            mask[2, at] = False
            check(logp, "mean", mask)
            assert np.isfinite(sequence_log_probs(logp, mask=mask)).all()


@pytest.mark.parametrize("real", REALS)
def test_bits_do_not_depend_on_the_threads(threads, real):
    logp, offsets = packed(RNG.integers(0, 2500, 301), real)
    mask = RNG.random(logp.shape) < 0.6
    found = []
    for count in (1, 2, 3):
        threads(count)
        sums = sequence_log_probs(logp, mask=mask, cu_seqlens=offsets, reduction="mean")
        found.append((sums, sequence_log_probs_grad(sums, mask=mask, cu_seqlens=offsets, reduction="mean")))
    same(found[1], found[0])
    same(found[2], found[0])


def test_what_is_wrong_is_said():
    logp, grad = np.zeros(5), np.zeros(2)
    for offsets in ([1, 3, 5], [0, 3, 4], [0, 6, 5], [0, -1, 5], [[0, 3, 5]]):
        with pytest.raises(ValueError, match="cu_seqlens|1-D"):
            sequence_log_probs(logp, cu_seqlens=np.array(offsets))
        with pytest.raises(ValueError, match="cu_seqlens|1-D"):
            sequence_log_probs_grad(grad, (5,), cu_seqlens=np.array(offsets))
    offsets = np.array([0, 3, 5])
    for error, given in (
        (ValueError, {"reduction": "max"}),
        (ValueError, {"mask": np.ones(4, bool)}),
        (ValueError, {"mask": np.full(5, 2)}),
        (TypeError, {"mask": np.ones(5)}),
    ):
        with pytest.raises(error, match="reduction|mask"):
            sequence_log_probs(logp, cu_seqlens=offsets, **given)
        with pytest.raises(error, match="reduction|mask"):
            sequence_log_probs_grad(grad, (5,), cu_seqlens=offsets, **given)
    for shape in ((2, 3, 4), (3, 4), (-2, 3)):
        with pytest.raises(ValueError, match="shape"):
            sequence_log_probs_grad(grad, shape)
    with pytest.raises(ValueError, match="shape"):
        sequence_log_probs(logp)


@pytest.mark.parametrize("real", REALS)
def test_log_probs_of_whole_sequences(real):
    logits, tokens = RNG.standard_normal((5, 9, 30)).astype(real), RNG.integers(0, 30, (5, 9))
    mask = RNG.random((5, 9)) < 0.6
    slow = compute_log_probs(logits, tokens.astype(np.uint64), mask=mask)
    same([compute_log_probs(logits, tokens, mask=mask)], [slow])


def recurrences(rewards, values, ends, more, cu_seqlens, out):
    pair = None if out is None else (out, np.empty_like(out))
    both = gae(rewards, values, ends, **more, cu_seqlens=cu_seqlens, out=pair)
    rest = {name: x for name, x in more.items() if name not in ("mask", "lam")}
    return [*both, discounted_returns(rewards, ends, **rest, cu_seqlens=cu_seqlens)]


@pytest.mark.parametrize("real", REALS)
@pytest.mark.parametrize("lengths", LENGTHS)
def test_packed_recurrences(lengths, real):
    rewards, offsets = packed(lengths, real)
    values, final = RNG.standard_normal((2, len(rewards))).astype(real)
    ends, cuts = RNG.random((2, len(rewards))) < 0.05
    last = RNG.standard_normal(len(lengths)).astype(real)
    for more in (
        {},
        {"last_values": last, "gamma": np.float64(0.9)},
        {"truncated": cuts, "final_values": final, "last_values": last},
        {"mask": RNG.random(len(rewards)) < 0.6, "lam": 1},
    ):
        want = recurrences(rewards, values, ends, more, offsets.tolist(), None)
        for integers in (np.int64, np.int32):
            some = offsets.astype(integers)
            same(recurrences(rewards, values, ends, more, some, np.empty_like(rewards)), want)
            numbers = more.get("gamma", 0.99), more.get("lam", 0.95), "TN", some
            flags = more.get("last_values"), ends, more.get("truncated"), more.get("mask")
            done = taken(
                "scan_ready", "gae", rewards, values, None, more.get("final_values"), *flags, *numbers, None, 1 << 40
            )
            same(done, want[:2])


@pytest.mark.parametrize("real", REALS)
def test_a_number_for_the_last_value_of_one_stream(real):
    rewards, values = RNG.standard_normal((2, 40)).astype(real)
    ends, more = np.zeros(40, bool), (0.9, 0.8, "TN", None, None, 1 << 40)
    for last in (0.6, 3, np.float64(-2.5), 1e-50):
        want = gae(rewards, values, ends, last_values=np.array([last], real), gamma=0.9, lam=0.8)
        same(gae(rewards, values, ends, last_values=last, gamma=0.9, lam=0.8), want)
        same(taken("scan_ready", "gae", rewards, values, None, None, last, ends, None, None, *more), want)
    two = rewards.reshape(20, 2)
    with pytest.raises(ValueError, match=r"expected \(2,\)"):
        gae(two, two, np.zeros((20, 2), bool), last_values=0.6)
    for wrong in ("0.6", 1j):
        with pytest.raises(TypeError, match="last_values"):
            gae(rewards, values, ends, last_values=wrong)


def test_no_output_is_where_sequences_begin():
    memory = np.zeros(40, np.int32)
    memory[:3] = 0, 4, 10
    out = memory[:20].view(np.float32)[:10]
    rewards = np.ones(10, np.float32)
    with pytest.raises(ValueError, match="shares memory"):
        discounted_returns(rewards, np.zeros(10, bool), cu_seqlens=memory[:3], out=out)
    assert memory[:3].tolist() == [0, 4, 10]
