"""Numba's recurrences along a stream, four neighbouring steps at a time."""

import mpmath
import numpy as np
import pytest
from conftest import usable

from fastalign import discounted_returns, gae

DISCOUNTS = ((0.99, 0.95), (1.0, 1.0), (0.9, 0.0), (0.0, 1.0), (1.0, 1e-5), (1.0, 2e-36), (1e-40, 1.0), (1e-160, 0.5))


@pytest.fixture(autouse=True)
def _numba():
    usable("numba")


def wide(given):
    return {name: x.astype(float) if getattr(x, "dtype", None) == np.float32 else x for name, x in given.items()}


def check(given, dtype, discounts=DISCOUNTS, **near):
    returns = {name: x for name, x in given.items() if name != "values"}
    for gamma, lam in discounts:
        want = gae(**wide(given), gamma=gamma, lam=lam, backend="numpy")
        want += (discounted_returns(**wide(returns), gamma=gamma, backend="numpy"),)
        got = gae(**given, gamma=gamma, lam=lam, backend="numba")
        got += (discounted_returns(**returns, gamma=gamma, backend="numba"),)
        finite = max(np.abs(w[np.isfinite(w)]).max(initial=0.0) for w in want)
        error = 16 * np.finfo(dtype).eps
        for g, w in zip(got, want, strict=True):
            assert g.dtype == dtype
            np.testing.assert_allclose(g, w, rtol=error, atol=error * (1.0 + finite))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_every_length(dtype):
    rng = np.random.default_rng(1)
    for steps in (*range(1, 14), 63, 64, 65, 1000):
        for ends in (0.0, 0.02, 0.3, 1.0):
            rewards, values = rng.standard_normal((2, steps)).astype(dtype)
            given = {"rewards": rewards, "values": values, "terminated": rng.random(steps) < ends}
            check(given | {"last_values": 0.5}, dtype)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_ends_at_every_place(dtype):
    """All patterns of seven steps: two that are left, four at once and the last one; then of seven among thirteen."""
    rng = np.random.default_rng(2)
    for steps, lead in ((7, 0), (13, 4)):
        rewards, values = rng.standard_normal((2, 128, steps)).astype(dtype)
        ends = np.zeros((128, steps), bool)
        ends[:, lead : lead + 7] = np.arange(128)[:, None] >> np.arange(7) & 1
        given = {"rewards": rewards, "values": values, "terminated": ends, "layout": "NT"}
        check(given | {"last_values": rng.standard_normal(128).astype(dtype)}, dtype, DISCOUNTS[:3])


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_reaches_to_its_episodes_end(value):
    """As far as one step after the other, wherever it is among four, and no further."""
    rng = np.random.default_rng(3)
    steps = 40
    given = {name: rng.standard_normal(steps) for name in ("rewards", "values")} | {"last_values": 0.5}
    for ends in ((), (9, 10, 17, 31), (6, 12, 15, 20, 39), range(steps)):
        given["terminated"] = np.isin(np.arange(steps), ends)
        for at in range(steps):
            for name in ("rewards", "values"):
                odd = given | {name: np.where(np.arange(steps) == at, value, given[name])}
                check(odd, np.float64, DISCOUNTS[::2])
                odd["rewards"] = np.where(np.arange(steps) == at - 5, -np.inf, odd["rewards"])
                check(odd, np.float64, DISCOUNTS[:4])
        check(given | {"last_values": value}, np.float64)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_same_bits_wherever_it_lies_and_beside_whatever(dtype):
    rng = np.random.default_rng(4)
    steps = 301
    rewards, values = rng.standard_normal((2, steps)).astype(dtype)
    ends = rng.random(steps) < 0.05
    want = gae(rewards, values, ends, last_values=0.5, backend="numba")
    for shift in range(1, 9):
        room = [np.zeros(steps + shift, dtype)[shift:] for _ in range(4)]
        flags = np.zeros(steps + shift, bool)[shift:]
        room[0][...], room[1][...], flags[...] = rewards, values, ends
        gae(room[0], room[1], flags, last_values=0.5, out=tuple(room[2:]), backend="numba")
        np.testing.assert_array_equal(room[2:], want)
    rows = [np.stack([x] * 3) for x in (rewards, values, ends)]
    got = gae(*rows, last_values=np.full(3, 0.5, dtype), layout="NT", backend="numba")
    np.testing.assert_array_equal(got, np.stack([want] * 3, 1))
    flat = [x.reshape(-1) for x in rows]
    packed = gae(*flat, last_values=np.full(3, 0.5, dtype), cu_seqlens=np.arange(4) * steps, backend="numba")
    np.testing.assert_array_equal(packed, np.asarray(got).reshape(2, -1))


@pytest.mark.parametrize("gamma", [0.997, 0.9999, 0.99999, 1 - 1e-7, 1 - 3e-9, 1 - 2.0**-53, 1.0])
def test_a_power_does_not_drift(gamma):
    """The rounding of gamma^4, 25,000 times: up to 10,000 eps."""
    steps = 100_001
    rewards = np.zeros(steps)
    rewards[-1] = 1.0
    got = discounted_returns(rewards, rewards < 0, gamma=gamma, backend="numba")[0]
    assert abs(got / (mpmath.mpf(gamma) ** (steps - 1)) - 1) < 500 * np.finfo(float).eps


# Of one stream whose steps are neighbours, and of steps whose streams are (streams.py); what follows their outputs.
LOOPS = pytest.mark.parametrize(
    "loop, shape, more, layout", [("along", (1, 50), (1,), "NT"), ("sweep", (8, 21), (), "TN")]
)


@LOOPS
def test_a_flag_is_any_byte_but_zero(loop, shape, more, layout):
    from fastalign.backends.numba_cpu import recurrence

    x = np.random.default_rng(5).standard_normal((2, *shape))
    flags = np.resize(np.array([0, 0, 255, 0, 0, 0, 0, 1, 0, 0, 128], np.uint8), shape)
    kernel, results = recurrence.scan_kernel(getattr(recurrence, loop), "gae", "float64", True), []
    for ends in (flags, (flags != 0).view(np.uint8)):
        outputs = np.empty((2, *shape))
        kernel(*x, np.empty(0), ends, 0.9, 0.8, *outputs, *more)
        results.append(outputs)
    np.testing.assert_array_equal(*results)


@LOOPS
def test_a_rule_that_compares_goes_without_lanes(monkeypatch, loop, shape, more, layout):
    """What they cannot compute is computed all the same."""
    from fastalign.backends.numba_cpu import recurrence
    from fastalign.backends.numba_cpu.compiling import inlined, rules

    def capped(reward, value, next_value, carry, alive, going, gamma, lam):
        trace = carry if going > 0.0 else 0.0
        return (reward if reward < 0.5 else 0.5) + gamma * lam * trace

    monkeypatch.setattr(rules().rules, f"scan_capped_{loop}", inlined(capped), raising=False)
    x = np.random.default_rng(6).standard_normal(shape)
    ends = np.resize(np.array([0, 0, 0, 0, 0, 0, 1], np.uint8), shape)
    got, nothing = np.empty(shape), np.empty((0, 0))
    kernel = recurrence.scan_kernel(getattr(recurrence, loop), f"capped_{loop}", "float64", False)
    kernel(x, nothing, np.empty(0), ends, 0.9, 0.8, got, nothing, *more)
    want = discounted_returns(np.minimum(x, 0.5), ends != 0, gamma=0.9 * 0.8, layout=layout, backend="numpy")
    np.testing.assert_allclose(got, want, rtol=1e-14)
