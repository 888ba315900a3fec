"""Calls that the numba backend takes whole: the bits of the long way, and its errors."""

import numpy as np
import pytest
from conftest import usable
from test_outputs import CALLS, MASKED, flat, inputs, outputs

from fastalign import dispatch, kl_estimate, policy_loss, preference_loss

RNG = np.random.default_rng(5)


@pytest.fixture
def taken():
    """How often a call was taken whole."""
    usable("numba")
    from fastalign.backends import numba_cpu

    counted, whole = [], numba_cpu.pointwise_ready

    def counting(rule):
        def ready(*given):
            done = whole(rule)(*given)
            counted.append(done is not None)
            return done

        return ready

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(numba_cpu, "pointwise_ready", counting)
        dispatch._engine.cache_clear()
        yield counted
    dispatch._engine.cache_clear()


@pytest.fixture
def long_way(taken):
    """The same call with nothing taken whole."""
    engine = dispatch.choose("numba")

    def run(call, *some, **options):
        ready, engine._pointwise_ready = engine._pointwise_ready, None
        try:
            return call(*some, **options, backend="numba")
        finally:
            engine._pointwise_ready = ready

    return run


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", [(1,), (37,), (3, 50), (4096,), (4097,), (3, 20_000)])
def test_it_has_the_bits_of_the_long_way(taken, long_way, name, dtype, shape):
    call, reads, writes = CALLS[name]
    some = inputs(reads, shape, dtype)
    some[0].flat[0] = np.nan
    want, numbers = flat(long_way(call, *some))
    assert not any(taken)
    made, out = outputs(writes, shape, dtype)
    for options in ({}, {"out": out}):
        got, told = flat(call(*some, **options, backend="numba"))
        np.testing.assert_array_equal(got, want)
        np.testing.assert_array_equal(told, numbers)
    assert taken == [True, True]
    assert all(x is y for x, y in zip(got, made, strict=True))


@pytest.mark.parametrize("call, reads", MASKED)
@pytest.mark.parametrize("dtype", [bool, np.uint8])
@pytest.mark.parametrize("n", [1, 50, 4096, 4097, 30_000])
def test_so_it_has_with_a_mask(taken, long_way, call, reads, dtype, n):
    some = inputs(reads, (n,), np.float32)
    mask = np.asarray(RNG.random(n) < 0.5)
    mask[0] = True
    some[0][~mask] = np.nan  # is not read
    mask = mask.astype(dtype)
    want, numbers = flat(long_way(call, *some, mask=mask))
    got, told = flat(call(*some, mask=mask, backend="numba"))
    assert taken[-1]
    np.testing.assert_array_equal(got, want)
    np.testing.assert_array_equal(told, numbers)


def test_what_must_be_prepared_is_taken_then_and_what_is_divided_is_not(taken, threads):
    x, y = inputs(2, (50,), np.float64)
    want = kl_estimate(x, y, backend="numpy").value
    odd = np.frombuffer(b"\0" + x.tobytes(), np.float64, 50, 1)
    for given in (x[::-1][::-1], odd, x.astype(">f8"), x.tolist()):
        np.testing.assert_allclose(kl_estimate(given, y, backend="numba").value, want, rtol=1e-14)
    assert taken == [True, *[False, True] * 3]
    assert kl_estimate(x, y, mask=np.zeros(50, bool), backend="numba").value.tolist() == [0.0] * 50
    assert kl_estimate(x[:0], y[:0], backend="numba").value.size == 0
    for count, n in ((1, 300_000), (2, 300_000), (2, 150_000)):
        threads(count)
        kl_estimate(*inputs(2, (n,), np.float32), backend="numba")
    assert taken[7:] == [*[False, False] * 2, True, False, False, True]


def test_what_is_wrong_is_explained(taken):
    x, y, z = inputs(3, (50,), np.float32)
    for out, words in ((x, "shares memory"), (np.zeros(50), "dtype float64"), (np.zeros(49, np.float32), "shape")):
        with pytest.raises((TypeError, ValueError), match=words):
            policy_loss(x, y, z, out=out, backend="numba")
    fixed = np.full(50, 7.0, np.float32)
    fixed.flags.writeable = False
    with pytest.raises(ValueError, match="read-only"):
        policy_loss(x, y, z, out=fixed, backend="numba")
    mask = np.ones(50, np.uint8)
    mask[3] = 2
    with pytest.raises(ValueError, match=r"mask\[3\] is 2"):
        policy_loss(x, y, z, mask=mask, backend="numba")
    with pytest.raises(ValueError, match="shape"):
        policy_loss(x, y[:49], z, backend="numba")
    for one in ({"ref_chosen_logps": z}, {"ref_rejected_logps": z}):
        with pytest.raises(TypeError, match="only one of ref_chosen_logps and ref_rejected_logps"):
            preference_loss(x, y, **one, backend="numba")
    both = np.zeros(60, np.float32)
    a, b = both[:50], both[10:]
    with pytest.raises(ValueError, match=r"out\[0\] shares memory with out\[1\]"):
        kl_estimate(x, y, out=(a, b), backend="numba")
    assert not any(taken) and not both.any() and (fixed == 7.0).all()
