"""Numba's recurrences of many streams, which are neighbours in memory: by vectors, and what is left of them."""

import numpy as np
import pytest
from conftest import usable

from fastalign import discounted_returns, gae


@pytest.fixture(autouse=True)
def _numba():
    usable("numba")


def streams(steps, count, dtype, ends=0.2):
    rng = np.random.default_rng(steps * count)
    rewards, values = rng.standard_normal((2, steps, count)).astype(dtype)
    last = rng.standard_normal(count).astype(dtype)
    return {"rewards": rewards, "values": values, "terminated": rng.random((steps, count)) < ends, "last_values": last}


def both(given, backend="numba"):
    """GAE and discounted returns: with values and without."""
    alone = {name: x for name, x in given.items() if name != "values"}
    return *gae(**given, backend=backend), discounted_returns(**alone, backend=backend)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_every_width_and_length(dtype):
    """Two steps at once and single ones, vectors and what is left of them, blocks of 4096."""
    sizes = [(steps, count) for steps in (1, 2, 3, 4, 5, 6, 9) for count in (2, 3, 4, 7, 8, 9, 15, 16, 17, 24, 67)]
    for steps, count in (*sizes, (5, 600), (4, 4096), (3, 4105), (5, 8200)):
        given = streams(steps, count, dtype)
        for flags in (given["terminated"], given["terminated"] < 0):
            some = given | {"terminated": flags}
            want = both({name: x if x.dtype == bool else x.astype(float) for name, x in some.items()}, "numpy")
            for g, w in zip(both(some), want, strict=True):
                np.testing.assert_allclose(g, w, rtol=16 * np.finfo(dtype).eps, atol=64 * np.finfo(dtype).eps)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_same_bits_beside_whatever(dtype):
    for steps in (6, 7):
        given = streams(steps, 40, dtype)
        whole = both(given)
        for first, count in [(first, count) for first in range(9) for count in range(2, 28)]:
            part = {name: np.ascontiguousarray(x[..., first : first + count]) for name, x in given.items()}
            for g, w in zip(both(part), whole, strict=True):
                np.testing.assert_array_equal(g, w[:, first : first + count])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("count", [45, 1024, 1031])
def test_the_same_bits_wherever_the_arrays_lie(dtype, count):
    """Which decides the direction."""
    given, shape = streams(7, count, dtype), (7, count)
    want, size = gae(**given, backend="numba"), 7 * count * np.dtype(dtype).itemsize
    room = (size // 4096 + 3) * 4096
    buffer = np.zeros(5 * room, np.uint8)
    start = -buffer.ctypes.data % 4096
    for places in (
        (0, 0, 0, 0),
        (0, 16, 32, 48),
        (48, 32, 16, 0),
        (16, 16, 16, 16),
        (0, 0, 64, 4088),
        (8, 0, 2048, 56),
    ):
        parts = [buffer[start + k * room + place :][:size] for k, place in enumerate(places)]
        rewards, values, *out = (part.view(dtype).reshape(shape) for part in parts)
        rewards[...], values[...] = given["rewards"], given["values"]
        gae(**given | {"rewards": rewards, "values": values, "out": tuple(out)}, backend="numba")
        np.testing.assert_array_equal(out, want)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_reaches_to_its_episodes_end(value):
    """In its own stream, as far as one step after the other, and no further."""
    given = streams(9, 19, np.float64, 0.0)
    at = np.arange(19)
    given["rewards"][at % 4 + 4, at] = value
    given["terminated"][at % 3 + 1, at] = True
    for g, w in zip(both(given), both(given, "numpy"), strict=True):
        np.testing.assert_allclose(g, w, rtol=1e-14, atol=1e-14)
        assert np.isfinite(g[0]).all() and not np.isfinite(g[4]).all()
